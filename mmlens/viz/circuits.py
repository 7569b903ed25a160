"""A circuit as a picture: towers side by side, blocks upwards, edges by strength and sign."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from mmlens.analysis.circuits.graph import EVERYTHING
from mmlens.core.contract import checked
from mmlens.core.kinds import Count
from mmlens.core.names import HookName, Part
from mmlens.core.palette import FALL, NOTE, PARTS, RISE
from mmlens.hooks.drawing import Drawing

if TYPE_CHECKING:
    from mmlens.analysis.circuits.circuit import Circuit, Edge
    from mmlens.analysis.circuits.graph import Writer

_TITLES: dict[Part, str] = {"vision": "vision encoder", "language": "language model"}
_BOX, _CELL, _ROW, _GAP, _LEFT, _TOP = 74, 84, 50, 10, 62, 58
#: The drawing's least width and what stands beneath the graph: room for the title and the legend.
_NARROWEST, _LEGEND = 470, 40
#: Rows of few heads are moved aside by this share of the free room, row by row: else all edges run through one column of boxes.
_ASIDE, _SPREAD = 0.618, 5


@dataclass(frozen=True)
class _Place:
    """Where a node is drawn: the middle of its box."""

    x: float
    y: float
    part: Part
    label: str


@checked
def draw_circuit(circuit: "Circuit", *, n: Count = 60) -> Drawing:
    """Draw a circuit; see `Circuit.draw`.

    Args:
        circuit: from `mm.find_circuit`.
        n: at most so many edges, the strongest.
    """
    approximate = "" if circuit.method == "exact" else " (approximate)"
    noun = "nodes" if circuit.graph.by_node else "edges"
    n_shown, n_edges = min(n, int(circuit.kept.sum())), int(circuit.kept.sum())
    title = (f"{n_shown} of {n_edges} {noun}, by {circuit.method}{approximate}", f"metric: {circuit.metric}")
    return Drawing(circuit_svg(circuit, n=n, title=title))


def circuit_svg(circuit: "Circuit", *, n: int, title: Sequence[str] = ()) -> str:
    """The source of the drawing, with or without a title."""
    edges = circuit.edges[:n]
    owner = {reader.name: list(reader.feeds) or [reader.name] for reader in circuit.graph.readers}
    names = {edge.writer for edge in edges} | {name for edge in edges for name in owner[edge.reader]} - {EVERYTHING}
    scores = {edge.writer: edge.score for edge in edges} if circuit.graph.by_node else {}
    places, width, height, labels = _places(circuit, names)
    largest = max((abs(edge.score) for edge in edges), default=1.0) or 1.0
    body: list[str] = []
    ranks: dict[str, int] = {}
    for rank, edge in enumerate(edges):
        lines = [] if circuit.graph.by_node else owner[edge.reader]
        body[:0] = [_line(edge, rank, name, places, largest) for name in lines]  # the strongest on top
        for name in [edge.writer, *lines]:
            ranks.setdefault(name, rank)
    body = ['<g class="edges">', *body, "</g>"]
    for name, place in places.items():
        size = f' data-size="{abs(scores[name]):.6g}"' if name in scores else ""
        body.append(_box(name, place, scores.get(name, 0.0) / largest, f'data-rank="{ranks.get(name, 0)}"{size}'))
    body += labels
    width = max(width, _NARROWEST, 12 + 6.6 * max(map(len, title), default=0))
    head = [_text(12, 18 + 15 * line, words, "#222", 12 - line, "ink") for line, words in enumerate(title)]
    above = 0 if title else _TOP - 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height - above:.0f}" '
        f'viewBox="0 {above} {width:.0f} {height - above:.0f}" font-family="system-ui, sans-serif"><rect class="ground" '
        f'y="{above}" width="100%" height="100%" fill="white"/>{"".join([*head, *_legend(height, largest), *body])}</svg>'
    )


def _legend(height: float, largest: float) -> Iterator[str]:
    """What the colours and the strength of edges mean, at the bottom."""
    about = ((FALL, "the metric falls when the edge is corrupted: it carries the answer"), (RISE, "it rises"))
    for line, (color, words) in enumerate(about):
        y = height - 24 + 15 * line
        yield f'<line x1="12" x2="36" y1="{y - 3:.0f}" y2="{y - 3:.0f}" stroke="rgb{color}" stroke-width="4"/>'
        strongest = f"; an edge of this strength changes it by {largest:.3g}" if line else ""
        yield _text(42, y, words + strongest, NOTE, 10, "soft")


def _rows(circuit: "Circuit", names: set[str], part: Part) -> list[tuple[str, list["Writer"]]]:
    """The shown nodes of a tower, in rows from the bottom: embeddings, then one row for attention and one for the MLP."""
    rows: dict[int, list[Writer]] = {}
    for writer in circuit.graph.writers:
        if writer.name in names and writer.part == part:
            rows.setdefault(writer.joins, []).append(writer)
    return [(_block(writers[0]), writers) for _, writers in sorted(rows.items())]


def _block(writer: "Writer") -> str:
    """The label of a row: `block 3`, `encoder block 3`, or nothing outside of blocks."""
    if not writer.branch:
        return ""
    stack = str(HookName.parse(writer.branch).stack).removesuffix("blocks").replace(".", " ").replace("_", " ").strip()
    return f"{stack} block {writer.layer}".strip()


def _places(circuit: "Circuit", names: set[str]) -> tuple[dict[str, _Place], float, float, list[str]]:
    """Where every node is, the size of the picture, and the labels of towers and rows.

    The language model stands to the right of the vision encoder and above it, so that all edges lead upwards.
    """
    towers: list[tuple[Part, list[tuple[str, list[Writer]]]]] = [
        (part, _rows(circuit, names, part)) for part in ("vision", "language")
    ]
    depth = sum(len(rows) for _, rows in towers) + 1
    height = _TOP + _ROW * depth + 44 + _LEGEND
    places: dict[str, _Place] = {}
    labels: list[str] = []
    margin, y, middle = 12.0, height - 64.0 - _LEGEND, 0.0
    for part, rows in towers:
        if not rows:
            continue
        side_by_side = max((sum(not _beside(w) for w in writers) for _, writers in rows), default=1) or 1
        side_by_side = max(side_by_side, min(_SPREAD, len(rows) // 3))
        labels.append(_text(margin, y + 26, _TITLES[part], PARTS[part], 13, "part"))
        for number, (label, writers) in enumerate(rows):
            labels.append(_text(margin, y + 4, label, "#777", 10, "soft"))
            heads = [writer for writer in writers if not _beside(writer)]
            aside = number * _ASIDE % 1 if label else 0.5  # embeddings stand in the middle
            start = margin + _LEFT + _CELL * (side_by_side - len(heads)) * aside
            for column, writer in enumerate(heads):
                places[writer.name] = _at(writer, start + _CELL * column + _BOX / 2, y, part)
            for writer in writers:
                if _beside(writer):
                    places[writer.name] = _at(writer, margin + _LEFT + _CELL * side_by_side + _BOX, y, part)
            y -= _ROW
        middle = margin + _LEFT + _CELL * side_by_side / 2
        margin += _LEFT + _CELL * (side_by_side + 1.5) + _GAP
    places["logits"] = _Place(middle, y, "language", "logits")
    return places, margin, height, labels


def _beside(writer: "Writer") -> bool:
    """MLPs have a column of their own, so that their edges do not run through the heads."""
    return writer.name.endswith(".mlp")


def _at(writer: "Writer", x: float, y: float, part: Part) -> _Place:
    return _Place(x, y, "projector" if writer.name.startswith("projector") else part, _label(writer))


def _label(writer: "Writer") -> str:
    if writer.index is not None:
        return f"head {writer.index}" if writer.point.endswith("hook_z") else writer.name.rpartition(".")[2]
    return writer.name.rpartition(".")[2]


def _text(x: float, y: float, words: str, color: str, size: int, kind: str) -> str:
    halo = 'paint-order="stroke" stroke="white" stroke-width="4"'  # words stay readable where an edge runs behind them
    return f'<text class="halo {kind}" x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{color}" {halo}>{escape(words)}</text>'


def _line(edge: "Edge", rank: int, reader: str, places: Mapping[str, _Place], largest: float) -> str:
    source, target = places[edge.writer], places[reader]
    strength = abs(edge.score) / largest
    color = f"rgb{RISE if edge.score > 0 else FALL}"
    x1, y1, x2, y2 = source.x, source.y - 11, target.x, target.y + 11
    points = ",".join(f"{value:.1f}" for value in _bend(x1, y1, x2, y2))
    return (
        f'<path data-rank="{rank}" data-size="{abs(edge.score):.6g}" data-from="{edge.writer}" data-to="{reader}" '
        f'd="M{x1:.1f},{y1:.1f} C{points} {x2:.1f},{y2:.1f}" fill="none" stroke="{color}" '
        f'stroke-width="{0.6 + 4.4 * strength:.2f}" stroke-opacity="{0.25 + 0.65 * strength:.2f}">'
        f"<title>{escape(str(edge))}</title></path>"
    )


def _bend(x1: float, y1: float, x2: float, y2: float) -> Iterator[float]:
    """Control points: straight up at both ends; edges that skip rows swing to the side, past the boxes between."""
    side = 0.0 if abs(x1 - x2) > _CELL / 2 or y1 - y2 < 1.5 * _ROW else 0.55 * _CELL
    yield from (x1 + side, y1 - 0.5 * (y1 - y2), x2 + side, y2 + 0.5 * (y1 - y2))


def _box(name: str, place: _Place, score: float, data: str) -> str:
    """The box of a node with data of its own; where nodes have scores it is filled by them, from -1 to 1."""
    color, size = PARTS[place.part], min(10.0, 130 / len(place.label))
    fill = (
        f'fill="rgb{RISE if score > 0 else FALL}" fill-opacity="{0.1 + 0.6 * abs(score):.2f}"'
        if score
        else 'class="paper" fill="#fff"'
    )
    return (
        f'<g data-name="{escape(name)}" {data}><title>{escape(name)}</title>'
        f'<rect x="{place.x - _BOX / 2:.1f}" y="{place.y - 11:.1f}" width="{_BOX}" '
        f'height="22" rx="5" {fill} stroke="{color}" stroke-width="1.4"/>'
        f'<text x="{place.x:.1f}" y="{place.y + 4:.1f}" font-size="{size:.1f}" text-anchor="middle" class="ink" '
        f'fill="#222">{escape(place.label)}</text></g>'
    )
