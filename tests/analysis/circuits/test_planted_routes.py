"""Routes that were planted: every method finds the heads and edges of the route, and nothing of it in the twin."""

from functools import cache
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.circuits.methods import CIRCUIT_METHODS, CircuitMethod
from mmlens.core.errors import InputError

ROUTES = {
    "direct_flow": {("projector", "L1.h2.v"), ("L1.h2", "logits")},
    "question_flow": {("projector", "L0.h2.v"), ("L0.h2", "L2.h1.v"), ("L2.h1", "logits")},
}
#: Methods that choose edges themselves.
CHOOSING = {"acdc", "edge-pruning"}
every_route = pytest.mark.parametrize("kind", list(ROUTES))
every_method = pytest.mark.parametrize("cls", list(CIRCUIT_METHODS), ids=lambda cls: cls.name)


@cache
def wrapped(kind: Any, twin: bool = False) -> Any:
    """A planted model or its twin, pairs of pictures with the cause and without in two batches, and the metric."""
    planted = mm.lab.planted(kind)
    model = mm.HookedMultimodal.from_hf(planted.twin if twin else planted.model, planted.processor)
    pairs = [
        tuple(
            model.prepare([planted.prompt] * len(seeds), images=[[planted.image(present, seed=seed)] for seed in seeds])
            for present in (True, False)
        )
        for seeds in ((0,), (1, 2))
    ]
    return model, pairs, mm.metrics.logit_difference(planted.truth.token, planted.truth.default_token)


def found(kind: str, cls: type[CircuitMethod], *, twin: bool = False, **options: Any) -> mm.circuits.Circuit:
    model, pairs, metric = wrapped(kind, twin)
    asked = {"towers": "language", "progress": False, "method": cls.name, **options}
    return mm.find_circuit(model, pairs, metric=metric, **asked)


@every_route
@every_method
def test_the_nodes_of_the_route_are_the_circuit_and_the_twin_has_none(kind: str, cls: type[CircuitMethod]) -> None:
    if "edges" in cls.needs:
        pytest.skip("looks at what readers receive")
    nodes = {writer for writer, _ in ROUTES[kind]}
    circuit = found(kind, cls, edges=False)
    chosen = circuit if cls.name in CHOOSING else circuit.strongest(len(nodes))
    assert {edge.writer for edge in chosen.edges} == nodes
    assert set(map(str, chosen.units)) == nodes - {"projector"}
    twin = found(kind, cls, twin=True, edges=False)
    if cls.name in CHOOSING:
        assert not twin.edges
    else:
        assert float(twin.scores.abs().max()) < 0.01 * float(circuit.scores.abs().max())


@every_route
@every_method
def test_the_edges_of_the_route_are_the_circuit_and_the_twin_has_none(kind: str, cls: type[CircuitMethod]) -> None:
    if cls.name in ("information-flow", "edge-pruning", "exact"):
        pytest.skip("see below; exact ones are many runs, and test_scoring.py has them")
    circuit = found(kind, cls)
    chosen = circuit if cls.name in CHOOSING else circuit.strongest(len(ROUTES[kind]))
    assert {(edge.writer, edge.reader) for edge in chosen.edges} == ROUTES[kind]
    twin = found(kind, cls, twin=True)
    if cls.name in CHOOSING:
        assert not twin.edges
    else:
        assert float(twin.scores.abs().max()) < 0.01 * float(circuit.scores.abs().max())


def test_a_learned_mask_keeps_the_planted_branch() -> None:
    method = mm.circuits.EdgePruning(steps=80)
    model, pairs, metric = wrapped("direct_flow")
    asked: dict[str, Any] = {"metric": metric, "method": method, "nodes": "attention", "towers": "language"}
    circuit = mm.find_circuit(model, pairs, progress=False, **asked)
    edges = {(edge.writer, edge.reader) for edge in circuit.edges}
    assert {("projector", "L1.attn"), ("L1.attn", "logits")} <= edges
    assert len(edges) <= 4
    assert circuit.scores.shape[-1] == 1
    with pytest.raises(InputError, match=r"edge-pruning\(steps=80\) gives one score for all 3 samples together"):
        circuit.p_values()
    twin, twin_pairs, _ = wrapped("direct_flow", twin=True)
    assert not mm.find_circuit(twin, twin_pairs, progress=False, **asked).edges


@every_route
def test_what_flows_to_the_logits_is_most_of_all_the_planted_head(kind: str) -> None:
    cls = CIRCUIT_METHODS["information-flow"]
    writer = next(writer for writer, reader in ROUTES[kind] if reader == "logits")

    def shares(twin: bool) -> dict[str, float]:
        circuit = found(kind, cls, twin=twin)
        frame = circuit.to_frame()
        return dict(frame[frame["reader"] == "logits"][["writer", "score"]].to_numpy().tolist())

    of_model, of_twin = shares(False), shares(True)
    heads = {name: share for name, share in of_model.items() if ".h" in name}
    assert min(heads, key=heads.__getitem__) == writer
    assert heads[writer] < 10 * of_twin[writer] - 0.1
    whole = found(kind, cls).scores.sum(1)
    has_edges = found(kind, cls).graph.allowed.any(1)
    torch.testing.assert_close(whole[has_edges], -torch.ones_like(whole[has_edges]), rtol=0, atol=1e-5)


def test_a_grown_circuit_begins_at_the_logits() -> None:
    circuit = found("question_flow", CIRCUIT_METHODS["eap"])
    grown = circuit.grown(3)
    assert {(edge.writer, edge.reader) for edge in grown.edges} == ROUTES["question_flow"]
    assert not circuit.grown(2).edges  # they reach no input yet
    assert not circuit.grown(0).edges
    model, pairs, metric = wrapped("question_flow")
    signed = circuit.strongest(3, by="signed")
    assert {(edge.writer, edge.reader) for edge in signed.edges} == ROUTES["question_flow"]
    judged = mm.circuits.curve(
        model, circuit, pairs, metric=metric, sizes=[0.0, 3.1 / 342, 1.0], choice="grown", n_random=1, progress=False
    )
    assert judged.n_edges[0].tolist()[:2] == [0, 3]
    torch.testing.assert_close(judged.faithfulness[0], torch.tensor([0.0, 1.0, 1.0]).double(), rtol=0, atol=1e-2)
