"""A concept board: a row per concept with its words and its pictures."""

from collections.abc import Sequence
from textwrap import fill

from mmlens.analysis.concepts.grounding import ConceptGrounding
from mmlens.viz.figures import Plot

_SIDE = 1.35


def plot_board(
    grounding: ConceptGrounding, *, concepts: Sequence[int] | None = None, pictures: int = 4, maps: bool = True
) -> Plot:
    """Each concept's words, the pictures in which it is most active, and beneath them where it is.

    Args:
        grounding: from `mm.ground_concepts`.
        concepts: which; all by default.
        pictures: per concept, at most.
        maps: lay the maps over the pictures, where there are any; the picture itself stands to the left.
    """
    shown = [grounding[concept] for concept in (range(len(grounding.concepts)) if concepts is None else concepts)]
    with_maps = maps and any(each.maps for each in shown)
    per_picture = 2 if with_maps else 1
    widest = max(1, min(pictures, max((len(each.pictures) for each in shown), default=1)))
    columns = widest * per_picture
    figure = Plot(figsize=(2.5 + _SIDE * columns, 0.4 + (_SIDE + 0.28) * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 1 + columns, squeeze=False, width_ratios=[2.5 / _SIDE, *[1] * columns])
    for axes, each in zip(grid, shown, strict=True):
        for ax in axes:
            ax.set_axis_off()
        said = fill(", ".join(each.words) or "(no word)", 26)
        axes[0].text(
            0, 0.95, f"concept {each.concept}", fontsize=9, weight="bold", va="top", transform=axes[0].transAxes
        )
        axes[0].text(0, 0.78, said, fontsize=8, va="top", transform=axes[0].transAxes)
        for number, image in enumerate(each.pictures[:widest]):
            first = axes[1 + number * per_picture]
            first.imshow(image)
            first.set_title(f"{each.activations[number]:.3g}", fontsize=7, pad=2)
            if with_maps and number < len(each.maps):
                axes[2 + number * per_picture].imshow(each.maps[number].overlay(image))
    figure.suptitle(
        f"{len(shown)} concepts by {grounding.method} at {grounding.at}; above each picture its activation", fontsize=9
    )
    return figure
