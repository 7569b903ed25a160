"""What graphs show: edges over towers and picture with a slider over their strength, and tables of them."""

import numpy as np
from PIL import Image

from mmlens.analysis.attribution_graphs.graph import AttributionGraph
from mmlens.analysis.circuits.circuit import Circuit
from mmlens.viz.attribution_svg import attribution_svg
from mmlens.viz.circuits import circuit_svg
from mmlens.viz.page.pack import Pack, PackArray, PackTable, Slider
from mmlens.viz.page.pack_frames import table_of
from mmlens.viz.words import shown

#: Rows of each table; edges that are drawn, and those that are shown at first.
_LISTED, _DRAWN, _FIRST = 40, 150, 40


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
    drawing, ranked = attribution_svg(graph, n=_DRAWN), Slider("edges", "share of influence", _FIRST)
    count = len(graph.edges)
    left = (f"The {_DRAWN} edges with the most influence of {count:,} are drawn.",) if count > _DRAWN else ()
    if picture is None or not sources:
        note = "Sources have no place in a picture here." if picture is not None else "There is no picture at hand."
        return Pack(headline, caption, drawing=drawing, ranked=ranked, tables=tuple(tables), notes=(note, *left))
    values = np.array([share for _, share in sources])
    array = PackArray("influence", "influence of patches", values, ("patch",), "share of the logits")
    boxes = np.array([node.box for node, _ in sources], dtype=np.float64)
    return Pack(
        headline, caption, (array,), picture, boxes, drawing=drawing, ranked=ranked, tables=tuple(tables), notes=left
    )


def circuit_pack(circuit: Circuit, picture: Image.Image | None, run: bool = False) -> Pack:
    """The strongest edges (or nodes) that are kept, and their table."""
    counted = "nodes" if circuit.graph.by_node else "edges"
    kept, whole = int(circuit.kept.sum()), int(circuit.graph.allowed.sum())
    approximate = "" if circuit.method == "exact" else ", an approximation"
    n, clean, corrupted = len(circuit.clean), float(circuit.clean.mean()), float(circuit.corrupted.mean())
    headline = (
        f"{kept:,} of {whole:,} {counted} by {circuit.method}{approximate}: {circuit.metric} is {clean:.3g} "
        f"clean and {corrupted:.3g} with all ablated ({'1 sample' if n == 1 else f'mean of {n} samples'})."
    )
    if not kept:
        return Pack(headline, notes=("Nothing is kept: .strongest(n) or .threshold(minimum) keep some.",))
    table, more = table_of(circuit.to_frame(), f"Kept {counted}, strongest first")
    unit = f", {circuit.unit}" if circuit.unit else ""
    return Pack(
        headline,
        f"Scores are what the metric changes, or is estimated to, when the edge alone is ablated{unit}. Random circuits of "
        "as many edges: mm.circuits.evaluate_circuit.",
        drawing=circuit_svg(circuit, n=_DRAWN),
        ranked=Slider(counted, "|score|", _FIRST),
        tables=(table,),
        notes=(*((f"The {_DRAWN} strongest of {kept:,} are drawn.",) if kept > _DRAWN else ()), *more),
    )
