"""Influence, pruning, scores, pooled sources, targets, and what is shown and kept of a graph."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmlens as mm
from mmlens.analysis.attribution_graphs.influence import influence_of, largest, pruned, shares_of
from mmlens.core.errors import DamagedFileError, InputError
from tests.analysis.attribution_graphs.made import PROMPT, made, transcoder, transcoders
from tests.tiny import picture


@pytest.fixture(scope="module")
def graph() -> Any:
    model, batch = made("llava_clip")
    return mm.attribution_graph(model, batch, transcoders(model), progress=False)


def by_inverse(graph: Any) -> torch.Tensor:
    """Influence of every node, by inverting the whole matrix."""
    size, logits = len(graph.members), len(graph.shares)
    count = len(graph.weights) - logits
    N = torch.zeros(size, size, dtype=torch.float64)
    N[:count] = graph.weights[:count].double().abs()
    N[size - logits :] = graph.weights[count:].double().abs()
    N /= N.sum(1, keepdim=True).clamp_min(1e-30)
    start = torch.zeros(size, dtype=torch.float64)
    start[size - logits :] = graph.shares.double()
    return start @ (torch.linalg.inv(torch.eye(size, dtype=torch.float64) - N) - torch.eye(size, dtype=torch.float64))


def test_influence_is_that_along_all_paths(graph: Any) -> None:
    expected = by_inverse(graph)
    torch.testing.assert_close(graph.influence.double(), expected, atol=1e-6, rtol=1e-4)
    kinds = [node.kind for node in graph.members]
    sources, errors = (
        sum(float(v) for k, v in zip(kinds, expected, strict=True) if k == kind) for kind in ("source", "error")
    )
    assert graph.scores.replacement == pytest.approx(sources / (sources + errors), abs=1e-5)
    weights = graph.weights.double().abs()
    complete = 1 - weights[:, [k == "error" for k in kinds]].sum(1) / weights.sum(1)
    flow = torch.cat([expected[: len(weights) - len(graph.shares)], graph.shares.double()])
    assert graph.scores.completeness == pytest.approx(float((complete * flow).sum() / flow.sum()), abs=1e-5)
    assert 0 < graph.scores.replacement < graph.scores.completeness < 1


def test_pruning_keeps_shares_of_influence(graph: Any) -> None:
    few, some, most = (graph.prune(nodes=share) for share in (0.3, 0.8, 1.0))
    counts = [int(pruned.node_mask.sum()) for pruned in (few, some, most)]
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2]
    for one in (few, some):
        kinds = [node.kind for node, there in zip(one.members, one.node_mask.tolist(), strict=True) if there]
        assert kinds.count("source") == sum(node.kind == "source" for node in graph.members)
        assert kinds.count("logit") == len(graph.shares)
        names = set(one.nodes["node"])
        assert set(one.edges["source"]) | set(one.edges["target"]) <= names
        inner = {node.name for node in one.members if node.kind == "feature"} & names
        assert inner <= set(one.edges["source"])
        assert inner <= set(one.edges["target"])
        assert {n.name for n in one.members if n.kind == "error"} & names <= set(one.edges["source"])
        assert torch.equal(one.weights, graph.weights)
    assert len(graph.prune(edges=0.5).edges) < len(some.edges)
    assert float(graph.influence[some.node_mask].sum()) > 0.7 * float(graph.influence.sum())


def test_thresholds_by_hand() -> None:
    scores = torch.tensor([0.5, 0.3, 0.1, 0.1, 0.0])
    assert largest(scores, 0.75).tolist() == [True, True, False, False, False]
    assert largest(scores, 0.85).tolist() == [True, True, True, True, False]
    assert largest(scores, 1.0).tolist() == [True, True, True, True, False]
    assert not largest(torch.zeros(3), 0.5).any()
    # feature 0 reads the source, feature 1 reads feature 0; nodes are two features, an error, a source and a logit
    weights = torch.tensor([[0, 0, 0, 2, 0], [-3, 0, 1, 0, 0], [0, 4, 0, 0, 0]], dtype=torch.float64)
    logits = torch.ones(1, dtype=torch.float64)
    reach = influence_of(shares_of(weights), logits)
    torch.testing.assert_close(reach, torch.tensor([0.75, 1, 0.25, 0.75, 0], dtype=torch.float64))
    node, edge = pruned(weights, logits, torch.tensor([True, True, True, False, False]), 0.7, 1.0)
    assert node.tolist() == [True, True, False, True, True]
    assert edge.nonzero().tolist() == [[0, 3], [1, 0], [2, 1]]


def test_features_beyond_the_most_influential_count_as_errors(graph: Any) -> None:
    model, batch = made("llava_clip")
    small = mm.attribution_graph(model, batch, transcoders(model), max_nodes=100, batch_size=10, progress=False)
    assert small.n_active == graph.n_active > 300
    assert small.scores.explored == pytest.approx(100 / graph.n_active)
    torch.testing.assert_close(small.weights[-10:].sum(1), graph.weights[-10:].sum(1), atol=1e-5, rtol=1e-5)
    assert small.scores.replacement < graph.scores.replacement
    # the most influential of the whole graph are there
    order = [
        graph.members[i].name for i in graph.influence.argsort(descending=True) if graph.members[i].kind == "feature"
    ]
    there = {node.name for node in small.members}
    assert sum(name in there for name in order[:30]) >= 28
    # an edge between two nodes is the same, however many others there are
    name, source = order[0], order[8]
    both = [g.into(name).set_index("source")["weight"] for g in (graph, small)]
    assert source in there or source not in both[0]
    for node in set(both[0].index) & set(both[1].index) - {m.name for m in graph.members if m.kind == "error"}:
        assert both[1][node] == pytest.approx(both[0][node], abs=1e-6)


def test_sources_are_pooled_by_group(graph: Any) -> None:
    model, batch = made("llava_clip")
    groups: dict[str, Any] = {"picture": "image", "corner": mm.positions.box((0, 0, 16, 16)), "colour": "color"}
    grouped = mm.attribution_graph(model, batch, transcoders(model), groups=groups, progress=False)
    rows = batch.layout.patches((0, 0, 16, 16)).tolist()
    assert sorted(grouped["corner"].rows) == sorted(rows)
    assert grouped["corner"].box == (0, 0, 16, 16)
    sources = {node.rows[0]: n for n, node in enumerate(graph.members) if node.kind == "source"}
    number = grouped.members.index(grouped["corner"])
    torch.testing.assert_close(
        grouped.weights[-1, number], graph.weights[-1, [sources[row] for row in rows]].sum(), atol=1e-6, rtol=1e-5
    )
    assert len(grouped["picture"].rows) == 16 - len(rows)
    names = [node.name for node in grouped.members if node.kind == "source"]
    assert {"picture", "corner", "colour"} <= set(names)
    assert len(names) == 3 + len(batch.layout.text[0]) - 1
    with pytest.raises(InputError, match=r"The group 'moon' holds no source"):
        mm.attribution_graph(model, batch, transcoders(model), groups={"moon": "moon"}, progress=False)


def test_targets_are_words_or_what_is_probable() -> None:
    model, batch = made("llava_clip")
    dictionaries = transcoders(model)[:1]
    logits = model(batch)[0, -1].softmax(-1)
    best = logits.topk(10)
    default = mm.attribution_graph(model, batch, dictionaries, max_nodes=5, progress=False)
    enough = int((best.values.cumsum(0) < 0.95).sum()) + 1
    assert [node.token for node in default.targets[-min(enough, 10) :]] == best.indices.tolist()[: min(enough, 10)]
    torch.testing.assert_close(default.probabilities, best.values[: min(enough, 10)], atol=1e-6, rtol=1e-5)
    assert float(default.shares.sum()) == pytest.approx(1)
    words = mm.attribution_graph(model, batch, dictionaries, target=["red", 15], max_nodes=5, progress=False)
    assert [node.token for node in words.targets[-2:]] == [model.to_single_token("red"), 15]
    assert words.shares.tolist() == [0.5, 0.5]


def test_a_word_of_several_tokens_is_a_logit_where_each_is_predicted() -> None:
    model, batch = made("llava_clip")
    tokens = (model.to_single_token("red"), model.to_single_token("circle"))
    original = type(model).to_word_tokens
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            type(model), "to_word_tokens", lambda self, w: list(tokens) if w == "redcircle" else original(self, w)
        )
        dictionaries = transcoders(model)
        graph = mm.attribution_graph(model, batch, dictionaries, target="redcircle", max_nodes=30, progress=False)
        with pytest.raises(InputError, match="redcircle are several tokens"):
            mm.attribution_graph(model, batch, dictionaries, target=["redcircle", "blue"], progress=False)
    first, second = graph.targets[-2:]
    assert (first.token, second.token) == tokens
    assert second.rows[0] == first.rows[0] + 1 == batch["input_ids"].shape[1]
    longer = model.extend(batch, torch.tensor([[tokens[0]]]))
    head = model(longer)[0, -1].detach()
    assert second.value == pytest.approx(float(head[tokens[1]] - head.mean()), abs=1e-5)
    check = graph.check(model, batch, dictionaries, nodes=3)
    assert check.direct < 1e-4


def test_frames_and_nodes_by_name(graph: Any) -> None:
    frame = graph.to_frame()
    assert frame["influence"].is_monotonic_decreasing
    assert set(frame["kind"]) == {"feature", "error", "source", "logit"}
    name = next(node.name for node in graph.targets if node.kind == "logit")
    into = graph.into(name)
    assert into["weight"].sum() == pytest.approx(graph[name].value, abs=1e-5)
    assert "bias" in set(into["source"])
    edges = graph.edges
    assert edges["influence"].is_monotonic_decreasing
    row = edges.iloc[0]
    assert row["weight"] == pytest.approx(graph.into(row["target"]).set_index("source")["weight"][row["source"]])
    feature = next(node for node in graph.members if node.kind == "feature")
    assert feature.name == f"{feature.unit}@{feature.rows[0]}"
    assert feature.unit in graph.top(len({n.unit for n in graph.members if n.unit}))
    patches = [node.text for node in graph.members if node.kind == "source" and node.box is not None]
    assert patches[:2] == ["patch 0,0", "patch 0,1"]
    assert "<image>" not in {node.text for node in graph.members if node.kind == "source"}
    with pytest.raises(InputError, match=r"no node 'L0.hook_mlp_out.f@0'. Nearest: L0"):
        graph["L0.hook_mlp_out.f@0"]
    with pytest.raises(InputError, match="Nothing flows into hook_embed@0, which is a source"):
        graph.into("hook_embed@0")
    with pytest.raises(InputError, match=r"k=100000 must lie in 1\.\."):
        graph.top(100000)


def test_a_graph_is_kept_whole_with_its_pictures(graph: Any, tmp_path: Path) -> None:
    pruned = graph.prune()
    for one in (graph, pruned):
        one.save(tmp_path / "graph.safetensors")
        again = type(one).load(tmp_path / "graph.safetensors")
        assert repr(again) == repr(one)
        assert again.members == one.members
        assert again.threshold == one.threshold
        assert torch.equal(again.weights, one.weights)
        assert again.edges.equals(one.edges)
        assert np.array_equal(np.asarray(again.images[0]), np.asarray(one.images[0].convert("RGB")))
    data = bytearray((tmp_path / "graph.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "graph.safetensors").write_bytes(bytes(data))
    with pytest.raises(DamagedFileError):
        type(graph).load(tmp_path / "graph.safetensors")


def test_it_is_drawn_with_sources_on_their_patches(graph: Any) -> None:
    few = graph.prune().plot(n=30)
    axes = few.axes[0]
    assert len(axes.images) == 1
    words = [text.get_text() for text in axes.texts]
    assert any(word.startswith(graph.targets[-1].text) or graph.targets[-10].text in word for word in words)
    assert {"L0", "L1"} <= set(words)
    boxes = [patch for patch in axes.patches if type(patch).__name__ == "Rectangle" and 0 < patch.get_width() < 1]
    shown = graph.prune().edges.head(30)
    patches = {name for name in shown["source"] if graph[name].kind == "source" and graph[name].box is not None}
    assert len(boxes) == 2 * len(patches) > 0
    page = graph.view()
    assert "comes from the picture to" in page.text or "comes from the picture to" in page.html
    assert "data:image/" in page.html
    with pytest.raises(InputError, match="There is no picture 3; the graph has 1"):
        graph.plot(image=3)
    model, batch = made("instructblip")  # rows of queries have no place in the picture
    other = mm.attribution_graph(model, batch, transcoders(model), max_nodes=30, progress=False)
    assert other.plot(n=20).axes[0].texts
    assert "no place in a picture" in other.view().html


KEYS = {
    "node_id", "feature", "layer", "ctx_idx", "feature_type", "token_prob", "is_target_logit", "run_idx", "reverse_ctx_idx",
    "jsNodeId", "clerp", "influence", "activation",
}  # fmt: skip


@pytest.mark.parametrize(("name", "in_tower"), [("llava_clip", False), ("llava_clip", True), ("qwen3_vl", False)])
def test_the_viewers_json_has_its_form_and_no_id_twice(name: str, in_tower: bool, tmp_path: Path) -> None:
    model, batch = made(name)
    graph = mm.attribution_graph(model, batch, transcoders(model, in_tower=in_tower), max_nodes=300, progress=False)
    assert graph.to_circuit_tracer(tmp_path / "whole.json") == tmp_path / "whole.json"
    graph.prune().to_circuit_tracer(tmp_path / "small.json", scan="mine")
    whole, small = (json.loads((tmp_path / f"{slug}.json").read_text()) for slug in ("whole", "small"))
    assert set(whole) == {"metadata", "qParams", "nodes", "links"}
    assert set(whole["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    assert small["metadata"]["scan"] == "mine"
    assert small["metadata"]["node_threshold"] == 0.8
    assert whole["metadata"]["node_threshold"] is None
    assert len(small["nodes"]) < len(whole["nodes"]) == len(graph.members)
    tokens = whole["metadata"]["prompt_tokens"]
    for content in (whole, small):
        ids = [node["node_id"] for node in content["nodes"]]
        assert len(set(ids)) == len(ids)
        assert len({node["jsNodeId"] for node in content["nodes"]}) == len(ids)
        assert all(set(node) == KEYS for node in content["nodes"])
        ends = {link[end] for link in content["links"] for end in ("source", "target")}
        assert ends <= set(ids)
        assert all(0 <= node["ctx_idx"] < len(tokens) + 1 for node in content["nodes"])
        kinds = {node["feature_type"] for node in content["nodes"]}
        assert kinds == {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}
        assert sum(node["is_target_logit"] for node in content["nodes"]) == 1
    blocks = {node["layer"] for node in whole["nodes"] if node["feature_type"] == "mlp reconstruction error"}
    assert blocks == {str(number) for number in range(len(blocks))}
    last = [node for node in whole["nodes"] if node["feature_type"] == "logit"]
    assert {node["layer"] for node in last} == {str(len(blocks) + 1)}
    weights = {(link["source"], link["target"]): link["weight"] for link in whole["links"]}
    assert len(weights) == int((graph.weights != 0).sum())
    listing = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [entry["slug"] for entry in listing] == ["whole", "small"]
    graph.to_circuit_tracer(tmp_path / "whole.json")
    assert len(json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]) == 2
    for wrong in ("whole.txt", "graph-metadata.json"):
        with pytest.raises(InputError, match=r"written as name\.json"):
            graph.to_circuit_tracer(tmp_path / wrong)


@torch.no_grad()
def test_a_check_is_of_the_graphs_own_batch_and_exact_where_all_else_is_held(graph: Any) -> None:
    model, batch = made("llava_clip")
    dictionaries = transcoders(model)
    check = graph.check(model, batch, dictionaries, nodes=8)
    assert check.direct < 1e-4
    assert len(check.nodes) == len(check.controls) == 8
    assert not set(check.nodes) & set(check.controls)
    again = graph.check(model, batch, dictionaries, nodes=8)
    assert torch.equal(check.measured, again.measured)
    other = graph.check(model, batch, dictionaries, nodes=8, seed=1)
    assert other.controls != check.controls
    # by hand: the first node taken out by a hook of the user's
    node = graph[check.nodes[0]]
    sae = next(dictionary for dictionary in dictionaries if dictionary.at == node.at)

    def without(y: torch.Tensor, hook: Any) -> torch.Tensor:
        y = y.clone()
        y[0, node.rows[0]] -= node.value * sae.W_dec[node.feature]
        return y

    tokens = torch.tensor([target.token for target in graph.targets[-len(graph.shares) :]])
    heads = [model(batch)[0, -1], model.run_with_hooks(batch, fwd_hooks=[(node.at, without)])[0, -1]]
    change = heads[1] - heads[0]
    assert float(check.free[0, 0]) == pytest.approx(float(graph.shares @ (change[tokens] - change.mean())), abs=1e-5)
    assert float((check.free - check.measured).abs().max()) > 1e-4, "the final norm does nothing"
    assert float((check.predicted_free - check.predicted).abs().max()) > 1e-4
    frame = check.to_frame()
    assert list(frame["set"]) == ["graph"] * 8 + ["control"] * 8
    assert check.plot().axes
    stranger = model.prepare(PROMPT, images=picture(3))
    with pytest.raises(InputError, match="when the graph was drawn, and has"):
        graph.check(model, stranger, dictionaries)
    empty = mm.attribution_graph(
        model, batch, transcoder(model, "blocks.0.hook_mlp_out", count=1, activation="jumprelu",
                                 threshold=torch.full((1,), 1e9)), progress=False,
    )  # fmt: skip
    assert empty.n_active == 0
    with pytest.raises(InputError, match="no feature nodes"):
        empty.check(model, batch, dictionaries)


def test_names_that_mean_nothing_here_or_twice() -> None:
    model, batch = made("llava_clip")
    asked = {"transcoders": transcoders(model), "max_nodes": 5, "progress": False}
    with pytest.raises(InputError, match="names a token twice"):
        mm.attribution_graph(model, batch, target=["red", model.tokenizer.convert_tokens_to_ids("red")], **asked)
    with pytest.raises(InputError, match=r"groups picture hold no source: later groups name all their rows"):
        mm.attribution_graph(model, batch, groups={"picture": "image", "whole": "all"}, **asked)
    both = mm.attribution_graph(model, batch, groups={"whole": "all", "picture": "image"}, **asked)
    assert {node.name for node in both.members if node.kind == "source"} == {"whole", "picture"}
    with pytest.raises(InputError, match=r"no node 'zzzz'\.$"):
        both.into("zzzz")
