"""Prompts and token ids of real layouts: those of transformers' own processor, for everything that people ask."""

import base64
import copy
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.checkpoints.cases import (
    CASES,
    QUESTION,
    SHORT,
    SYSTEM,
    assistant,
    image,
    packed,
    picture,
    references,
    text,
    user,
)
from tests.checkpoints.layouts import (
    BLIP2,
    GEMMA3,
    IDEFICS2,
    IDEFICS3,
    INSTRUCTBLIP,
    INTERNVL3,
    LAYOUTS,
    LLAVA,
    LLAVA_NEXT,
    MLLAMA,
    PALIGEMMA2,
    QWEN2_VL,
    SMOLVLM2,
    Layout,
)

REFERENCES = references()
TEMPLATED = [layout for layout in LAYOUTS if layout.template[0] != "none"]
Open = Callable[[Layout], HookedMultimodal]
ids = {"ids": lambda layout: layout.name}


def same(batch: Any, reference: dict[str, Any]) -> None:
    """Prompts and token ids are those of the reference."""
    assert list(batch.prompts) == reference["prompts"]
    assert [packed(row) for row in batch["input_ids"].tolist()] == reference["ids"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", TEMPLATED, **ids)
def test_chats_are_those_of_transformers(layout: Layout, case: str, open_layout: Open) -> None:
    model, reference = open_layout(layout), REFERENCES[layout.name][case]
    if "error" in reference:
        said = reference["error"].partition(": ")[2]
        with pytest.raises(InputError, match=f"The chat template refuses this chat .*{said}"):
            model.prepare(CASES[case])
        return
    same(model.prepare(CASES[case]), reference)


def bare(chats: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """The chats with strings for contents, and without pictures."""
    return [
        [{**turn, "content": "".join(part.get("text", "") for part in turn["content"])} for turn in chat]
        for chat in chats
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", TEMPLATED, **ids)
def test_contents_as_strings_and_pictures_beside_them_come_to_the_same(
    layout: Layout, case: str, open_layout: Open
) -> None:
    reference = REFERENCES[layout.name][case]
    if "error" in reference:
        return
    shown = [[part["image"] for turn in chat for part in turn["content"] if "image" in part] for chat in CASES[case]]
    same(open_layout(layout).prepare(bare(CASES[case]), images=shown), reference)


@pytest.mark.parametrize("layout", TEMPLATED, **ids)
def test_a_question_is_a_turn_of_the_user_and_the_whole_prompt_is_left_alone(layout: Layout, open_layout: Open) -> None:
    model = open_layout(layout)
    for case, shown in (("question", picture(0)), ("several", [picture(0), picture(1)]), ("none", None)):
        reference = REFERENCES[layout.name][case]
        batch = model.prepare(QUESTION, images=shown)
        same(batch, reference)
        same(model.prepare(batch.prompts[0], images=shown), reference)
    batch = model.prepare([QUESTION, SHORT], images=[picture(0), picture(1)])
    same(batch, REFERENCES[layout.name]["batch"])
    same(model.prepare([SHORT, QUESTION], images=[[picture(0)], []]), REFERENCES[layout.name]["mixed"])


@pytest.mark.parametrize("layout", [PALIGEMMA2, INSTRUCTBLIP, BLIP2], **ids)
def test_without_a_template_a_question_is_what_the_processor_takes(layout: Layout, open_layout: Open) -> None:
    model = open_layout(layout)
    written = {"paligemma2": f"<image>{QUESTION}"}.get(layout.name, QUESTION)
    expected = model.processor(text=[written], images=[picture(0)], return_tensors="pt")
    batch = model.prepare(QUESTION, images=picture(0))
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    with pytest.raises(InputError, match="Chat messages need a chat template, and this processor has none"):
        model.prepare([user(text(QUESTION))], images=picture(0))


@pytest.mark.parametrize("layout", [GEMMA3, IDEFICS3, MLLAMA, LLAVA], **ids)
def test_a_text_has_one_beginning(layout: Layout, open_layout: Open) -> None:
    model = open_layout(layout)
    bos = model.processor.tokenizer.bos_token_id
    assert model.prepare([QUESTION, SHORT])["input_ids"].eq(bos).sum(1).tolist() == [1, 1]


def test_a_chats_own_pictures_stay_and_further_ones_take_the_open_places(open_layout: Open) -> None:
    model = open_layout(LLAVA)
    own, given = picture(1, 40, 60), picture(2, 60, 40)
    chat = [user({"type": "image", "image": own}, {"type": "image"}, text(SHORT))]
    assert [shown.size for shown in model.prepare(chat, images=given).images[0]] == [own.size, given.size]
    turned = [user({"type": "image"}, {"type": "image", "image": own}, text(SHORT))]
    assert [shown.size for shown in model.prepare(turned, images=given).images[0]] == [given.size, own.size]
    message = r"The chat of sample 0 has 1 picture\(s\), 1 of them with one of their own, and images= gives 1; give one for each"
    with pytest.raises(InputError, match=message):
        model.prepare([user({"type": "image", "image": own}, text(SHORT))], images=given)
    with pytest.raises(InputError, match=r"has 2 picture\(s\), 0 of them with one of their own, and images= gives 1"):
        model.prepare([user({"type": "image"}, {"type": "image"}, text(SHORT))], images=given)


def test_pictures_in_every_form_that_chats_have(open_layout: Open, tmp_path: Path) -> None:
    model = open_layout(LLAVA)
    shown = picture(3, 40, 60)
    file = BytesIO()
    shown.save(file, "PNG")
    shown.save(tmp_path / "a.png")
    code = base64.b64encode(file.getvalue()).decode()
    expected = model.prepare([user({"type": "image", "image": shown}, text(SHORT))])
    for part in (
        {"type": "image", "path": str(tmp_path / "a.png")},
        {"type": "image", "url": str(tmp_path / "a.png")},
        {"type": "image", "base64": code},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{code}"}},
        {"image": shown},
    ):
        batch = model.prepare([user(part, text(SHORT))])
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert torch.equal(batch["input_ids"], expected["input_ids"])
    with pytest.raises(InputError, match="base64 cannot be decoded"):
        model.prepare([user({"type": "image", "base64": "no picture!"}, text(SHORT))])
    with pytest.raises(InputError, match="is a URL; mmlens downloads nothing"):
        model.prepare([user({"type": "image", "url": "https://example.org/a.png"}, text(SHORT))])


#: Layouts whose templates write every special token, so that transformers can do the same: it refuses the others.
_SANITISED = [QWEN2_VL, INTERNVL3, GEMMA3, MLLAMA]


@pytest.mark.parametrize("layout", _SANITISED, **ids)
def test_what_only_reads_like_a_token_is_text_as_in_transformers(layout: Layout, open_layout: Open) -> None:
    model = open_layout(layout)
    processor = model.processor
    tokenizer, mark = processor.tokenizer, processor.image_token
    quoted = [f"what does {mark} mean?", f"{tokenizer.pad_token}{mark} a"]
    # other processors of transformers count a quoted mark as a picture, and refuse it
    for words in (f"say {tokenizer.eos_token} and go on", *(quoted if layout in (QWEN2_VL, GEMMA3) else [])):
        batch = model.prepare(words, images=picture(0))
        chat = [user(image(), text(words))]
        template = processor.chat_template or tokenizer.chat_template
        expected = processor.apply_chat_template(
            chat,
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            sanitize_control_tokens=True,
        )
        assert torch.equal(batch["input_ids"], expected["input_ids"]), words
        assert words in batch.prompts[0]
        assert words in model.to_string(batch["input_ids"][0])
        same(
            model.prepare([copy.deepcopy(chat)]),
            {"prompts": list(batch.prompts), "ids": [packed(batch["input_ids"][0].tolist())]},
        )


@pytest.mark.parametrize("layout", [LLAVA, LLAVA_NEXT, IDEFICS2, SMOLVLM2, INSTRUCTBLIP, BLIP2, PALIGEMMA2], **ids)
def test_a_typed_end_of_text_ends_nothing(layout: Layout, open_layout: Open) -> None:
    model = open_layout(layout)
    end = model.processor.tokenizer.eos_token
    batch, plain = (model.prepare(f"say {word} and go on", images=picture(0)) for word in (end, "it"))
    stop = model.processor.tokenizer.eos_token_id
    assert int(batch["input_ids"].eq(stop).sum()) == int(plain["input_ids"].eq(stop).sum())
    assert end in model.to_string(batch["input_ids"][0])
    # beside a text without one, padded: the same tokens
    both = model.prepare([f"say {end} and go on", SHORT], images=[picture(0), picture(1)])
    assert both["input_ids"][0][both.layout.is_token[0]].tolist() == batch["input_ids"][0].tolist()


def test_a_models_own_tokens_that_ask_for_something_stay_tokens(open_layout: Open) -> None:
    model = open_layout(SMOLVLM2)
    one = "<row_1_col_1>"  # stands for any token that is neither an end, a mark of turns, nor a picture
    batch = model.prepare(f"look at {one} now", images=picture(0))
    asked = batch["input_ids"][0].tolist().count(model.to_single_token(one))
    assert (
        asked == model.prepare(SHORT, images=picture(0))["input_ids"][0].tolist().count(model.to_single_token(one)) + 1
    )
    soft = open_layout(GEMMA3).prepare("what is <image_soft_token> or <end_of_image>?", images=picture(0))
    assert int(soft.layout.is_image.sum()) == 256


def test_marks_that_stand_apart_are_places_of_pictures(open_layout: Open) -> None:
    model = open_layout(QWEN2_VL)
    mark = "<|image_pad|>"
    first = model.prepare(QUESTION, images=picture(0))
    for words in (f"{mark}\n{QUESTION}", f"{mark}{QUESTION}"):
        assert torch.equal(model.prepare(words, images=picture(0))["input_ids"], first["input_ids"])
    both = model.prepare(f"compare {mark} with {mark}", images=[[picture(0), picture(1)]])
    chat = [user(text("compare "), image(0), text(" with "), image(1))]
    assert torch.equal(both["input_ids"], model.prepare(chat)["input_ids"])


def test_what_a_template_loses_is_said(open_layout: Open) -> None:
    model = open_layout(LLAVA)
    processor = model.processor
    try:
        kept, processor.chat_template = (
            processor.chat_template,
            "{% for m in messages %}{{ m.role }}{% endfor %}<image>",
        )
        with pytest.raises(InputError, match=r"The chat template leaves out a part of the chat: 'describe the image'"):
            model.prepare(SHORT, images=picture(0))
        # one that reads strings alone gets them, with a placeholder in front
        processor.chat_template = "{% for m in messages %}{{ m.role + ' said ' + m.content + ' ' }}{% endfor %}"
        assert model.prepare(SHORT, images=picture(0)).prompts == ("user said <image>\ndescribe the image ",)
        # several named templates: the default one
        processor.chat_template = {"default": kept, "tools": "{{ 1 / 0 }}"}
        same(model.prepare(QUESTION, images=picture(0)), REFERENCES["llava-1.5"]["question"])
    finally:
        processor.chat_template = kept


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([SYSTEM], r"The pictures belong into a turn of the user, and the chat has none \(roles \['system'\]\)"),
        (
            [{"role": "user", "content": None}],
            "A message's content must be a string or a list of parts .* found NoneType",
        ),
        ([{"role": "user"}], "found NoneType in the turn of 'user'"),
        (
            [user(text("a")), user(text("b"))],
            "The chat template refuses this chat .* Conversation roles must alternate",
        ),
        ([assistant("An image of")], "The pictures belong into a turn of the user"),
    ],
)
def test_chats_that_cannot_be_asked(chat: Any, message: str, open_layout: Open) -> None:
    with pytest.raises(InputError, match=message):
        open_layout(GEMMA3).prepare(chat, images=picture(0))


def test_prompts_longer_than_the_model_are_remarked(open_layout: Open) -> None:
    model = open_layout(BLIP2)  # 512 positions
    long = "the man is holding a dog. " * 60
    with pytest.warns(
        UserWarning, match=r"made for 512 positions \(max_position_embeddings\), and samples take more \(\{1: \d+\}\)"
    ):
        batch = model.prepare([SHORT, long], images=[picture(0), picture(1)])
    assert batch["input_ids"].shape[1] > 512
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.prepare(SHORT, images=picture(0))


def test_samples_keep_their_pixels_whatever_the_others_bring(open_layout: Open) -> None:
    """A text without a picture beside one with a picture moves nothing."""
    for layout in (SMOLVLM2, IDEFICS3, IDEFICS2, LLAVA_NEXT):
        model = open_layout(layout)
        alone = model.prepare(SHORT, images=picture(0))
        mixed = model.prepare([QUESTION, SHORT], images=[[], [picture(0)]])
        assert np.array_equal(mixed["input_ids"][1][mixed.layout.is_token[1]], alone["input_ids"][0])
        with torch.no_grad():
            expected, found = model(alone)[0, -1], model(mixed)[1, -1]
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
