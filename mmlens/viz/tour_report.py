"""The tour's report: one HTML file with the verdict first, and its numbers as JSON beside it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from mmlens.analysis.tour.noun_card import NounCard
from mmlens.analysis.tour.tour import Tour
from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.viz import html
from mmlens.viz.curves import WIDTH, Line, curve_svg
from mmlens.viz.page.packs import pack_of
from mmlens.viz.page.show import view_of
from mmlens.viz.page.still import still_of

_LISTED = 10


def write_tour(
    tour: Tour,
    path: str | os.PathLike[str],
    *,
    model_name: str,
    graph_svg: str = "",
    truth: str = "",
    warning: str = "",
    about: Mapping[str, object] | None = None,
) -> None:
    """Write a tour as one self-contained HTML file, and its numbers as JSON beside it, each whole or not at all.

    Args:
        tour: from `mmlens.analysis.tour.tour`.
        path: the page; the numbers go to the same name with the ending .json.
        model_name: said at the top.
        graph_svg: a drawing of the hook-point graph.
        truth: what is known of the picture, if it is a lab scene.
        warning: what a reader has to know before anything else.
        about: command, versions and the like, for the JSON and the last line.
    """
    page = Path(path)
    names = [card.word.text for card in tour.nouns]
    pieces = [
        html.heading("mmlens tour", 1),
        html.paragraph(f"Model: {model_name}. Asked: {tour.prompt!r}.", kind="note"),
        *([html.paragraph(warning, kind="lead")] if warning else []),
        html.side_by_side(
            html.picture(tour.image, "the picture", width=230),
            f"<div><h3>The model says</h3>{html.quote(tour.caption, names)}"
            f"{html.paragraph(f'Truth: {truth}', kind='note') if truth else ''}</div>",
        ),
        *map(_card, tour.nouns),
        html.heading("Look for yourself"),
        html.paragraph(
            f"Where the neurons of {names[0]!r} are active, beside random ones; and what each block of the picture brings back.",
            kind="note",
        ),
        view_of(tour.nouns[0].scores, run=True).html,
        view_of(tour.nouns[0].patched, tour.image).html if _has_places(tour.nouns[0]) else "",
        *map(_details, tour.nouns),
        html.folded("How it was done", html.paragraph(_METHOD, kind="note")),
    ]
    if graph_svg:
        pieces.append(
            html.folded(
                "The hook-point graph",
                html.paragraph(
                    f"Every named point of the model, from pixels to logits; coloured where the residual stream at the picture's "
                    f"positions was patched for {names[0]!r}. Dashed: cannot reach the logits.",
                    kind="note",
                ),
                html.wide(graph_svg),
            )
        )
    if about:
        pieces.append(html.paragraph("; ".join(f"{key}: {value}" for key, value in about.items()), kind="note"))
    numbers = {"model": model_name, **tour.to_json(), **({"truth": truth} if truth else {}), "about": dict(about or {})}
    with whole_file(page) as temporary:
        temporary.write_text(html.page("mmlens tour", pieces), encoding="utf-8")
    with whole_file(page.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


_METHOD = (
    "Contribution score: the neuron's activation where the word is predicted, times the product of its output row with the "
    "word's unembedding (Pan et al., ACL Findings 2024). Written by: without its neurons the noun falls further than without "
    "any draw of random neurons of the same layers that are as active, at every dose. Localised: the map of its neurons (its "
    "highest 5%) lies on the thing more than the map of the random ones and than a blob of that size in the middle. Carried: the "
    "twin shows another thing in its place; states of the patches that it changes and of their neighbours, put into its run, "
    "bring back at least half of the gap, and a quarter more than those of the rest of the picture."
)


def _card(card: NounCard) -> str:
    beside = "its own twin" if card.twin is not None else "the blurred picture"
    other = f"{beside}: {card.twin.word}" if card.twin is not None else beside
    pictures = []
    if card.maps is not None:
        neurons, control = card.maps
        pictures = [
            html.picture(heat.overlay(card.scores.batch.images[0][0]), title, width=132)
            for heat, title in zip((neurons, control), _titles(card), strict=True)
            if card.scores.batch is not None
        ]
    shares = ""
    if card.shares is not None:
        own, rest = card.shares
        shares = f" Put into its twin's run, the patches around the thing bring back {own:.0%} of the gap, all others {rest:.0%}."
    return html.card(
        html.heading(card.word.text, 3),
        html.badge("written by its neurons", card.written),
        html.badge("localised on its thing", card.localised),
        html.badge("carried by the patches around it", card.carried),
        html.paragraph(card.sentence + shares, kind="lead"),
        html.side_by_side(
            html.drawing(
                _dose(card),
                f"log-odds of {card.word.text!r} in nats; grey: {len(card.control)} draws of as active random neurons",
                width=WIDTH,
            ),
            *pictures,
            html.picture(card.corrupted, f"patched into: {other}", width=132),
            *_blocks(card),
        ),
    )


def _dose(card: NounCard) -> str:
    """The noun's log-odds as more and more of its neurons are ablated, in the band of as many random ones."""
    word, start = card.word.text, card.log_odds
    draws = list(zip(*card.control_ablated, strict=True)) if card.control_ablated else [()] * len(card.doses)
    lows, highs = ([start, *(end(of, default=start) for of in draws)] for end in (min, max))
    middles = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]
    lines = (Line("random neurons", middles, lows, highs, True), Line(f"log-odds of {word}", [start, *card.ablated]))
    return curve_svg(["0", *map(str, card.doses)], lines, x="neurons ablated", unit="nats")


def _blocks(card: NounCard) -> list[str]:
    """What each block of the picture brings back, in the layer where one brings back most; nothing without places."""
    if not _has_places(card):
        return []
    pack = pack_of(card.patched, card.scores.batch.images[0][0] if card.scores.batch is not None else None)
    still, (best,) = still_of(pack), card.patched.cells(1)
    layer, gap = pack.labels["layer"][pack.start["layer"]], float((card.patched.clean - card.patched.corrupted).mean())
    words = f"what blocks bring back in layer {layer}: {best.effect:+.2f} of {gap:.2f} {best.unit} at most"
    return [] if still is None else [html.picture(still, words, width=132)]


def _titles(card: NounCard) -> tuple[str, str]:
    if card.overlaps is None:
        return f"where its top {card.doses[0]} are active", "where as active random ones are"
    own, control, _ = card.overlaps
    return f"where its top {card.doses[0]} are active: IoU {own:.2f}", f"as active random ones: IoU {control:.2f}"


def _details(card: NounCard) -> str:
    best = card.scores.top(min(_LISTED, card.scores.scores.numel()))
    try:
        words = card.scores.words(neurons=best)
    except InputError:  # neurons of another part write no words
        words = [[]] * len(best)
    rows = [(str(unit), card.scores[unit], " ".join(said)) for unit, said in zip(best, words, strict=True)]
    doses = [
        (dose, value, change, min(draws), max(draws))
        for dose, value, change, draws in zip(card.doses, card.ablated, card.changes, card.control_changes, strict=True)
    ]
    captions = [
        (f"top {card.doses[-1]} set to zero", card.caption_ablated),
        (f"{card.doses[-1]} as active random ones, the first of {len(card.control)} draws", card.caption_control),
    ]
    places = "block: row, column" if _has_places(card) else "positions"
    cells = card.patched.cells(min(_LISTED, len(card.patched.points) * len(card.patched.groups)))
    return html.folded(
        f"{card.word.text}: neurons, doses, captions, patching",
        html.table(("neuron", "score (logits)", "the words it writes"), rows),
        html.table(("neurons ablated", "log-odds (nats)", "change", "least change of a draw", "greatest"), doses),
        html.table(("run", "caption"), captions),
        html.table(
            ("patched at", places, "effect", "share of the gap"),
            [(cell.point, cell.positions, cell.effect, cell.share) for cell in cells],
        ),
    )


def _has_places(card: NounCard) -> bool:
    return card.maps is not None
