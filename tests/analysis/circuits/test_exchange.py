"""MIB's JSON in and out, and what two circuits have in common."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError
from tests.analysis.circuits.conftest import METRIC, other_pictures
from tests.conftest import Subject


def test_names_and_scores_are_those_of_mib_and_come_back(llava: Subject, tmp_path: Path) -> None:
    pair = other_pictures(llava)
    asked: dict[str, Any] = {"metric": METRIC, "method": "eap", "towers": "language", "progress": False}
    found = mm.find_circuit(llava.model, pair, **asked).strongest(60)
    path = mm.circuits.save_mib(found, tmp_path / "circuit.json", llava.model)
    content = json.loads(path.read_text())
    assert content["cfg"] == {"n_layers": 3, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 32}
    names = {"input", *(f"a{i}.h{h}" for i in range(3) for h in range(4)), "m0", "m1", "m2", "logits"}
    assert set(content["nodes"]) == names
    edges = content["edges"]
    # all edges that EAP-IG's Graph.from_model makes of three blocks of four heads
    expected = set()
    before = ["input"]
    for i in range(3):
        heads = [f"a{i}.h{h}" for h in range(4)]
        expected |= {f"{w}->{head}<{kind}>" for w in before for head in heads for kind in "qkv"}
        before += heads
        expected |= {f"{w}->m{i}" for w in before}
        before.append(f"m{i}")
    expected |= {f"{w}->logits" for w in before}
    assert set(edges) == expected
    mean = found.scores.mean(-1)
    rows = {r.name: n for n, r in enumerate(found.graph.readers)}
    columns = {w.name: n for n, w in enumerate(found.graph.writers)}
    inputs = [columns[name] for name in ("projector", "embed[text]", "embed[last]")]
    assert edges["input->m1"]["score"] == pytest.approx(-float(mean[rows["L1.mlp"], inputs].sum()), abs=1e-6)
    # two heads share keys and values
    shared = -float(mean[rows["L2.kv1.v"], columns["L0.h1"]])
    for head in (2, 3):
        assert edges[f"a0.h1->a2.h{head}<v>"]["score"] == pytest.approx(shared / 2, abs=1e-6)
    read = mm.circuits.load_mib(path, found)
    assert read.method == "MIB"
    again = json.loads(mm.circuits.save_mib(read, tmp_path / "again.json", llava.model).read_text())
    for name, edge in edges.items():
        assert again["edges"][name]["score"] == pytest.approx(edge["score"], abs=1e-5)
    one = mean[:, [n for n in range(len(columns)) if n not in inputs]]
    torch.testing.assert_close(read.scores[..., 0][:, [n for n in range(len(columns)) if n not in inputs]], one)
    single = {edge.writer + edge.reader for edge in found.edges} - {edge.writer + edge.reader for edge in read.edges}
    assert not single, "what was kept is kept"


def test_what_mib_has_no_name_for_is_refused(llava: Subject, tmp_path: Path) -> None:
    pair = other_pictures(llava)
    asked: dict[str, Any] = {"metric": METRIC, "method": "eap", "progress": False}
    whole = mm.find_circuit(llava.model, pair, **asked)
    with pytest.raises(InputError, match=r"MIB's files have no name for vision.embed: they know heads and MLPs"):
        mm.circuits.save_mib(whole, tmp_path / "a.json", llava.model)
    branches = mm.find_circuit(llava.model, pair, nodes="attention", towers="language", **asked)
    with pytest.raises(InputError, match=r"MIB's files have no name for L0.attn"):
        mm.circuits.save_mib(branches, tmp_path / "a.json", llava.model)
    heads = mm.find_circuit(llava.model, pair, towers="language", edges=False, **asked)
    path = mm.circuits.save_mib(heads, tmp_path / "nodes.json", llava.model)
    assert json.loads(path.read_text())["nodes"]["a1.h2"]["score"] == pytest.approx(
        -float(heads.scores[0, [w.name for w in heads.graph.writers].index("L1.h2")].mean()), abs=1e-6
    )
    read = mm.circuits.load_mib(path, heads)
    torch.testing.assert_close(read.scores[0, -3:, 0], heads.scores[0, -3:].mean(-1))
    with pytest.raises(InputError, match=r"lacks \d+ of the \d+ edges of the circuit's graph, such as a0.h0->"):
        mm.circuits.load_mib(path, mm.find_circuit(llava.model, pair, towers="language", **asked))
    (tmp_path / "b.json").write_text('{"nodes": 3}')
    with pytest.raises(InputError, match=r"b.json is no circuit of MIB"):
        mm.circuits.load_mib(tmp_path / "b.json", heads)


def test_circuits_have_in_common_what_both_have(llava: Subject, tmp_path: Path) -> None:
    pair = other_pictures(llava)
    asked: dict[str, Any] = {"method": "eap", "towers": "language", "progress": False}
    first = mm.find_circuit(llava.model, pair, metric=METRIC, **asked).strongest(40)
    same = mm.circuits.overlap(first, first, n_random=20)
    assert (same.jaccard, len(same.shared), same.only_first) == (1.0, int(first.kept.sum()), [])
    assert same.correlation == pytest.approx(1.0)
    assert same.chance.high < 0.5
    assert same.standing.at_least == 0
    rest = first.restricted(first.graph.allowed & ~first.kept)
    other = mm.circuits.overlap(first, rest, n_random=5)
    assert (other.jaccard, len(other.only_second)) == (0.0, int(rest.kept.sum()))
    # a circuit of text alone has no picture in its graph
    text = mm.find_circuit(
        llava.model, pair, metric=METRIC, groups={"image": "image", "words": "text"}, **asked
    ).strongest(40)
    words = mm.circuits.overlap(first, text, n_random=5)
    assert not any("embed[words]" in name for name in words.shared + words.only_second)
    assert words.shared
    nodes = mm.circuits.overlap(first, text, of="nodes", n_random=5)
    assert "logits" in nodes.shared
    assert len(nodes.plot().axes) == 1
    assert nodes.to_frame()["circuit"].isin(["both", "first", "second"]).all()
    nodes.save(tmp_path / "overlap.json")
    assert repr(mm.circuits.CircuitOverlap.load(tmp_path / "overlap.json")) == repr(nodes)
    with pytest.raises(InputError, match="The second circuit has no edges"):
        mm.circuits.overlap(first, first.strongest(0))
    attention = mm.find_circuit(llava.model, pair, metric=METRIC, edges=False, **asked)
    with pytest.raises(InputError, match="have no edge in common"):
        mm.circuits.overlap(first, attention)
    assert len(first.plot(n=5).axes) == 1
    result = mm.circuits.evaluate_circuit(
        llava.model, first.strongest(0), pair, metric=METRIC, n_random=2, n_edges=2, progress=False
    )
    assert float(result.faithfulness.abs().max()) == 0.0
    assert len(result.plot().axes) == 1
