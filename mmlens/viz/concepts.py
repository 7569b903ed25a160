"""A concept board: a row per concept with its words and its pictures."""

from collections.abc import Sequence

from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.concepts.grounding import ConceptGrounding
from mmlens.viz.figures import LABEL, TALLEST, TICK, WIDEST, canvas, headline
from mmlens.viz.words import counted, text_options, wrapped

_WORDS = 2.2  # inches, for the words
_MOST = 10  # concepts that a board shows if it is not told which
_LINES = 6


def plot_board(
    grounding: ConceptGrounding,
    *,
    concepts: Sequence[int] | None = None,
    pictures: int = 4,
    maps: bool = True,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """Each concept's words, the pictures in which it is most active, and beside each where it is.

    Args:
        grounding: from `mm.ground_concepts`.
        concepts: which; the first ten by default.
        pictures: per concept, at most.
        maps: lay the maps over the pictures, where there are any; the picture itself stands to the left.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    known = len(grounding.concepts)
    shown = [grounding[concept] for concept in (range(min(known, _MOST)) if concepts is None else concepts)]
    with_maps = maps and any(each.maps for each in shown)
    per_picture = 2 if with_maps else 1
    widest = max(1, min(pictures, max((len(each.pictures) for each in shown), default=1)))
    columns = widest * per_picture
    shape = max((image.height / image.width for each in shown for image in each.pictures[:widest]), default=1.0)
    side = min(1.35, (WIDEST - _WORDS) / columns, (TALLEST / max(len(shown), 1) - 0.25) / shape)
    row = max(side * shape + 0.25, 0.85)
    figure = canvas(max(_WORDS + side * columns, 4.5), 0.45 + row * len(shown), figure)
    grid = figure.subplots(max(len(shown), 1), 1 + columns, squeeze=False, width_ratios=[_WORDS / side, *[1] * columns])
    for axes, each in zip(grid, shown, strict=False):
        title = f"concept {each.concept}"
        options = {"va": "top", "transform": axes[0].transAxes, **text_options()}
        axes[0].text(0, 1.0, title, fontsize=LABEL, weight="bold", **options)
        lines = max(2, min(_LINES, int((row - 0.35) / (1.25 * TICK / 72))))
        said = wrapped(", ".join(each.words) or "(no word)", int(_WORDS * 72 / (0.62 * TICK)), lines)
        axes[0].text(0, 1.0 - 0.2 / row * 1.1, said, fontsize=TICK, **options)
        for number, image in enumerate(each.pictures[:widest]):
            first = axes[1 + number * per_picture]
            first.imshow(image)
            first.set_title(f"{each.activations[number]:.3g}", fontsize=TICK, pad=2)
            if with_maps and number < len(each.maps):
                axes[2 + number * per_picture].imshow(each.maps[number].overlay(image))
    for axes in grid.flat:
        axes.set_axis_off()
    count = (f"{len(shown)} of " if len(shown) < known else "") + counted(known, "concept")
    headline(figure, f"{count} by {grounding.method} at {grounding.at}; above each picture its activation")
    return figure.figure
