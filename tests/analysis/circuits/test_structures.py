"""Edges of other kinds of language model, in double precision: against whole runs, and plain hooks on bare Hugging Face modules.

DeepStack (Qwen3-VL), attention and MLP side by side (Aya Vision), cross-attention to the picture (Llama 3.2 Vision, Idefics), an
encoder with a decoder (InstructBLIP and BLIP-2 with T5), and norms behind the branches (the BART of Florence-2, Gemma 3).
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from mmlens.analysis.circuits.build import edge_graph
from mmlens.analysis.circuits.evaluate import evaluate_circuit
from mmlens.analysis.circuits.find import find_circuit
from mmlens.analysis.circuits.methods.eap import EAP
from mmlens.analysis.circuits.runs import Pair, graph_pairs
from mmlens.analysis.patching.paths import path_patch
from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units
from mmlens.core.units import Head
from mmlens.inputs.batch import MultimodalBatch
from tests.analysis.circuits.conftest import GROUPS, METRIC
from tests.conftest import Subject, bare_copy
from tests.families import FAMILIES
from tests.tiny import picture

TOWERS = {
    "qwen3_vl": "all",
    "aya_vision": "all",
    "mllama": "language",
    "idefics": "all",
    "instructblip_t5": "all",
    "blip_2_flan_t5": "language",
    "florence2": "language",
    "gemma3": "all",
}


def doubled(batch: MultimodalBatch) -> MultimodalBatch:
    inputs = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.inputs.items()}
    return replace(batch, inputs=inputs)


@cache
def made(name: str) -> tuple[Any, MultimodalBatch, MultimodalBatch]:
    """A model in double precision, and two batches of other pictures."""
    tiny = next(each for each in FAMILIES if each.name == name)
    model = tiny.make()
    model.hf_model.double()
    prompts = ["describe the image", "what is the small circle"]
    pictures = [[[picture(seed + own, *tiny.sizes[0])] for own in (0, 1)] for seed in (0, 8)]
    batches = [doubled(model.prepare(prompts, images=each)) for each in pictures]
    return model, batches[0], batches[1]


@cache
def pair_on(name: str, nodes: str = "head") -> Pair:
    model, clean, corrupted = made(name)
    graph = edge_graph(model, [clean], nodes=nodes, groups=GROUPS, towers=TOWERS[name])  # type: ignore[arg-type]
    return graph_pairs(model, clean, corrupted, graph, METRIC)[0]


def mask_of(pair: Pair, edge: str) -> torch.Tensor:
    writer, reader = edge.split(" -> ")
    mask = torch.zeros_like(pair.graph.allowed)
    row = [each.name for each in pair.graph.readers].index(reader)
    mask[row, [each.name for each in pair.graph.writers].index(writer)] = True
    return mask


@pytest.mark.parametrize("nodes", ["head", "attention"])
@pytest.mark.parametrize("name", TOWERS)
def test_no_edge_is_the_clean_run_and_all_edges_are_the_corrupted_one(name: str, nodes: str) -> None:
    pair = pair_on(name, nodes)
    clean, corrupted = pair.ends
    assert torch.equal(pair.run(torch.zeros_like(pair.graph.allowed)), clean)
    torch.testing.assert_close(pair.run(pair.graph.allowed), corrupted, rtol=0, atol=1e-9)
    assert float((clean - corrupted).abs().min()) > 0.01, "the comparison could not fail"
    some = torch.rand(pair.graph.allowed.shape, generator=torch.Generator().manual_seed(2)) < 0.25
    for end in (clean, corrupted) if nodes == "head" else ():  # a few edges of whole branches may miss every path
        assert float((pair.run(some) - end).abs().min()) > 1e-4


class Plain:
    """A bare Hugging Face model in double precision, with plain torch hooks, on a clean and a corrupted batch."""

    def __init__(self, name: str):
        model, self.clean, self.corrupted = made(name)
        self.bare = bare_copy(model).double()
        self.red, self.blue = model.to_single_token("red"), model.to_single_token("blue")

    @torch.no_grad()
    def run(self, batch: MultimodalBatch, *hooks: tuple[torch.nn.Module, str, Callable[..., Any]]) -> torch.Tensor:
        """The metric, with functions of what modules receive or return."""
        with ExitStack() as stack:
            for module, side, function in hooks:
                if side == "out":
                    handle = module.register_forward_hook(_returning(function))
                else:
                    handle = module.register_forward_pre_hook(_receiving(function), with_kwargs=True)
                stack.callback(handle.remove)
            logits = self.bare(**batch, use_cache=False).logits[:, -1]
        return logits[:, self.red] - logits[:, self.blue]

    def seen(self, batch: MultimodalBatch, module: torch.nn.Module, side: str) -> torch.Tensor:
        """What a module receives or returns."""
        found: list[torch.Tensor] = []
        self.run(batch, (module, side, lambda tensor: found.append(tensor.clone())))
        return found[0]

    def moved(self, module: torch.nn.Module, side: str) -> torch.Tensor:
        """How far apart the two runs are there."""
        return self.seen(self.corrupted, module, side) - self.seen(self.clean, module, side)

    def head(self, linear: torch.nn.Module, head: int, width: int) -> torch.Tensor:
        """How far apart the runs are in what one head writes."""
        rows = slice(head * width, (head + 1) * width)
        return self.moved(linear, "in")[..., rows] @ linear.weight[:, rows].T  # type: ignore[index, operator, union-attr]

    def effect(self, *hooks: tuple[torch.nn.Module, str, Callable[..., Any]]) -> torch.Tensor:
        return self.run(self.clean, *hooks) - self.run(self.clean)


def _returning(function: Callable[..., Any]) -> Callable[..., Any]:
    def hook(module: Any, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            new = function(output[0])
            return None if new is None else (new, *output[1:])
        return function(output)

    return hook


def _receiving(function: Callable[..., Any]) -> Callable[..., Any]:
    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = function(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = function(kwargs["hidden_states"])
        return None if new is None else (args, {**kwargs, "hidden_states": new})

    return hook


def plus(added: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor + added


def part(new: torch.Tensor, head: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """One head's share of a linear's result, taken from elsewhere."""

    def put(tensor: torch.Tensor) -> torch.Tensor:
        rows = slice(head * width, (head + 1) * width)
        tensor = tensor.clone()
        tensor[..., rows] = new.reshape(tensor.shape)[..., rows]
        return tensor

    return put


def qwen3_vl(plain: Plain) -> dict[str, torch.Tensor]:
    visual, layers = plain.bare.model.visual, plain.bare.model.language_model.layers
    image = plain.clean.layout.is_image
    merged = torch.zeros(*image.shape, 32).double()
    merged[image] = plain.moved(visual.deepstack_merger_list[0], "out")
    written = plain.head(visual.blocks[0].attn.proj, 1, 12)
    block = layers[2]
    stream = plain.seen(plain.clean, block.input_layernorm, "in")
    deep = torch.zeros_like(merged)
    deep[image] = plain.moved(visual.deepstack_merger_list[1], "out")
    keys = block.self_attn.k_proj(block.input_layernorm(stream + deep))
    return {
        "projector.deepstack.0 -> L1.mlp": plain.effect((layers[1].post_attention_layernorm, "in", plus(merged))),
        "vision.L0.h1 -> projector.deepstack.0": plain.effect((visual.deepstack_merger_list[0], "in", plus(written))),
        "projector.deepstack.1 -> L2.kv1.k": plain.effect((block.self_attn.k_proj, "out", part(keys, 1, 8))),
    }


def aya_vision(plain: Plain) -> dict[str, torch.Tensor]:
    first, second, third = plain.bare.model.language_model.layers
    written = plain.head(first.self_attn.o_proj, 1, 8)
    stream = plain.seen(plain.clean, second.input_layernorm, "in")
    normed = second.input_layernorm(stream + written)
    later = plain.seen(plain.clean, third.input_layernorm, "in")
    other = third.input_layernorm(later + plain.moved(second.mlp, "out"))
    return {
        "L0.h1 -> L1.mlp": plain.effect((second.mlp, "in", lambda _: normed)),
        "L0.h1 -> L1.h2.q": plain.effect((second.self_attn.q_proj, "out", part(second.self_attn.q_proj(normed), 2, 8))),
        "L1.mlp -> L2.kv1.v": plain.effect((third.self_attn.v_proj, "out", part(third.self_attn.v_proj(other), 1, 8))),
    }


def mllama(plain: Plain) -> dict[str, torch.Tensor]:
    layers = plain.bare.model.language_model.layers
    cross = layers[1].cross_attn
    keys = plain.seen(plain.corrupted, cross.k_proj, "out")  # of the corrupted picture
    values = plain.seen(plain.corrupted, layers[3].cross_attn.v_proj, "out")
    last = layers[3]
    stream = plain.seen(plain.clean, last.input_layernorm, "in")
    queries = last.cross_attn.q_proj(last.input_layernorm(stream + plain.head(layers[2].self_attn.o_proj, 1, 8)))
    written = layers[1].cross_attn_attn_gate.tanh() * plain.head(cross.o_proj, 3, 8)
    return {
        "projector -> L1.xkv0.k": plain.effect((cross.k_proj, "out", part(keys, 0, 8))),
        "projector -> L3.xkv1.v": plain.effect((layers[3].cross_attn.v_proj, "out", part(values, 1, 8))),
        "L2.h1 -> L3.x2.q": plain.effect((last.cross_attn.q_proj, "out", part(queries, 2, 8))),
        "L1.x3 -> L2.mlp": plain.effect((layers[2].post_attention_layernorm, "in", plus(written))),
    }


def idefics(plain: Plain) -> dict[str, torch.Tensor]:
    first = plain.bare.model.gated_cross_attn_layers[0]
    values = plain.seen(plain.corrupted, first.cross_attn.v_proj, "out")
    # positions in front of the picture get nothing
    seen = plain.clean["image_attention_mask"].bool().any(-1)[..., None]
    written = first.alpha_cross_attn.tanh() * plain.head(first.cross_attn.o_proj, 2, 8) * seen
    return {
        "projector -> cross_blocks.L0.x1.v": plain.effect((first.cross_attn.v_proj, "out", part(values, 1, 8))),
        "cross_blocks.L0.x2 -> L0.mlp": plain.effect(
            (plain.bare.model.layers[0].post_attention_layernorm, "in", plus(written))
        ),
    }


def instructblip_t5(plain: Plain) -> dict[str, torch.Tensor]:
    encoder, decoder = plain.bare.language_model.encoder, plain.bare.language_model.decoder
    written = plain.head(encoder.block[0].layer[0].SelfAttention.o, 1, 6)
    first, second = decoder.block[0].layer, decoder.block[1].layer
    keys = plain.seen(plain.corrupted, first[1].EncDecAttention.k, "out")
    crossed = plain.head(first[1].EncDecAttention.o, 1, 6)
    stream = plain.seen(plain.clean, second[1].layer_norm, "in")
    queries = second[1].EncDecAttention.q(second[1].layer_norm(stream + crossed))
    return {
        "encoder.blocks.L0.h1 -> encoder.ln_final": plain.effect((encoder.final_layer_norm, "in", plus(written))),
        "encoder.ln_final -> L0.x3.k": plain.effect((first[1].EncDecAttention.k, "out", part(keys, 3, 6))),
        "L0.x1 -> L1.x2.q": plain.effect((second[1].EncDecAttention.q, "out", part(queries, 2, 6))),
        "L0.x1 -> L0.mlp": plain.effect((first[2].layer_norm, "in", plus(crossed))),
    }


def florence2(plain: Plain) -> dict[str, torch.Tensor]:
    encoder, decoder = plain.bare.model.language_model.encoder.layers, plain.bare.model.language_model.decoder.layers
    first, second = encoder
    written = plain.head(first.self_attn.out_proj, 1, 8)
    values = plain.seen(plain.corrupted, second.self_attn.v_proj, "out")  # nothing but the norm writes what they read
    keys = plain.seen(plain.corrupted, decoder[1].encoder_attn.k_proj, "out")
    later = plain.head(decoder[1].self_attn.out_proj, 2, 8)
    crossed = plain.head(decoder[1].encoder_attn.out_proj, 3, 8)
    queries = plain.seen(plain.corrupted, decoder[2].encoder_attn.q_proj, "out")
    return {
        "encoder.blocks.L0.h1 -> encoder.blocks.L0.ln_mid": plain.effect(
            (first.self_attn_layer_norm, "in", plus(written))
        ),
        "encoder.blocks.L0.ln_mid -> encoder.blocks.L0.mlp": plain.effect(
            (first.fc1, "in", plus(plain.moved(first.fc1, "in")))
        ),
        "encoder.blocks.L0.ln_mid -> encoder.blocks.L0.ln_post": plain.effect(
            (first.final_layer_norm, "in", plus(plain.moved(first.self_attn_layer_norm, "out")))
        ),
        "encoder.blocks.L0.ln_post -> encoder.blocks.L1.h2.v": plain.effect(
            (second.self_attn.v_proj, "out", part(values, 2, 8))
        ),
        "encoder.blocks.L1.ln_post -> L1.x3.k": plain.effect((decoder[1].encoder_attn.k_proj, "out", part(keys, 3, 8))),
        "L1.h2 -> L1.ln_cross": plain.effect((decoder[1].self_attn_layer_norm, "in", plus(later))),
        "L1.x3 -> L1.ln_mid": plain.effect((decoder[1].encoder_attn_layer_norm, "in", plus(crossed))),
        "L2.ln_cross -> L2.x0.q": plain.effect((decoder[2].encoder_attn.q_proj, "out", part(queries, 0, 8))),
        "L2.ln_mid -> L2.ln_post": plain.effect(
            (decoder[2].final_layer_norm, "in", plus(plain.moved(decoder[2].encoder_attn_layer_norm, "out")))
        ),
    }


def gemma3(plain: Plain) -> dict[str, torch.Tensor]:
    first, second, _ = plain.bare.model.language_model.layers
    width = first.self_attn.head_dim
    written = plain.head(first.self_attn.o_proj, 1, width)
    added = plain.moved(first.post_attention_layernorm, "out")
    stream = plain.seen(plain.clean, second.input_layernorm, "in")
    queries = second.self_attn.q_proj(second.input_layernorm(stream + added))
    return {
        "L0.h1 -> L0.ln_attn": plain.effect((first.post_attention_layernorm, "in", plus(written))),
        "L0.ln_attn -> L0.mlp": plain.effect((first.pre_feedforward_layernorm, "in", plus(added))),
        "L0.ln_attn -> L1.h2.q": plain.effect((second.self_attn.q_proj, "out", part(queries, 2, width))),
    }


REFERENCES = [qwen3_vl, aya_vision, mllama, idefics, instructblip_t5, florence2, gemma3]


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda function: function.__name__)
@torch.no_grad()
def test_single_edges_equal_plain_hooks_on_bare_modules(reference: Callable[[Plain], dict[str, torch.Tensor]]) -> None:
    pair, plain = pair_on(reference.__name__), Plain(reference.__name__)
    torch.testing.assert_close(plain.run(plain.corrupted), pair.ends[1], rtol=0, atol=1e-9)
    for edge, expected in reference(plain).items():
        found = pair.run(mask_of(pair, edge)) - pair.ends[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9, msg=lambda text, edge=edge: f"{edge}: {text}")
        assert float(expected.abs().max()) > 1e-4, f"{edge}: the comparison could not fail"


@pytest.mark.parametrize("name", [reference.__name__ for reference in REFERENCES])
def test_attribution_is_the_slope_of_the_exact_runs(name: str) -> None:
    model, clean, other = made(name)
    pixels = clean["pixel_values"] + 1e-3 * (other["pixel_values"] - clean["pixel_values"])
    near = replace(clean, inputs={**clean.inputs, "pixel_values": pixels})
    graph = edge_graph(model, [clean], nodes="head", groups=GROUPS, towers=TOWERS[name])  # type: ignore[arg-type]
    pair = graph_pairs(model, clean, near, graph, METRIC)[0]
    scores = EAP().scores(pair, progress=False)
    chosen = graph.allowed.nonzero()
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(1))[:12]].tolist()
    # and every kind of place where a stream is read, from the first writer that reaches it
    kinds = {(reader.kind, reader.at.rpartition(".")[2], reader.attn.rpartition(".")[2]): number
             for number, reader in enumerate(graph.readers) if graph.allowed[number].any()}  # fmt: skip
    chosen += [[number, int(graph.allowed[number].nonzero()[-1])] for number in kinds.values()]
    measured, estimated = [], []
    for reader, writer in chosen:
        mask = torch.zeros_like(graph.allowed)
        mask[reader, writer] = True
        measured.append(pair.run(mask) - pair.ends[0])
        estimated.append(scores[reader, writer])
    found, expected = torch.stack(estimated).double(), torch.stack(measured)
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-3 * largest)
    assert (expected.abs() > 0.02 * largest).sum() > 5, "the comparison could not fail"


PATHS: list[tuple[str, str, dict[str, Any], str]] = [
    ("qwen3_vl", "projector.deepstack.0 -> L2.kv1.k", {"at": "projector.deepstack.0.hook_out"}, "blocks.2.attn.hook_k[h1]"),
    ("aya_vision", "L0.h1 -> L1.mlp", {"units": [Head(0, 1)]}, "blocks.1.mlp.hook_post"),
    ("aya_vision", "L0.h1 -> logits", {"units": [Head(0, 1)]}, "hook_logits"),
    ("mllama", "projector -> L3.xkv1.v", {"at": "projector.hook_out"}, "blocks.3.cross_attn.hook_v[h1]"),
    ("mllama", "L2.h1 -> L3.x2.q", {"units": [Head(2, 1)]}, "blocks.3.cross_attn.hook_q[h2]"),
    ("idefics", "vision.L0.mlp -> projector", {"at": "vision.blocks.0.hook_mlp_out"}, "projector.hook_in"),
    ("instructblip_t5", "L0.mlp -> L2.x3.q", {"at": "blocks.0.hook_mlp_out"}, "blocks.2.cross_attn.hook_q[h3]"),
    ("instructblip_t5", "encoder.blocks.L0.mlp -> encoder.ln_final", {"at": "encoder.blocks.0.hook_mlp_out"},
     "encoder.ln_final.hook_out"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "edge", "sender", "receiver"), PATHS, ids=[f"{each[0]} {each[1]}" for each in PATHS])
def test_single_edges_equal_the_three_runs_of_path_patching(
    name: str, edge: str, sender: dict[str, Any], receiver: str
) -> None:
    pair = pair_on(name)
    found = pair.run(mask_of(pair, edge)) - pair.ends[0]
    paths = path_patch(pair.model, pair.clean, pair.corrupted, to=receiver, metric=METRIC, progress=False, **sender)
    torch.testing.assert_close(found, paths.effect[0, 0].double(), rtol=0, atol=1e-6)
    assert float(found.abs().max()) > 1e-4, "the comparison could not fail"


def test_a_path_that_is_held_everywhere_is_refused() -> None:
    model, clean, corrupted = made("instructblip_t5")
    asked: dict[str, Any] = {"metric": METRIC, "progress": False, "at": "encoder.blocks.0.hook_mlp_out"}
    with pytest.raises(
        InputError,
        match=r"Every path from encoder.blocks.0.hook_mlp_out to hook_logits leads through a branch that is held, so that "
        r"nothing would arrive. .* to=\['blocks.0.cross_attn.hook_k', 'blocks.0.cross_attn.hook_v'\]",
    ):
        path_patch(model, clean, corrupted, to="hook_logits", **asked)
    ways = [f"blocks.{layer}.cross_attn.hook_{kind}" for layer in range(3) for kind in "kv"]
    found = path_patch(model, clean, corrupted, to=ways, **asked)
    assert float(found.effect.abs().min()) > 1e-3


def test_a_circuit_of_such_a_model_is_measured() -> None:
    model, clean, corrupted = made("instructblip_t5")
    whole = find_circuit(model, (clean, corrupted), metric=METRIC, method="eap", nodes="attention", progress=False)
    result = evaluate_circuit(model, whole, (clean, corrupted), metric=METRIC, n_random=0, n_edges=0, progress=False)
    torch.testing.assert_close(result.faithfulness.mean(), torch.tensor(1.0).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(result.completeness.mean(), torch.tensor(1.0).double(), rtol=0, atol=1e-6)
    some = evaluate_circuit(
        model, whole.strongest(60), (clean, corrupted), metric=METRIC, n_random=3, n_edges=1, progress=False
    )
    assert some.random_faithfulness.shape == (3, 2)
    assert some.n_edges == int(whole.strongest(60).kept.sum())
    assert 0 < abs(float(some.faithfulness.mean())) != 1


def test_who_reads_whom() -> None:
    edges = {
        name: {
            f"{pair.graph.writers[w].name} -> {pair.graph.readers[r].name}"
            for r, w in pair.graph.allowed.nonzero().tolist()
        }
        for name in TOWERS
        for pair in [pair_on(name)]
    }
    for pair in map(pair_on, TOWERS):  # heads are called what units print, and are the model's
        heads = [writer for writer in pair.graph.writers if writer.unit is not None]
        assert [writer.name for writer in heads] == list(map(str, Units.of([str(w.unit) for w in heads], pair.model)))
    assert "projector.deepstack.0 -> L1.h0.q" in edges["qwen3_vl"]
    assert "projector.deepstack.0 -> L0.mlp" not in edges["qwen3_vl"]  # it enters behind the first block
    assert "vision.L1.mlp -> projector.deepstack.0" not in edges["qwen3_vl"]
    assert "L1.h0 -> L1.mlp" not in edges["aya_vision"]  # side by side
    assert {"L0.mlp -> L1.x0.q", "projector -> L1.xkv0.v"} <= edges["mllama"]
    assert not any(edge.startswith("L0.") and ".xkv" in edge for edge in edges["mllama"])
    assert {"cross_blocks.L0.mlp -> L0.h0.q", "L1.mlp -> cross_blocks.L1.x0.q"} <= edges["idefics"]
    assert {"L0.h0 -> L0.x0.q", "L0.x0 -> L0.mlp", "encoder.ln_final -> L1.x0.v"} <= edges["instructblip_t5"]
    assert not any(edge.startswith("encoder.blocks.L") and " -> L" in edge for edge in edges["instructblip_t5"])
    assert {"L0.ln_post -> L1.h0.q", "L0.ln_post -> L1.ln_cross", "encoder.blocks.L1.ln_post -> L1.x0.k"} <= edges[
        "florence2"
    ]
    assert {"embed[decoder] -> L0.ln_cross", "L2.ln_post -> logits"} <= edges["florence2"]
    assert not any(edge.startswith("L0.h0 -> L1.") for edge in edges["florence2"])  # a norm lies between
    assert [edge for edge in edges["gemma3"] if edge.startswith("L0.h0 ->")] == ["L0.h0 -> L0.ln_attn"]


@pytest.mark.parametrize("name", ["qwen3_vl", "instructblip_t5"])
def test_a_circuit_of_such_a_model_is_drawn_and_comes_back_from_its_file(name: str, tmp_path: Any) -> None:
    model, clean, corrupted = made(name)
    found = find_circuit(model, (clean, corrupted), metric=METRIC, method="eap", nodes="attention", progress=False)
    assert set(found.graph.inputs) <= set(found.nodes)
    svg = found.draw(n=200).svg
    assert all(f"<title>{node}</title>" in svg for node in found.nodes)
    assert ("encoder block 0" in svg) == (name == "instructblip_t5")
    found.save(tmp_path / "circuit.json")
    read = type(found).load(tmp_path / "circuit.json")
    assert (read.graph.writers, read.graph.readers) == (found.graph.writers, found.graph.readers)
    torch.testing.assert_close(read.scores, found.scores)


def test_texts_alone_have_circuits_of_the_language_model(qwen: Subject) -> None:
    model = qwen.model
    pair = tuple(model.prepare(f"what color is the {word}") for word in ("circle", "image"))
    asked = {"metric": METRIC, "method": "eap", "nodes": "attention", "progress": False}
    with pytest.raises(InputError, match=r"\[0\] hold no picture.*towers='language', groups=\('text', 'last'\)"):
        find_circuit(model, pair, **asked)
    found = find_circuit(model, pair, towers="language", groups=("text", "last"), **asked)
    assert not any(writer.name.startswith(("vision", "projector")) for writer in found.graph.writers)
    exact = find_circuit(model, pair, towers="language", groups=("text", "last"), **{**asked, "method": "exact"})
    assert exact.scores.abs().max() > 0.1
    with pytest.raises(InputError, match="found none"):
        find_circuit(model, [], **asked)
