"""What an attribution graph shows: which patches the answer comes from, and its nodes and edges in tables."""

import numpy as np
from PIL import Image

from mmlens.analysis.attribution_graphs.graph import AttributionGraph
from mmlens.viz.page.pack import Pack, PackArray, PackTable
from mmlens.viz.words import shown

#: Rows of each table.
_LISTED = 40


def graph_pack(graph: AttributionGraph, picture: Image.Image | None, run: bool = False) -> Pack:
    """The influence of each patch over the picture; nodes and edges below."""
    picture = graph.images[0] if picture is None and graph.images else picture
    logit = graph.targets[len(graph.targets) - len(graph.shares)]
    sources = [
        (node, float(share))
        for node, share in zip(graph.members, graph.influence, strict=True)
        if node.kind == "source" and node.box is not None and node.image in (0, None)
    ]
    seen = sum(share for _, share in sources)
    headline = (
        f"{shown(logit.text)!r} (p {float(graph.probabilities[0]):.2f}) comes from the picture to {seen:.0%}; features carry "
        f"{graph.scores.replacement:.0%} of what goes from picture and words to it (replacement), completeness "
        f"{graph.scores.completeness:.2f}."
    )
    tables = []
    for title, frame in (("nodes", graph.nodes), ("edges", graph.edges)):
        rows = tuple(map(tuple, frame.head(_LISTED).astype(object).where(frame.notna(), "").to_numpy().tolist()))
        name = f"{min(len(frame), _LISTED)} of {len(frame)} {title}, by influence"
        tables.append(PackTable(name, tuple(map(str, frame.columns)), rows))
    caption = "Patterns, norms and what MLPs write are held fast; influence is along all paths, whatever its sign."
    if picture is None or not sources:
        note = "Sources have no place in a picture here." if picture is not None else "There is no picture at hand."
        return Pack(headline, caption, tables=tuple(tables), notes=(note,))
    values = np.array([share for _, share in sources])
    array = PackArray("influence", "influence of patches", values, ("patch",), "share of the logits")
    boxes = np.array([node.box for node, _ in sources], dtype=np.float64)
    return Pack(headline, caption, (array,), picture, boxes, tables=tuple(tables))
