"""Scores of edges: against differences of exact runs, sum rules, and a model whose circuit is known."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmlens.analysis.circuits.build import edge_graph
from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.circuits.find import find_circuit
from mmlens.analysis.circuits.graph import NodeKind
from mmlens.analysis.circuits.methods import CIRCUIT_METHODS, CircuitMethod
from mmlens.analysis.circuits.methods.eap import EAP
from mmlens.analysis.circuits.methods.eap_ig import EAPIG
from mmlens.analysis.circuits.methods.edge_pruning import EdgePruning
from mmlens.analysis.circuits.methods.exact import Exact
from mmlens.analysis.circuits.methods.information_flow import InformationFlow
from mmlens.analysis.circuits.runs import graph_pairs
from mmlens.analysis.metrics import logit_difference
from mmlens.core.errors import InputError
from mmlens.core.positions import box
from mmlens.core.units import Head
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.ablation import Ablate
from mmlens.interventions.corruptions import noise
from tests.analysis.circuits.conftest import GROUPS, METRIC, MakePair, other_pictures, planted_pair
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject
from tests.tiny import TINY, picture

every_method = pytest.mark.parametrize("cls", list(CIRCUIT_METHODS), ids=lambda cls: cls.name)


def nearer(clean: MultimodalBatch, corrupted: MultimodalBatch, share: float) -> MultimodalBatch:
    """A batch between two: only a share of the way from the one to the other, in double precision."""
    pixels = clean["pixel_values"].double() + share * (
        corrupted["pixel_values"].double() - clean["pixel_values"].double()
    )
    return replace(clean, inputs={**clean.inputs, "pixel_values": pixels})


@pytest.mark.parametrize("number", [0, 2, 3], ids=["llava", "qwen", "blip"])
def test_attribution_is_the_slope_of_the_exact_runs(number: int) -> None:
    # a model of its own, made double, so that small differences are not lost
    model = TINY[number].make()
    model.hf_model.double()
    subject = Subject(TINY[number], model, None, {"left": model.prepare("describe the image", images=picture(0))})
    whole = other_pictures(subject)
    clean, corrupted = nearer(*whole, 0.0), nearer(*whole, 3e-3)
    graph = edge_graph(model, [clean], nodes="head", groups=GROUPS, towers="all")  # type: ignore[arg-type]
    pair = graph_pairs(model, clean, corrupted, graph, METRIC)[0]
    scores = EAP().scores(pair, progress=False)
    chosen = graph.allowed.nonzero()
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(1))[:40]]
    # and every kind of reader at least once
    kinds = {reader.kind: number for number, reader in enumerate(graph.readers) if graph.allowed[number].any()}
    chosen = torch.cat([chosen, torch.tensor([[r, int(graph.allowed[r].nonzero()[0])] for r in kinds.values()])])
    measured, estimated = [], []
    for reader, writer in chosen.tolist():
        mask = torch.zeros_like(graph.allowed)
        mask[reader, writer] = True
        measured.append(float((pair.run(mask) - pair.ends[0])[0]))
        estimated.append(float(scores[reader, writer, 0]))
    found, expected = torch.tensor(estimated), torch.tensor(measured)
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-3 * largest)
    assert (expected.abs() > 0.05 * largest).sum() > 5, "the comparison could not fail"


@pytest.mark.parametrize("nodes", ["attention", "head"])
def test_in_half_precision_the_strong_edges_are_those_of_full_precision(nodes: NodeKind) -> None:
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = TINY[0].make().to(dtype)
        clean, corrupted = (model.prepare("describe the image", images=picture(seed)) for seed in (0, 5))
        found[dtype] = find_circuit(model, (clean, corrupted), metric=METRIC, nodes=nodes, progress=False).to_frame()
    full, half = (frame.set_index(["writer", "reader"])["score"] for frame in found.values())
    assert half.isna().sum() == 0
    assert len(full) == len(half)
    assert full.corr(half.reindex(full.index)) > 0.98


def test_edges_out_of_the_inputs_sum_to_the_whole_effect(llava: Subject, make_pair: MakePair) -> None:
    pair = make_pair(llava, "attention")
    inputs = torch.tensor([writer.name in pair.graph.inputs for writer in pair.graph.writers])
    assert [w.name for w in pair.graph.writers if w.name in pair.graph.inputs] == [
        "vision.embed",
        "embed[text]",
        "embed[last]",  # padding answers nothing, and goes with the text
    ]
    gap = pair.ends[1] - pair.ends[0]
    errors = [
        float((EAPIG(steps=steps).scores(pair, progress=False)[:, inputs].sum((0, 1)) - gap).abs().max())
        for steps in (5, 20)
    ]
    assert errors[1] < 0.02 * float(gap.abs().min())
    assert errors[1] < errors[0] / 5


def test_scores_of_heads_sum_to_those_of_their_branch(subject: Subject, make_pair: MakePair) -> None:
    heads, whole = make_pair(subject, "head"), make_pair(subject, "attention")
    fine, coarse = (EAP().scores(pair, progress=False) for pair in (heads, whole))

    def branch(name: str) -> str:  # L1.h3, L1.kv0.k, L1.h3.q -> L1.attn
        prefix = "vision." if name.startswith("vision.") else ""
        pieces = name.removeprefix(prefix).split(".")
        return f"{prefix}{pieces[0]}.attn" if len(pieces) > 1 and pieces[1][0] in "hk" else name

    summed = torch.zeros_like(coarse)
    names = [w.name for w in whole.graph.writers], [r.name for r in whole.graph.readers]
    for r, reader in enumerate(heads.graph.readers):
        for w, writer in enumerate(heads.graph.writers):
            summed[names[1].index(branch(reader.name)), names[0].index(branch(writer.name))] += fine[r, w]
    torch.testing.assert_close(summed, coarse, rtol=1e-3, atol=1e-4 * float(coarse.abs().max()))


def test_from_the_language_model_on_the_picture_is_an_input(qwen: Subject, make_pair: MakePair) -> None:
    pair = make_pair(qwen, "attention", "language")
    inputs = torch.tensor([writer.name in pair.graph.inputs for writer in pair.graph.writers])
    assert pair.graph.inputs == {"projector", "embed[text]", "embed[last]"}
    scores = EAPIG(steps=20).scores(pair, progress=False)
    gap = pair.ends[1] - pair.ends[0]
    torch.testing.assert_close(scores[:, inputs].sum((0, 1)), gap, rtol=0.01, atol=0)
    torch.testing.assert_close(pair.run(pair.graph.allowed), pair.ends[1], rtol=0, atol=1e-5)


def test_another_text_reaches_the_language_model_through_the_projector_too(blip: Subject) -> None:
    images = blip.batches["left"].images
    clean, corrupted = (blip.model.prepare([f"{word} the image"] * 2, images=images) for word in ("describe", "what"))
    asked = {"metric": METRIC, "nodes": "attention", "towers": "language", "progress": False}
    found = find_circuit(blip.model, (clean, corrupted), method="exact", **asked)  # type: ignore[arg-type]
    pair = graph_pairs(blip.model, clean, corrupted, found.graph, METRIC)[0]
    torch.testing.assert_close(pair.run(found.graph.allowed), found.corrupted, rtol=0, atol=1e-5)
    scores = {(edge.writer, edge.reader): abs(edge.score) for edge in found.edges}
    assert min(scores["projector", "L0.attn"], scores["embed[text]", "L0.attn"]) > 1e-3


@pytest.mark.parametrize("at", ["projector.hook_out", "vision.hook_embed"])
def test_noise_behind_the_pixels_is_a_corruption_like_any_other(llava: Subject, at: str) -> None:
    clean = llava.batches["left"]
    noisy = noise(llava.model, clean, at=at, sigma=0.3, seed=1)
    graph = edge_graph(llava.model, [clean], nodes="attention", groups=GROUPS, towers="all")  # type: ignore[arg-type]
    pair = graph_pairs(llava.model, clean, noisy, graph, METRIC)[0]
    torch.testing.assert_close(pair.run(graph.allowed), pair.ends[1], rtol=0, atol=1e-5)
    start = [writer.name for writer in graph.writers].index("vision.embed" if at.startswith("vision") else "projector")
    scores = EAPIG(steps=20).scores(pair, progress=False)[:, start].sum(0)
    gap = pair.ends[1] - pair.ends[0]
    assert float(gap.abs().min()) > 0.01
    torch.testing.assert_close(scores, gap, rtol=0.02, atol=0)


def test_frozen_parameters_do_not_stop_gradients(llava: Subject, make_pair: MakePair) -> None:
    pair = make_pair(llava, "attention")
    expected = EAP().scores(pair, progress=False)
    parameters = list(llava.model.hf_model.parameters())
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        torch.testing.assert_close(EAP().scores(pair, progress=False), expected)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def found_in(wrapped: Wrapped, method: str, *, twin: bool = False, nodes: str = "head", count: int = 3) -> Circuit:
    clean, corrupted = planted_pair(wrapped, count, twin=twin)
    patch = box(wrapped.truth.box)
    return find_circuit(
        wrapped.twin if twin else wrapped.model,
        (clean, corrupted),
        metric=logit_difference(wrapped.truth.token, wrapped.truth.default_token),
        method=method,  # type: ignore[arg-type]
        nodes=nodes,  # type: ignore[arg-type]
        groups={"image": "image", "patch": patch, "text": "text", "last": "last"},
        progress=False,
    )


@pytest.mark.parametrize("method", ["eap", "eap-ig"])
def test_the_planted_edges_are_the_circuit_and_the_twin_has_none(planted_patch: Wrapped, method: str) -> None:
    assert (planted_patch.truth.head_layer, planted_patch.truth.head) == (0, 2)
    circuit = found_in(planted_patch, method)
    best = circuit.strongest(3)
    assert {(edge.writer, edge.reader) for edge in best.edges} == {
        ("vision.embed", "projector"),
        ("projector[patch]", "L0.h2.v"),
        ("L0.h2", "logits"),
    }
    assert best.units == best.top(1) == circuit.top(1) == {Head(0, 2)}
    with planted_patch.model.intervene(Ablate(best.top(1))):
        assert planted_patch.model(planted_patch.batch())[0, -1].argmax() == planted_patch.truth.default_token
    gap = float((circuit.clean - circuit.corrupted).mean())
    assert gap > 30
    assert min(abs(edge.score) for edge in best.edges) > 0.7 * gap
    others = circuit.restricted(circuit.graph.allowed & ~best.kept)
    assert not others.edges or max(abs(edge.score) for edge in others.edges) < 0.05 * gap
    assert float(found_in(planted_patch, method, twin=True).scores.abs().max()) < 0.005 * gap


@every_method
def test_every_method_finds_the_planted_branch_and_none_in_the_twin(
    planted_patch: Wrapped, cls: type[CircuitMethod]
) -> None:
    if cls in (InformationFlow, EdgePruning):
        pytest.skip("shares of a stream and masks: see test_planted_routes.py")
    circuit = found_in(planted_patch, cls.name, nodes="attention", count=2)
    with pytest.raises(InputError, match=r"This circuit has no units: find it with nodes='head'"):
        circuit.top(1)
    found = {(edge.writer, edge.reader): edge.score for edge in circuit.strongest(3).edges}
    assert set(found) == {("vision.embed", "projector"), ("projector[patch]", "L0.attn"), ("L0.attn", "logits")}
    gap = float((circuit.clean - circuit.corrupted).mean())
    for score in found.values():  # the circuit is a chain: each edge alone takes the whole answer away
        if not cls.unit:
            assert score == pytest.approx(-gap, rel=0.05 if cls is Exact else 0.3)
    twin = found_in(planted_patch, cls.name, twin=True, nodes="attention", count=2)
    assert float(twin.scores.abs().max()) < 0.005 * gap


@every_method
def test_every_method_runs_on_every_kind_of_model_and_scores_a_sample_as_alone(
    subject: Subject, cls: type[CircuitMethod]
) -> None:
    clean, corrupted = other_pictures(subject)
    asked: dict[str, Any] = {"metric": METRIC, "method": cls(), "nodes": "attention", "towers": "language"}
    if cls is EdgePruning:
        asked["method"] = cls(steps=4)
    both = find_circuit(subject.model, (clean, corrupted), progress=False, **asked)
    assert both.method.startswith(cls.name)
    assert float(both.scores.abs().max()) > 1e-3
    if both.scores.shape[-1] == 1:  # one score for all samples
        return
    for sample in range(2):
        pair = [
            subject.model.prepare(batch.prompts[sample], images=batch.images[sample][0]) for batch in (clean, corrupted)
        ]
        groups = ["image", "text"]  # a sample alone has no padding, which is the group "rest" of the batch
        alone, part = (
            find_circuit(subject.model, tuple(batches), groups=groups, progress=False, **asked)
            for batches in (pair, (clean, corrupted))
        )
        named = {(edge.writer, edge.reader) for edge in alone.edges}
        for name in named:
            own, of_batch = (score_of(circuit, *name) for circuit in (alone, part))
            torch.testing.assert_close(of_batch[sample], own[0], rtol=1e-3, atol=1e-4)


def score_of(circuit: Circuit, writer: str, reader: str) -> torch.Tensor:
    """The scores of an edge, `[sample]`."""
    row = [each.name for each in circuit.graph.readers].index(reader)
    return circuit.scores[row, [each.name for each in circuit.graph.writers].index(writer)]


def test_exact_scores_are_single_runs(llava: Subject, make_pair: MakePair) -> None:
    pair = make_pair(llava, "attention", "language")
    scores = Exact().scores(pair, progress=False)
    assert not scores[~pair.graph.allowed].any()
    reader, writer = pair.graph.allowed.nonzero()[7].tolist()
    mask = torch.zeros_like(pair.graph.allowed)
    mask[reader, writer] = True
    torch.testing.assert_close(scores[reader, writer], pair.run(mask) - pair.ends[0])


def test_the_planted_edges_alone_pass_a_corrected_test(planted_patch: Wrapped) -> None:
    model, truth, planted = planted_patch.model, planted_patch.truth, planted_patch.planted
    clean, corrupted = planted_pair(planted_patch, 14)
    metric = logit_difference(truth.token, truth.default_token)
    asked = {"metric": metric, "nodes": "attention", "towers": "language", "progress": False}
    found = find_circuit(model, (clean, corrupted), method="eap", **asked)  # type: ignore[arg-type]
    p = found.p_values(resamples=1 << 14)
    chain = {("projector", "L0.attn"), ("L0.attn", "logits")}
    for edge in found.edges:
        reader = [each.name for each in found.graph.readers].index(edge.reader)
        writer = [each.name for each in found.graph.writers].index(edge.writer)
        if (edge.writer, edge.reader) in chain:
            assert float(p[reader, writer]) < 0.01
    # where the cause is in both pictures, and all else is drawn at random, no edge carries anything
    others = [[planted.image(seed=seed)] for seed in range(100, 104)]
    null = find_circuit(
        model,
        (planted_pair(planted_patch, 4)[0], model.prepare([planted.prompt] * 4, images=others)),
        method="exact",
        **asked,
    )  # type: ignore[arg-type]
    assert float(null.scores.abs().max()) < 0.01 * float((found.clean - found.corrupted).mean())
    assert not [
        edge for edge in null.strongest(5).edges if (edge.writer, edge.reader) in chain and abs(edge.score) > 0.1
    ]
