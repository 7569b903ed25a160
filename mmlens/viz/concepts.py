"""A concept board: a row per concept with its words and its pictures."""

from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.concepts.grounding import ConceptGrounding
from mmlens.core.contract import checked
from mmlens.core.kinds import Count, Index, Several
from mmlens.viz.figures import LABEL, TALLEST, TICK, WIDEST, canvas, headline
from mmlens.viz.words import counted, text_options, wrapped

_WORDS = 2.2  # inches, for the words
_MOST = 10  # concepts that a board shows if it is not told which
_LINES = 6


@checked
def plot_board(
    grounding: ConceptGrounding,
    *,
    concepts: Several[Index] | None = None,
    pictures: Count = 4,
    maps: bool = True,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """Each concept's words, the pictures in which it is most active, and beside each where it is.

    Args:
        grounding: from `mm.concepts.ground_concepts`.
        concepts: which; the first ten by default.
        pictures: per concept, at most.
        maps: lay the maps over the pictures, where there are any; the picture itself stands to the left.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    n_concepts = len(grounding.concepts)
    concept_rows = [grounding[concept] for concept in (range(min(n_concepts, _MOST)) if concepts is None else concepts)]
    with_maps = maps and any(concept_row.maps for concept_row in concept_rows)
    per_picture = 2 if with_maps else 1
    widest = max(1, min(pictures, max((len(concept_row.pictures) for concept_row in concept_rows), default=1)))
    columns = widest * per_picture
    shape = max(
        (image.height / image.width for concept_row in concept_rows for image in concept_row.pictures[:widest]),
        default=1.0,
    )
    side = min(1.35, (WIDEST - _WORDS) / columns, (TALLEST / max(len(concept_rows), 1) - 0.25) / shape)
    row = max(side * shape + 0.25, 0.85)
    figure = canvas(max(_WORDS + side * columns, 4.5), 0.45 + row * len(concept_rows), figure)
    grid = figure.subplots(
        max(len(concept_rows), 1), 1 + columns, squeeze=False, width_ratios=[_WORDS / side, *[1] * columns]
    )
    for axes, concept_row in zip(grid, concept_rows, strict=False):
        title = f"concept {concept_row.concept}"
        options = {"va": "top", "transform": axes[0].transAxes, **text_options()}
        axes[0].text(0, 1.0, title, fontsize=LABEL, weight="bold", **options)
        lines = max(2, min(_LINES, int((row - 0.35) / (1.25 * TICK / 72))))
        text = wrapped(", ".join(concept_row.words) or "(no word)", int(_WORDS * 72 / (0.62 * TICK)), lines)
        axes[0].text(0, 1.0 - 0.2 / row * 1.1, text, fontsize=TICK, **options)
        for number, image in enumerate(concept_row.pictures[:widest]):
            first = axes[1 + number * per_picture]
            first.imshow(image)
            first.set_title(f"{concept_row.activations[number]:.3g}", fontsize=TICK, pad=2)
            if with_maps and number < len(concept_row.maps):
                axes[2 + number * per_picture].imshow(concept_row.maps[number].overlay(image))
    for axes in grid.flat:
        axes.set_axis_off()
    count = (f"{len(concept_rows)} of " if len(concept_rows) < n_concepts else "") + counted(n_concepts, "concept")
    headline(figure, f"{count} by {grounding.method} at {grounding.at}; above each picture its activation")
    return figure.figure
