"""Figures of results that are lists: a value for each name, with its interval and its control where there are some."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.explain import ConceptSweep, StateExplanation
from mmlens.analysis.concepts.extract import ConceptCount
from mmlens.analysis.features.scores import FeatureScores
from mmlens.analysis.neurons.captions import CaptionNeurons
from mmlens.analysis.properties.exclusivity import Exclusivity
from mmlens.analysis.scores.score import ScoreTable
from mmlens.analysis.shift.layers import LayerShifts
from mmlens.analysis.statistics.intervals import Interval
from mmlens.core.view import Viewable
from mmlens.interventions.edits.edit import Edit
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.viz.figures import TICK, canvas, dress, headline
from mmlens.viz.marks import CONTROL, Mark, draw_intervals, legend_below, legend_entry, marks
from mmlens.viz.words import counted, shortened, text_options

#: So many names can be read below each other.
_MOST = 40


@dataclass(frozen=True)
class Listing:
    """What is drawn below each other.

    Attributes:
        words: the finding.
        what: the values are, with their unit.
        names: of the lines.
        values: one a line.
        controls: one a line, or none.
        labels: what values and controls are called.
    """

    words: str
    what: str
    names: Sequence[str]
    values: Sequence[Interval]
    controls: Sequence[Interval] = ()
    labels: tuple[str, str] = ("", "random")


def plot_list(result: Viewable, *, figure: Figure | SubFigure | None = None) -> Figure:
    """The values of a result below each other, with 95% intervals and controls (grey) where there are some.

    Args:
        result: one that is a list.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    return plot_listing(listing_of(result), figure=figure)


def plot_listing(listing: Listing, *, figure: Figure | SubFigure | None = None) -> Figure:
    """A listing, its first forty lines."""
    names, values, controls = listing.names[:_MOST], listing.values[:_MOST], listing.controls[:_MOST]
    figure = canvas(4.8, 1.3 + (0.22 if len(names) < 30 else 0.16) * max(len(names), 2), figure)
    axes = figure.subplots()
    look = Mark(next(iter(marks(["value"]).values())).color)
    rows = list(range(len(names)))
    draw_intervals(axes, [row - 0.12 for row in rows] if controls else rows, values, look, level=True)
    if controls:
        draw_intervals(axes, [row + 0.12 for row in rows], controls, CONTROL, level=True)
        legend_below(figure, [legend_entry(*entry) for entry in zip(listing.labels, (look, CONTROL), strict=True)])
    axes.axvline(0, color="black", linewidth=0.5)
    axes.set_yticks(rows, [shortened(name, 44) for name in names], fontsize=TICK, **text_options())
    axes.set_ylim(len(names) - 0.4, -0.6)
    dress(axes, x=listing.what, grid=True)
    more = "" if len(listing.names) <= _MOST else f"\nthe first {_MOST} of {len(listing.names)}"
    headline(figure, listing.words + more)
    return figure.figure


def exact(values: Iterable[float]) -> list[Interval]:
    """Values that have no interval."""
    return [Interval(float(value), float(value), float(value), 1) for value in values]


@singledispatch
def listing_of(result: object) -> Listing:
    """The listing of a result, by its class."""
    raise TypeError(f"{type(result).__name__} has no figure.")


@listing_of.register
def _(result: ScoreTable) -> Listing:
    names = [f"{score.name} ({score.unit})" for score in result.scores]
    return Listing(result.title, "score, with its 95% interval", names, [score.interval for score in result.scores])


@listing_of.register
def _(result: LayerShifts) -> Listing:
    frame = result.to_frame()
    bounds = frame[["mean", "low", "high", "concepts"]].itertuples(index=False)
    beyond = int((frame["beyond_low"] > 0).sum())
    return Listing(
        f"shifts of {beyond} of {counted(len(frame), 'layer')} bring concepts nearer than other concepts' shifts do",
        "recovery (share of the distance)", frame["shift"].tolist(),
        [Interval(mean, low, high, int(count)) for mean, low, high, count in bounds], exact(frame["control"]),
        ("the concept's own shift", "another concept's shift"),
    )  # fmt: skip


@listing_of.register
def _(result: ConceptBank) -> Listing:
    frame = result.to_frame().sort_values("dominant", ascending=False, kind="stable")
    words = (
        f"{counted(len(result), 'concept')} by {result.method}; {result.reconstruction_error:.1%} of the energy left"
    )
    names = [f"concept {number}" for number in frame["concept"]]
    equal = exact([1 / len(result)] * len(result))
    what = "share of the states in which it is the most active"
    return Listing(words, what, names, exact(frame["dominant"]), equal, ("concept", "equal shares"))


@listing_of.register
def _(result: ConceptCount) -> Listing:
    names = [str(number) for number in result.numbers]
    words = f"{counted(result.n_concepts, 'concept')} until {result.drop:.0%} of the first error is gone"
    return Listing(words, "reconstruction error (0 to 1), by number of concepts", names, exact(result.errors))


@listing_of.register
def _(result: ConceptSweep) -> Listing:
    frame = result.to_frame()
    best = frame["point"][int(frame["reconstruction_error"].argmin())]
    what = "reconstruction error (0 to 1)"
    return Listing(f"fewest of the energy is left at {best}", what, result.points, exact(frame["reconstruction_error"]))


@listing_of.register
def _(result: StateExplanation) -> Listing:
    names = [f"{c}: {', '.join(words)}" for c, words in zip(result.concepts, result.words, strict=True)]
    return Listing(
        f"concepts of {result.token!r}; {result.unexplained:.1%} of its energy left",
        "activation of the concept",
        names,
        exact(result.activations),
    )


@listing_of.register
def _(result: Exclusivity) -> Listing:
    words = f"{float(result.exclusive.mean()):.0%} of the {result.k} neurons of a concept are its own"
    return Listing(words, "share of its neurons that are no other concept's", result.concepts, exact(result.exclusive))


@listing_of.register
def _(result: CaptionNeurons) -> Listing:
    best = [(noun.text, unit, scores[unit]) for noun, scores in result for unit in scores.top(3)]
    names = [f"{noun}: {unit}" for noun, unit, _ in best]
    return Listing(
        f"three best neurons of each noun of {result.text!r}", "score, logits", names, exact([b[2] for b in best])
    )


@listing_of.register
def _(result: FeatureScores) -> Listing:
    units = result.top(min(20, result.count))
    return Listing(
        f"features for {result.word!r}", "score, logits", list(map(str, units)), exact([result[u] for u in units])
    )


@listing_of.register
def _(result: Edit) -> Listing:
    frame = result.to_frame()
    order = frame["norm"].argsort()[::-1]
    names = [str(result.rows[number]) for number in order]
    words = repr(result).removeprefix("Edit(").removesuffix(")")
    return Listing(words, "norm of what is added to the row, in the weights' unit", names, exact(frame["norm"][order]))


@listing_of.register
def _(result: SteeringVector) -> Listing:
    sizes, order = result.direction.abs().sort(descending=True)
    random: torch.Tensor = result.random(seed=0).direction.abs().sort(descending=True).values
    names = [f"entry {number}" for number in order.tolist()]
    words = f"steering vector at {result.at}, norm {result.norm:.3g}: its largest entries"
    labels = ("its entries", "those of a random direction, by size")
    return Listing(
        words, "size, in the unit of the stream", names, exact(sizes.tolist()), exact(random.tolist()), labels
    )
