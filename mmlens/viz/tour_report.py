"""The tour's HTML report: one file with everything in it."""

from pathlib import Path

from mmlens.analysis.tour import NounReport, Tour
from mmlens.core.files import whole_file
from mmlens.viz import html
from mmlens.viz.neurons import plot_layers
from mmlens.viz.sweeps import plot_sweep

_PERCENTILE = 95.0


def write_tour(tour: Tour, path: str | Path, *, model_name: str, graph_svg: str = "", truth: str = "") -> None:
    """Write a tour as one self-contained HTML file, whole or not at all.

    Args:
        tour: from `mmlens.analysis.tour.tour`.
        path: file to write.
        model_name: said at the top.
        graph_svg: a drawing of the hook-point graph.
        truth: what is known of the picture, if it is a lab scene.
    """
    pieces = [
        html.heading("mmlens tour", 1),
        html.paragraph(f"Model: {model_name}. Asked: {tour.prompt!r}.", note=True),
        html.table_row(
            html.picture(tour.image, "the picture", width=260),
            html.picture(tour.corrupted, f"patched from: {tour.corrupted_what}", width=260),
        ),
        html.heading("The model says", 3),
        html.quote(tour.caption),
        *([html.paragraph(f"Truth: {truth}", note=True)] if truth else []),
        html.heading("What each noun rests on"),
        html.table(
            (
                "noun",
                "log p (nats)",
                "change: its top neurons ablated",
                "random neurons: mean [95% of draws]",
                "neurons",
            ),
            [(n.word.text, n.log_probability, n.change, str(n.control_change), len(n.top)) for n in tour.nouns],
        ),
        html.paragraph(
            "Contribution score: the neuron's activation where the word is predicted, times the product of its output "
            "row with the word's unembedding (Pan et al., ACL Findings 2024). The random ones are of the same layers, "
            f"{', '.join(str(len(n.control)) for n in tour.nouns)} draws.",
            note=True,
        ),
        *[piece for noun in tour.nouns for piece in _noun(tour, noun)],
    ]
    if graph_svg:
        pieces += [
            html.heading("The hook-point graph"),
            html.paragraph(
                f"Every named point of the model, from pixels to logits; coloured where the residual stream at the "
                f"picture's positions was patched for {tour.nouns[0].word.text!r}. Dashed: cannot reach the logits.",
                note=True,
            ),
            html.scroll(graph_svg),
        ]
    with whole_file(path) as temporary:
        temporary.write_text(html.page("mmlens tour", pieces), encoding="utf-8")


def _noun(tour: Tour, noun: NounReport) -> list[str]:
    words = noun.scores.words(neurons=noun.top[:10])
    rows = [(str(n), noun.scores[n], " ".join(w)) for n, w in zip(noun.top, words, strict=False)]
    return [
        html.heading(noun.word.text),
        html.table_row(
            html.table(("neuron", "score", "the words it writes"), rows),
            html.plot(plot_layers(noun.scores, k=len(noun.top)), "where the top neurons lie"),
        ),
        html.heading("Where they are active in the picture", 3),
        *_maps(tour, noun),
        html.heading("Ablated", 3),
        html.table(
            ("run", "log p (nats)", "caption"),
            [
                ("as it is", noun.log_probability, tour.caption),
                (f"top {len(noun.top)} set to zero", noun.ablated, noun.caption_ablated),
                (
                    f"{len(noun.top)} random, same layers, set to zero (the first of {len(noun.control)} draws)",
                    noun.control_ablated[0],
                    noun.caption_control,
                ),
            ],
        ),
        html.heading("Patched", 3),
        html.plot(plot_sweep(noun.patched), "clean residual stream put into the corrupted run, layer by layer"),
    ]


def _maps(tour: Tour, noun: NounReport) -> list[str]:
    if noun.maps is None:
        return [
            html.paragraph(
                "This model's image tokens are learned queries: they have no place in the picture.", note=True
            )
        ]
    noun_maps, control = noun.maps
    pictures = [
        html.picture(heat.overlay(tour.image, percentile=percentile), title)
        for heat in (noun_maps, control)
        for percentile, title in ((None, heat.title), (_PERCENTILE, f"above percentile {_PERCENTILE:g}"))
    ]
    return [
        html.table_row(*pictures),
        html.paragraph(
            "The control stands beside the map so that no place is read into a smooth blob: where the two agree, the "
            "map shows what any neurons of these layers do, not where the word is.",
            note=True,
        ),
    ]
