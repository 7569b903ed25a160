"""Batches of tensors that users made: pictures behind the pixels, given layouts, embeddings in place of ids."""

from typing import Any

import pytest
import torch
from transformers import BatchFeature

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject
from tests.tiny import TINY, picture

POINT = "blocks.1.hook_resid_post"


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_pictures_give_places_in_themselves(tiny: Any) -> None:
    model = tiny.make()
    pictures = [picture(seed, *size) for seed, size in enumerate(tiny.sizes[:2])]
    prepared = model.prepare([SHORT, LONG][: len(pictures)], images=pictures)
    made = model.batch(BatchFeature(dict(prepared.inputs)), images=pictures)
    assert torch.equal(made.layout.is_image, prepared.layout.is_image)
    assert [places.size for places in made.layout.places] == [places.size for places in prepared.layout.places]
    rows = prepared.layout.image[0]
    if prepared.layout.places[0].views("language"):
        assert torch.equal(made.layout.boxes(rows), prepared.layout.boxes(rows))
    assert made.images[0][0].size == prepared.images[0][0].size
    assert all(torch.equal(made[name], prepared[name]) for name in prepared)
    blurred, expected = mm.corrupt.blur(model, made), mm.corrupt.blur(model, prepared)
    assert all(torch.equal(blurred[name], expected[name]) for name in expected)


def test_other_pictures_than_those_of_the_pixels_are_refused(llava: Subject) -> None:
    model = llava.model
    prepared = model.prepare([SHORT, SHORT], images=[picture(0), picture(1)])
    with pytest.raises(
        InputError, match=r"pixel_values is not what the model's processor makes of these images \(off by"
    ):
        model.batch(dict(prepared), images=[picture(1), picture(0)])
    with pytest.raises(InputError, match=r"2 texts came with 1 pictures"):
        model.batch(dict(prepared), images=[picture(0)])
    bare = HookedMultimodal.from_hf(model.hf_model)
    with pytest.raises(InputError, match=r"batch\(images=\.\.\.\) needs a processor"):
        bare.batch(dict(prepared), images=[picture(0), picture(1)])
    with pytest.raises(
        InputError, match=r"blur needs the pictures, .* give them, model\.batch\(inputs, images=\.\.\.\)"
    ):
        mm.corrupt.blur(model, dict(prepared))


@torch.no_grad()
def test_embeddings_with_a_layout_are_read_like_the_batch_that_they_are_of(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    embeddings = model.run_with_cache(batch, names="hook_embed")[1]["hook_embed"]
    made = model.batch(inputs_embeds=embeddings, attention_mask=batch["attention_mask"], layout=batch.layout)
    assert made.size == batch.size
    own = batch.layout.is_token
    torch.testing.assert_close(model(made)[own], model(batch)[own])
    for rule in ("image", "text", "last", [0], [-1], mm.positions.box((0, 0, 8, 8))):
        mine, theirs = [
            model.run_with_cache(each, names=POINT, positions=rule)[1].samples(POINT) for each in (made, batch)
        ]
        for sample, expected in zip(mine, theirs, strict=True):
            torch.testing.assert_close(sample, expected)
    mine, theirs = [mm.find_neurons(model, each, token="red").scores for each in (made, batch)]
    torch.testing.assert_close(mine, theirs)
    mine, theirs = [mm.logit_lens(model, each, progress=False).probabilities for each in (made, batch)]
    torch.testing.assert_close(mine, theirs, equal_nan=True)
    options = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(model.generate(made, **options)[:, -3:], model.generate(batch, **options)[:, -3:])


@torch.no_grad()
def test_patches_between_embeddings_are_those_between_their_batches(llava: Subject) -> None:
    model = llava.model
    metric = mm.metrics.log_probability("red")
    batches = [model.prepare(SHORT, images=picture(seed)) for seed in (0, 1)]
    made = []
    for batch in batches:
        embeddings = model.run_with_cache(batch, names="hook_embed")[1]["hook_embed"]
        made.append(model.batch(inputs_embeds=embeddings, layout=batch.layout))
    sweeps = [
        mm.patch(model, *pair, at="blocks.*.hook_resid_pre", metric=metric, progress=False) for pair in (made, batches)
    ]
    torch.testing.assert_close(sweeps[0].values, sweeps[1].values)


def test_what_embeddings_do_not_tell_is_asked_for(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    embeddings, mask = torch.randn(2, 5, 32), torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    is_image = torch.tensor([[False, True, True, False, False]] * 2)
    made = model.batch(inputs_embeds=embeddings, attention_mask=mask, layout=is_image)
    assert [rows.tolist() for rows in made.layout.image] == [[1, 2], [1, 2]]
    with pytest.raises(InputError, match=r"inputs_embeds do not tell which positions are pictures: pass layout="):
        model.batch(inputs_embeds=embeddings)
    with pytest.raises(InputError, match=r"inputs_embeds do not tell"):
        mm.logit_lens(model, {"inputs_embeds": embeddings})
    with pytest.raises(InputError, match=r"input_ids and inputs_embeds say what the text is twice"):
        model.batch(batch, inputs_embeds=embeddings, layout=batch.layout)
    with pytest.raises(
        InputError, match=r"The layout is of \[2, 4\] positions, but the tensors have \[2, 5\] \[batch pos\]"
    ):
        model.batch(inputs_embeds=embeddings, layout=is_image[:, :4])
    with pytest.raises(InputError, match=r"The layout has pictures in the padding"):
        model.batch(inputs_embeds=embeddings, attention_mask=mask, layout=~is_image)
    with pytest.raises(InputError, match=r"attention_mask is \[2, 5\], but inputs_embeds is \[2, 3, 32\]"):
        model.batch(inputs_embeds=embeddings[:, :3], attention_mask=mask, layout=is_image)
    with pytest.raises(InputError, match=r"inputs_embeds must be numbers \[batch pos d_model\], found Tensor \[2, 5\]"):
        model.batch(inputs_embeds=embeddings[..., 0], layout=is_image)
    with pytest.raises(InputError, match=r"has no meaning in a batch of embeddings"):
        model.run_with_cache(made, names=POINT, positions=mm.positions.word("red"))
    with pytest.raises(InputError, match=r"made of embeddings \(inputs_embeds\), so it has no token ids"):
        model.extend(made, torch.tensor([[3], [3]]))


def test_parts_that_do_not_run_are_no_silence(llava: Subject) -> None:
    model = llava.model
    clean, corrupted = model.prepare("describe the image"), model.prepare("describe the circle")
    point = "vision.blocks.0.hook_resid_pre"
    message = r"does not run: the batch holds no picture"
    with pytest.raises(InputError, match=message):
        model.run_with_cache(clean, names=point)
    with pytest.raises(InputError, match=message):
        mm.patch(model, clean, corrupted, at=point, metric=mm.metrics.log_probability("red"), progress=False)
    with pytest.raises(InputError, match=message):
        mm.find_neurons(model, clean, token="red", part="vision", method="gradient_x_activation")
    assert point not in model.run_with_cache(clean, names="**hook_resid_pre")[1]
