"""The hook-point graph: what it says about order, axes, widths, writers, and how it draws itself."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch

from mmlens.core.axes import AXIS_WORDS
from mmlens.core.errors import InputError
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.nodes import Node, node_kind
from tests.conftest import Subject


def test_the_order_is_that_in_which_points_fire(subject: Subject) -> None:
    fired: list[str] = []
    with torch.no_grad():
        subject.model.run_with_hooks(
            subject.batches["left"], fwd_hooks=[("*", lambda a, hook: fired.append(hook.name))]
        )
    graph = subject.model.graph
    assert len(fired) == len(set(fired))
    assert sorted(fired) == sorted(graph.names)
    place = {name: index for index, name in enumerate(fired)}
    assert all(place[source] < place[target] for source, target in graph.digraph.edges)
    assert nx.is_directed_acyclic_graph(graph.digraph)
    order = {name: index for index, name in enumerate(graph.order())}
    assert all(order[source] < order[target] for source, target in graph.digraph.edges)


def test_axes_and_widths_are_those_of_the_tensors(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    with torch.no_grad():
        _, cache = model.run_with_cache(batch, names="*")
    for node in model.graph:
        axes = node.axes.split()
        shape = dict(zip(axes, cache[node.name].shape, strict=True))
        assert set(axes) <= AXIS_WORDS, node.name
        assert node.width is None or cache[node.name].shape[-1] == node.width, node.name
        cfg = model.part(node.part).cfg
        if "batch" in shape:
            assert shape["batch"] == batch.size, node.name
        if "head" in shape and not node.kind.endswith((".k", ".rot_k", ".v")):
            assert shape["head"] == cfg.n_heads, node.name
        length = batch.layout.length(node.sequence)
        if length is not None:
            assert cache[node.name].shape[node.position_axis] == length, node.name


def test_writers_sum_to_the_stream(subject: Subject) -> None:
    model = subject.model
    with torch.no_grad():
        _, cache = model.run_with_cache(subject.batches["left"])
    for part in ("vision", "language"):
        prefix = "" if part == "language" else "vision."
        depth = model.part(part).cfg.n_layers  # type: ignore[arg-type]
        for before in (1, depth):
            writers = model.graph.residual_writers(part, before=before)  # type: ignore[arg-type]
            total = torch.stack([cache[name] for name in writers.names]).sum(0)
            torch.testing.assert_close(
                total, cache[f"{prefix}blocks.{before - 1}.hook_resid_post"], atol=1e-5, rtol=1e-5
            )
        assert model.graph.residual_writers(part).names == model.graph.residual_writers(part, before=depth).names  # type: ignore[arg-type]


def test_selecting(llava: Subject) -> None:
    graph = llava.model.graph
    assert graph.select(layer=-1, kind="resid_post").names == [
        "vision.blocks.2.hook_resid_post",
        "blocks.2.hook_resid_post",
    ]
    assert graph.select(part="language", layer=[0, 2], kind="mlp.post").names == [
        "blocks.0.mlp.hook_post",
        "blocks.2.mlp.hook_post",
    ]
    assert graph.select(graph.select("blocks.*.attn.hook_z"), layer=1).names == ["blocks.1.attn.hook_z"]
    assert (
        graph.select(where=lambda node: node.dead is not None, part="vision").names[0]
        == "vision.blocks.2.hook_resid_pre"
    )
    assert [node.name for node in graph.select("hook_*")] == ["hook_embed", "hook_logits"]
    assert (
        repr(graph.select("hook_logits"))
        == f"1 hook points (hook_logits)\n  hook_logits  [batch pos vocab]  {llava.model.cfg.d_vocab}"
    )
    assert repr(graph.select("*")).endswith("... and 92 more")
    assert graph["hook_logits"].kind == "logits"
    assert "hook_logits" in graph
    assert node_kind("projector.blocks.1.cross_attn.hook_pattern") == "cross_attn.pattern"


def test_layers_count_from_the_last_of_each_stack_whatever_their_number() -> None:
    def at(layer: int, part: Any = "language") -> Node:
        prefix = "" if part == "language" else f"{part}."
        axes = "batch pos d_model"
        return Node(f"{prefix}blocks.{layer}.hook_mlp_out", part, layer, "mlp_out", axes, 4, part)

    for count in (1, 2, 3, 4):
        graph = HookGraph([*(at(layer) for layer in range(count)), at(0, "vision"), at(1, "vision")], [])
        assert graph.select(layer=-1).names == [f"blocks.{count - 1}.hook_mlp_out", "vision.blocks.1.hook_mlp_out"]
        assert (
            graph.select(layer=-2, part="language").names == [f"blocks.{count - 2}.hook_mlp_out"] if count > 1 else True
        )


def test_a_selection_judges_its_arguments(llava: Subject) -> None:
    with pytest.raises(InputError, match=r"select: where=3"):
        llava.model.graph.select(where=3)  # type: ignore[arg-type]


def test_paths(llava: Subject) -> None:
    graph = llava.model.graph
    assert graph.upstream("vision.hook_embed").names == []
    assert graph.downstream("hook_logits").names == []
    assert graph.downstream("vision.blocks.2.hook_resid_post").names == []  # the projector reads block 1
    assert graph.between("blocks.2.hook_mlp_out", "ln_final.hook_out").names == [
        "blocks.2.hook_mlp_out",
        "blocks.2.hook_resid_post",
        "ln_final.hook_scale",
        "ln_final.hook_out",
    ]
    up, down = graph.upstream("blocks.1.hook_resid_pre").names, graph.downstream("blocks.1.hook_resid_pre").names
    assert not set(up) & set(down)
    assert "projector.mlp.hook_post" in up


def test_edges_name_nodes() -> None:
    node = Node("hook_embed", "language", None, "embed", "batch pos d_model", 4, "language")
    with pytest.raises(InputError, match="hook_embd, which is no node of the graph"):
        HookGraph([node], [("hook_embed", "hook_embd")])


def test_a_drawing_is_an_svg_with_every_point(subject: Subject, tmp_path: Path) -> None:
    graph = subject.model.graph
    drawing = graph.draw({"blocks.1.hook_mlp_out": 1.5, "hook_embed": -0.5})
    root = ElementTree.fromstring(drawing._repr_svg_())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    titles: list[Any] = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert all(any(str(text).startswith(name) for text in titles) for name in graph.names)
    drawing.save(tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_text(encoding="utf-8") == drawing.svg
    assert graph.draw().svg != drawing.svg
    with pytest.raises(InputError, match="hook_embd"):
        graph.draw({"hook_embd": 1.0})


def test_the_networkx_graph_holds_the_same_nodes(llava: Subject) -> None:
    graph = llava.model.graph
    assert [graph.digraph.nodes[name].get("node") for name in graph.digraph] == list(graph)
    alone = HookGraph([node := Node("hook_embed", "language", None, "embed", "batch pos d_model", 4, "language")], [])
    assert dict(alone.digraph.nodes(data="node")) == {"hook_embed": node}
