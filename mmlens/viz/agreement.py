"""An approximate sweep against the exact one, cell by cell."""

from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.attribution.compare import Agreement
from mmlens.core.contract import checked
from mmlens.viz.figures import canvas, dress, headline
from mmlens.viz.marks import legend_below, legend_entry, legend_height, marks
from mmlens.viz.points import parse_point
from mmlens.viz.words import with_unit

_KINDS = 20  # kinds of points: so many have a colour and a shape each


@checked
def plot_agreement(agreement: Agreement, *, figure: Figure | SubFigure | None = None) -> Figure:
    """The estimate of every cell against its exact effect, in a colour and shape per kind of point.

    Args:
        agreement: from `mm.patching.compare_attribution`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    sweep = agreement.exact
    exact, estimate = (side.effect.mean(-1) for side in (sweep, agreement.approximate))
    kinds = [parse_point(point).kind for point in sweep.points]
    if len(set(kinds)) > _KINDS:
        kinds = ["all points"] * len(kinds)
    kind_marks = marks(kinds)
    labels = list(kind_marks) if len(kind_marks) > 1 else []
    figure = canvas(4.6, 4.3 + legend_height(labels, 4.6), figure)
    axes = figure.subplots()
    for kind, mark in kind_marks.items():
        rows = [i for i, side in enumerate(kinds) if side == kind]
        pairs = exact[rows].flatten().tolist(), estimate[rows].flatten().tolist()
        axes.scatter(*pairs, s=16, color=mark.color, marker=mark.shape, linewidth=0, alpha=0.75, zorder=2)
    for line in (axes.axhline, axes.axvline):
        line(0, color="black", linewidth=0.5, zorder=0)
    axes.axline((0, 0), slope=1, color="black", linewidth=0.7, linestyle=":", zorder=0)
    x, y = (with_unit(name, sweep.metric) for name in ("exact effect", f"estimate by {agreement.approximate.method}"))
    dress(axes, x=x, y=y, grid=True)
    legend_below(figure, [legend_entry(kind, kind_marks[kind]) for kind in labels])
    correlation = f"r = {agreement.pearson:.3f}, rank r = {agreement.spearman:.3f}"
    about = f"{correlation}, same sign {agreement.same_sign:.0%}, {agreement.n} cells"
    headline(figure, f"change of {sweep.metric}\n{about}")
    return figure.figure
