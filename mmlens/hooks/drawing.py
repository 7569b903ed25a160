"""Drawing the hook-point graph as one SVG: parts side by side, blocks upwards, results laid over the nodes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.core.kinds import PathLike
from mmlens.core.names import PARTS, Part, nearest_hint
from mmlens.core.palette import NOTE, signed
from mmlens.core.palette import PARTS as PART_COLORS
from mmlens.hooks.nodes import Node

_PART_TITLES: dict[Part, str] = {"vision": "vision encoder", "projector": "projector", "language": "language model"}
_CELL, _ROW, _GAP, _LEFT, _TOP = 48, 30, 30, 46, 48
_LEGEND = 26
_BOX = _CELL - 5


@dataclass(frozen=True)
class Drawing:
    """An SVG picture; shows itself in a notebook.

    Attributes:
        svg: the picture's source.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    @checked
    def save(self, path: PathLike) -> None:
        """Write the picture to a file, whole or not at all.

        Raises:
            InputError: if the folder does not exist.
        """
        with whole_file(path) as temporary:
            temporary.write_text(self.svg, encoding="utf-8")


def _rows(nodes: Iterable[Node], part: Part) -> list[tuple[str, list[Node]]]:
    """The part's points in rows: one per block, one for each run of points outside the blocks."""
    rows: list[tuple[str, list[Node]]] = []
    for node in nodes:
        if node.part != part:
            continue
        label = "" if node.layer is None else _block_label(node)
        if not rows or rows[-1][0] != label:
            rows.append((label, []))
        rows[-1][1].append(node)
    return rows


def _block_label(node: Node) -> str:
    """ "block 3", or "global block 3" in a stack of another name."""
    stack = (node.stack or "").removesuffix("blocks").strip("._").replace(".", " ")
    return f"{stack} block {node.layer}".strip()


def draw_graph(
    nodes: Sequence[Node], edges: Iterable[tuple[str, str]], values: Mapping[str, float] | None = None
) -> Drawing:
    """Draw a hook-point graph; see `HookGraph.draw`.

    Args:
        nodes: the hook points, in execution order.
        edges: pairs of their names.
        values: numbers to lay over the nodes by name.

    Raises:
        InputError: if `values` names a point that the graph does not have.
    """
    values = values or {}
    by_name = {node.name: node for node in nodes}
    for name in values:
        if name not in by_name:
            raise InputError(f"values name {name!r}, which is no hook point.{nearest_hint(name, by_name)}")
    largest = max((abs(value) for value in values.values()), default=0.0)
    columns = {part: _rows(nodes, part) for part in PARTS}
    height = _TOP + _ROW * max(len(rows) for rows in columns.values()) + 20 + _LEGEND
    places: dict[str, tuple[float, int]] = {}
    body: list[str] = []
    x = 10.0
    for part, rows in columns.items():
        width = _LEFT + _CELL * max((len(points) for _, points in rows), default=1) + 8
        body.append(
            f'<text x="{x}" y="22" font-size="14" font-weight="600" fill="{PART_COLORS[part]}">'
            f"{_PART_TITLES[part]}</text>"
        )
        for index, (label, points) in enumerate(rows):
            y = height - 24 - _LEGEND - _ROW * (index + 1)
            body.append(f'<text x="{x}" y="{y + 15}" font-size="9" fill="#777">{label}</text>')
            for place, node in enumerate(points):
                places[node.name] = (x + _LEFT + _CELL * place, y)
        x += width + _GAP
    body = [
        *_edges(by_name, edges, places),
        *body,
        *(_box(by_name[name], place, values, largest) for name, place in places.items()),
        *_legend(height, [node.dead for node in nodes], largest),
    ]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x:.0f}" height="{height}" viewBox="0 0 {x:.0f} {height}" '
        f'font-family="system-ui, sans-serif"><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>'
    )
    return Drawing(svg)


def _edges(
    nodes: Mapping[str, Node], edges: Iterable[tuple[str, str]], places: Mapping[str, tuple[float, int]]
) -> list[str]:
    """Only the edges that leave a row: those within a block would hide it."""
    lines = []
    for source, target in edges:
        (x1, y1), (x2, y2) = places[source], places[target]
        if y1 != y2 or nodes[source].part != nodes[target].part:
            bend = (y1 + y2) / 2
            from_x, to_x = x1 + _BOX / 2, x2 + _BOX / 2
            lines.append(
                f'<path d="M{from_x},{y1 + 9} C{from_x},{bend} {to_x},{bend} {to_x},{y2 + 9}" '
                'fill="none" stroke="#bbb" stroke-width="0.8"/>'
            )
    return lines


def _legend(height: float, dead: list[str | None], largest: float) -> list[str]:
    """What frames and colours mean, at the bottom, as far as they occur."""
    words = ["thick frame: residual stream"]
    words += ["dashed: cannot reach the logits"] if any(dead) else []
    words += [f"red: rises, blue: falls, by {largest:.3g} at most"] if largest else []
    return [f'<text x="10" y="{height - 12}" font-size="10" fill="{NOTE}">{"; ".join(words)}</text>']


def _box(node: Node, place: tuple[float, int], values: Mapping[str, float], largest: float) -> str:
    x, y = place
    value = values.get(node.name)
    fill = "#f6f6f6" if value is None else signed(value, largest)
    ink = "#222" if value is None or abs(value) < 0.6 * largest else "#fff"
    dash = ' stroke-dasharray="3 2"' if node.dead else ""
    weight = 1.6 if node.role == "stream" else 0.8
    note = f"\n{value:.4g}" if value is not None else ""
    note += f"\ndead: {node.dead}" if node.dead else ""
    title = escape(f"{node.name}\n[{node.axes}] {node.width or ''}{note}")
    return (
        f'<g><title>{title}</title><rect x="{x}" y="{y}" width="{_BOX}" height="20" rx="4" fill="{fill}" '
        f'stroke="{PART_COLORS[node.part]}" stroke-width="{weight}"{dash}/>'
        f'<text x="{x + _BOX / 2}" y="{y + 13}" font-size="8" text-anchor="middle" fill="{ink}">'
        f"{escape(_label(node.kind))}</text></g>"
    )


def _label(kind: str) -> str:
    """A name short enough for a box; the full one is in the box's tooltip."""
    short = (
        kind.replace("cross_attn.", "x.")
        .replace("cross_attn_", "x.")
        .replace("mlp_text", "text")
        .replace("ln_final", "ln")
    )
    for long, brief in (("attn_scores", "scores"), ("attn.", ""), ("resid_", ""), (".scale", "")):
        short = short.replace(long, brief)
    return short
