"""Figures of concept shift: recovery against consistency, and concepts before, shifted, after."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.shift.grounding import ShiftGrounding
from mmlens.analysis.shift.result import ConceptShift, Quantity
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Index, Several
from mmlens.core.palette import GREY, SERIES
from mmlens.viz.figures import TICK, canvas, dress, headline, inches, note_points
from mmlens.viz.marks import Mark, legend_below, legend_entry
from mmlens.viz.words import counted, text_options, wrapped

_MARKS = {
    "kept": Mark(SERIES[0], "o"),
    "refined": Mark(SERIES[2], "s"),
    "expanded": Mark(SERIES[5], "^"),
    "vanished": Mark(SERIES[1], "X"),
    "empty": Mark(GREY, "D"),
}
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
_NUMBERED = 30  # concepts: so many have their number beside their dot
_SIDE = 2.9  # inches per side of a board
_WORDS = 10
_LEVEL = 0.05  # of the correlation that the title speaks of
_SCATTER = 3.4  # inches, of the scatter plots' height


@checked
def plot_shift(
    shift: ConceptShift, *, quantity: Quantity = "consistency", figure: Figure | SubFigure | None = None
) -> Figure:
    """Recovery, as gain of cosine and as share of the distance, against a quantity; a dot per concept, coloured by its fate.

    Args:
        shift: from `mm.concept_shift`.
        quantity: on the x axis.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    figure = canvas(7.4, _SCATTER, figure)
    _scatters(figure, shift, quantity)
    return figure.figure


def _scatters(figure: Figure | SubFigure, shift: ConceptShift, quantity: Quantity) -> None:
    """Both recoveries against a quantity, and a legend of fates."""
    for axes, other in zip(figure.subplots(1, 2), _RECOVERIES, strict=True):
        _scatter(axes, shift, quantity, other)
    fates = {fate: shift.fate.count(fate) for fate in _MARKS if fate in shift.fate}
    legend_below(figure, [legend_entry(f"{fate} ({count})", _MARKS[fate]) for fate, count in fates.items()])
    headline(figure, _finding(shift, quantity))


def _finding(shift: ConceptShift, quantity: Quantity) -> str:
    """What the two plots show: how many concepts stay, and whether the distance that is recovered goes with the quantity."""
    count, kept = len(shift.vectors), shift.fate.count("kept")
    r, p, *_ = shift.correlation(quantity, "recovery_distance")
    goes = f"{'grows' if r > 0 else 'falls'} with" if p < _LEVEL else "does not go with"
    return f"{kept} of {counted(count, 'concept')} at {shift.at} are kept; recovered distance {goes} {quantity}"


def _scatter(axes: Axes, shift: ConceptShift, quantity: Quantity, other: Quantity) -> None:
    x, y = shift.values(quantity), shift.values(other)
    finite = x.isfinite() & y.isfinite()
    for fate in dict.fromkeys(shift.fate):
        rows = [k for k, concept_fate in enumerate(shift.fate) if concept_fate == fate and bool(finite[k])]
        if rows:
            mark = _MARKS[fate]
            axes.scatter(x[rows], y[rows], s=20, color=mark.color, marker=mark.shape, linewidth=0, alpha=0.85, zorder=2)
    axes.margins(0.09)
    if len(finite) <= _NUMBERED:
        numbers = finite.nonzero().flatten().tolist()
        note_points(axes, list(map(str, numbers)), [(float(x[k]), float(y[k])) for k in numbers])
    axes.axhline(0, color="black", linewidth=0.6, linestyle=":")
    r, p, count, *_ = shift.correlation(quantity, other)
    dress(axes, x=_NAMES[quantity], y=_NAMES[other], title=f"r = {r:.2f}, p = {p:.2g}, {count} concepts")


@checked
def plot_shift_board(
    grounding: ShiftGrounding,
    *,
    concepts: Several[Index] | None = None,
    pictures: Count = 3,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """A row per concept, with words and pictures before, shifted, and after; above them recovery against consistency.

    Behind the original's words stand only those that are new: that the match has and the original has not, with a plus.

    Args:
        grounding: from `mm.concepts.ground_shift`.
        concepts: which; by default the four with the most samples.
        pictures: per side, at most.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    shift = grounding.shift
    order = shift.n_samples.argsort(descending=True, stable=True).tolist()[:4]
    rows = order if concepts is None else list(concepts)
    wrong = [row for row in rows if row >= len(shift.n_samples)]
    if wrong:
        raise InputError(f"There are no concepts {wrong}: there are {len(shift.n_samples)}, counted from 0.")
    sides = (grounding.before, grounding.shifted, grounding.after)
    widest = max([1, *(min(pictures, len(side[k].pictures)) for side in sides for k in rows)])
    any_picture = any(side[k].pictures for side in sides for k in rows)
    picture = 0.95 if any_picture else 0.05
    row = 0.55 + picture  # a title, two lines of words, the pictures
    figure = canvas(3 * _SIDE, _SCATTER + row * len(rows), figure)
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[_SCATTER, row * len(rows)])[:, 0]
    _scatters(top, shift, "consistency")
    grid = bottom.add_gridspec(3 * len(rows), 3 * widest, height_ratios=[0.2, 0.3, picture] * len(rows))
    letters = int(inches(figure)[0] / 3 * 72 / (0.6 * TICK))
    for line, concept in enumerate(rows):
        _write(bottom.add_subplot(grid[3 * line, :]), _about(grounding, concept), weight="bold")
        new_words = set(grounding.after[concept].words) - set(grounding.before[concept].words)
        for block, (name, side) in enumerate(zip(_SIDES, sides, strict=True)):
            columns = range(block * widest, (block + 1) * widest)
            words = side[concept].words[:_WORDS]
            labels = [f"+{word}" for word in words if word in new_words] if block else words
            text = wrapped(f"{name}: {', '.join(labels) or ('no new word' if block else '(no word)')}", letters, 2)
            _write(bottom.add_subplot(grid[3 * line + 1, columns[0] : columns[-1] + 1]), text)
            for column, image in zip(columns, side[concept].pictures, strict=False):
                axes = bottom.add_subplot(grid[3 * line + 2, column])
                axes.imshow(image)
                axes.set_axis_off()
    return figure.figure


def _about(grounding: ShiftGrounding, concept: int) -> str:
    shift = grounding.shift
    original, shifted_overlap = grounding.text_overlap[:, concept].tolist()
    samples = counted(int(shift.n_samples[concept]), "sample")
    return (
        f"concept {concept}: {shift.fate[concept]}, {samples}; words shared with the match: "
        f"{original:.2f} before, {shifted_overlap:.2f} shifted"
    )


def _write(axes: Axes, text: str, *, weight: str = "normal") -> None:
    """Text from the top left corner of an axis, which makes no room for it."""
    axes.set_axis_off()
    label = axes.text(0, 1, text, fontsize=TICK, weight=weight, va="top", transform=axes.transAxes, **text_options())
    label.set_in_layout(False)
