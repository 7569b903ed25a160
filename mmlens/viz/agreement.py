"""An approximate sweep against the exact one, cell by cell."""

from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.attribution.compare import Agreement
from mmlens.viz.figures import canvas, dress, headline
from mmlens.viz.marks import legend_below, legend_entry, legend_height, marks
from mmlens.viz.points import read
from mmlens.viz.words import with_unit

_KINDS = 20  # kinds of points: so many have a colour and a shape each


def plot_agreement(found: Agreement, *, figure: Figure | SubFigure | None = None) -> Figure:
    """The estimate of every cell against its exact effect, in a colour and shape per kind of point.

    Args:
        found: from `mm.compare_attribution`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    sweep = found.exact
    exact, estimate = (each.effect.mean(-1) for each in (sweep, found.approximate))
    kinds = [read(point).kind for point in sweep.points]
    if len(set(kinds)) > _KINDS:
        kinds = ["all points"] * len(kinds)
    known = marks(kinds)
    named = list(known) if len(known) > 1 else []
    figure = canvas(4.6, 4.3 + legend_height(named, 4.6), figure)
    axes = figure.subplots()
    for kind, mark in known.items():
        rows = [i for i, each in enumerate(kinds) if each == kind]
        pairs = exact[rows].flatten().tolist(), estimate[rows].flatten().tolist()
        axes.scatter(*pairs, s=16, color=mark.color, marker=mark.shape, linewidth=0, alpha=0.75, zorder=2)
    for line in (axes.axhline, axes.axvline):
        line(0, color="black", linewidth=0.5, zorder=0)
    axes.axline((0, 0), slope=1, color="black", linewidth=0.7, linestyle=":", zorder=0)
    x, y = (with_unit(name, sweep.metric) for name in ("exact effect", f"estimate by {found.approximate.method}"))
    dress(axes, x=x, y=y, grid=True)
    legend_below(figure, [legend_entry(kind, known[kind]) for kind in named])
    about = f"r = {found.pearson:.3f}, rank r = {found.spearman:.3f}, same sign {found.same_sign:.0%}, {found.n} cells"
    headline(figure, f"change of {sweep.metric}\n{about}")
    return figure.figure
