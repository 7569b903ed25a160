"""An attribution graph as an SVG whose edges can be asked: sources on the picture, blocks upwards, logits on top."""

import base64
from html import escape
from typing import TYPE_CHECKING

from mmlens.core.names import HookName
from mmlens.core.palette import FALL, GREY, PARTS, RISE
from mmlens.viz.graph_layout import ROW, GraphLayout, layout_of
from mmlens.viz.page.still import encoded
from mmlens.viz.words import shown

if TYPE_CHECKING:
    from mmlens.analysis.attribution_graphs.graph import AttributionGraph

#: Pixels an inch; the room around.
_INCH, _MARGIN, _NAMES = 96.0, 10.0, 86.0


class _Sheet:
    """Inches of a layout as pixels of a drawing."""

    def __init__(self, drawn: GraphLayout):
        self.drawn = drawn
        self.width = (drawn.width - drawn.left) * _INCH + _NAMES + _MARGIN
        self.words = 0.0 if drawn.size[1] > 1 else 0.8  # inches for words below, where no picture makes room for them
        self.height = (drawn.top + self.words) * _INCH + 2 * _MARGIN

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.drawn.left) * _INCH + _NAMES, (self.drawn.top - y) * _INCH + _MARGIN


def attribution_svg(graph: "AttributionGraph", *, n: int = 150, image: int = 0) -> str:
    """Draw a graph's edges with the most influence.

    Args:
        graph: from `mm.attribution_graph`.
        n: how many edges, at most.
        image: which picture stands below.
    """
    layout = layout_of(graph, n, image)
    sheet = _Sheet(layout)
    body = [*_ground(sheet), '<g class="edges">', *_edges(graph, sheet), "</g>", *_nodes(graph, sheet, image)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{sheet.width:.0f}" height="{sheet.height:.0f}" viewBox="0 0 '
        f'{sheet.width:.0f} {sheet.height:.0f}" font-family="system-ui,sans-serif" font-size="11"><rect class="ground" '
        f'width="100%" height="100%" fill="white"/>{"".join(body)}</svg>'
    )


def _ground(sheet: _Sheet) -> list[str]:
    """Bands of blocks with their names, the picture, and the words beside it."""
    layout, body = sheet.drawn, []
    for name, height in layout.levels.items():
        y = sheet.at(0, height + ROW / 2)[1]
        body.append(
            f'<rect class="paper" x="{_NAMES}" y="{y:.1f}" width="{sheet.width - _NAMES:.1f}" height="{ROW * _INCH - 3:.1f}" '
            f'fill="#f6f6f9"/><text class="soft" x="{_NAMES - 6}" y="{y + ROW * _INCH / 2 + 3:.1f}" text-anchor="end" '
            f'fill="#555">{escape(name)}</text>'
        )
    if layout.picture is not None:
        x, y = sheet.at(0, layout.size[1])
        data = base64.b64encode(encoded(layout.picture.convert("RGB"), "WEBP")).decode()
        body.append(
            f'<image x="{x:.1f}" y="{y:.1f}" width="{layout.size[0] * _INCH:.1f}" height="{layout.size[1] * _INCH:.1f}" '
            f'href="data:image/webp;base64,{data}"/>'
        )
    for left, word in layout.columns.items():
        x, y = sheet.at(left, layout.size[1])
        body.append(
            f'<text class="ink" transform="translate({x + 4:.1f},{y + 10:.1f}) rotate(-90)" text-anchor="end" '
            f'fill="#222">{escape(word)}</text>'
        )
    return body


def _edges(graph: "AttributionGraph", sheet: _Sheet) -> list[str]:
    largest_flow = max((flow for *_, flow in sheet.drawn.edges), default=1.0) or 1.0
    body = []
    for rank, (source, target, weight, flow) in reversed(list(enumerate(sheet.drawn.edges))):
        (x1, y1), (x2, y2) = (sheet.at(*sheet.drawn.places[end]) for end in (source, target))
        names = [escape(graph.members[end].name, quote=True) for end in (source, target)]
        middle, share, color = (y1 + y2) / 2, flow / largest_flow, f"rgb{RISE if weight > 0 else FALL}"
        body.append(
            f'<path data-rank="{rank}" data-size="{flow:.6g}" data-from="{names[0]}" data-to="{names[1]}" d="M{x1:.1f},{y1:.1f} '
            f'C{x1:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{y2:.1f}" fill="none" stroke="{color}" '
            f'stroke-width="{0.8 + 3.6 * share:.2f}" stroke-opacity="{0.3 + 0.6 * share:.2f}"><title>{names[0]} -&gt; '
            f"{names[1]}: weight {weight:+.3g}, {flow:.1%} of the influence</title></path>"
        )
    return body


def _nodes(graph: "AttributionGraph", sheet: _Sheet, image: int) -> list[str]:
    layout = sheet.drawn
    ranks: dict[int, int] = {}
    for rank, (source, target, *_) in enumerate(layout.edges):
        for end in (source, target):
            ranks.setdefault(end, rank)
    body = []
    for number in layout.numbers:
        node, (x, y) = graph.members[number], sheet.at(*layout.places[number])
        name = escape(node.name, quote=True)
        ranked = "" if node.kind == "logit" else f' data-rank="{ranks.get(number, 0)}"'
        size = 3 + 9 * float(graph.influence[number]) ** 0.5
        if node.kind == "logit":
            chance = float(graph.probabilities[number - len(graph.members) + len(graph.probabilities)])
            shape = (
                f'<rect class="paper" x="{x - 34:.1f}" y="{y - 14:.1f}" width="68" height="28" rx="5" fill="#fff" stroke="#888"/>'
                f'<text class="ink" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="#222">'
                f"{escape(shown(node.text, 8))} {chance:.2f}</text>"
            )
        elif node.kind == "source" and node.box is not None and layout.scale and node.image == image:
            left, upper, right, lower = (side * layout.scale for side in node.box)
            corner = sheet.at(left, layout.size[1] - upper)
            shape = (
                f'<rect x="{corner[0]:.1f}" y="{corner[1]:.1f}" width="{(right - left) * _INCH:.1f}" height="'
                f'{(lower - upper) * _INCH:.1f}" fill="#fff" fill-opacity=".05" stroke="#fff" stroke-width="1.6"/>'
            )
        elif node.kind == "feature":
            color = PARTS[HookName.parse(node.at).part]
            shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" fill="{color}" stroke="#fff" stroke-width=".8"/>'
        else:
            turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if node.kind == "error" else ""
            color = GREY if node.kind == "error" else "#fff"
            shape = (
                f'<rect x="{x - size * 0.8:.1f}" y="{y - size * 0.8:.1f}" width="{size * 1.6:.1f}" height="{size * 1.6:.1f}" '
                f'fill="{color}" stroke="#555" stroke-width=".8"{turn}/>'
            )
        title = f"{name}: {float(graph.influence[number]):.1%} of the influence" + (
            f", {escape(shown(node.text, 20))}" if node.text else ""
        )
        body.append(f'<g data-name="{name}"{ranked}><title>{title}</title>{shape}</g>')
    return body
