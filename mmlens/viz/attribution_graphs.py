"""An attribution graph over its picture: sources on their patches and words, blocks upwards, logits on top."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from mmlens.core.errors import InputError
from mmlens.core.names import HookName
from mmlens.core.palette import FALL, GREY, NOTE, PARTS, RISE
from mmlens.core.units import block_name
from mmlens.viz.figures import TICK, canvas, dress, headline
from mmlens.viz.marks import legend_below, legend_entry, marks
from mmlens.viz.words import shortened, shown, text_options

if TYPE_CHECKING:
    from mmlens.analysis.attribution_graphs.check_result import GraphCheck
    from mmlens.analysis.attribution_graphs.graph import AttributionGraph
    from mmlens.analysis.attribution_graphs.nodes import GraphNode

#: In inches: the picture's longer side, a word's column, a block's row, the least distance of nodes beside each other.
_PICTURE, _COLUMN, _ROW, _GAP = 2.6, 0.42, 0.52, 0.27
_COLORS = {sign: "#{:02x}{:02x}{:02x}".format(*color) for sign, color in ((True, RISE), (False, FALL))}


@dataclass(frozen=True)
class _Drawn:
    """What is drawn: nodes by number, edges as (source, target, weight, flow), and the picture's size in inches."""

    numbers: list[int]
    edges: list[tuple[int, int, float, float]]
    size: tuple[float, float]


def plot_attribution_graph(
    graph: "AttributionGraph", *, n: int = 60, image: int = 0, figure: Figure | SubFigure | None = None
) -> Figure:
    """Draw a graph; see `AttributionGraph.plot`.

    Raises:
        InputError: for a picture that it does not have.
    """
    if graph.images and image >= len(graph.images):
        raise InputError(f"There is no picture {image}; the graph has {len(graph.images)}.")
    picture = graph.images[image] if graph.images else None
    scale = 0.0 if picture is None else _PICTURE / max(picture.size)
    drawn = _drawn(graph, n, (0.0, 0.0) if picture is None else (picture.width * scale, picture.height * scale))
    levels = _levels(graph, drawn.numbers)
    places, columns = _places(graph, drawn, levels, scale, image)
    width = max(max((x for x, _ in places.values()), default=0.0) + 0.5, drawn.size[0] + 1.2)
    top = drawn.size[1] + _ROW * (len(levels) + 1.4)
    figure = canvas(width + 1.0, top + 1.1, figure)
    axes = figure.subplots()
    axes.axis("off")
    if picture is not None:
        axes.imshow(picture, extent=(0, drawn.size[0], 0, drawn.size[1]), zorder=0, interpolation="nearest")
    left = min(0.0, *(x for x, _ in places.values())) - 0.15
    axes.set(xlim=(left - 0.75, width), ylim=(-0.1 if drawn.size[1] > 1 else -0.9, top), aspect="equal")
    for level, (name, height) in enumerate(_labels(levels, drawn.size[1])):
        band = "#f4f4f4" if level % 2 else "#fafafa"
        axes.axhspan(height - _ROW / 2, height + _ROW / 2, color=band, zorder=-1, linewidth=0)
        axes.text(left, height, name, fontsize=TICK, color=NOTE, ha="right", va="center")
    for x, word in columns.items():
        axes.text(x, drawn.size[1] - 0.05, word, fontsize=TICK, rotation=90, ha="center", va="top", **text_options())
    _draw_edges(axes, drawn, places)
    _draw_nodes(axes, graph, drawn, places, scale, image)
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
    flow = sum(edge[3] for edge in drawn.edges)
    scores = f"replacement {graph.scores.replacement:.2f}, completeness {graph.scores.completeness:.2f}"
    headline(figure, f"{len(drawn.edges)} edges with the most influence ({flow:.2f} of the logits' input); {scores}")
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


def _drawn(graph: "AttributionGraph", n: int, size: tuple[float, float]) -> _Drawn:
    frame = graph.edges.head(n)
    numbers = {node.name: number for number, node in enumerate(graph.members)}
    edges = [
        (numbers[source], numbers[target], float(weight), float(flow))
        for source, target, weight, flow in zip(
            frame["source"], frame["target"], frame["weight"], frame["influence"], strict=True
        )
    ]
    used = {end for edge in edges for end in edge[:2]}
    logits = [number for number, node in enumerate(graph.members) if node.kind == "logit"]
    return _Drawn(sorted(used | set(logits)), edges, size)


def _levels(graph: "AttributionGraph", numbers: Sequence[int]) -> dict[str, int]:
    """The rows of blocks, by what their points begin with, from the bottom."""
    inner = [node for node in graph.members if node.kind in ("feature", "error")]
    used = {_block(graph.members[number]) for number in numbers}
    names = [name for name in dict.fromkeys(_block(node) for node in inner) if name in used]
    return {name: level for level, name in enumerate(sorted(names, key=lambda name: _order(name, inner)))}


def _order(block: str, nodes: Sequence["GraphNode"]) -> int:
    """Errors are listed in execution order, one point after another."""
    return next(number for number, node in enumerate(nodes) if node.kind == "error" and _block(node) == block)


def _block(node: "GraphNode") -> str:
    name = HookName.parse(node.at)
    return block_name(name.part, name.stack or "", name.layer or 0)


def _labels(levels: Mapping[str, int], bottom: float) -> list[tuple[str, float]]:
    return [(name, bottom + _ROW * (level + 0.8)) for name, level in levels.items()]


def _places(
    graph: "AttributionGraph", drawn: _Drawn, levels: Mapping[str, int], scale: float, image: int
) -> tuple[dict[int, tuple[float, float]], dict[float, str]]:
    """Where each node is drawn, and the columns of words."""
    words: dict[tuple[str, int], float] = {}
    labels: dict[float, str] = {}
    right = drawn.size[0] + 0.45

    def middle(node: "GraphNode") -> tuple[float, float] | None:
        if node.box is None or not scale or node.image != image:
            return None
        left, upper, end, lower = node.box
        return scale * (left + end) / 2, drawn.size[1] - scale * (upper + lower) / 2

    outside = {}
    for number in drawn.numbers:
        node = graph.members[number]
        if middle(node) is None:
            language = not node.at.startswith(("vision.", "projector."))
            outside[number] = (("" if language else node.at), node.rows[0])
    for key in sorted(set(outside.values())):
        words[key] = right
        node = next(graph.members[number] for number, other in outside.items() if other == key)
        text = shown(graph.texts[key[1]], 14) if not key[0] and key[1] < len(graph.texts) else shortened(node.text, 14)
        labels[right] = text
        right += _COLUMN
    rows: dict[float, list[tuple[float, int]]] = {}
    places: dict[int, tuple[float, float]] = {}
    for number in drawn.numbers:
        node, at = graph.members[number], middle(graph.members[number])
        x = words[outside[number]] if at is None else at[0]
        if node.kind == "source":
            places[number] = (x, drawn.size[1] if at is None else at[1])
            continue
        level = len(levels) if node.kind == "logit" else levels[_block(node)]
        rows.setdefault(drawn.size[1] + _ROW * (level + 0.8), []).append((x, number))
    for y, entries in rows.items():
        entries.sort()
        spread = _apart([x for x, _ in entries], _COLUMN * 1.9 if y > drawn.size[1] + _ROW * len(levels) else _GAP)
        places |= {number: (x, y) for (_, number), x in zip(entries, spread, strict=True)}
    return places, labels


def _apart(xs: Sequence[float], gap: float) -> list[float]:
    """Places in their order, none nearer to the next than the gap; groups stay around their middle."""
    groups: list[list[float]] = []
    for x in xs:
        groups.append([x])
        while len(groups) > 1:
            first, second = groups[-2:]
            end = np.mean(first) + gap * (len(first) - 1) / 2
            start = np.mean(second) - gap * (len(second) - 1) / 2
            if start - end >= gap:
                break
            groups[-2:] = [first + second]
    return [
        float(np.mean(group) + gap * (place - (len(group) - 1) / 2)) for group in groups for place in range(len(group))
    ]


def _draw_edges(axes: Axes, drawn: _Drawn, places: Mapping[int, tuple[float, float]]) -> None:
    most = max((edge[3] for edge in drawn.edges), default=1.0) or 1.0
    for source, target, weight, flow in reversed(drawn.edges):
        (x1, y1), (x2, y2) = places[source], places[target]
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


def _draw_nodes(
    axes: Axes,
    graph: "AttributionGraph",
    drawn: _Drawn,
    places: Mapping[int, tuple[float, float]],
    scale: float,
    image: int,
) -> None:
    for number in drawn.numbers:
        node, (x, y) = graph.members[number], places[number]
        if node.kind == "source" and node.box is not None and scale and node.image == image:
            left, upper, end, lower = (scale * side for side in node.box)
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
