"""Circuits in the JSON of MIB and EAP-IG: `{"cfg": ..., "nodes": {"a0.h1": ...}, "edges": {"input->a0.h1<q>": ...}}`.

Their nodes are `input`, `a0.h1`, `m0` and `logits`, of a language model alone; a head reads by `<q>`, `<k>` and `<v>`. Here the
input is several nodes (groups of positions), whose scores add up to that of `input`, and heads that share keys and values have
one reader, whose score is dealt out among them. Positive scores help the answer there.

Source: https://github.com/hannamw/EAP-IG (src/eap/graph.py, `to_json`), which the track of MIB
(https://github.com/hannamw/MIB-circuit-track) reads.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.files import require_file, whole_file
from mmlens.core.kinds import PathLike
from mmlens.models.hooked import HookedMultimodal

_NODE = re.compile(r"L(\d+)\.(?:h(\d+)|mlp)")


@checked
def save_mib(circuit: Circuit, path: PathLike, model: HookedMultimodal) -> Path:
    """Write a circuit as MIB's JSON, whole or not at all.

    Args:
        circuit: of the language model's heads and MLPs: `find_circuit(..., towers="language")`.
        path: file to write; the folder must exist.
        model: whose sizes the file says.

    Raises:
        InputError: for nodes that the format has no name for: vision encoders, whole attention, cross-attention, norms.
    """
    graph, mean = circuit.graph, circuit.scores.mean(-1)
    scores: dict[str, float] = {}
    edges: dict[str, bool] = {}
    for name, reader, writer, share in _edges(graph):
        scores[name] = scores.get(name, 0.0) - float(mean[reader, writer]) * share
        edges[name] = edges.get(name, False) or bool(circuit.kept[reader, writer])
    content: dict[str, object]
    nodes = {node: {"in_graph": False} for node in ["input", *map(_node, _blocks(graph)), "logits"]}
    if graph.by_node:
        about = {node: {"in_graph": edges[node], "score": scores[node]} for node in scores}
        content = {"nodes": {**nodes, "logits": {"in_graph": True}, **about}, "edges": {}}
    else:
        used = {end for name, is_kept in edges.items() if is_kept for end in re.sub("<.>", "", name).split("->")}
        content = {
            "nodes": {node: {"in_graph": node in used} for node in nodes},
            "edges": {name: {"score": scores[name], "in_graph": edges[name]} for name in scores},
        }
    cfg = {
        "n_layers": model.cfg.n_layers,
        "n_heads": model.cfg.n_heads,
        "parallel_attn_mlp": bool(getattr(model.cfg, "parallel_attn_mlp", False)),
        "d_model": model.cfg.d_model,
    }
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({"cfg": cfg, **content}), encoding="utf-8")
    return Path(path)


@checked
def load_mib(path: PathLike, like: Circuit) -> Circuit:
    """Read a circuit in MIB's JSON.

    Args:
        path: the file.
        like: a circuit of the same model, whose graph the file's names are read by; its scores play no part.

    Returns:
        The file's scores, one for all samples, and its edges.

    Raises:
        InputError: if there is no file, it holds no such circuit, or lacks edges of the graph.
    """
    graph = like.graph
    try:
        content = json.loads(require_file(path, "circuit of MIB").read_text(encoding="utf-8"))
        entries = {
            name: (float(entry.get("score") or 0.0), bool(entry["in_graph"]))
            for name, entry in content["nodes" if graph.by_node else "edges"].items()
        }
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} is no circuit of MIB: it needs the nodes and edges of Graph.to_json ({error})."
        ) from error
    parts = list(_edges(graph))
    missing = sorted({name for name, *_ in parts} - set(entries))
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of the {len({name for name, *_ in parts})} edges of the circuit's graph, such as "
            f"{', '.join(missing[:3])}; it is of another model."
        )
    scores = torch.zeros(*graph.allowed.shape, 1)
    kept = torch.zeros_like(graph.allowed)
    counts = Counter(name for name, *_ in parts)
    for name, reader, writer, _ in parts:
        score, is_kept = entries[name]
        scores[reader, writer, 0] -= score / counts[name]
        kept[reader, writer] |= is_kept
    return replace(like, scores=scores, kept=graph.connected(kept), method="MIB", unit="", identity={})


def _blocks(graph: EdgeGraph) -> Iterator[str]:
    return (writer.name for writer in graph.writers if writer.layer >= 0)


def _node(name: str) -> str:
    """MIB's name of a node.

    Raises:
        InputError: if it has none.
    """
    match = _NODE.fullmatch(name)
    if match is None:
        raise InputError(
            f"MIB's files have no name for {name}: they know heads and MLPs of one language model. Find the circuit with "
            "nodes='head' and towers='language', of a family without norms behind its branches."
        )
    return f"m{match[1]}" if match[2] is None else f"a{match[1]}.h{match[2]}"


def _edges(graph: EdgeGraph) -> Iterator[tuple[str, int, int, float]]:
    """MIB's name of every edge, reader, writer, and the share of the score that it gets."""
    writers = [
        "input" if writer.layer < 0 and writer.part == "language" else _node(writer.name) for writer in graph.writers
    ]
    for reader, writer in graph.allowed.nonzero().tolist():
        to = graph.readers[reader]
        if graph.by_node:
            yield writers[writer], reader, writer, 1.0
        elif to.kind == "logits":
            yield f"{writers[writer]}->logits", reader, writer, 1.0
        else:
            letter = f"<{to.kind}>" if to.kind in ("q", "k", "v") else ""
            for name in to.feeds:
                yield f"{writers[writer]}->{_node(name)}{letter}", reader, writer, 1 / len(to.feeds)
