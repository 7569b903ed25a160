"""Checkpoints: what is saved is the model again, for mmlens and for plain transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from mmlens.architectures.loading import find_family
from mmlens.core.errors import InputError, UnknownNameError, UnsupportedModelError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject, bare_copy, told_positions
from tests.families.language_models import pixtral
from tests.tiny import picture


@torch.no_grad()
def test_a_saved_model_is_the_model_again(subject: Subject, tmp_path: Path) -> None:
    subject.model.save_pretrained(tmp_path)
    again = HookedMultimodal.from_pretrained(tmp_path, dtype="float32", verify=subject.name == "llava_clip")
    assert again.graph.names == subject.model.graph.names
    batch = again.prepare([SHORT, LONG], images=[[picture(0)], [picture(1)]])
    expected = subject.model.prepare([SHORT, LONG], images=[[picture(0)], [picture(1)]])
    assert set(batch) == set(expected)
    assert all(torch.equal(batch[key], expected[key]) for key in batch)
    assert torch.equal(again(batch), subject.model(expected))
    plain = told_positions(AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="float32").eval())
    assert torch.equal(plain(**batch, use_cache=False).logits, subject.model(expected))


def test_dtypes_and_devices(llava: Subject, tmp_path: Path) -> None:
    llava.model.save_pretrained(tmp_path)
    for options, dtype in (
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": torch.float16}, torch.float16),
        ({"torch_dtype": "float16"}, torch.float16),
        ({}, torch.float32),
        ({"dtype": "auto", "device": "cpu"}, torch.float32),
    ):
        model = HookedMultimodal.from_pretrained(tmp_path, **options)  # type: ignore[arg-type]
        assert {p.dtype for p in model.hf_model.parameters()} == {dtype}
    assert HookedMultimodal.from_pretrained(tmp_path, device="meta").device.type == "meta"
    eager = HookedMultimodal.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.config._attn_implementation == "eager"
    processor = HookedMultimodal.from_pretrained(tmp_path).processor
    assert HookedMultimodal.from_pretrained(tmp_path, processor=processor).processor is processor
    with pytest.raises(
        InputError, match=r"^dtype='float12' is no torch dtype; use e.g. 'float32', 'bfloat16', 'float16' or 'auto'\.$"
    ):
        HookedMultimodal.from_pretrained(tmp_path, dtype="float12")


def test_a_checkpoint_without_weights(llava: Subject, tmp_path: Path) -> None:
    llava.model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=rf"^The checkpoint {tmp_path} cannot be read: "):
        HookedMultimodal.from_pretrained(tmp_path)


def test_a_processor_with_a_video_part_is_hugging_faces_own_without_it(qwen: Subject, tmp_path: Path) -> None:
    qwen.model.save_pretrained(tmp_path)
    again = HookedMultimodal.from_pretrained(tmp_path)
    assert type(again.processor).__name__ == "Qwen2VLProcessor"
    batch = again.prepare(SHORT, images=[picture(0, 32, 64), picture(1, 48, 32)])
    assert batch["image_grid_thw"].tolist() == [[1, 4, 8], [1, 6, 4]]
    assert int(batch.layout.is_image.sum()) == 4 * 8 // 4 + 6 * 4 // 4
    assert torch.equal(batch["mm_token_type_ids"].bool(), batch.layout.is_image)


def test_mode_device_and_family(llava: Subject) -> None:
    bare = bare_copy(llava.model)
    assert not HookedMultimodal.from_hf(bare).training
    assert HookedMultimodal.from_hf(bare.train()).training
    assert find_family(bare).name == "llava"
    with pytest.raises(UnsupportedModelError, match="No family covers Linear; covered are "):
        find_family(torch.nn.Linear(2, 2))
    moved = HookedMultimodal.from_hf(bare_copy(llava.model)).to("meta")
    assert moved.device.type == "meta"
    assert set(llava.model.state_dict()) == {f"hf_model.{name}" for name in llava.bare.state_dict()}


class Chat:
    """A chat template in the words of the tiny tokenizer."""

    template = (
        "{% for m in messages %}{{ m.role }} : {% if m.content is string %}{{ m.content "
        "}}{% else %}{% for c in m.content %}"
        "{% if c.type == 'image' %}<image> {% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %} {% endfor %}"
        "{% if add_generation_prompt %}assistant :{% endif %}"
    )


@pytest.fixture
def chatty(llava: Subject) -> Any:
    """LLaVA with a chat template; taken off afterwards."""
    llava.model.processor.chat_template = Chat.template
    yield llava.model
    llava.model.processor.chat_template = None


def test_all_ways_to_ask_come_to_the_same_batch(chatty: HookedMultimodal) -> None:
    image = picture(0)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": SHORT}]}
    inline = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": SHORT}]}
    expected = chatty.prepare(SHORT, images=image)
    assert expected.prompts == (f"user : <image> {SHORT} assistant :",)
    for text, images in (
        (f"user : <image> {SHORT} assistant :", image),
        ([SHORT], [image]),
        ([SHORT], [[image]]),
        ([message], image),
        ([[message]], [[image]]),
        ([inline], None),
        ([{"role": "user", "content": SHORT}], image),
        (SHORT, [image.numpy()]),
        (SHORT, image.permute(2, 0, 1)),
        (SHORT, image.double() / 255),
    ):
        found = chatty.prepare(text, images=images)  # type: ignore[arg-type]
        assert all(torch.equal(found[key], expected[key]) for key in expected), (text, type(images))
        assert found.prompts == expected.prompts


def test_text_without_a_picture_runs_blind_on_purpose(subject: Subject) -> None:
    if subject.name == "instructblip":
        pytest.skip("needs a picture with every text")
    batch = subject.model.prepare(SHORT)
    assert not batch.layout.is_image.any()
    assert batch.layout.places == ()
    with torch.no_grad():
        assert torch.equal(subject.model(batch), subject.bare(**batch, use_cache=False).logits)
        _, cache = subject.model.run_with_cache(batch)
    # nothing of the picture's towers ran, and nothing is claimed about them
    assert not any(name.startswith(("vision", "projector")) for name in cache)


def test_padding_is_on_the_asked_side(subject: Subject) -> None:
    for side in ("left", "right"):
        mask = subject.batches[side]["attention_mask"].tolist()
        assert mask == [sorted(row, reverse=side == "right") for row in mask]
        assert subject.batches[side].layout.last.tolist() == [
            max(i for i, kept in enumerate(row) if kept) for row in mask
        ]


def test_a_batch_is_a_mapping_that_hugging_face_takes(llava: Subject) -> None:
    batch = llava.batches["left"]
    assert batch.size == 2
    assert dict(batch) == batch.inputs
    assert {tensor.device.type for tensor in batch.to("meta").values()} == {"meta"}
    with pytest.raises(
        UnknownNameError, match=r"^The batch holds no tensor 0; it holds input_ids, attention_mask, pixel_values\."
    ):
        batch[0]  # type: ignore[index]
    assert "pixel_values" in batch
    assert 0 not in batch
    assert repr(batch).startswith(
        "MultimodalBatch(input_ids [2, 23], attention_mask [2, 23], pixel_values [2, 3, 32, 32]; TokenLayout: "
    )
    rebuilt = llava.model.batch(dict(batch))
    assert torch.equal(rebuilt.layout.is_image, batch.layout.is_image)
    assert llava.model.batch(batch) is batch
    assert [image.size for sample in batch.images for image in sample] == [(32, 32), (32, 32)]


def test_tokens_and_strings(llava: Subject) -> None:
    model = llava.model
    ids = model.to_tokens(["red circle", "a big red circle"])
    assert model.to_string(ids[1]) == "a big red circle"
    assert model.to_string(ids)[0].split() == ["<pad>", "<pad>", "red", "circle"]
    assert model.to_str_tokens("red circle") == ["red", "circle"]
    batch = model.prepare("what color is the circle", images=picture(0))
    assert model.to_str_tokens(batch) == model.to_str_tokens(batch["input_ids"][0]) == model.to_string(batch)[0].split()
    with pytest.raises(
        InputError,
        match=r"^to_str_tokens takes one sample, found \[2, 4\] \[batch pos\]; take one, batch\['input_ids'\]\[0\]\.$",
    ):
        model.to_str_tokens(ids)
    assert model.to_single_token("red") == int(model.to_tokens("red"))
    assert model.decode(ids) == ["red circle", "a big red circle"]
    assert model.stop_tokens == {2}


@torch.no_grad()
def test_a_checkpoint_with_another_tower_of_the_same_class_is_loaded_with_a_processor_for_it(tmp_path: Path) -> None:
    model = pixtral()
    model.save_pretrained(tmp_path)
    # as published checkpoints have it: a processor that cannot be built without torchvision
    (tmp_path / "processor_config.json").write_text('{"processor_class": "PixtralProcessor"}')
    again = HookedMultimodal.from_pretrained(tmp_path)
    assert again.family.name == "pixtral"
    pictures = [picture(0, 32, 64)]
    batch, expected = (each.prepare(SHORT, images=pictures) for each in (again, model))
    assert torch.equal(again(batch), model(expected))
