"""Contract: TransformerLens's own tools run on a hooked model with the picture present, and give the right numbers."""

from typing import Any

import pytest
import torch
from transformer_lens import patching
from transformer_lens.model_protocol import TransformerLensModelWithWeights
from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution
from transformer_lens.tools.analysis.logit_lens import logit_lens

from mmlens.analysis.patching.sweep import patch
from mmlens.core.errors import InputError
from tests.conftest import Subject
from tests.tiny import picture

TEXTS = ["what color is the red circle", "what color is the blue circle"]


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[0, -1, 20] - logits[0, -1, 21]


def test_the_protocol_is_met(subject: Subject) -> None:
    assert isinstance(subject.model, TransformerLensModelWithWeights)
    assert isinstance(subject.model.bind(subject.batches["left"]), TransformerLensModelWithWeights)


@torch.no_grad()
def test_patching_with_the_picture_equals_a_plain_loop(subject: Subject) -> None:
    model = subject.model
    grids = []
    for seed in (0, 1):
        clean, corrupted = (model.prepare(text, images=picture(seed)) for text in TEXTS)
        bound = model.bind(corrupted)
        _, cache = model.run_with_cache(clean)
        grid = patching.get_act_patch_resid_pre(bound, corrupted["input_ids"], cache, metric)
        for layer in range(model.cfg.n_layers):
            name = f"blocks.{layer}.hook_resid_pre"
            for pos in range(corrupted["input_ids"].shape[1]):

                def put(
                    activation: torch.Tensor, hook: Any, pos: int = pos, name: str = name, cache: Any = cache
                ) -> torch.Tensor:
                    activation = activation.clone()
                    activation[:, pos] = cache[name][:, pos]
                    return activation

                plain = metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, put)]))
                torch.testing.assert_close(grid[layer, pos], plain, atol=1e-6, rtol=0)
        grids.append(grid)
    # the same texts: if the picture were ignored, the grids would be equal
    assert (grids[0] - grids[1]).abs().max() > 1e-2


@torch.no_grad()
def test_our_sweep_gives_the_same_grid(subject: Subject) -> None:
    """Another text and another picture in the corrupted run: every layer and position, to the last cell."""
    model = subject.model
    clean, corrupted = (model.prepare(text, images=picture(seed)) for seed, text in enumerate(TEXTS))
    _, cache = model.run_with_cache(clean)
    theirs = patching.get_act_patch_resid_pre(model.bind(corrupted), corrupted["input_ids"], cache, metric)
    ours = patch(
        model,
        clean,
        corrupted,
        at="blocks.*.hook_resid_pre",
        positions="each",
        metric=lambda logits: logits[:, 20] - logits[:, 21],
        progress=False,
    )
    torch.testing.assert_close(ours.values[..., 0], theirs.cpu(), atol=1e-5, rtol=0)
    assert ours.effect.abs().max() > 0.1, "the comparison could not fail"
    assert not torch.allclose(ours.values[:, 1:, 0], theirs.cpu()[:, :-1], atol=1e-5), "a shifted grid should be caught"


@pytest.mark.parametrize("tool", ["attn_out", "mlp_out", "resid_mid"])
@torch.no_grad()
def test_the_other_stream_patches_run_bound_too(llava: Subject, tool: str) -> None:
    model = llava.model
    clean, corrupted = (model.prepare(text, images=picture(0)) for text in TEXTS)
    _, cache = model.run_with_cache(clean)
    run = getattr(patching, f"get_act_patch_{tool}")
    grid = run(model.bind(corrupted), corrupted["input_ids"], cache, metric)
    name = f"blocks.1.hook_{tool}"
    last = corrupted["input_ids"].shape[1] - 1

    def put(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([activation[:, :last], cache[name][:, last:]], dim=1)

    torch.testing.assert_close(
        grid[1, last], metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, put)])), atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_head_patches_run_bound_too(llava: Subject) -> None:
    model = llava.model
    clean, corrupted = (model.prepare(text, images=picture(0)) for text in TEXTS)
    _, cache = model.run_with_cache(clean, names="*")
    grid = patching.get_act_patch_attn_head_out_all_pos(model.bind(corrupted), corrupted["input_ids"], cache, metric)
    pattern = patching.get_act_patch_attn_head_pattern_all_pos(
        model.bind(corrupted), corrupted["input_ids"], cache, metric
    )
    for layer, head in ((0, 1), (2, 3)):
        for found, kind, axis in ((grid, "z", 2), (pattern, "pattern", 1)):

            def put(activation: torch.Tensor, hook: Any, head: int = head, axis: int = axis) -> torch.Tensor:
                index = torch.tensor([head])
                return activation.index_copy(axis, index, cache[hook.name].index_select(axis, index))

            plain = metric(model.run_with_hooks(corrupted, fwd_hooks=[(f"blocks.{layer}.attn.hook_{kind}", put)]))
            torch.testing.assert_close(found[layer, head], plain, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_last_entry_of_the_logit_lens_is_the_logits(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    bound = model.bind(batch)
    expected = subject.bare(**batch, use_cache=False).logits
    found = logit_lens(bound, batch["input_ids"], positions=None)
    assert found.labels[-1] == "final_post"
    torch.testing.assert_close(found.values[-1], expected, atol=1e-5, rtol=1e-5)
    # an earlier entry: the stream through the final norm and the unembedding, by hand
    _, cache = model.run_with_cache(batch, names="blocks.1.hook_resid_pre")
    by_hand = model.ln_final(cache["resid_pre", 1]) @ model.W_U
    torch.testing.assert_close(found.values[found.labels.index("1_pre")], by_hand, atol=1e-5, rtol=1e-5)
    _, whole = model.run_with_cache(batch)
    torch.testing.assert_close(whole.logit_lens(positions=None).values[-1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("unit", ["component", "head"])
@torch.no_grad()
def test_direct_attributions_sum_to_the_logit(subject: Subject, unit: str) -> None:
    """The language models here end in an RMS norm, which neither shifts nor centres: the sum is the logit itself."""
    model, batch = subject.model, subject.batches["left"]
    expected = subject.bare(**batch, use_cache=False).logits[:, -1]
    found = direct_logit_attribution(model.bind(batch), batch["input_ids"], "circle", unit=unit)
    token = model.to_single_token("circle")
    torch.testing.assert_close(found.attribution.sum(0), expected[:, token], atol=1e-4, rtol=1e-4)
    difference = direct_logit_attribution(model.bind(batch), batch["input_ids"], "circle", "red", unit=unit)
    gap = expected[:, token] - expected[:, model.to_single_token("red")]
    torch.testing.assert_close(difference.attribution.sum(0), gap, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_layer_attributions_end_with_the_logit(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    expected = subject.bare(**batch, use_cache=False).logits[:, -1, model.to_single_token("circle")]
    found = direct_logit_attribution(model.bind(batch), batch["input_ids"], "circle", unit="layer")
    torch.testing.assert_close(found.attribution[-1], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_residual_stream_is_the_sum_of_its_parts(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    _, cache = model.run_with_cache(batch)
    depth = model.cfg.n_layers
    final = cache["resid_post", depth - 1]
    parts, labels = cache.decompose_resid(return_labels=True)
    assert labels == ["embed"] + [f"{layer}_{kind}_out" for layer in range(depth) for kind in ("attn", "mlp")]
    torch.testing.assert_close(parts.sum(0), final, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cache.decompose_resid(2).sum(0), cache["resid_pre", 2], atol=1e-5, rtol=1e-5)
    streams, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    for label, stream in zip(labels, streams, strict=True):
        layer, kind = label.split("_")
        name = ("resid_post", depth - 1) if layer == "final" else (f"resid_{kind}", int(layer))
        assert torch.equal(stream, cache[name]), label
    heads, labels = cache.stack_head_results(incl_remainder=True, return_labels=True)
    assert len(labels) == depth * model.cfg.n_heads + 1
    torch.testing.assert_close(heads.sum(0), final, atol=1e-5, rtol=1e-5)
    one = cache["attn_out", 1] - model.blocks[1].attn.b_O
    own = heads[[labels.index(f"L1H{head}") for head in range(model.cfg.n_heads)]].sum(0)
    torch.testing.assert_close(own, one, atol=1e-5, rtol=1e-5)
    attributions = cache.logit_attrs(parts, tokens="circle")
    logits = subject.bare(**batch, use_cache=False).logits[..., model.to_single_token("circle")]
    torch.testing.assert_close(attributions.sum(0), logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_neuron_results_are_activation_times_row(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    _, cache = model.run_with_cache(batch)
    results = cache.get_neuron_results(1)
    expected = cache["post", 1][..., None] * model.W_out[1]
    torch.testing.assert_close(results, expected)
    torch.testing.assert_close(results.sum(-2) + model.blocks[1].mlp.b_out, cache["mlp_out", 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["vision"])
@torch.no_grad()
def test_the_tower_decomposes_like_the_language_model(subject: Subject, part: Any) -> None:
    _, cache = subject.model.run_with_cache(subject.batches["left"])
    own = cache.part(part)
    depth = subject.model.part(part).cfg.n_layers
    torch.testing.assert_close(own.decompose_resid(depth).sum(0), own["resid_post", depth - 1], atol=1e-5, rtol=1e-5)
    heads = own.stack_head_results(depth)
    branches = torch.stack(
        [own["attn_out", layer] - subject.model.part(part).blocks[layer].attn.b_O for layer in range(depth)]
    )
    torch.testing.assert_close(heads.sum(0), branches.sum(0), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_bound_model_keeps_the_picture_and_refuses_other_shapes(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    bound = model.bind(batch)
    assert torch.equal(bound(batch["input_ids"]), llava.bare(**batch).logits)
    assert torch.equal(bound(), bound.run_with_hooks(batch["input_ids"]))
    assert torch.equal(bound.to_tokens(), batch["input_ids"])
    _, cache = bound.run_with_cache(
        batch["input_ids"], names_filter=lambda name: name == "hook_embed", pos_slice=slice(0, 2)
    )
    assert list(cache.keys()) == ["hook_embed"]
    _, whole = model.run_with_cache(batch, names="hook_embed")
    assert torch.equal(cache["hook_embed"], whole["hook_embed"][:, :2])
    with pytest.raises(
        InputError, match=r"bound to a batch of tokens \[2, \d+\] \[batch pos\], and 1 sample\(s\) were passed"
    ):
        bound(batch["input_ids"][:1])
    flipped = {**batch.inputs, **{name: batch[name].flip(1) for name in ("input_ids", "attention_mask")}}
    real = flipped["attention_mask"].bool()
    torch.testing.assert_close(
        bound(flipped["input_ids"])[real], llava.bare(**flipped).logits[real], atol=2e-5, rtol=1e-4
    )
    with pytest.raises(InputError, match=r"takes \[\[\d+\], \[\d+\]\] tokens in a row"):
        bound(batch["input_ids"][:, -12:])
