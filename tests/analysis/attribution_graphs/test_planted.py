"""Where an answer hangs on one feature, the graph leads from its patch through it to the answer; in the twin it does not."""

from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.lab.bare_model import ANSWERS, ARRIVED, CONST, D_MODEL, PURE, SAID
from mmlens.lab.weight_built import Planted, build_pair
from mmlens.models.hooked import HookedMultimodal

LAYER, COUNT = 1, 32


@pytest.fixture(scope="module")
def planted() -> Planted:
    """A neuron of layer 1 writes "yes" where the colour that a head carried is red."""
    return build_pair("neuron")


def transcoder() -> SparseDictionary:
    """Feature 0 is the planted neuron, with a straight line for its gate; the others are random."""
    make = torch.Generator().manual_seed(0)
    W_enc, W_dec = torch.randn(D_MODEL, COUNT, generator=make), torch.randn(COUNT, D_MODEL, generator=make) / 100
    W_enc[:, 0], W_dec[0] = 0.0, 0.0
    W_enc[ARRIVED, 0] = 4.0 * (torch.tensor(PURE["red"]) / 127.5 - 1)
    W_enc[CONST, 0] = -8.0
    W_dec[0, SAID.start + ANSWERS.index("yes")] = 2.0
    place = f"blocks.{LAYER}"
    return SparseDictionary(
        W_enc, torch.zeros(COUNT), W_dec, torch.zeros(D_MODEL), f"{place}.hook_mlp_out", f"{place}.mlp.hook_in"
    )


def drawn(planted: Planted, model: Any, *, present: bool = True) -> tuple[Any, Any, Any]:
    hooked = HookedMultimodal.from_hf(model, planted.processor)
    batch = hooked.prepare(planted.prompt, images=planted.image(present))
    return mm.attribution_graph(hooked, batch, transcoder(), target="yes", progress=False), hooked, batch


def test_the_planted_path_is_found(planted: Planted) -> None:
    truth = planted.truth
    graph, model, batch = drawn(planted, planted.model)
    answer = graph.members[-1]
    last = answer.rows[0]
    assert str(graph.top(1)[0]) == "L1.hook_mlp_out.f0"
    node = f"L1.hook_mlp_out.f0@{last}"
    into = graph.into(answer.name)
    assert into["source"][0] in (node, f"L1.hook_mlp_out.error@{last}")
    path = graph.into(node)
    of_sources = path[path["source"].str.startswith("hook_embed")]
    best = of_sources.iloc[of_sources["weight"].argmax()]
    patch = graph[best["source"]]
    assert patch.text == f"patch {truth.row},{truth.column}"
    assert patch.box == tuple(map(float, truth.box))
    others = of_sources[of_sources["source"] != patch.name]
    assert best["weight"] > 20 * others[others["source"].map(lambda name: graph[name].box is not None)]["weight"].max()
    influence = dict(zip([n.name for n in graph.members], graph.influence.tolist(), strict=True))
    patches = {n.name: influence[n.name] for n in graph.members if n.kind == "source" and n.box is not None}
    assert max(patches, key=lambda name: patches[name]) == patch.name
    pruned = graph.prune()
    assert {node, patch.name} <= set(pruned.nodes["node"])
    # taken out, it takes the answer as the graph says; random nodes that write as much do nothing
    check = graph.check(model, batch, transcoder(), nodes=5)
    assert check.nodes[0] == node
    assert float(check.predicted[0, 0]) < -1
    assert float(check.measured[0, 0]) == pytest.approx(float(check.predicted[0, 0]), rel=0.05)
    assert float(check.measured[1].abs().max()) < 0.02 * float(check.measured[0, 0].abs())
    assert check.r > 0.99
    assert check.r_free > 0.95  # what is taken out is large, and the derivative is that of small changes
    assert max(check.r_control, check.r_free_control) < 0.2


def test_it_is_in_neither_the_twin_nor_without_the_colour(planted: Planted) -> None:
    graph, *_ = drawn(planted, planted.model)
    node = f"L1.hook_mlp_out.f0@{graph.members[-1].rows[0]}"
    assert float(graph.weights[-1, graph.members.index(graph[node])]) > 1
    absent, *_ = drawn(planted, planted.model, present=False)
    twin, *_ = drawn(planted, planted.twin)
    assert node not in {member.name for member in absent.members}
    assert node not in {member.name for member in twin.members}
    assert all(str(unit).rpartition(".")[2] != "f0" for unit in twin.top(5))
