"""Contract: a hook point is real. An edit there reaches the logits, and nothing but what the graph puts after it."""

from types import MethodType
from typing import Any

import pytest
import torch
from torch.nn.functional import layer_norm

from mmlens.hooks.nodes import Node
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import SHORT, Subject, bare_copy, rounded
from tests.tiny import TINY, Tiny, picture


def edit(node: Node) -> Any:
    """Adds seeded noise of the activation's own size."""

    def add(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        noise = torch.randn(activation.shape, generator=torch.Generator().manual_seed(1))
        size = activation.detach().clamp(min=-1e4).abs().float().mean().clamp(min=0.1)
        return activation + (noise * size).to(activation)

    return add


def values(model: HookedMultimodal, batch: Any, fwd_hooks: Any = ()) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and what every point holds, after the given hooks."""
    with model.hooks(fwd_hooks):
        logits, cache = model.run_with_cache(batch, names="*")
    return logits, dict(cache.items())


@torch.no_grad()
def test_an_identity_hook_leaves_the_logits_bit_equal(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    expected = subject.bare(**batch, use_cache=False).logits
    real, allowed = batch.layout.is_token, rounded(model, batch)
    for node in model.graph:
        logits = model.run_with_hooks(batch, fwd_hooks=[(node.name, lambda activation, hook: activation)])
        if node.on_request:  # attention is computed step by step there
            torch.testing.assert_close(logits[real], expected[real], atol=allowed, rtol=0, msg=node.name)
        else:
            assert torch.equal(logits, expected), node.name


def test_under_autograd_too_and_with_a_backward_hook_present(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    expected = subject.bare(**batch, use_cache=False).logits
    real, allowed = batch.layout.is_token, rounded(model, batch)
    for node in model.graph:
        gradients: list[torch.Tensor] = []
        hooks = {
            "fwd_hooks": [(node.name, lambda a, hook: a)],
            "bwd_hooks": [(node.name, lambda g, hook, gradients=gradients: gradients.append(g))],
        }
        with model.hooks(**hooks):
            logits = model(batch)
            if node.on_request:
                torch.testing.assert_close(logits[real], expected[real], atol=allowed, rtol=0, msg=node.name)
            else:
                assert torch.equal(logits, expected), node.name
            loss = logits[torch.arange(batch.size), batch.layout.last].pow(2).sum()
            loss.backward()
        flows = bool(gradients) and bool(gradients[0].abs().max() > 0)
        assert flows == (node.dead is None), (
            f"{node.name}: gradient {'flows' if flows else 'is missing'}, dead: {node.dead}"
        )
    model.hf_model.zero_grad()


@torch.no_grad()
def test_an_edit_in_place_is_the_same_as_a_returned_one(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    for node in model.graph:
        returned = edit(node)

        def in_place(activation: torch.Tensor, hook: Any, returned: Any = returned) -> None:
            activation.copy_(returned(activation, hook))

        expected_logits, expected = values(model, batch, [(node.name, returned)])
        logits, found = values(model, batch, [(node.name, in_place)])
        assert torch.equal(logits, expected_logits), node.name
        different = [name for name in expected if not torch.equal(found[name], expected[name])]
        assert not different, (node.name, different)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["left", "right", "several"])
def test_an_edit_moves_what_the_graph_puts_after_it_and_nothing_else(subject: Subject, kind: str) -> None:
    if kind not in subject.batches:
        pytest.skip(f"{subject.name} takes one picture per sample")
    model, batch = subject.model, subject.batches[kind]
    real = batch.layout.is_token
    clean_logits, clean = values(model, batch)
    assert list(clean) == model.graph.names
    for node in model.graph:
        logits, edited = values(model, batch, [(node.name, edit(node))])
        moved = {name for name in clean if not torch.equal(edited[name], clean[name])}
        after = set(model.graph.downstream(node.name).names)
        assert node.name in moved
        assert moved - {node.name} <= after, f"{node.name} moves {sorted(moved - after - {node.name})[:5]}"
        # a tensor can be read in part: of the stream that a Q-Former's last block ends in, only the queries go on
        must = after if node.dead is None else set(model.graph.digraph.successors(node.name))
        assert must <= moved, f"{node.name} does not move {sorted(must - moved)[:5]}"
        reaches = not torch.equal(logits[real], clean_logits[real])
        assert reaches == (node.dead is None), f"{node.name}: dead is {node.dead!r}"
        assert node.dead is not None or "hook_logits" in after | {node.name}


def test_the_gradient_at_every_live_point_is_there_for_forward_hooks(subject: Subject) -> None:
    """Attribution reads `activation.grad` in forward hooks, without backward hooks."""
    model, batch = subject.model, subject.batches["left"]
    held: dict[str, torch.Tensor] = {}

    def hold(activation: torch.Tensor, hook: Any) -> None:
        activation.retain_grad()
        held[hook.name] = activation

    with model.hooks([("*", hold)]):
        logits = model(batch)
    logits[torch.arange(batch.size), batch.layout.last].pow(2).sum().backward(inputs=list(held.values()))
    for node in model.graph:
        gradient = held[node.name].grad
        flows = gradient is not None and bool(gradient.abs().max() > 0)
        assert flows == (node.dead is None), node.name


KINDS_BY_DIFFERENCE = [
    "blocks.1.hook_resid_mid",
    "blocks.0.ln1.hook_scale",
    "blocks.1.ln2.hook_scale",
    "ln_final.hook_scale",
    "blocks.1.attn.hook_q",
    "blocks.1.attn.hook_k",
    "blocks.1.attn.hook_rot_q",
    "blocks.1.attn.hook_attn_scores",
    "blocks.1.attn.hook_pattern",
    "blocks.1.attn.hook_z",
    "blocks.1.mlp.hook_pre",
    "blocks.1.mlp.hook_post",
    "blocks.0.hook_attn_out",
    "projector.hook_in",
    "projector.hook_out",
    "vision.hook_embed",
    "vision.blocks.1.hook_resid_mid",
    "vision.blocks.1.ln1.hook_scale",
    "vision.blocks.1.attn.hook_attn_scores",
    "vision.blocks.1.mlp.hook_post",
]
QFORMER = [
    "projector.blocks.0.hook_resid_mid",
    "projector.blocks.0.hook_resid_cross",
    "projector.blocks.0.cross_attn.hook_pattern",
    "projector.blocks.1.mlp.hook_post",
]


def gradients_by_backward(
    model: HookedMultimodal, inputs: Any, names: list[str], *, keep: bool
) -> dict[str, torch.Tensor]:
    """Gradients of the loss at several points, by backward hooks or (keep) from what a forward hook was shown."""
    held: dict[str, torch.Tensor] = {}

    def hold(activation: torch.Tensor, hook: Any) -> None:
        activation.retain_grad()
        held[hook.name] = activation

    def keep_gradient(gradient: torch.Tensor, hook: Any) -> None:
        held[hook.name] = gradient

    with model.hooks(**{"fwd_hooks" if keep else "bwd_hooks": [(names, hold if keep else keep_gradient)]}):
        loss(model(inputs)).backward()
    model.hf_model.zero_grad()
    return {name: held[name].grad if keep else held[name] for name in names}  # type: ignore[misc]


def loss(logits: torch.Tensor) -> torch.Tensor:
    return torch.sin(logits[:, -1]).sum()


def in_float64(hf_model: Any) -> Any:
    """The model in float64; transformers' RMS norm would go through float32 on the way, so it is retyped here."""
    hf_model = hf_model.double()
    for module in hf_model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(
                lambda self, x: self.weight * x / (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).sqrt(),
                module,
            )
    return hf_model


@pytest.fixture(scope="module", params=TINY, ids=lambda tiny: tiny.name)
def double(request: pytest.FixtureRequest) -> tuple[HookedMultimodal, dict[str, torch.Tensor], list[str]]:
    """A float64 model, its inputs, and the points to try."""
    tiny: Tiny = request.param
    own = tiny.make()
    model = HookedMultimodal.from_hf(in_float64(bare_copy(own)), own.processor)
    batch = own.prepare(SHORT, images=picture(3))
    inputs = {name: t.double() if t.is_floating_point() else t for name, t in batch.items()}
    names = KINDS_BY_DIFFERENCE + (QFORMER if tiny.name == "instructblip" else [])
    return model, inputs, names


@pytest.mark.parametrize("keep", [False, True], ids=["backward hooks", "forward hooks"])
def test_gradients_agree_with_finite_differences_in_float64(double: Any, keep: bool) -> None:
    model, inputs, names = double
    gradients = gradients_by_backward(model, inputs, names, keep=keep)
    for name in names:
        gradient = gradients[name]
        direction = torch.randn(gradient.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        if name.endswith("attn_scores"):
            direction = direction * (gradient != 0)  # masked scores are at the lowest number there is

        def shifted(step: float, name: str = name, direction: torch.Tensor = direction) -> float:
            with torch.no_grad():
                return float(
                    loss(model.run_with_hooks(inputs, fwd_hooks=[(name, lambda a, hook: a + step * direction)]))
                )

        # Qwen2-VL's vision rotary embedding goes through float32, whose rounding a small step would drown in
        through_float32 = model.family.name == "qwen2_vl" and name.startswith("vision")
        step = 3e-4 if through_float32 else 1e-5
        measured = (shifted(step) - shifted(-step)) / (2 * step)
        expected = float((gradient * direction).sum())
        assert measured == pytest.approx(expected, rel=5e-3 if through_float32 else 1e-4, abs=1e-7), name


def test_a_stream_that_is_overwritten_by_a_constant_passes_no_gradient_on(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    held: list[torch.Tensor] = []

    def hold(activation: torch.Tensor, hook: Any) -> None:
        activation.retain_grad()
        held.append(activation)

    hooks = [("blocks.1.hook_resid_pre", hold), ("blocks.1.hook_resid_mid", lambda a, hook: torch.ones_like(a))]
    with model.hooks(hooks):
        logits = model(batch)
    logits.sum().backward()
    model.hf_model.zero_grad()
    assert held[0].grad is not None
    assert not held[0].grad.any()


def zeroed(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    return torch.zeros_like(activation)


@torch.no_grad()
def test_in_pre_norm_blocks_a_zeroed_resid_mid_leaves_the_mlp_alone_in_the_stream(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    for node in model.graph.select(kind="resid_mid", where=lambda n: n.part != "projector"):
        stem = node.name.removesuffix("hook_resid_mid")
        _, after = values(model, batch, [(node.name, zeroed)])
        torch.testing.assert_close(after[f"{stem}hook_resid_post"], after[f"{stem}hook_mlp_out"], atol=1e-6, rtol=0)


@torch.no_grad()
def test_in_the_q_former_the_stream_is_the_norm_of_stream_plus_branch(blip: Subject) -> None:
    model, batch = blip.model, blip.batches["left"]
    n_queries = model.config.num_query_tokens
    for layer, block in enumerate(blip.bare.qformer.encoder.layer):
        stem, norm = f"projector.blocks.{layer}.", block.output_query.LayerNorm
        for change in ((), [(f"{stem}hook_resid_mid", zeroed)]):
            _, found = values(model, batch, change)
            stream = found[f"{stem}hook_resid_mid"][:, :n_queries] + found[f"{stem}hook_mlp_out"]
            expected = layer_norm(stream, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            torch.testing.assert_close(found[f"{stem}hook_resid_post"][:, :n_queries], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
@torch.no_grad()
def test_the_vision_layer_that_is_read_can_be_edited_after_hugging_face_installed_its_own_recorders(tiny: Tiny) -> None:
    own = tiny.make()
    bare = bare_copy(own)
    batch = own.prepare(SHORT, images=picture(0))
    bare(**batch, output_hidden_states=True)  # installs the hooks that record hidden states
    model = HookedMultimodal.from_hf(bare, own.processor)
    clean = model(batch)
    for name in model.graph.select(kind="resid_post", part="vision", where=lambda node: node.dead is None).names:
        edited = model.run_with_hooks(batch, fwd_hooks=[(name, zeroed)])
        assert (edited - clean).abs().max() > 1e-3, name


@torch.no_grad()
def test_streams_are_the_sums_of_what_is_written_to_them(subject: Subject) -> None:
    """In pre-norm towers: resid_mid is resid_pre + attn_out, resid_post is resid_mid + mlp_out, and the next pre."""
    _, found = values(subject.model, subject.batches["left"])
    for part in ("vision.", ""):
        depth = sum(name.startswith(f"{part}blocks.") and name.endswith("hook_resid_pre") for name in found)
        for layer in range(depth):
            stem = f"{part}blocks.{layer}.hook_"
            assert torch.equal(found[stem + "resid_mid"], found[stem + "resid_pre"] + found[stem + "attn_out"])
            assert torch.equal(found[stem + "resid_post"], found[stem + "resid_mid"] + found[stem + "mlp_out"])
            if layer + 1 < depth:
                assert torch.equal(found[stem + "resid_post"], found[f"{part}blocks.{layer + 1}.hook_resid_pre"])


@torch.no_grad()
def test_what_the_points_hold_is_what_hugging_face_returns(subject: Subject) -> None:
    """The language model's streams and patterns against `output_hidden_states`, `output_attentions` of bare eager."""
    batch = subject.batches["left"]
    _, found = values(subject.model, batch)
    eager = bare_copy(subject.model, "eager")
    out = eager(**batch, use_cache=False, output_hidden_states=True, output_attentions=True)
    inner = getattr(out, "language_model_outputs", None) or out
    depth = subject.model.cfg.n_layers
    real, allowed = batch.layout.is_token, rounded(subject.model, batch)
    for layer in range(depth):
        stream = found[f"blocks.{layer}.hook_resid_pre"][real]
        torch.testing.assert_close(stream, inner.hidden_states[layer][real], atol=allowed, rtol=1e-5)
        pattern = found[f"blocks.{layer}.attn.hook_pattern"].transpose(1, 2)[real]
        torch.testing.assert_close(pattern, inner.attentions[layer].transpose(1, 2)[real], atol=allowed, rtol=1e-5)
    torch.testing.assert_close(
        found["ln_final.hook_out"][real], inner.hidden_states[depth][real], atol=allowed, rtol=1e-5
    )
