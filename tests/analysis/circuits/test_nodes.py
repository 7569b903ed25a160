"""Graphs of nodes: neurons, features of dictionaries, regions of the picture, and families whose streams are no sums."""

from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.attribution.gradients import gradients_at
from mmlens.analysis.metrics import readings
from mmlens.core.units import Feature, Neuron
from tests.analysis.circuits.conftest import METRIC, other_pictures, planted_pair
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject
from tests.families import FAMILIES
from tests.tiny import picture

AT = "blocks.1.hook_resid_post"


def dictionary(width: int, at: str = AT, features: int = 48) -> mm.features.SparseDictionary:
    """A random dictionary of a stream."""
    make = torch.Generator().manual_seed(0)
    W = torch.randn(width, features, generator=make) / width**0.5
    return mm.features.SparseDictionary(W, torch.zeros(features), W.T.contiguous(), torch.zeros(width), at)


@pytest.mark.parametrize("method", ["exact", "eap-ig"])
def test_the_planted_neuron_is_the_first_node_and_the_twin_has_none(planted_neuron: Wrapped, method: str) -> None:
    truth, scores = planted_neuron.truth, []
    metric = mm.metrics.logit_difference(truth.token, truth.default_token)
    for twin in (False, True):
        model = planted_neuron.twin if twin else planted_neuron.model
        pair = planted_pair(planted_neuron, 1, twin=twin)
        found = mm.find_circuit(
            model, pair, metric=metric, method=method, nodes="neuron", towers="language", progress=False
        )
        scores.append(found)
    neuron = Neuron(truth.layer, truth.neuron)
    neurons = [unit for unit in scores[0].top(3) if isinstance(unit, Neuron)]
    assert neurons == [neuron]
    assert scores[0].graph.by_node
    assert float(scores[1].scores.abs().max()) < 0.01 * float(scores[0].scores.abs().max())


def test_neurons_and_heads_add_up_to_their_branches(llava: Subject) -> None:
    pair = other_pictures(llava)
    asked: dict[str, Any] = {"metric": METRIC, "method": "eap", "edges": False, "progress": False}
    found = {
        nodes: mm.find_circuit(llava.model, pair, **asked, nodes=nodes) for nodes in ("attention", "head", "neuron")
    }
    scores = {
        nodes: dict(zip([w.name for w in circuit.graph.writers], circuit.scores[0], strict=True))
        for nodes, circuit in found.items()
    }
    for block in ("L1", "vision.L0"):
        heads = torch.stack([value for name, value in scores["head"].items() if name.startswith(f"{block}.h")]).sum(0)
        torch.testing.assert_close(heads, scores["attention"][f"{block}.attn"], rtol=1e-3, atol=1e-4)
        neurons = torch.stack([value for name, value in scores["neuron"].items() if name.startswith(f"{block}.u")])
        torch.testing.assert_close(neurons.sum(0), scores["head"][f"{block}.mlp"], rtol=1e-3, atol=1e-4)
        assert len(neurons) > 10


def test_features_and_errors_are_nodes_while_their_dictionary_is_attached(subject: Subject, tmp_path: Any) -> None:
    model, pair = subject.model, other_pictures(subject)
    sae = dictionary(model.cfg.d_model)
    asked: dict[str, Any] = {"metric": METRIC, "nodes": "feature", "progress": False}
    with model.attach(sae):
        found = mm.find_circuit(model, pair, method="eap", **asked)
        exact = mm.find_circuit(model, pair, method="exact", **asked)
        # all features and the error together are the point
        whole = mm.patch(
            model, *pair, at=AT, positions={"all": "all"}, metric=METRIC, direction="denoise", progress=False
        )
        curve = mm.circuits.curve(model, found, pair, metric=METRIC, sizes=[0.2, 1.0], n_random=2, progress=False)
        # by hand: the difference of codes times what each feature writes along the gradient, and one feature's run
        states = [model.run_with_cache(batch, names=AT)[1][AT] for batch in pair]
        clean, other = (sae.encode(state) for state in states)
        gradient = gradients_at(model, pair[0], [AT], readings(METRIC, model, pair[0].size)[0])[1][AT]
        formula = ((other - clean) * (gradient @ sae.W_dec.T)).sum(1)

        def put(codes: torch.Tensor, hook: object) -> torch.Tensor:
            codes = codes.clone()
            codes[..., 5] = other[..., 5]
            return codes

        with torch.no_grad():
            logits = model.run_with_hooks(pair[0], fwd_hooks=[(f"{AT}.hook_sae_acts_post", put)])
        one = readings(METRIC, model, pair[0].size)[0].of_run(model, logits, pair[0])
    torch.testing.assert_close(exact.corrupted, whole.corrupted, rtol=0, atol=1e-4)
    assert [writer.name for writer in found.graph.writers][-1] == "L1.error"
    assert isinstance(found.units[0], Feature)
    torch.testing.assert_close(found.scores[0, :-1], formula.T, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(exact.scores[0, 5], one - exact.clean, rtol=0, atol=1e-5)
    assert float(exact.scores.abs().max()) > 1e-3
    assert curve.counted == "nodes"
    assert curve.faithfulness[0, -1] == pytest.approx(1.0, abs=1e-4)
    svg = found.strongest(8).draw().svg
    assert "nodes, by eap" in svg
    assert "<path" not in svg
    found.save(tmp_path / "circuit.json")
    read = mm.circuits.Circuit.load(tmp_path / "circuit.json")
    assert read.units == found.units
    assert "Circuit(49 of 49 nodes; eap" in repr(read)


def test_regions_of_the_picture_are_nodes(llava: Subject) -> None:
    pair = other_pictures(llava)
    halves = {"left": mm.positions.box((0, 0, 8, 16)), "right": mm.positions.box((8, 0, 16, 16))}
    asked: dict[str, Any] = {"metric": METRIC, "towers": "language", "progress": False, "method": "eap"}
    for edges in (True, False):
        whole = mm.find_circuit(llava.model, pair, edges=edges, **asked)
        found = mm.find_circuit(
            llava.model, pair, edges=edges, groups={"image": "image", **halves, "text": "text"}, **asked
        )
        names = [writer.name for writer in found.graph.writers]
        parts = [name for name in names if name.startswith("projector")]
        assert {"projector[left]", "projector[right]"} <= set(parts)
        together = found.scores[:, [names.index(name) for name in parts]].sum(1)
        first = [writer.name for writer in whole.graph.writers].index("projector")
        torch.testing.assert_close(together, whole.scores[:, first], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["t5gemma2", "qwen3_5", "mllama", "florence2", "gemma4_small"])
def test_families_whose_streams_are_no_sums_have_circuits_of_nodes(name: str) -> None:
    tiny = next(each for each in FAMILIES if each.name == name)
    model = tiny.make()
    pair = tuple(model.prepare("describe the image", images=picture(seed, *tiny.sizes[0])) for seed in (0, 8))
    asked: dict[str, Any] = {"metric": METRIC, "edges": False, "progress": False}
    found = mm.find_circuit(model, pair, method="eap", **asked)
    curve = mm.circuits.curve(model, found, pair, metric=METRIC, sizes=[0.3, 1.0], n_random=0, progress=False)
    torch.testing.assert_close(curve.values[0, -1], found.clean, rtol=0, atol=1e-4)
    torch.testing.assert_close(curve.empty, found.corrupted, rtol=0, atol=1e-4)
    assert float((found.clean - found.corrupted).abs().max()) > 1e-4, "the comparison could not fail"
    assert any(unit.kind == "head" for unit in found.units)
