"""Weights under TransformerLens's names, recomputing what the hook points hold."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from mmlens.architectures.weights import readable
from mmlens.core.errors import InputError, UnsupportedModelError
from tests.conftest import Subject
from tests.families.encoder_decoder import florence2, with_t5
from tests.families.query_like import blip_2
from tests.tiny import TINY, instructblip

PARTS = ("vision", "language")


def prefix(part: str) -> str:
    return "" if part == "language" else f"{part}."


@pytest.mark.parametrize("part", PARTS)
@torch.no_grad()
def test_queries_keys_and_values_from_the_stream_through_ln1(subject: Subject, part: str) -> None:
    """Where no rotary embedding turns them: values everywhere, queries and keys in CLIP, SigLIP and BLIP towers."""
    model = subject.model
    _, cache = model.run_with_cache(subject.batches["left"])
    for layer, block in enumerate(model.part(part).blocks):  # type: ignore[arg-type]
        stem = f"{prefix(part)}blocks.{layer}."
        assert block.ln1 is not None
        stream = block.ln1(cache[f"{stem}hook_resid_pre"])
        for kind, weight, bias in (
            ("q", block.attn.W_Q, block.attn.b_Q),
            ("k", block.attn.W_K, block.attn.b_K),
            ("v", block.attn.W_V, block.attn.b_V),
        ):
            expected = torch.einsum("...pd,hde->...phe", stream, weight) + bias
            torch.testing.assert_close(cache[f"{stem}attn.hook_{kind}"], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rotation_keeps_the_length_of_queries_and_keys(subject: Subject) -> None:
    """Rotary embeddings turn queries and keys and keep their length."""
    model = subject.model
    _, cache = model.run_with_cache(subject.batches["left"])
    for part in ("language", "vision") if subject.name == "qwen2_vl" else ("language",):
        for layer, block in enumerate(model.part(part).blocks):  # type: ignore[arg-type]
            stem = f"{prefix(part)}blocks.{layer}."
            assert block.ln1 is not None
            stream = block.ln1(cache[f"{stem}hook_resid_pre"])
            for kind, weight, bias in (("q", block.attn.W_Q, block.attn.b_Q), ("k", block.attn.W_K, block.attn.b_K)):
                expected = (torch.einsum("...pd,hde->...phe", stream, weight) + bias).norm(dim=-1)
                torch.testing.assert_close(
                    cache[f"{stem}attn.hook_rot_{kind}"].norm(dim=-1), expected, atol=1e-4, rtol=1e-4
                )


@pytest.mark.parametrize("part", PARTS)
@torch.no_grad()
def test_heads_as_circuits(subject: Subject, part: str) -> None:
    """What a head writes is its pattern over the normed stream through OV; what it looks for is QK, where nothing is rotated."""
    model = subject.model
    view = model.part(part)  # type: ignore[arg-type]
    stem = f"{prefix(part)}blocks.1."
    wanted = [
        f"{stem}{kind}" for kind in ("attn.hook_pattern", "attn.hook_attn_scores", "hook_resid_pre", "hook_attn_out")
    ]
    _, cache = model.run_with_cache(subject.batches["left"], names=wanted)
    block = view.blocks[1]
    assert block.ln1 is not None
    assert block.attn is not None
    stream = block.ln1(cache[f"{stem}hook_resid_pre"])
    pattern = cache[f"{stem}attn.hook_pattern"]
    moved = torch.einsum("...hqk,...kd,hde->...qe", pattern, stream, view.OV[1].AB)
    biases = torch.einsum("hd,hde->e", view._every_head(block.attn.b_V[None])[0], block.attn.W_O) + block.attn.b_O
    seen = pattern.sum(-1)[..., 0, :] > 0.5  # padding looks at nothing
    torch.testing.assert_close((moved + biases)[seen], cache[f"{stem}hook_attn_out"][seen], atol=1e-5, rtol=1e-4)
    if part == "vision" and subject.name != "qwen2_vl":  # nothing is rotated
        q, k = (torch.einsum("...pd,hde->...hpe", stream, weight) for weight in (block.attn.W_Q, block.attn.W_K))
        b_q, b_k = block.attn.b_Q[:, None], block.attn.b_K[:, None]
        scores = torch.einsum("...qd,hde,...ke->...hqk", stream, view.QK[1].AB, stream)
        scores = scores + q @ b_k.transpose(-2, -1) + b_q @ (k + b_k).transpose(-2, -1)
        torch.testing.assert_close(
            cache[f"{stem}attn.hook_attn_scores"], scores / view.cfg.d_head**0.5, atol=1e-4, rtol=1e-4
        )
    assert view.QK.shape == view.OV.shape == (view.cfg.n_layers, view.cfg.n_heads, view.cfg.d_model, view.cfg.d_model)


@pytest.mark.parametrize("part", PARTS)
@torch.no_grad()
def test_branches_from_their_inner_points(subject: Subject, part: str) -> None:
    model = subject.model
    _, cache = model.run_with_cache(subject.batches["left"])
    view = model.part(part)  # type: ignore[arg-type]
    for layer, block in enumerate(view.blocks):
        stem = f"{prefix(part)}blocks.{layer}."
        attn = torch.einsum("...phe,hed->...pd", cache[f"{stem}attn.hook_z"], block.attn.W_O) + block.attn.b_O
        torch.testing.assert_close(attn, cache[f"{stem}hook_attn_out"], atol=1e-5, rtol=1e-5)
        mlp = cache[f"{stem}mlp.hook_post"] @ block.mlp.W_out + block.mlp.b_out
        torch.testing.assert_close(mlp, cache[f"{stem}hook_mlp_out"], atol=1e-5, rtol=1e-5)
        assert block.ln2 is not None
        stream = block.ln2(cache[f"{stem}hook_resid_mid"])
        pre = stream @ block.mlp.W_in + block.mlp.b_in
        if view.cfg.gated_mlp:
            gate = stream @ block.mlp.W_gate
            torch.testing.assert_close(gate, cache[f"{stem}mlp.hook_pre"], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                cache[f"{stem}mlp.hook_act"] * pre, cache[f"{stem}mlp.hook_post"], atol=1e-5, rtol=1e-5
            )
        else:
            torch.testing.assert_close(pre, cache[f"{stem}mlp.hook_pre"], atol=1e-5, rtol=1e-5)
            assert torch.equal(cache[f"{stem}mlp.hook_act"], cache[f"{stem}mlp.hook_post"])


@torch.no_grad()
def test_norm_scales_divide_the_stream(subject: Subject) -> None:
    model = subject.model
    _, cache = model.run_with_cache(subject.batches["left"])
    for part in PARTS:
        for layer, block in enumerate(model.part(part).blocks):  # type: ignore[arg-type]
            stem = f"{prefix(part)}blocks.{layer}."
            for norm, stream, scale in (
                (block.ln1, cache[f"{stem}hook_resid_pre"], cache[f"{stem}ln1.hook_scale"]),
                (block.ln2, cache[f"{stem}hook_resid_mid"], cache[f"{stem}ln2.hook_scale"]),
            ):
                assert norm is not None
                centred = stream - stream.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else stream
                bias = getattr(norm, "bias", None)
                expected = centred / scale * norm.weight + (0 if bias is None else bias)
                torch.testing.assert_close(norm(stream), expected, atol=1e-5, rtol=1e-5)


def test_stacks_and_shapes(subject: Subject) -> None:
    model = subject.model
    for part in PARTS:
        view = model.part(part)  # type: ignore[arg-type]
        cfg = view.cfg
        assert view.W_Q.shape == (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_head)
        assert view.W_K.shape == view.W_V.shape == (cfg.n_layers, cfg.n_key_value_heads, cfg.d_model, cfg.d_head)
        assert view.W_O.shape == (cfg.n_layers, cfg.n_heads, cfg.d_head, cfg.d_model)
        assert view.W_out.shape == (cfg.n_layers, cfg.d_mlp, cfg.d_model)
        assert torch.equal(view.W_in[1], view.blocks[1].mlp.W_in)
        assert torch.equal(view.W_Q[-1], view.blocks[-1].attn.W_Q)
    assert model.cfg.n_key_value_heads == 2
    assert torch.equal(model.W_gate[0], model.blocks[0].mlp.W_gate)
    for name in ("W_in", "W_out", "W_Q", "W_K", "W_V", "W_O"):
        assert torch.equal(getattr(model, name), getattr(model.part("language"), name))


def test_single_weights_are_views_of_the_parameters(llava: Subject) -> None:
    layers = llava.model.hf_model.model.language_model.layers
    block = llava.model.blocks[1]
    assert block.mlp.W_out.data_ptr() == layers[1].mlp.down_proj.weight.data_ptr()
    assert block.attn.W_K.data_ptr() == layers[1].self_attn.k_proj.weight.data_ptr()
    assert llava.model.W_U.data_ptr() == llava.model.hf_model.lm_head.weight.data_ptr()


@torch.no_grad()
def test_embedding_and_unembedding(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    logits, cache = model.run_with_cache(batch)
    torch.testing.assert_close(cache["ln_final.hook_out"] @ model.W_U + model.b_U, logits, atol=1e-5, rtol=1e-5)
    text = batch.layout.is_token & ~batch.layout.is_image
    assert torch.equal(cache["hook_embed"][text], model.W_E[batch["input_ids"][text]])


def test_accumulated_bias_is_what_biases_add(blip: Subject) -> None:
    """By hand over a part that has biases."""
    view = blip.model.part("vision")
    blocks = view.blocks
    expected = blocks[0].attn.b_O + blocks[0].mlp.b_out + blocks[1].attn.b_O + blocks[1].mlp.b_out
    torch.testing.assert_close(view.accumulated_bias(2), expected)
    torch.testing.assert_close(view.accumulated_bias(1, mlp_input=True), expected - blocks[1].mlp.b_out)
    torch.testing.assert_close(
        view.accumulated_bias(2, include_mlp_biases=False), blocks[0].attn.b_O + blocks[1].attn.b_O
    )
    assert not view.accumulated_bias(0).any()
    assert not blip.model.accumulated_bias(3).any()  # Llama has none


def test_what_cannot_be_read(llava: Subject) -> None:
    with pytest.raises(InputError, match=r"^This MLP has no gate; its input weights are W_in\.$"):
        llava.model.part("vision").blocks[0].mlp.W_gate  # noqa: B018
    with pytest.raises(InputError, match=r"^The part 'projector' has no blocks\.$"):
        llava.model.part("projector").W_out  # noqa: B018
    quantised = nn.Linear(2, 2)
    quantised.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(
        UnsupportedModelError,
        match=r"^down_proj is quantised \(torch.uint8\) and cannot be read: .* Load the model in a floating dtype\.$",
    ):
        readable(quantised, "down_proj")


def test_a_weight_made_of_other_tensors_is_not_numbers() -> None:
    """As torchao and quanto keep codes and scales behind a floating dtype."""
    quantised = nn.Linear(2, 2)
    quantised.weight = nn.Parameter(TwoTensor(torch.zeros(2, 2), torch.ones(2, 2)), requires_grad=False)
    with pytest.raises(
        UnsupportedModelError, match=r"^down_proj is quantised \(TwoTensor of torch\) and cannot be read"
    ):
        readable(quantised, "down_proj")


def test_directions_raise_the_logit_of_their_token(llava: Subject) -> None:
    model = llava.model
    ids = torch.tensor([[3, 5], [7, 9]])
    directions = model.tokens_to_residual_directions(ids)
    assert directions.shape == (2, 2, model.cfg.d_model)
    assert torch.equal(directions[1, 0], model.W_U[:, 7] * model.ln_final.weight)
    assert torch.equal(
        model.tokens_to_residual_directions("red"), model.tokens_to_residual_directions(model.to_single_token("red"))
    )


def test_the_configuration_in_transformer_lens_terms(subject: Subject) -> None:
    text = subject.bare.config.text_config
    cfg = subject.model.cfg
    assert (cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.d_mlp) == (3, 32, 4, 48)
    assert (cfg.d_vocab, cfg.normalization_type, cfg.eps, cfg.act_fn) == (
        text.vocab_size,
        "RMS",
        text.rms_norm_eps,
        "silu",
    )
    vision = subject.model.part("vision").cfg
    assert (vision.normalization_type, vision.gated_mlp, vision.n_layers) == ("LN", False, 3)


@pytest.mark.parametrize(
    ("make", "language", "vision", "final_rms"),
    [
        (lambda: TINY[0].make(), "rotary", "standard", True),
        (lambda: TINY[2].make(), "rotary", "rotary", True),
        (blip_2, "standard", "standard", False),
        (florence2, "standard", "standard", False),
        (lambda: with_t5(instructblip, gated=False), "relative_positional_bias", "standard", True),
    ],
    ids=["llava", "qwen2_vl", "blip_2 (OPT)", "florence2 (BART)", "instructblip (T5)"],
)
def test_a_configuration_says_how_positions_are_known_and_how_the_end_is_normed(
    make: Callable[[], Any], language: str, vision: str, final_rms: bool
) -> None:
    """The architectures are what their papers say; the final norm is asked with rows that all have the same mean."""
    model = make()
    views = {part: model.part(part).cfg for part in ("language", "vision")}
    assert (views["language"].positional_embedding_type, views["vision"].positional_embedding_type) == (
        language,
        vision,
    )
    assert (views["language"].final_rms, views["vision"].final_rms) == (final_rms, False)
    if model.family.language.norm is not None:
        rows = torch.randn(4, views["language"].d_model)
        with torch.no_grad():
            centred = torch.allclose(model.ln_final(rows + 3), model.ln_final(rows), atol=1e-4)
        assert centred != final_rms
