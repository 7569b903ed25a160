"""What circuits are worth, as figures: curves, shares, overlaps, and the strongest edges."""

from collections.abc import Sequence

from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.circuits.curve_result import CircuitCurve
from mmlens.analysis.circuits.evaluate import CircuitEvaluation
from mmlens.analysis.circuits.overlap import CircuitOverlap
from mmlens.analysis.circuits.selection import Ranking
from mmlens.analysis.statistics.intervals import Interval, draws_interval, mean_interval
from mmlens.core.contract import checked
from mmlens.core.kinds import Count
from mmlens.viz.figures import canvas, dress, headline
from mmlens.viz.lists import Listing, plot_listing
from mmlens.viz.marks import CONTROL, draw_band, legend_below, legend_entry, marks
from mmlens.viz.words import with_unit


@checked
def plot_curve(curve: CircuitCurve, *, figure: Figure | SubFigure | None = None) -> Figure:
    """Faithfulness against the share of edges, with its 95% interval over samples and the draws of random circuits.

    Args:
        curve: from `mm.circuits.curve`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    figure = canvas(4.8, 3.9, figure)
    axes = figure.subplots()
    shares = curve.shares.tolist()
    names: dict[Ranking, str] = {"signed": "edges that help first", "absolute": "strongest edges first"}
    looks = marks(names.values())
    for by, name in names.items():
        draw_band(axes, shares, [curve.at(place, by=by) for place in range(len(shares))], looks[name])
    if len(curve.random):
        draws = curve.ratios(curve.random)
        draw_band(axes, shares, [draws_interval(draws[:, place].numpy()) for place in range(len(shares))], CONTROL)
    axes.set_xscale("log")
    axes.axhline(1, color="black", linewidth=0.7, linestyle=":")
    axes.axhline(0, color="black", linewidth=0.5)
    dress(axes, x=f"share of {curve.counted}", y="faithfulness (share of the gap)", grid=True)
    entries = [legend_entry(name, look, linestyle="-") for name, look in looks.items()]
    entries += [legend_entry("random circuits", CONTROL, linestyle="-")] if len(curve.random) else []
    legend_below(figure, entries)
    headline(figure, f"circuits by {curve.method}: CPR {curve.cpr()}, CMD {curve.cmd()}\n{curve.metric}")
    return figure.figure


@checked
def plot_edges(circuit: Circuit, *, n: Count = 20, figure: Figure | SubFigure | None = None) -> Figure:
    """The strongest edges that a circuit keeps, with 95% intervals over samples.

    Args:
        circuit: from `mm.find_circuit`.
        n: how many.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    mean = circuit.scores.mean(-1)
    places = circuit.kept.nonzero()
    order = mean[circuit.kept].abs().argsort(descending=True, stable=True)[:n]
    edges = places[order].tolist()
    names = [f"{circuit.graph.writers[w].name} → {circuit.graph.readers[r].name}" for r, w in edges]
    intervals = [mean_interval(circuit.scores[r, w].numpy()) for r, w in edges]
    words = f"{len(edges)} of {int(circuit.kept.sum())}, by {circuit.method}\n{circuit.metric}"
    return _listed(words, with_unit("score", f", {circuit.unit}" if circuit.unit else ""), names, intervals, [], figure)


@checked
def plot_evaluation(evaluation: CircuitEvaluation, *, figure: Figure | SubFigure | None = None) -> Figure:
    """Faithfulness, completeness and minimality beside those of random circuits.

    Args:
        evaluation: from `mm.circuits.evaluate_circuit`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    names = ["faithfulness", "completeness", "minimality"]
    found, random = ([evaluation.interval(f"{start}{name}") for name in names] for start in ("", "random_"))
    words = f"{evaluation.n_edges} edges\n{evaluation.metric}"
    return _listed(words, "share of the gap", names, found, random, figure)


@checked
def plot_overlap(overlap: CircuitOverlap, *, figure: Figure | SubFigure | None = None) -> Figure:
    """What two circuits share of what either has, beside random circuits of their sizes.

    Args:
        overlap: from `mm.circuits.overlap`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    share = Interval(overlap.jaccard, overlap.jaccard, overlap.jaccard, 1)
    counts = (len(overlap.shared), len(overlap.only_first), len(overlap.only_second))
    words = "{} shared, {} only in the first, {} only in the second".format(*counts)
    random = [overlap.chance] if overlap.draws else []
    return _listed(words, "share of what either has", [overlap.compared], [share], random, figure)


def _listed(
    words: str,
    what: str,
    names: Sequence[str],
    values: Sequence[Interval],
    controls: Sequence[Interval],
    figure: Figure | SubFigure | None,
) -> Figure:
    """Values of a circuit below each other, beside those of random circuits."""
    listing = Listing(words, what, names, values, controls, ("circuit", "random circuits"))
    return plot_listing(listing, figure=figure)
