"""Contract: what is read of a sample does not depend on what it runs with. A sample alone, in bare Hugging Face, is the truth."""

from collections.abc import Iterator
from functools import cache
from typing import Literal

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.alone import check_alone
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.rounding import rounding
from tests.conftest import LONG, SHORT, bare_copy
from tests.families import FAMILIES
from tests.tiny import TINY, Tiny, picture

ALL = [tiny for tiny in (*TINY, *FAMILIES) if tiny.missing is None and tiny.writes]
BY_NAME = {tiny.name: tiny for tiny in ALL}


@cache
def model_of(name: str) -> HookedMultimodal:
    """A family's model, made once."""
    return BY_NAME[name].make()


def prepared(
    name: str, samples: list[int], padding_side: Literal["left", "right"] | None = None, text: str | None = None
) -> MultimodalBatch:
    """A batch of a short and a long question, or of one text, each with a picture of its own."""
    sizes = BY_NAME[name].sizes
    texts = [text or (SHORT, LONG)[sample] for sample in samples]
    images = [[picture(sample, *sizes[sample])] for sample in samples]
    return model_of(name).prepare(texts, images=images, padding_side=padding_side)


@pytest.fixture(params=ALL, ids=lambda tiny: tiny.name)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each family in turn; fails the test that leaves a hook behind."""
    tiny: Tiny = request.param
    yield tiny.name
    model = model_of(tiny.name)
    assert not any(point.attached for point in model.hook_dict.values())
    assert not any(module._forward_pre_hooks for module in (model.base, model.base.get_input_embeddings()))


#: Families whose attention or positions cannot be right behind padding.
RIGHT_ONLY = {"florence2", "minimax_m3_vl"}


@torch.no_grad()
def test_a_sample_is_read_in_every_way_as_it_is_alone(name: str) -> None:
    """Left, right, shuffled, extended, cached and uncached: logits and all language states, up to the model's rounding."""
    alone = prepared(name, [0])
    model = model_of(name)
    assert torch.equal(model(alone), bare_copy(model)(**alone, use_cache=False).logits)
    check = check_alone(model, lambda samples, padding_side=None: prepared(name, samples, padding_side))
    assert not check.failed, check
    refused = {"left"} if name in RIGHT_ONLY else set()
    refused |= {"cached", "uncached", "extended"} if name == "minimax_m3_vl" else set()
    assert set(check.refused) == refused
    variants = {"left", "right", "shuffled", "extended", "cached", "uncached"}
    assert set(check.differences) == variants - refused


def test_the_check_sees_a_batch_that_moves_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """With positions as Hugging Face's forward pass counts them, padding in front moves what is read."""
    import mmlens.models.forward_inputs as inputs

    monkeypatch.setattr(inputs, "_position_takers", lambda base, family: [])
    for name, variants in (("mistral_large4", {"left", "shuffled", "extended"}), ("kosmos2", {"cached"})):
        check = check_alone(
            model_of(name), lambda samples, padding_side=None, n=name: prepared(n, samples, padding_side)
        )
        assert set(check.failed) >= variants, check


#: Families that hold what their tokenizer writes in different ways: kinds of tokens, cross-attention, experts, positions.
WRITING = (
    *("llava_clip", "qwen2_vl", "instructblip", "mllama", "gemma4_small", "molmo2", "internvl", "paligemma", "kosmos2"),
    *("qwen2_5_omni", "ovis2_whole", "muse_spark", "ernie4_5_vl"),
)


@pytest.mark.parametrize("name", WRITING)
@torch.no_grad()
def test_whatever_is_written_is_text_and_leaves_the_prompt_as_it_is(name: str) -> None:
    """Every token of the vocabulary, image tokens too: `extend` gives what Hugging Face's cached generation goes through."""
    model, batch = model_of(name), prepared(name, [0])
    bare, allowed = bare_copy(model), 6 * rounding(model, batch)
    before, size = model(batch), min(len(model.tokenizer), model.cfg.d_vocab)
    words = {*model.to_tokens(LONG).flatten().tolist(), *model.stop_tokens, 2}
    for token in range(size):
        if token in words:
            continue
        longer = model.extend(batch, torch.tensor([[token]]))
        assert int(longer.layout.is_image.sum()) == int(batch.layout.is_image.sum())
        logits = model(longer)
        assert float((logits[:, : before.shape[1]] - before).abs().max()) <= allowed, model.to_string(token)
        others = [other for other in range(model.cfg.d_vocab) if other != token]
        written = bare.generate(
            **batch,
            do_sample=False,
            max_new_tokens=2,
            suppress_tokens=others,
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert float((written.logits[1] - logits[:, -1]).abs().max()) <= allowed, model.to_string(token)


@torch.no_grad()
def test_a_model_that_writes_its_picture_token_without_a_cache_goes_on() -> None:
    """Hugging Face counts it as the place of a further picture."""
    name = "internvl"
    model, batch = model_of(name), prepared(name, [0])
    token = model.config.image_token_id
    others = [other for other in range(model.cfg.d_vocab) if other != token]
    options = {"max_new_tokens": 3, "suppress_tokens": others, "output_logits": True, "return_dict_in_generate": True}
    cached, uncached = (model.generate(batch, use_cache=use_cache, **options) for use_cache in (True, False))
    assert cached.sequences[0, -3:].tolist() == [token] * 3
    for one, other in zip(cached.logits, uncached.logits, strict=True):
        assert float((one - other).abs().max()) <= 6 * rounding(model, batch)


CHUNKED = ("llava_clip", "qwen2_vl", "internvl", "mistral_large4", "lfm2_vl", "qwen3_5", "ernie4_5_vl")
UNCHUNKED = {
    "paligemma": "positions of the prompt attend to later ones",
    "gemma3": "positions of the prompt attend to later ones",
    "molmo2": "positions of the prompt attend to later ones",
    "florence2": "an encoder reads the prompt",
    "instructblip": "transformers cannot cut what comes with this model's prompt",
    "hunyuan_vl": "transformers cannot cut what comes with this model's prompt",
    "kosmos2": "transformers cannot cut what comes with this model's prompt",
    "mllama": "transformers cannot cut what comes with this model's prompt",
}


@pytest.mark.parametrize("name", CHUNKED)
@torch.no_grad()
def test_a_prompt_is_read_in_chunks_as_it_is_at_once(name: str) -> None:
    model, batch = model_of(name), prepared(name, [0, 1])
    options: dict[str, Any] = {"max_new_tokens": 2, "output_logits": True, "return_dict_in_generate": True}
    whole, chunked = (model.generate(batch, **options, **more) for more in ({}, {"prefill_chunk_size": 4}))
    assert float((whole.logits[0] - chunked.logits[0]).abs().max()) <= 6 * rounding(model, batch)


@pytest.mark.parametrize("name", UNCHUNKED)
def test_a_prompt_that_cannot_be_read_in_chunks_is_refused(name: str) -> None:
    message = f"^prefill_chunk_size=4 cannot be right for {name}: {UNCHUNKED[name]}"
    with pytest.raises(InputError, match=message):
        model_of(name).generate(prepared(name, [0]), prefill_chunk_size=4, max_new_tokens=1)


def test_padding_that_cannot_be_right_is_refused_with_its_reason() -> None:
    batch = prepared("florence2", [0, 1])
    assert batch.layout.is_token[:, 0].all()
    assert not batch.layout.is_token[:, -1].all()
    why = "the encoder of Florence-2 counts positions from the first one, padding included."
    with pytest.raises(InputError, match=f"^padding_side='left' was asked for, but {why} Leave padding_side out.$"):
        prepared("florence2", [0, 1], "left")
    model = model_of("florence2")
    turned = {
        name: tensor.flip(1) if name in ("input_ids", "attention_mask") else tensor for name, tensor in batch.items()
    }
    with pytest.raises(
        InputError, match=f"^Samples are padded on the left: {why} Pad on the right: padding_side='right'.$"
    ):
        model(turned)
    model = model_of("minimax_m3_vl")
    why = "the blocks of keys that MiniMax M3 attends to are counted from the first position, padding included."
    with pytest.raises(InputError, match=f"{why} Take samples of one length, or one at a time.$"):
        model.generate(prepared("minimax_m3_vl", [0, 1]), max_new_tokens=1)
