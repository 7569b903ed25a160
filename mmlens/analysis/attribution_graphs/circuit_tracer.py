"""Attribution graphs in the JSON that circuit-tracer's front end reads.

Source: https://github.com/decoderesearch/circuit-tracer (frontend/graph_models.py, utils/create_graph_files.py).
*Departs:* ids never collide: errors have the feature -1, as there since 2026 (before, `0_layer_pos` was the id of an error and of
a feature of layer 0), and a feature has an id of its own at every row. Blocks of the vision encoder, the projector and the
language model are counted through, rows of one behind those of the other, and `clerp` says what each node is.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlens.analysis.attribution_graphs.nodes import GraphNode
from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.core.kinds import PathLike

_TYPES = {
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "source": "embedding",
    "logit": "logit",
}


#: What the front end lists.
_LIST = "graph-metadata.json"


def require_graph_path(path: PathLike) -> Path:
    """The path of a graph's file: refuses other endings, and the list."""
    target = Path(path)
    if target.suffix != ".json" or target.name == _LIST:
        raise InputError(f"A graph is written as name.json, and {target.name!r} is none.")
    return target


def write_graph(target: Path, content: dict[str, Any]) -> Path:
    """Write a graph, and list it beside."""
    listing = target.with_name(_LIST)
    graphs = json.loads(listing.read_text(encoding="utf-8"))["graphs"] if listing.exists() else []
    graphs = [*(graph for graph in graphs if graph["slug"] != target.stem), content["metadata"]]
    for file, data in ((target, content), (listing, {"graphs": graphs})):
        with whole_file(file) as temporary:
            temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return target


def viewer_json(
    members: Sequence[GraphNode],
    edges: Sequence[tuple[int, int, float]],
    *,
    texts: Sequence[str],
    slug: str,
    scan: str,
    cumulated: Sequence[float],
    probabilities: Sequence[float],
    numbers: Sequence[int],
    threshold: float | None,
) -> dict[str, Any]:
    """The content of a graph's file.

    Args:
        members: all nodes.
        edges: source, target and weight of those that are shown.
        texts: the prompt's tokens.
        slug, scan: names of the graph and of its transcoders.
        cumulated: by node, the share of influence that it and all stronger ones have.
        probabilities: of the logits.
        numbers: of the nodes that are shown.
        threshold: the share of influence that is shown; None: all.
    """
    layers = {
        at: number for number, at in enumerate(dict.fromkeys(n.at for n in members if n.kind in ("feature", "error")))
    }
    rows, prompt = _rows(members, texts)
    logits = [number for number, node in enumerate(members) if node.kind == "logit"]
    nodes = {}
    for number in numbers:
        node = members[number]
        nodes[number] = entry = _entry(node, *_place(node, layers, number), rows[node.at, node.rows[0]])
        if node.kind == "logit":
            entry["is_target_logit"], entry["token_prob"] = number == logits[0], probabilities[logits.index(number)]
            entry["clerp"] = f'Output "{node.text}" (p={entry["token_prob"]:.3f})'
        else:
            entry["influence"] = cumulated[number]
    ids = {number: entry["node_id"] for number, entry in nodes.items()}
    links = [{"source": ids[source], "target": ids[target], "weight": weight} for source, target, weight in edges]
    metadata = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": [at for at in layers if any(n.at == at and n.kind == "feature" for n in members)],
        "prompt_tokens": prompt,
        "prompt": " ".join(texts),
        "node_threshold": threshold,
        "schema_version": 1,
    }
    choices: dict[str, Any] = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": metadata, "qParams": choices, "nodes": list(nodes.values()), "links": links}


def _entry(node: GraphNode, layer: str, feature: int, context: int) -> dict[str, Any]:
    """What the file says of a node by itself."""
    number = context if node.kind == "source" else feature
    return {
        "node_id": f"{layer}_{feature}_{context}",
        "feature": _pair(int(layer), feature) if node.kind == "feature" else number,
        "layer": layer,
        "ctx_idx": context,
        "feature_type": _TYPES[node.kind],
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{'L' if node.kind == 'logit' else layer}_{feature}-{context}",
        "clerp": _words(node),
        "influence": None,
        "activation": node.value if node.kind == "feature" else None,
    }


def _rows(members: Sequence[GraphNode], texts: Sequence[str]) -> tuple[dict[tuple[str, int], int], list[str]]:
    """Where each row of each point stands among the prompt's tokens; rows of other sequences stand in front of them."""
    place: dict[tuple[str, int], int] = {}
    words: dict[str, int] = {}
    outside: list[str] = []
    language = {node.at for node in members if not node.at.startswith(("vision.", "projector."))}
    for node in members:
        for row in node.rows if node.at not in language else ():
            text = node.text if len(node.rows) == 1 else f"{node.at} {row}"
            if text not in words:
                words[text] = len(outside)
                outside.append(text)
            place[node.at, row] = words[text]
    prompt = list(texts)
    for node in members:
        for row in node.rows if node.at in language else ():
            place[node.at, row] = len(outside) + row
            if node.kind != "logit" and row < len(prompt) and node.box is not None and len(node.rows) == 1:
                prompt[row] = f"<{node.text}>"
    return place, [*outside, *prompt]


def _place(node: GraphNode, layers: dict[str, int], number: int) -> tuple[str, int]:
    """The layer and feature that a node's id is made of; sources have their own number, logits their token."""
    if node.kind == "source":
        return "E", number
    if node.kind == "logit":
        return str(len(layers) + 1), node.token or 0
    return str(layers[node.at]), -1 if node.feature is None else node.feature


def _pair(first: int, second: int) -> int:
    """Cantor's number of a pair."""
    return (first + second) * (first + second + 1) // 2 + second


def _words(node: GraphNode) -> str:
    """What a reader sees of a node."""
    box = (
        ""
        if node.box is None
        else " " + "-".join(str(tuple(round(side) for side in node.box[i : i + 2])) for i in (0, 2))
    )
    unit = node.name.rpartition("@")[0] or node.name
    return f"{node.text}{box}" if node.kind == "source" else f"{unit} at {node.text}{box}"
