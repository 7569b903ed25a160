"""Figures of concept shift: recovery against consistency, and concepts before, shifted, after."""

from collections.abc import Sequence
from textwrap import fill

from matplotlib.axes import Axes

from mmlens.analysis.shift.grounding import ShiftGrounding
from mmlens.analysis.shift.result import ConceptShift, Quantity
from mmlens.viz.figures import Plot

_COLORS = {"kept": "#5a4fa3", "refined": "#2f8f6b", "expanded": "#b3892c", "vanished": "#d1603d", "empty": "#999999"}
_NAMES = {
    "recovery": "recovery (share of the cosine)",
    "cosine_gain": "gain of cosine with the match",
    "recovery_distance": "recovery (share of the distance)",
    "consistency": "consistency (mean cosine between shifts)",
    "magnitude": "magnitude (unit of the point)",
}
#: Both have bounds, which the share of the cosine has not: one poor match would decide its axis.
_RECOVERIES: tuple[Quantity, ...] = ("cosine_gain", "recovery_distance")
_SIDES = ("before", "shifted", "after")
_WIDTH = 2.9  # inches per side, for about _LETTERS letters
_LETTERS, _WORDS = 46, 10


def plot_shift(shift: ConceptShift, *, quantity: Quantity = "consistency") -> Plot:
    """Recovery, as gain of cosine and as share of the distance, against a quantity; a dot per concept, coloured by its fate.

    Args:
        shift: from `mm.concept_shift`.
        quantity: on the x axis.
    """
    figure = Plot(figsize=(7.0, 3.2), layout="constrained")
    for axes, other in zip(figure.subplots(1, 2), _RECOVERIES, strict=True):
        _scatter(axes, shift, quantity, other)
    figure.suptitle(f"{len(shift.vectors)} concepts at {shift.at}", fontsize=9)
    return figure


def _scatter(axes: Axes, shift: ConceptShift, quantity: Quantity, other: Quantity) -> None:
    x, y = shift.values(quantity), shift.values(other)
    known = x.isfinite() & y.isfinite()
    for fate in dict.fromkeys(shift.fate):
        rows = [k for k, mine in enumerate(shift.fate) if mine == fate and bool(known[k])]
        if rows:
            axes.scatter(x[rows], y[rows], s=22, color=_COLORS[fate], label=f"{fate} ({len(rows)})", zorder=2)
    for k in known.nonzero().flatten().tolist():
        axes.annotate(
            str(k), (float(x[k]), float(y[k])), xytext=(3, 3), textcoords="offset points", fontsize=6, color="#555555"
        )
    axes.axhline(0, color="black", linewidth=0.6, linestyle=":")
    r, p, count = shift.correlation(quantity, other)
    axes.set_title(f"r = {r:.2f}, p = {p:.2g}, {count} concepts", fontsize=8)
    axes.set_xlabel(_NAMES[quantity], fontsize=8)
    axes.set_ylabel(_NAMES[other], fontsize=8)
    axes.tick_params(labelsize=7)
    if known.any():
        axes.legend(fontsize=6)


def plot_shift_board(grounding: ShiftGrounding, *, concepts: Sequence[int] | None = None, pictures: int = 3) -> Plot:
    """A row per concept, with words and pictures before, shifted, and after; above them recovery against consistency.

    A plus marks the words that the match has and the original has not.

    Args:
        grounding: from `mm.ground_shift`.
        concepts: which; by default the four with the most samples.
        pictures: per side, at most.
    """
    shift = grounding.shift
    most = shift.n_samples.argsort(descending=True, stable=True).tolist()[:4]
    rows = most if concepts is None else list(concepts)
    sides = (grounding.before, grounding.shifted, grounding.after)
    widest = max([1, *(min(pictures, len(side[k].pictures)) for side in sides for k in rows)])
    figure = Plot(figsize=(3 * _WIDTH, 2.9 + 1.75 * len(rows)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.9, 1.75 * len(rows)])[:, 0]
    for axes, other in zip(top.subplots(1, 2), _RECOVERIES, strict=True):
        _scatter(axes, shift, "consistency", other)
    top.suptitle(f"{len(shift.vectors)} concepts at {shift.at}", fontsize=9)
    original, moved = grounding.text_overlap
    grid = bottom.add_gridspec(3 * len(rows), 3 * widest, height_ratios=[0.2, 0.4, 1.0] * len(rows))
    for line, concept in enumerate(rows):
        title = (
            f"concept {concept}: {shift.fate[concept]}, {int(shift.n_samples[concept])} samples; T-Overlap "
            f"{float(original[concept]):.2f} before, {float(moved[concept]):.2f} shifted"
        )
        _write(bottom.add_subplot(grid[3 * line, :]), title, weight="bold")
        gained = set(grounding.after[concept].words) - set(grounding.before[concept].words)
        for block, (name, side) in enumerate(zip(_SIDES, sides, strict=True)):
            columns = range(block * widest, (block + 1) * widest)
            marked = [f"+{word}" if word in gained and block else word for word in side[concept].words[:_WORDS]]
            said = fill(f"{name}: {', '.join(marked) or '(no word)'}", _LETTERS)
            _write(bottom.add_subplot(grid[3 * line + 1, columns[0] : columns[-1] + 1]), said)
            for column, image in zip(columns, side[concept].pictures, strict=False):
                axes = bottom.add_subplot(grid[3 * line + 2, column])
                axes.imshow(image)
                axes.set_axis_off()
    return figure


def _write(axes: Axes, text: str, *, weight: str = "normal") -> None:
    """Text from the top left corner of an axis, which makes no room for it."""
    axes.set_axis_off()
    axes.text(0, 1, text, fontsize=7, weight=weight, va="top", transform=axes.transAxes).set_in_layout(False)
