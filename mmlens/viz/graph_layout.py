"""Where the nodes of an attribution graph are drawn: sources on their patches and words, blocks upwards, logits on top."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.core.names import HookName
from mmlens.core.units import block_name
from mmlens.viz.words import shortened, shown

if TYPE_CHECKING:
    from mmlens.analysis.attribution_graphs.graph import AttributionGraph
    from mmlens.analysis.attribution_graphs.nodes import GraphNode

#: In inches: the picture's longer side, a word's column, a block's row, the least distance of nodes beside each other.
_PICTURE, _COLUMN, ROW, _GAP = 2.6, 0.42, 0.52, 0.27


@dataclass(frozen=True)
class GraphLayout:
    """What is drawn of a graph and where, in inches, upwards from the picture's lower left corner.

    Attributes:
        numbers: of the nodes.
        edges: source, target, weight, flow; the one with most flow first.
        picture: None where the graph has none.
        scale: inches a pixel.
        size: of the picture.
        levels: the names of rows, and their heights.
        places: of the nodes.
        columns: words over the picture's right, by their place.
    """

    numbers: list[int]
    edges: list[tuple[int, int, float, float]]
    picture: Image.Image | None
    scale: float
    size: tuple[float, float]
    levels: dict[str, float]
    places: dict[int, tuple[float, float]]
    columns: dict[float, str]

    @property
    def width(self) -> float:
        """Where it ends at the right."""
        return max(max((x for x, _ in self.places.values()), default=0.0) + 0.5, self.size[0] + 1.2)

    @property
    def left(self) -> float:
        """Where its nodes begin at the left; names of rows stand before that."""
        return min(0.0, *(x for x, _ in self.places.values())) - 0.15

    @property
    def top(self) -> float:
        """Where it ends above."""
        return self.size[1] + ROW * (len(self.levels) + 1.4)


def layout_of(graph: "AttributionGraph", n: int, image: int) -> GraphLayout:
    """Where the n edges with the most flow, and their nodes, are drawn.

    Raises:
        InputError: for a picture that it does not have.
    """
    if graph.images and image >= len(graph.images):
        raise InputError(f"There is no picture {image}; the graph has {len(graph.images)}.")
    picture = graph.images[image] if graph.images else None
    scale = 0.0 if picture is None else _PICTURE / max(picture.size)
    size = (0.0, 0.0) if picture is None else (picture.width * scale, picture.height * scale)
    numbers, edges = _drawn(graph, n)
    levels = _levels(graph, numbers)
    places, columns = _places(graph, numbers, size, levels, scale, image)
    heights = {name: size[1] + ROW * (level + 0.8) for name, level in levels.items()}
    return GraphLayout(numbers, edges, picture, scale, size, heights, places, columns)


def _drawn(graph: "AttributionGraph", n: int) -> tuple[list[int], list[tuple[int, int, float, float]]]:
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
    return sorted(used | set(logits)), edges


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


def _places(
    graph: "AttributionGraph",
    numbers: Sequence[int],
    size: tuple[float, float],
    levels: Mapping[str, int],
    scale: float,
    image: int,
) -> tuple[dict[int, tuple[float, float]], dict[float, str]]:
    """Where each node is drawn, and the columns of words."""
    words: dict[tuple[str, int], float] = {}
    labels: dict[float, str] = {}
    right = size[0] + 0.45

    def middle(node: "GraphNode") -> tuple[float, float] | None:
        if node.box is None or not scale or node.image != image:
            return None
        left, upper, end, lower = node.box
        return scale * (left + end) / 2, size[1] - scale * (upper + lower) / 2

    outside = {}
    for number in numbers:
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
    for number in numbers:
        node, at = graph.members[number], middle(graph.members[number])
        x = words[outside[number]] if at is None else at[0]
        if node.kind == "source":
            places[number] = (x, size[1] if at is None else at[1])
            continue
        level = len(levels) if node.kind == "logit" else levels[_block(node)]
        rows.setdefault(size[1] + ROW * (level + 0.8), []).append((x, number))
    for y, entries in rows.items():
        entries.sort()
        spread = _apart([x for x, _ in entries], _COLUMN * 1.9 if y > size[1] + ROW * len(levels) else _GAP)
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
