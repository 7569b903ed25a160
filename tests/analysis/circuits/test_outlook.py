"""What finding a circuit takes is what was said before."""

import re

import pytest
import torch

from mmlens.analysis.circuits.ablations import CounterfactualAblation
from mmlens.analysis.circuits.build import edge_graph
from mmlens.analysis.circuits.dataset import PairData
from mmlens.analysis.circuits.find import find_circuit
from mmlens.analysis.circuits.graph import NodeKind
from mmlens.analysis.circuits.head_gradients import HeadGradients
from mmlens.analysis.circuits.methods import CIRCUIT_METHODS
from mmlens.analysis.circuits.outlook import outlook
from mmlens.analysis.circuits.runs import graph_pairs
from mmlens.core.rule_groups import named_rules
from mmlens.hooks.branch_inputs import KINDS
from tests.analysis.circuits.conftest import METRIC, MakePair
from tests.conftest import Subject
from tests.tiny import picture


@pytest.mark.parametrize(
    ("nodes", "method"),
    [
        ("attention", "eap-ig"),
        ("head", "eap-ig"),
        ("attention", "exact"),
        ("attention", "eap-ig-activations"),
        ("attention", "information-flow"),
    ],
)
def test_the_passes_are_those_that_were_said(
    llava: Subject, nodes: NodeKind, method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llava.model
    clean, corrupted = (model.prepare("describe the image", images=picture(seed)) for seed in (0, 5))
    said: list[str] = []
    handle = model.hf_model.register_forward_pre_hook(lambda *_: said.append(capsys.readouterr().err))
    backward = torch.autograd.grad
    backwards: list[int] = []

    def counted(outputs, inputs, *args, **options):  # type: ignore[no-untyped-def]
        backwards.append(len(inputs) if isinstance(inputs, list) else 0)
        return backward(outputs, inputs, *args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    try:
        found = find_circuit(model, (clean, corrupted), metric=METRIC, method=method, nodes=nodes, towers="language")
    finally:
        handle.remove()
    ahead = outlook(
        PairData.of(model, [(clean, corrupted)], found.graph, METRIC, CounterfactualAblation()),
        CIRCUIT_METHODS.get(method),
    )
    assert f"find_circuit, {method}: {ahead}" in said[0], "before the first pass"
    assert ahead.edges == len(found.to_frame())
    assert len(said) == ahead.forward
    assert sum(count > 0 for count in backwards) == ahead.backward
    split = sum(reader.kind in KINDS for reader in found.graph.readers)
    assert ahead.heads == split * ahead.backward


def test_whole_projections_are_pulled_through_for_two_heads_alone(
    llava: Subject, make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(llava, "head")
    alone = HeadGradients._alone
    pulled: list[int] = []
    monkeypatch.setattr(HeadGradients, "_alone", lambda self, head: pulled.append(head) or alone(self, head))
    short = CIRCUIT_METHODS.get("eap").scores(pair, progress=False)
    readers = [reader for reader in pair.graph.readers if reader.kind in KINDS]
    projections = {(reader.attn, reader.kind) for reader in readers}
    assert len(pulled) == 2 * len(projections) < len(readers), "the ends alone"
    pulled.clear()
    monkeypatch.setattr(HeadGradients, "_short", lambda self, head: None)
    long = CIRCUIT_METHODS.get("eap").scores(pair, progress=False)
    assert len(pulled) == len(readers)
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-5 * float(long.abs().max()))


def test_what_is_kept_is_what_writers_wrote(llava: Subject) -> None:
    model = llava.model
    clean, corrupted = (model.prepare("describe the image", images=picture(seed)) for seed in (0, 5))
    graph = edge_graph(model, [clean], nodes="head", groups=named_rules(("image", "last")), towers="all")
    (pair,) = graph_pairs(model, clean, corrupted, graph, METRIC)
    stores = (pair.clean_values, pair.reference)
    kept = sum(tensor.numel() * tensor.element_size() for store in stores for tensor in store.values())
    data = PairData.of(model, [(clean, corrupted)], graph, METRIC, CounterfactualAblation())
    ahead = outlook(data, CIRCUIT_METHODS.get("eap"))
    assert ahead.kept == pytest.approx(kept, rel=0.15)  # class rows of towers are no rows of the layout
    assert re.fullmatch(
        r"[\d,]+ edges from \d+ writers to \d+ readers: 4 forward and 1 backward passes, \d+ gradients of single heads, 0 MiB "
        "kept",
        str(ahead),
    )
