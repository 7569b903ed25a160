"""The drawing of a graph: its places and colours by hand, and what it says in words."""

import xml.etree.ElementTree as ElementTree

import pytest

from mmlens.core.palette import NOTE, PARTS, signed
from mmlens.hooks.drawing import _label
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.nodes import Node, Part

SVG = "{http://www.w3.org/2000/svg}"


def node(name: str, part: Part, layer: int | None, kind: str, **more: object) -> Node:
    return Node(name, part, layer, kind, "batch pos d_model", 4, part, **more)  # type: ignore[arg-type]


NODES = [
    node("vision.blocks.0.hook_resid_pre", "vision", 0, "resid_pre", role="stream", stack="blocks", dead="unused"),
    node("vision.global_blocks.1.hook_mlp_out", "vision", 1, "mlp_out", role="writes", stack="global_blocks"),
    node("projector.hook_out", "projector", None, "out"),
    node("hook_embed", "language", None, "embed", role="writes"),
    node("blocks.0.hook_resid_pre", "language", 0, "resid_pre", role="stream", stack="blocks"),
    node("blocks.0.hook_mlp_out", "language", 0, "mlp_out", role="writes", stack="blocks"),
    node("hook_logits", "language", None, "logits"),
]
EDGES = [
    ("vision.blocks.0.hook_resid_pre", "projector.hook_out"),
    ("projector.hook_out", "hook_embed"),
    ("hook_embed", "blocks.0.hook_resid_pre"),
    ("blocks.0.hook_resid_pre", "blocks.0.hook_mlp_out"),
    ("blocks.0.hook_mlp_out", "hook_logits"),
]
GRAPH = HookGraph(NODES, EDGES)
VALUES = {"blocks.0.hook_mlp_out": 2.0, "hook_embed": -1.0, "projector.hook_out": 1.3}
#: Columns begin 46 right of their labels, a box is 48 further than the one before it, and columns are 8 + 30 apart; rows are 30
#: high, the lowest 24 + 26 over the bottom of a picture of 48 + 3 rows + 20 + 26.
HEIGHT = 48 + 3 * 30 + 20 + 26
COLUMNS = [10, 10 + 46 + 48 + 38, 10 + 2 * (46 + 48 + 38)]
PLACES = {
    "vision.blocks.0.hook_resid_pre": (0, 0, 1),
    "vision.global_blocks.1.hook_mlp_out": (0, 0, 2),
    "projector.hook_out": (1, 0, 1),
    "hook_embed": (2, 0, 1),
    "blocks.0.hook_resid_pre": (2, 0, 2),
    "blocks.0.hook_mlp_out": (2, 1, 2),
    "hook_logits": (2, 0, 3),
}


def place(name: str) -> tuple[float, float]:
    column, box, row = PLACES[name]
    return COLUMNS[column] + 46 + 48 * box, HEIGHT - 50 - 30 * row


def drawn(values: dict[str, float] | None = None) -> ElementTree.Element:
    return ElementTree.fromstring(GRAPH.draw(values).svg)


def test_every_box_stands_in_the_row_of_its_block() -> None:
    root = drawn()
    width = COLUMNS[2] + 46 + 2 * 48 + 38
    assert (root.get("width"), root.get("height")) == (str(width), str(HEIGHT))
    assert root.get("viewBox") == f"0 0 {width} {HEIGHT}"
    boxes = {group.findtext(f"{SVG}title", "").split("\n")[0]: group for group in root.iter(f"{SVG}g")}
    assert list(boxes) == [n.name for part in PARTS for n in NODES if n.part == part]
    for name, group in boxes.items():
        box, word = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert box is not None
        assert word is not None
        x, y = place(name)
        assert [float(box.get(key, 0)) for key in ("x", "y", "width", "height", "rx")] == [x, y, 43, 20, 4]
        assert [float(word.get(key, 0)) for key in ("x", "y", "font-size")] == [x + 21.5, y + 13, 8]
        assert box.get("stroke") == PARTS[GRAPH[name].part]
        assert box.get("stroke-width") == ("1.6" if "resid" in name else "0.8")
        assert box.get("stroke-dasharray") == ("3 2" if name.startswith("vision.blocks") else None)
        assert box.get("fill") == "#f6f6f6"
        assert word.get("fill") == "#222"
    assert [group.findtext(f"{SVG}text") for group in boxes.values()] == [
        *("pre", "mlp_out", "out", "embed", "pre", "mlp_out", "logits")
    ]


def test_columns_and_rows_have_titles() -> None:
    words = [(t.text, float(t.get("x", 0)), float(t.get("y", 0)), t.get("fill")) for t in drawn().findall(f"{SVG}text")]
    titles = ("vision encoder", "projector", "language model")
    assert [word for word in words if word[0] in titles] == [
        (title, x, 22, color) for title, x, color in zip(titles, COLUMNS, PARTS.values(), strict=True)
    ]
    labels = [(text, x, y) for text, x, y, _ in words if "block" in str(text) and "stream" not in str(text)]
    rows = [HEIGHT - 50 - 30 * row + 15 for row in (1, 2)]
    assert labels == [("block 0", 10, rows[0]), ("global block 1", 10, rows[1]), ("block 0", COLUMNS[2], rows[1])]
    assert words[-1] == ("thick frame: residual stream; dashed: cannot reach the logits", 10, HEIGHT - 12, NOTE)


def test_edges_lead_from_box_to_box_but_not_within_a_row() -> None:
    lines = []
    for source, target in EDGES:
        (x1, y1), (x2, y2) = place(source), place(target)
        if source != "blocks.0.hook_resid_pre":
            x1, x2, bend = x1 + 21.5, x2 + 21.5, (y1 + y2) / 2
            lines.append([x1, y1 + 9, x1, bend, x2, bend, x2, y2 + 9])
    found = [
        path.get("d", "").replace("M", "").replace("C", "").replace(" ", ",") for path in drawn().iter(f"{SVG}path")
    ]
    assert [[float(number) for number in line.split(",")] for line in found] == lines


def test_values_colour_their_boxes() -> None:
    root = drawn(VALUES)
    for group in root.iter(f"{SVG}g"):
        title = group.findtext(f"{SVG}title", "").split("\n")
        box, word = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert box is not None
        assert word is not None
        value = VALUES.get(title[0])
        assert box.get("fill") == ("#f6f6f6" if value is None else signed(value, 2.0))
        # white on what is at least .6 of the strongest
        assert word.get("fill") == ("#fff" if value in (2.0, 1.3) else "#222")
        dead = ["dead: unused"] if title[0].startswith("vision.blocks") else []
        assert title[1:] == ["[batch pos d_model] 4", *([] if value is None else [f"{value:.4g}"]), *dead]
    assert "; red: rises, blue: falls, by 2 at most" in str(root.findall(f"{SVG}text")[-1].text)


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("cross_attn.attn_scores", "x.scores"),
        ("cross_attn_out", "x.out"),
        ("mlp_text_out", "text_out"),
        ("ln_final.scale", "ln"),
        ("attn.pattern", "pattern"),
        ("resid_mid", "mid"),
    ],
)
def test_words_in_boxes_are_short(kind: str, label: str) -> None:
    assert _label(kind) == label
