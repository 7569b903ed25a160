"""Choosing edges, keeping them in a file, drawing them, and refusing what cannot be."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmlens.analysis.circuits.build import edge_graph
from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.circuits.evaluate import evaluate_circuit
from mmlens.analysis.circuits.find import find_circuit
from mmlens.analysis.circuits.graph import EdgeGraph, Reader, Writer
from mmlens.analysis.circuits.methods import CIRCUIT_METHODS
from mmlens.analysis.circuits.methods.eap_ig import EAPIG
from mmlens.analysis.circuits.random_circuits import random_circuit
from mmlens.analysis.metrics import accuracy, logit_difference
from mmlens.core.errors import InputError
from mmlens.core.positions import box
from tests.analysis.circuits.conftest import GROUPS, METRIC, other_pictures
from tests.conftest import Subject
from tests.families import FAMILIES
from tests.tiny import picture


def by_hand() -> Circuit:
    """Two blocks of one attention branch and one MLP; scores that say in which order edges are strong."""
    writers = [Writer("embed[text]", "language", "hook_embed", "stream", 0, group="text")]
    readers = []
    for place, (layer, branch) in enumerate([(0, "attn"), (0, "mlp"), (1, "attn"), (1, "mlp")]):
        name, point = f"L{layer}.{branch}", f"blocks.{layer}.hook_{branch}"
        writers.append(Writer(name, "language", f"{point}_out", "stream", place + 1, layer))
        readers.append(Reader(name, "language", branch, f"{point}_in", "stream", place, feeds=(name,)))  # type: ignore[arg-type]
    readers.append(Reader("logits", "language", "logits", "ln_final.hook_in", "stream", 4))
    graph = EdgeGraph(tuple(writers), tuple(readers), "attention", "language", {"text": "text"})
    scores = torch.zeros(5, 5, 2)
    for reader, writer, score in (
        ("logits", "L1.mlp", -5.0),
        ("L1.mlp", "L0.attn", 4.0),
        ("logits", "L1.attn", -3.0),
        ("L0.attn", "embed[text]", 2.0),
        ("L1.attn", "embed[text]", 1.0),
    ):
        row = [each.name for each in readers].index(reader)
        scores[row, [each.name for each in writers].index(writer)] = torch.tensor([score - 0.5, score + 0.5])
    return Circuit(graph, scores, graph.allowed.clone(), "exact", "m, logits", torch.ones(2), torch.zeros(2))


def pairs(circuit: Circuit) -> list[tuple[str, str]]:
    return [(edge.writer, edge.reader) for edge in circuit.edges]


def test_a_writer_reaches_what_reads_after_it() -> None:
    graph = by_hand().graph
    allowed = {(w.name, r.name) for r, row in zip(graph.readers, graph.allowed, strict=True)
               for w, ok in zip(graph.writers, row, strict=True) if ok}  # fmt: skip
    names = ["embed[text]", "L0.attn", "L0.mlp", "L1.attn", "L1.mlp", "logits"]
    assert allowed == {(a, b) for i, a in enumerate(names[:-1]) for b in names[i + 1 :]}
    assert graph.inputs == {"embed[text]"}


def test_the_strongest_edges_on_whole_paths_are_kept() -> None:
    circuit = by_hand()
    assert pairs(circuit)[:3] == [("L1.mlp", "logits"), ("L0.attn", "L1.mlp"), ("L1.attn", "logits")]
    assert pairs(circuit.strongest(3)) == []  # nothing leads to them from an input
    whole = [("L1.mlp", "logits"), ("L0.attn", "L1.mlp"), ("embed[text]", "L0.attn")]
    assert pairs(circuit.strongest(4)) == whole
    assert pairs(circuit.threshold(2.0)) == whole
    assert circuit.threshold(2.0).nodes == ["embed[text]", "L0.attn", "L1.mlp", "logits"]
    assert len(pairs(circuit.strongest(5))) == 5
    frame = circuit.strongest(4).to_frame()
    assert frame["score"].tolist() == [-5.0, 4.0, 2.0]
    assert frame["std"].tolist() == pytest.approx([0.5] * 3)
    assert repr(circuit.strongest(4)).startswith(
        "Circuit(3 of 15 edges, 4 nodes; exact, m, logits: clean 1.000, corrupted 0.000"
    )


def test_random_circuits_have_the_size_asked_for_and_no_loose_ends() -> None:
    graph = by_hand().graph
    for seed in range(20):
        generator = np.random.default_rng(seed)
        for count in (1, 4, 14, 15):
            edges = random_circuit(graph, count, generator)
            assert int(edges.sum()) == count
            assert torch.equal(graph.connected(edges), edges)
    drawn = {tuple(random_circuit(graph, 4, np.random.default_rng(seed)).flatten().tolist()) for seed in range(20)}
    assert len(drawn) > 5


def test_a_circuit_comes_back_from_its_file(llava: Subject, tmp_path: Path) -> None:
    clean, corrupted = other_pictures(llava)
    rows = {"image": "image", "first": box((0, 0, 8, 8)), "text": "text", "last": "last"}
    found = find_circuit(
        llava.model, (clean, corrupted), metric=METRIC, method="eap", nodes="head", groups=rows, progress=False
    ).strongest(60)
    found.save(tmp_path / "circuit.json")
    read = Circuit.load(tmp_path / "circuit.json")
    assert pairs(read) == pairs(found)
    assert (read.graph.writers, read.graph.readers) == (found.graph.writers, found.graph.readers)
    assert torch.equal(read.kept, found.kept)
    torch.testing.assert_close(read.scores, found.scores)
    asked: dict[str, Any] = {"metric": METRIC, "n_random": 1, "n_edges": 1, "progress": False}
    one, other = (evaluate_circuit(llava.model, each, (clean, corrupted), **asked) for each in (found, read))
    assert torch.equal(one.faithfulness, other.faithfulness)
    (tmp_path / "other.json").write_text(json.dumps({"format": "else"}))
    with pytest.raises(InputError, match=r"other.json is no circuit \(format .*, expected 'mmlens.Circuit/1'\)"):
        Circuit.load(tmp_path / "other.json")


def test_the_picture_shows_every_kept_edge_and_node() -> None:
    circuit = by_hand().strongest(4)
    svg = circuit.draw().svg
    for edge in circuit.edges:
        assert str(edge).replace(">", "&gt;") in svg
    for name in circuit.nodes:
        assert f"<title>{name}</title>" in svg
    assert "<title>L0.mlp</title>" not in svg
    assert circuit.draw(n=1).svg.count("<path") == 1


def test_what_cannot_be_is_refused_before_any_run(
    llava: Subject, blip: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, corrupted = other_pictures(llava)
    asked: dict[str, Any] = {"metric": METRIC, "progress": False}
    other_text = blip.model.prepare(["describe the image"] * 2, images=blip.batches["left"].images)
    another = blip.model.prepare(["what the image"] * 2, images=blip.batches["left"].images)
    for subject in (llava, blip):
        monkeypatch.setattr(type(subject.model.hf_model), "forward", _no_run)
    with pytest.raises(
        InputError, match=r"method='adc' is unknown; for finding circuits there are .*'acdc'.* nearest: 'acdc'"
    ):
        find_circuit(llava.model, (clean, corrupted), method="adc", **asked)
    for cls in CIRCUIT_METHODS:
        assert cls.needs <= {"gradients", "edges"}
        if "gradients" in cls.needs:
            with pytest.raises(InputError, match=r"answer is 'red', share has no gradient: it counts"):
                find_circuit(llava.model, (clean, corrupted), metric=accuracy("red"), method=cls(), progress=False)
            with torch.inference_mode(), pytest.raises(InputError, match="needs gradients"):
                find_circuit(llava.model, (clean, corrupted), method=cls(), **asked)
    with pytest.raises(InputError, match=r"steps=0 must be at least 1\."):
        EAPIG(steps=0)
    with pytest.raises(
        InputError, match=r"nodes='neurons' must be 'head', 'attention', 'neuron' or 'feature'; nearest: 'neuron'"
    ):
        find_circuit(llava.model, (clean, corrupted), nodes="neurons", **asked)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"edges=True needs streams .* nodes='neuron' have none"):
        find_circuit(llava.model, (clean, corrupted), nodes="neuron", edges=True, **asked)
    with pytest.raises(InputError, match=r"nodes='feature' are those of sparse dictionaries, and none is attached"):
        find_circuit(llava.model, (clean, corrupted), nodes="feature", **asked)
    with pytest.raises(InputError, match=r"method='information-flow' looks at what each reader receives"):
        find_circuit(llava.model, (clean, corrupted), edges=False, method="information-flow", **asked)
    with pytest.raises(InputError, match=r"takes the values of a corrupted batch, and there is a pair without one"):
        find_circuit(llava.model, (clean, None), **asked)
    words = logit_difference(["red"] * 5, ["blue"] * 5)
    with pytest.raises(InputError, match=r"has tokens for 5 samples, and there are 4 in 2 batches"):
        find_circuit(llava.model, [(clean, corrupted)] * 2, metric=words, progress=False)
    for wrong in (clean, [clean], (clean, corrupted, clean), [(clean, corrupted), clean], [], None, "pairs", 3):
        with pytest.raises(
            InputError, match=r"must be a pair of batches, \(clean, corrupted\), or a list of such pairs"
        ):
            find_circuit(llava.model, wrong, **asked)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"The group 'all' mixes positions of picture and text"):
        find_circuit(llava.model, (clean, corrupted), groups={"all": "all"}, **asked)
    with pytest.raises(InputError, match=r"The groups last hold no position: .* later groups name them all"):
        find_circuit(llava.model, (clean, corrupted), groups={"last": "last", "text": "text"}, **asked)
    with pytest.raises(InputError, match=r"reads the prompt beside the picture, over no edge of the graph"):
        find_circuit(blip.model, (other_text, another), **asked)
    with pytest.raises(InputError, match=r"n=16 must lie in 0..15"):
        by_hand().strongest(16)
    other = replace(by_hand(), graph=replace(by_hand().graph, groups=GROUPS))
    with pytest.raises(InputError, match=r"belongs to another model or other groups: it has 5 writers and 5 readers"):
        evaluate_circuit(llava.model, other, (clean, corrupted), **asked)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mllama", r"reads vision.global_blocks.1.hook_resid_post, .* Begin at the language model: towers='language'"),
        (
            "deepseek_vl_hybrid",
            r"projector.hook_out of deepseek_vl_hybrid is made of vision.* Begin at the language model",
        ),
        (
            "florence2",
            r"an MLP. vision.stages.0.blocks.0.hook_mlp_out is another kind of branch. Begin at the language model",
        ),
        ("t5gemma2", r"are made of two sequences, of its own rows and of encoder.ln_final.hook_out"),
    ],
)
def test_families_whose_streams_are_no_sums_are_refused(name: str, message: str) -> None:
    tiny = next(each for each in FAMILIES if each.name == name)
    model = tiny.make()
    batch = model.prepare("describe the image", images=picture(0, *tiny.sizes[0]))
    with pytest.raises(InputError, match=message):
        edge_graph(model, [batch], nodes="head", groups=GROUPS, towers="all")  # type: ignore[arg-type]


def _no_run(*args: object, **kwargs: object) -> None:
    raise AssertionError("the model ran before the input was refused")
