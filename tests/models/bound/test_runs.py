"""Runs of a bound model, against TransformerLens's bridge around a copy of the same weights, and against bare Hugging Face."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError, UnknownNameError
from mmlens.models.bound.model import BoundModel
from tests.contracts.transformer_lens.subjects import LONG_TEXT, MODELS, OTHER_TEXT, TEXT, Pair, pair
from tests.families import FAMILIES
from tests.tiny import TINY, picture


@pytest.fixture(params=MODELS)
def both(request: pytest.FixtureRequest) -> Pair:
    """Each model with its bridge."""
    return pair(request.param)


def bound_to(both: Pair, text: str = TEXT) -> BoundModel:
    return both.hooked.bind(both.batches[text])


def text_losses(logits: torch.Tensor, batch: Any) -> list[torch.Tensor]:
    """By hand: of each sample the cost of its tokens of text behind another token of its own."""
    found = []
    for sample, (ids, real, image) in enumerate(
        zip(batch["input_ids"], batch.layout.is_token, batch.layout.is_image, strict=True)
    ):
        rows = real.nonzero().flatten().tolist()
        costs = [-logits[sample, row - 1].log_softmax(-1)[ids[row]] for row in rows[1:] if not image[row]]
        found.append(torch.stack(costs))
    return found


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_texts_of_any_length_run_with_the_picture(both: Pair) -> None:
    bound = bound_to(both)
    for text in (TEXT, OTHER_TEXT, LONG_TEXT):
        expected = both.bare(**both.batches[text].inputs).logits
        assert torch.equal(bound(text), expected)
        assert torch.equal(bound(both.batches[text]["input_ids"]), expected)
        assert torch.equal(bound(both.batches[text]["input_ids"][0]), expected)
        close(expected, both.bridge(both.batches[text]["input_ids"]))
    several = bound([TEXT, LONG_TEXT])
    padded = both.hooked.prepare([TEXT, LONG_TEXT], images=[picture(0)] * 2)
    assert torch.equal(several, both.hooked(padded))
    assert bound(TEXT, return_type=None) is None


@torch.no_grad()
def test_the_loss_is_that_of_the_text(both: Pair) -> None:
    bound = bound_to(both)
    batch = both.batches[LONG_TEXT]
    costs = text_losses(both.bare(**batch.inputs).logits, batch)[0]
    logits, loss = bound(LONG_TEXT, return_type="both")
    close(loss, costs.mean())
    close(bound(LONG_TEXT, return_type="loss"), costs.mean())
    each = bound(LONG_TEXT, return_type="loss", loss_per_token=True)
    assert each.shape == (1, batch["input_ids"].shape[1] - 1)
    close(each[each != 0], costs)
    close(bound.loss_fn(logits, LONG_TEXT), costs.mean())
    close(bound.loss_fn(logits, batch["input_ids"], per_token=True), each)
    # behind the picture the bridge agrees, which counts places of the picture as targets
    theirs = both.bridge.loss_fn(logits, batch["input_ids"], per_token=True)
    behind = int(batch.layout.is_image[0].nonzero().max())
    close(each[:, behind:], theirs[:, behind:])
    assert float(theirs[:, :behind].abs().min()) > 0


@torch.no_grad()
def test_padding_and_two_pictures(both: Pair) -> None:
    """Left and right, samples of different length: each costs what it costs alone."""
    for side in ("left", "right"):
        batch = both.hooked.prepare([TEXT, LONG_TEXT], images=[picture(0), picture(1)], padding_side=side)
        bound = both.hooked.bind(batch)
        each = bound(return_type="loss", loss_per_token=True)
        alone = [
            both.hooked.bind(both.hooked.prepare(text, images=picture(number)))(return_type="loss", loss_per_token=True)
            for number, text in enumerate((TEXT, LONG_TEXT))
        ]
        for sample, expected in enumerate(alone):
            close(each[sample][each[sample] != 0], expected[expected != 0])
        close(bound(return_type="loss"), torch.cat([one[one != 0] for one in alone]).mean())
        close(bound([TEXT, LONG_TEXT], padding_side=side), bound())
    with pytest.raises(InputError, match="bound to 2 samples"):
        bound(TEXT)


@torch.no_grad()
def test_a_run_stops_in_front_of_a_block_and_starts_there(both: Pair) -> None:
    bound, ids = bound_to(both), both.batches[TEXT]["input_ids"]
    depth = both.hooked.cfg.n_layers
    logits, cache = bound.run_with_cache(TEXT)
    for layer in range(depth):
        stream = bound(ids, stop_at_layer=layer)
        close(stream, cache["resid_pre", layer])
        assert torch.equal(stream, bound(ids, stop_at_layer=layer - depth))
        close(stream, both.bridge(ids, stop_at_layer=layer))
        close(bound(stream, start_at_layer=layer), logits)
    close(bound(stop_at_layer=depth), cache["resid_post", depth - 1])
    close(
        bound(2 * cache["resid_pre", 1], start_at_layer=1),
        both.bridge(2 * cache["resid_pre", 1], start_at_layer=1)
        if both.name == "llava"
        else bound.run_with_hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda a, hook: 2 * a)]),
    )
    part, kept = bound.run_with_cache(stop_at_layer=1)
    assert torch.equal(part, kept["resid_post", 0])
    assert not any(name.startswith(("blocks.1", "ln_final")) for name in kept)
    _, kept = bound.run_with_cache(cache["resid_pre", 1], start_at_layer=1)
    assert not any(name.startswith(("blocks.0", "vision", "projector", "hook_embed")) for name in kept)
    assert torch.equal(kept["resid_pre", 1], cache["resid_pre", 1])
    assert not any(point.attached for point in both.hooked.hook_dict.values())
    with pytest.raises(InputError, match=rf"stop_at_layer=9 must be a block, 0 to {depth}"):
        bound(stop_at_layer=9)
    with pytest.raises(InputError, match=r"start_at_layer takes the stream of the batch .* found \[1, \d+\]"):
        bound(ids, start_at_layer=1)


def test_hooks_stay_or_go_and_gradients_are_cached(both: Pair) -> None:
    both.hooked.hf_model.zero_grad()  # tests share the model, and others leave gradients of its parameters
    bound, batch = bound_to(both), both.batches[TEXT]
    name = "blocks.1.hook_resid_pre"
    plain = bound()
    double: Callable[..., torch.Tensor] = lambda activation, hook: 2 * activation  # noqa: E731
    bound.add_hook("blocks.0.hook_mlp_out", double)
    before = bound()
    bound.run_with_hooks(fwd_hooks=[("blocks.0.hook_attn_out", double)])
    assert torch.equal(bound(), before)
    both_hooks = bound.run_with_hooks(fwd_hooks=[("blocks.0.hook_attn_out", double)], reset_hooks_end=False)
    assert torch.equal(bound(), both_hooks)
    bound.reset_hooks()
    assert torch.equal(bound(), plain)
    loss, cache = bound.run_with_cache(return_type="loss", incl_bwd=True, names_filter=[name, "vision.hook_embed"])
    inputs = dict(batch.inputs)
    found: list[torch.Tensor] = []
    block = both.bare.model.language_model.layers[1]
    handle = block.register_forward_pre_hook(
        lambda module, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    logits = both.bare(**inputs).logits
    handle.remove()
    (expected,) = torch.autograd.grad(text_losses(logits, batch)[0].mean(), found)
    close(cache[f"{name}_grad"], expected)
    assert float(cache["vision.hook_embed_grad"].abs().max()) > 0
    assert loss.ndim == 0
    assert all(parameter.grad is None for parameter in both.hooked.hf_model.parameters())
    seen: list[torch.Tensor] = []
    out = bound.run_with_hooks(
        bwd_hooks=[(name, lambda gradient, hook: seen.append(gradient))], return_type="loss", reset_hooks_end=False
    )
    out.backward()
    bound.reset_hooks()
    both.hooked.hf_model.zero_grad()
    close(seen[0], expected)
    with pytest.raises(InputError, match="needs one number to differentiate"):
        bound.run_with_cache(incl_bwd=True)
    with torch.no_grad(), pytest.raises(InputError, match="gradients, which are off here"):
        bound.run_with_cache(incl_bwd=True, return_type="loss")


@torch.no_grad()
def test_a_default_cache_has_all_that_fires(both: Pair) -> None:
    bound, ids = bound_to(both), both.batches[TEXT]["input_ids"]
    _, cache = bound.run_with_cache()
    _, theirs = both.bridge.run_with_cache(ids)
    norms = [name for name in both.hooked.graph.names if name.endswith("hook_scale") and not name.startswith("vision")]
    normalized = {name.replace("scale", "normalized") for name in norms}
    assert set(cache.keys()) == set(both.hooked.graph.names) | normalized
    for layer in range(both.hooked.cfg.n_layers):
        for kind in ("pattern", "q", "k", "v", "z", "rot_q", "rot_k", "resid_pre", "attn_out", "mlp_out"):
            if kind.startswith("rot") and both.name == "qwen2_5_vl":
                continue  # the bridge takes it for a model without rotary positions
            close(cache[kind, layer], theirs[kind, layer])
    kept = bound.run_with_cache(return_cache_object=False, names_filter="blocks.0.hook_attn_out")[1]
    assert type(kept) is dict
    assert list(kept) == ["blocks.0.hook_attn_out"]
    assert "blocks.0.attn.hook_pattern" not in both.hooked.run_with_cache(both.batches[TEXT])[1].cache_dict


@torch.no_grad()
def test_generation_has_its_prompt_and_picture(both: Pair) -> None:
    bound = bound_to(both)
    expected = both.bare.generate(**both.batches[TEXT].inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(bound.generate(max_new_tokens=4, do_sample=False), expected)
    assert torch.equal(bound.generate(TEXT, max_new_tokens=4, do_sample=False, return_type="tokens"), expected)
    other = both.bare.generate(**both.batches[LONG_TEXT].inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(bound.generate(LONG_TEXT, 3, do_sample=False, return_type="tokens"), other)
    text = bound.generate(LONG_TEXT, 3, do_sample=False)
    assert text.startswith(LONG_TEXT)
    assert text.endswith(both.hooked.decode(other[:, -3:])[0])
    torch.manual_seed(0)
    drawn = bound.generate(max_new_tokens=3, temperature=0.7)
    torch.manual_seed(0)
    assert torch.equal(
        drawn,
        both.bare.generate(**both.batches[TEXT].inputs, max_new_tokens=3, do_sample=True, temperature=0.7, top_k=0),
    )
    with pytest.raises(InputError, match=r"freq_penalty=1\.0 cannot be had"):
        bound.generate(freq_penalty=1.0)


@torch.no_grad()
def test_what_cannot_be_run_is_refused(both: Pair) -> None:
    bound, ids = bound_to(both), both.batches[TEXT]["input_ids"]
    with pytest.raises(InputError, match=r"takes .* tokens in a row, by sample, and these tokens have"):
        bound(both.hooked.tokenizer("the red circle", return_tensors="pt")["input_ids"])
    with pytest.raises(InputError, match=r"found torch\.float32"):
        bound(ids.float())
    with pytest.raises(InputError, match=r"return_type='predictions' must be"):
        bound(return_type="predictions")
    with pytest.raises(UnknownNameError, match=r"Nearest: blocks\.0\.hook_resid_pre"):
        bound.run_with_hooks(fwd_hooks=[("blocks.0.hook_residpre", lambda a, hook: a)])
    for wrong in ("blocks.0.hook_attn_out", ("blocks.0.hook_attn_out", None)):
        with pytest.raises(InputError, match=r"Hook 0, .* must be a pair"):
            bound.run_with_hooks(fwd_hooks=[wrong])
    with pytest.raises(InputError, match="bind another one"):
        bound(both.batches[TEXT])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
@torch.no_grad()
def test_several_pictures_in_a_prompt(name: str) -> None:
    """Both are kept; the layout is made anew."""
    hooked = pair(name).hooked
    pictures = [picture(0), picture(1)]
    bound = hooked.bind(hooked.prepare(TEXT, images=pictures))
    longer = hooked.prepare(LONG_TEXT, images=pictures)
    expected = pair(name).bare(**longer.inputs).logits
    assert torch.equal(bound(LONG_TEXT), expected)
    assert torch.equal(bound(longer["input_ids"]), expected)
    close(bound(LONG_TEXT, return_type="loss"), text_losses(expected, longer)[0].mean())
    close(bound(LONG_TEXT, return_type="loss"), bound.loss_fn(expected, longer["input_ids"]))
    stream = bound(stop_at_layer=1)
    close(bound(stream, start_at_layer=1), bound())
    one = hooked.prepare(LONG_TEXT, images=pictures[0])["input_ids"]
    with pytest.raises(InputError, match="tokens in a row, by sample"):
        bound(one)


@pytest.mark.parametrize("name", ["paligemma", "mllama", "kosmos2", "idefics", "florence2", "t5gemma2", "instructblip"])
@torch.no_grad()
def test_tokens_of_another_length_run_as_the_text_does_or_are_refused(name: str) -> None:
    """Kinds of tokens are made anew; masks and texts of other readers cannot be."""
    tiny = next(tiny for tiny in [*TINY, *FAMILIES] if tiny.name == name)
    model = tiny.make()
    images = picture(0, *tiny.sizes[0])
    bound, longer = model.bind(model.prepare(TEXT, images=images)), model.prepare(LONG_TEXT, images=images)
    expected = model(longer)
    assert torch.equal(bound(LONG_TEXT), expected)
    if name in ("mllama", "kosmos2", "idefics", "instructblip"):
        with pytest.raises(InputError, match=r"reads \w+ beside the tokens, .* pass the text itself"):
            bound(longer["input_ids"])
    else:
        close(bound(longer["input_ids"]), expected)
    stream = bound(stop_at_layer=1)
    close(bound(stream, start_at_layer=1), bound())


@torch.no_grad()
def test_flags_can_be_set_in_the_configuration() -> None:
    both = pair("llava")
    bound = both.hooked.bind(both.batches[TEXT])
    assert not bound.cfg.use_attn_result
    bound.cfg.use_attn_result = True
    assert bound.cfg.use_attn_result
    assert bound.flags == {"use_attn_result"}
    assert "blocks.0.attn.hook_result" in bound.run_with_cache()[1]
    bound.set_use_attn_result(False)
    assert not bound.cfg.use_attn_result
    assert not both.hooked.cfg.use_attn_result
