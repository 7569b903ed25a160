"""An attribution graph over its picture: sources on their patches and words, blocks upwards, logits on top."""

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from mmlens.core.names import HookName
from mmlens.core.palette import FALL, GREY, NOTE, PARTS, RISE
from mmlens.viz.figures import TICK, canvas, dress, headline
from mmlens.viz.graph_layout import ROW, GraphLayout, layout_of
from mmlens.viz.marks import legend_below, legend_entry, marks
from mmlens.viz.words import shown, text_options

if TYPE_CHECKING:
    from mmlens.analysis.attribution_graphs.check_result import GraphCheck
    from mmlens.analysis.attribution_graphs.graph import AttributionGraph

_COLORS = {sign: "#{:02x}{:02x}{:02x}".format(*color) for sign, color in ((True, RISE), (False, FALL))}


def plot_attribution_graph(
    graph: "AttributionGraph", *, n: int = 60, image: int = 0, figure: Figure | SubFigure | None = None
) -> Figure:
    """Draw a graph; see `AttributionGraph.plot`.

    Raises:
        InputError: for a picture that it does not have.
    """
    layout = layout_of(graph, n, image)
    figure = canvas(layout.width + 1.0, layout.top + 1.1, figure)
    axes = figure.subplots()
    axes.axis("off")
    if layout.picture is not None:
        axes.imshow(layout.picture, extent=(0, layout.size[0], 0, layout.size[1]), zorder=0, interpolation="nearest")
    axes.set(
        xlim=(layout.left - 0.75, layout.width), ylim=(-0.1 if layout.size[1] > 1 else -0.9, layout.top), aspect="equal"
    )
    for level, (name, height) in enumerate(layout.levels.items()):
        band = "#f4f4f4" if level % 2 else "#fafafa"
        axes.axhspan(height - ROW / 2, height + ROW / 2, color=band, zorder=-1, linewidth=0)
        axes.text(layout.left, height, name, fontsize=TICK, color=NOTE, ha="right", va="center")
    for x, word in layout.columns.items():
        axes.text(
            x,
            layout.size[1] - 0.05,
            word,
            fontsize=TICK,
            rotation=90 * (len(word) > 2),
            ha="center",
            va="top",
            **text_options(),
        )
    _draw_edges(axes, layout)
    _draw_nodes(axes, graph, layout, image)
    entries = [
        Line2D([], [], color=_COLORS[True], linewidth=2, label="raises its target"),
        Line2D([], [], color=_COLORS[False], linewidth=2, label="lowers it"),
        *(
            Line2D([], [], marker=m, color="none", markerfacecolor=c, markeredgecolor="black", label=words)
            for m, c, words in (
                ("o", PARTS["language"], "feature"),
                ("D", GREY, "error"),
                ("s", "white", "patch or word"),
            )
        ),
    ]
    legend_below(figure, entries)
    flow = sum(edge[3] for edge in layout.edges)
    scores = f"replacement {graph.scores.replacement:.2f}, completeness {graph.scores.completeness:.2f}"
    headline(figure, f"{len(layout.edges)} edges with the most influence ({flow:.2f} of the logits' input); {scores}")
    return figure.figure


def plot_graph_check(check: "GraphCheck", *, figure: Figure | SubFigure | None = None) -> Figure:
    """Predicted against measured effects of nodes and of their controls; see `GraphCheck.plot`."""
    figure = canvas(4.6, 4.8, figure)
    axes = figure.subplots()
    kinds = marks(["the graph's nodes", "random nodes"])
    for mark, predicted, measured in zip(kinds.values(), check.predicted, check.measured, strict=True):
        axes.scatter(predicted, measured, s=18, color=mark.color, marker=mark.shape, linewidth=0, alpha=0.8, zorder=2)
    axes.axline((0, 0), slope=1, color="black", linewidth=0.7, linestyle=":", zorder=0)
    dress(axes, x="effect by the graph (logits)", y="effect in the model (logits)", grid=True)
    legend_below(figure, [legend_entry(name, mark) for name, mark in kinds.items()])
    headline(figure, f"nodes taken out one by one: r = {check.r:.2f}, with predictions swapped {check.r_control:.2f}")
    return figure.figure


def _draw_edges(axes: Axes, drawn: GraphLayout) -> None:
    most = max((edge[3] for edge in drawn.edges), default=1.0) or 1.0
    for source, target, weight, flow in reversed(drawn.edges):
        (x1, y1), (x2, y2) = drawn.places[source], drawn.places[target]
        bend = 0.5 * (y2 - y1)
        path = Path([(x1, y1), (x1, y1 + bend), (x2, y2 - bend), (x2, y2)], [Path.MOVETO] + [Path.CURVE4] * 3)
        share = flow / most
        axes.add_patch(
            PathPatch(
                path,
                fill=False,
                edgecolor=_COLORS[weight > 0],
                linewidth=0.5 + 3.5 * share,
                alpha=0.3 + 0.6 * share,
                zorder=2,
                capstyle="round",
            )
        )


def _draw_nodes(axes: Axes, graph: "AttributionGraph", drawn: GraphLayout, image: int) -> None:
    for number in drawn.numbers:
        node, (x, y) = graph.members[number], drawn.places[number]
        if node.kind == "source" and node.box is not None and drawn.scale and node.image == image:
            left, upper, end, lower = (drawn.scale * side for side in node.box)
            corner = (left, drawn.size[1] - lower)
            axes.add_patch(
                Rectangle(corner, end - left, lower - upper, fill=False, edgecolor="white", linewidth=1.6, zorder=1)
            )
            axes.add_patch(
                Rectangle(corner, end - left, lower - upper, fill=False, edgecolor="black", linewidth=0.7, zorder=1)
            )
        elif node.kind == "logit":
            chance = float(graph.probabilities[number - len(graph.members) + len(graph.probabilities)])
            words = f"{shown(node.text, 9)}\n{chance:.2f}"
            frame = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "black", "linewidth": 0.8}
            axes.text(x, y, words, fontsize=TICK, ha="center", va="center", bbox=frame, zorder=4, **text_options())
            continue
        circle = ("o", PARTS[HookName.parse(node.at).part])
        marker, color = circle if node.kind == "feature" else ("D", GREY) if node.kind == "error" else ("s", "white")
        size = 14 + 120 * float(graph.influence[number])
        axes.scatter(x, y, s=size, marker=marker, color=color, edgecolor="black", linewidth=0.5, zorder=3)
        if node.feature is not None:
            axes.annotate(
                f"f{node.feature}", (x, y), (0, 5), textcoords="offset points", fontsize=TICK - 2, ha="center", zorder=4
            )
