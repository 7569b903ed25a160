"""Ablations: what is ablated carries another run's values, zeros, or means, against bare hooks."""

from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.circuits.ablation import ReadyAblation
from mmlens.analysis.circuits.ablations import GroupMeanAblation, MeanAblation, ZeroAblation
from mmlens.analysis.circuits.dataset import PairData, graph_of
from mmlens.core.rule_groups import named_rules
from tests.analysis.circuits.conftest import GROUPS, METRIC, other_pictures
from tests.conftest import Subject, bare_copy


def data_of(subject: Subject, ablation: Any, *, edges: bool, nodes: Any = "head", towers: Any = "all") -> PairData:
    pairs = [(subject.batches["left"], None)]
    graph = graph_of(subject.model, pairs, nodes=nodes, groups=named_rules(GROUPS), towers=towers, edges=edges)
    return PairData.of(subject.model, pairs, graph, METRIC, ablation)


@pytest.mark.parametrize("ablation", [ZeroAblation(), MeanAblation(), GroupMeanAblation()], ids=str)
def test_edges_and_nodes_that_are_all_ablated_are_one_run(subject: Subject, ablation: Any) -> None:
    (by_edge,), (by_node,) = (next(iter(data_of(subject, ablation, edges=edges))) for edges in (True, False))
    for pair in (by_edge, by_node):
        none = torch.zeros_like(pair.graph.allowed)
        torch.testing.assert_close(pair.run(none), pair.ends[0], rtol=0, atol=1e-5)
    assert float((by_edge.ends[0] - by_edge.ends[1]).abs().max()) > 1e-2
    # a node's edges together are the node: everything that reads it
    number = [writer.name for writer in by_edge.graph.writers].index("L1.h2")
    edges = torch.zeros_like(by_edge.graph.allowed)
    edges[:, number] = True
    node = torch.zeros_like(by_node.graph.allowed)
    node[0, [writer.name for writer in by_node.graph.writers].index("L1.h2")] = True
    torch.testing.assert_close(by_edge.run(edges), by_node.run(node), rtol=0, atol=1e-5)
    assert float((by_node.run(node) - by_node.ends[0]).abs().max()) > 1e-5


def test_a_head_that_is_ablated_is_what_bare_hooks_make_of_it(llava: Subject) -> None:
    bare, batch = bare_copy(llava.model), llava.batches["left"]
    proj = bare.model.language_model.layers[1].self_attn.o_proj
    kept: list[torch.Tensor] = []
    handle = proj.register_forward_pre_hook(lambda module, args: kept.append(args[0].detach().clone()))
    with torch.no_grad():
        bare(**batch)
        handle.remove()
        z = kept[0]
        width = z.shape[-1] // 4
        head = slice(2 * width, 3 * width)
        layout = batch.layout
        last = torch.zeros_like(layout.is_token)
        last[:, -1] = True
        rows = {
            "image": layout.is_image, "text": layout.is_token & ~layout.is_image & ~last, "last": last,
        }  # fmt: skip
        means = {name: z[mask][:, head].mean(0) for name, mask in rows.items()}
        whole = z[layout.is_token][:, head].mean(0)
        by_group = torch.stack([mask[..., None] * means[name] for name, mask in rows.items()]).sum(0)
        wanted = {ZeroAblation(): torch.zeros_like(whole), MeanAblation(): whole, GroupMeanAblation(): by_group}
        red, blue = (llava.model.to_single_token(word) for word in ("red", "blue"))
        for ablation, value in wanted.items():

            def put(module: Any, args: Any, value: torch.Tensor = value) -> Any:
                new = args[0].clone()
                new[..., head] = value
                return (new, *args[1:])

            handle = proj.register_forward_pre_hook(put)
            logits = bare(**batch).logits[:, -1]
            handle.remove()
            (pair,) = next(iter(data_of(llava, ablation, edges=False)))
            node = torch.zeros_like(pair.graph.allowed)
            node[0, [writer.name for writer in pair.graph.writers].index("L1.h2")] = True
            torch.testing.assert_close(pair.run(node), logits[:, red] - logits[:, blue], rtol=0, atol=1e-5)


def test_means_are_those_of_all_batches(llava: Subject) -> None:
    batch = llava.batches["left"]
    parts = [llava.model.prepare(batch.prompts[s], images=batch.images[s][0]) for s in (0, 1)]
    at = "blocks.1.hook_mlp_out"
    node, rows = llava.model.graph[at], {}
    for name, batches in (("together", [batch]), ("apart", parts)):
        ready = ReadyAblation.of(MeanAblation(), llava.model, batches, [at])
        rows[name] = ready.values(parts[0], node, torch.zeros(1, parts[0].layout.is_token.shape[1], 32))
    torch.testing.assert_close(rows["together"], rows["apart"], rtol=0, atol=1e-5)
    assert float(rows["apart"].std(1).abs().max()) < 1e-6, "one mean at every row"


def test_scores_by_gradients_are_the_formula_in_bare_torch(llava: Subject) -> None:
    """EAP of whole branches: (w ablated - w clean) . d metric / d (what r receives), by torch alone."""
    model = llava.model
    clean, corrupted = other_pictures(llava)
    found = mm.find_circuit(model, (clean, corrupted), metric=METRIC, method="eap", nodes="attention", progress=False)
    bare = bare_copy(model)
    layers, language = bare.model.language_model.layers, bare.model.language_model
    modules = {f"L{n}.attn": block.self_attn for n, block in enumerate(layers)}
    modules |= {f"L{n}.mlp": block.mlp for n, block in enumerate(layers)}
    norms = {f"L{n}.attn": block.input_layernorm for n, block in enumerate(layers)}
    norms |= {f"L{n}.mlp": block.post_attention_layernorm for n, block in enumerate(layers)} | {"logits": language.norm}

    def run(batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        written: dict[str, torch.Tensor] = {}
        received: dict[str, torch.Tensor] = {}
        handles = []
        for name, module in modules.items():

            def wrote(module: Any, args: Any, output: Any, name: str = name) -> None:
                written[name] = output[0] if isinstance(output, tuple) else output

            handles.append(module.register_forward_hook(wrote))
        for name, module in norms.items():

            def reads(module: Any, args: Any, name: str = name) -> Any:
                received[name] = args[0] * 1.0  # a tensor of its own, so that its gradient is this reader's alone
                return (received[name],)

            handles.append(module.register_forward_pre_hook(reads))
        logits = bare(**batch).logits[:, -1]
        for handle in handles:
            handle.remove()
        return logits, written, received

    logits, written, received = run(clean)
    red, blue = (model.to_single_token(word) for word in ("red", "blue"))
    gradients = dict(
        zip(
            received,
            torch.autograd.grad((logits[:, red] - logits[:, blue]).sum(), list(received.values())),
            strict=True,
        )
    )
    with torch.no_grad():
        other = run(corrupted)[1]
    names = [w.name for w in found.graph.writers], [r.name for r in found.graph.readers]
    checked = 0
    for writer in modules:
        for reader, gradient in gradients.items():
            place = names[1].index(reader), names[0].index(writer)
            if found.graph.allowed[place]:
                expected = ((other[writer] - written[writer]) * gradient).sum((1, 2)).detach()
                torch.testing.assert_close(found.scores[place], expected, rtol=1e-4, atol=1e-5)
                checked += float(expected.abs().max()) > 1e-3
    assert checked > 10, "the comparison could not fail"
