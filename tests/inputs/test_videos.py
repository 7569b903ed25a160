"""Videos in: what a video may be, the tensors made of its frames, and the messages where they do not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.inputs.batch_changes import with_exchanged_pictures
from mmlens.inputs.processing import load_processor
from mmlens.inputs.video_frames import packed_frames, packed_reader, size_by_frame
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject
from tests.families.glm_like import glm4v
from tests.families.internvl_like import internvl
from tests.families.llava_like import llava_next_video, llava_onevision
from tests.families.qwen_like import qwen2_5_vl, qwen3_vl
from tests.tiny import VOCAB, picture, qwen2_vl

VIDEO = torch.stack([picture(n) for n in range(3)])
OTHER = torch.stack([picture(n, 48, 32) for n in range(4)])


@pytest.fixture(scope="module")
def qwen2() -> HookedMultimodal:
    """Qwen2-VL: two frames in a row."""
    return qwen2_vl()


@pytest.fixture(scope="module")
def next_video() -> HookedMultimodal:
    """LLaVA-NeXT-Video: a frame per entry of the tower's batch axis."""
    return llava_next_video()


def normalised(model: HookedMultimodal, frame: torch.Tensor) -> torch.Tensor:
    """A frame's pixels `[channel row column]` as the tower gets them, in float64."""
    processor = model.processor.image_processor
    mean, deviation = (torch.tensor(each, dtype=torch.float64) for each in (processor.image_mean, processor.image_std))
    return ((frame.double() / 255 - mean) / deviation).permute(2, 0, 1)


def test_a_packed_row_holds_its_square_of_two_frames(qwen2: HookedMultimodal) -> None:
    batch = qwen2.prepare([SHORT, SHORT], videos=[VIDEO, OTHER])
    assert batch["video_grid_thw"].tolist() == [[2, 4, 4], [2, 6, 4]]
    for sample, video in enumerate((VIDEO, OTHER)):
        for places in (p for p in batch.layout.places if p.sample == sample):
            first, last = places.frames[0], places.frames[-1]
            for row, (left, top, right, bottom) in zip(
                places.views("vision")[0].rows, places.views("vision")[0].boxes.long().tolist(), strict=True
            ):
                held = batch["pixel_values_videos"][row].view(3, 2, 8, 8)
                for slot, number in enumerate((first, last)):  # the last frame of an odd number stands in both slots
                    expected = normalised(qwen2, video[number])[:, top:bottom, left:right]
                    torch.testing.assert_close(held[:, slot].double(), expected, atol=1e-5, rtol=0)


def test_a_frame_is_cropped_to_a_tile(next_video: HookedMultimodal) -> None:
    wide = torch.stack([picture(n, 32, 48) for n in range(2)])
    held = next_video.prepare(SHORT, videos=wide)["pixel_values_videos"]
    for number, frame in enumerate(wide):
        expected = normalised(next_video, frame)[:, :, 8:40]
        torch.testing.assert_close(held[0, number].double(), expected, atol=1e-5, rtol=0)


def test_every_kind_of_video_comes_to_the_same_tensors(qwen2: HookedMultimodal, tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file, frame in zip(files, VIDEO, strict=True):
        Image.fromarray(frame.numpy()).save(file)
    expected = qwen2.prepare(SHORT, videos=VIDEO)["pixel_values_videos"]
    chat = [{"role": "user", "content": [{"type": "video", "video": VIDEO}, {"type": "text", "text": SHORT}]}]
    for given in (VIDEO.numpy(), [VIDEO], list(VIDEO), [list(VIDEO)], files, [[Image.open(file) for file in files]]):
        assert torch.equal(qwen2.prepare(SHORT, videos=given)["pixel_values_videos"], expected)
    qwen2.processor.chat_template = (
        "{% for m in messages %}{% for c in m.content %}{{ '<|vision_start|><|video_pad|><|vision_end|>' "
        "if c.type == 'video' else c.text }}{% endfor %}{% endfor %}"
    )
    try:
        told = qwen2.prepare(chat)
        assert torch.equal(told["pixel_values_videos"], expected)
        assert torch.equal(told["input_ids"], qwen2.prepare(SHORT, videos=VIDEO)["input_ids"])
    finally:
        qwen2.processor.chat_template = None


def test_the_batch_keeps_the_frames(qwen2: HookedMultimodal) -> None:
    batch = qwen2.prepare([SHORT, SHORT], videos=[VIDEO, OTHER])
    assert [[len(video) for video in sample] for sample in batch.videos] == [[3], [4]]
    assert np.array_equal(np.asarray(batch.videos[1][0][2]), OTHER[2].numpy())
    assert batch.images == ()


def test_time_is_told_where_a_model_reads_it() -> None:
    lasting = [qwen2_5_vl().prepare(SHORT, videos=VIDEO, fps=fps)["second_per_grid_ts"].item() for fps in (24.0, 2.0)]
    assert lasting == pytest.approx([2 / 24, 1.0])
    model = qwen3_vl()
    expand = model.family.videos.expand  # type: ignore[union-attr]
    texts = expand(model.config, {"video_grid_thw": torch.tensor([[2, 4, 4]])}, [3], 2.0, "<v>")
    four = "<|vision_start|><v><v><v><v><|vision_end|>"
    assert texts == [f"<0.2 seconds>{four}<1.0 seconds>{four}"]


def test_the_checkpoints_video_settings_are_used(tmp_path: Path, next_video: HookedMultimodal) -> None:
    composed = next_video.processor
    composed.save_pretrained(tmp_path)
    next_video.config.save_pretrained(tmp_path)
    settings = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}, "image_mean": [0.0, 0.0, 0.0]}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(settings))
    loaded = load_processor(tmp_path, next_video.family, next_video.config)
    assert loaded.video_settings == settings
    declared = next_video.family.videos
    assert declared is not None
    reader = declared.reader(loaded.image_processor, loaded.video_settings)
    pixels = declared.pixels(reader, [[Image.fromarray(frame.numpy()) for frame in VIDEO]])["pixel_values_videos"]
    assert pixels.shape == (1, 3, 3, 64, 64)
    assert pixels.min() >= 0
    packed = packed_reader(qwen2_vl().processor.image_processor, {"size": {"shortest_edge": 64, "longest_edge": 256}})
    made = packed_frames(size=size_by_frame)(packed, [[Image.fromarray(frame.numpy()) for frame in VIDEO]])
    assert made["video_grid_thw"].tolist() == [[2, 2, 2]]


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([VIDEO, OTHER, VIDEO], "2 texts came with 3 videos"),
        ([VIDEO, [picture(0), picture(0, 16, 16)]], r"must have one size, found \[\(16, 16\), \(32, 32\)\]"),
        (["film.mp4", "film.mp4"], "2 texts came with 1 videos"),
        (picture(0), r"found Tensor \[32, 32, 3\]"),
        ([VIDEO, picture(0)], "A video must be an array .frame height width 3. or a list of pictures"),
        ([[], []], "No video was given: every list is empty"),
        (VIDEO[:0], "2 texts came with 1 videos"),
        ([VIDEO[:0], VIDEO], "A video has no frames"),
    ],
)
def test_videos_that_do_not_fit_say_so(qwen2: HookedMultimodal, videos: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        qwen2.prepare([SHORT, LONG], videos=videos)


def test_requests_that_cannot_be_met_say_so(
    qwen2: HookedMultimodal, next_video: HookedMultimodal, llava: Subject
) -> None:
    with pytest.raises(InputError, match=r"the family llava reads no videos here; pass frames as pictures"):
        llava.model.prepare(SHORT, videos=VIDEO)
    with pytest.raises(InputError, match="images= and videos= were both given"):
        qwen2.prepare(SHORT, picture(0), videos=VIDEO)
    with pytest.raises(InputError, match="fps=0 must be above 0"):
        qwen2.prepare(SHORT, videos=VIDEO, fps=0)
    with pytest.raises(InputError, match="padding_side='middle' must be 'left' or 'right'"):
        qwen2.prepare(SHORT, videos=VIDEO, padding_side="middle")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"The videos have \[3, 4\] frames"):
        next_video.prepare([SHORT, SHORT], videos=[VIDEO, OTHER])
    with pytest.raises(InputError, match=r"A video of 1 frame\(s\) was given"):
        qwen3_vl().prepare(SHORT, videos=VIDEO[:1])
    with pytest.raises(
        InputError, match=r"Sample 0 has 2 placeholders '<\|video_pad\|>' for 1 videos; give one video per"
    ):
        qwen2.prepare("<|video_pad|> and <|video_pad|>", videos=VIDEO)
    batch = qwen2.prepare(SHORT, videos=VIDEO)
    with pytest.raises(InputError, match="came in one batch: the tower would run once for each"):
        qwen2.batch(dict(batch), pixel_values=batch["pixel_values_videos"])
    with pytest.raises(InputError, match="The batch holds videos, whose frames cannot be exchanged"):
        with_exchanged_pictures(qwen2.family, qwen2.config, qwen2.processor, batch, [[Image.new("RGB", (32, 32))]])
    with pytest.raises(InputError, match="is no video; leave it out"):
        qwen2.prepare(SHORT, picture(0)).layout.grid(frame=0)


def _real(name: str, model: HookedMultimodal) -> Any:
    """The Hugging Face processor of a tiny model, with its video processor."""
    own, words = model.processor.image_processor, model.processor.tokenizer
    shared = {"image_mean": own.image_mean, "image_std": own.image_std, "resample": own.resample}
    tile = {"size": {"height": 32, "width": 32}, **shared}
    packed = {"patch_size": 8, "merge_size": 2, "size": dict(own.size), "cap_pixels_per_frame": False, **shared}
    words.video_token = "<video>" if name == "internvl" else "<|video_pad|>"
    words.video_token_id = VOCAB["<|video_pad|>"]
    t = transformers
    if name == "qwen2_vl":
        return t.Qwen2VLProcessor(own, words, t.Qwen2VLVideoProcessor(**packed))
    if name == "qwen2_5_vl":
        return t.Qwen2_5_VLProcessor(own, words, t.Qwen2VLVideoProcessor(**packed))
    if name == "qwen3_vl":
        return t.Qwen3VLProcessor(own, words, t.Qwen3VLVideoProcessor(**packed))
    if name == "glm4v":
        words.video_token = "<|video|>"
        return t.Glm4vProcessor(own, words, t.Glm4vVideoProcessor(do_sample_frames=False, **packed))
    if name == "llava_onevision":
        video = t.LlavaOnevisionVideoProcessor(**tile)
        return t.LlavaOnevisionProcessor(own, words, video, num_image_tokens=16, vision_feature_select_strategy="full")
    if name == "internvl":
        words.start_image_token, words.end_image_token, words.context_image_token = "<img>", "</img>", "<IMG_CONTEXT>"
        for token in ("start_image_token", "end_image_token", "context_image_token"):
            setattr(words, f"{token}_id", words.convert_tokens_to_ids(getattr(words, token)))
        return t.InternVLProcessor(own, words, t.InternVLVideoProcessor(**tile), image_seq_length=4)
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, **shared}
    video = t.LlavaNextVideoVideoProcessor(**crop)
    return t.LlavaNextVideoProcessor(
        video, own, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


@pytest.mark.parametrize(
    "make",
    [qwen2_vl, qwen2_5_vl, qwen3_vl, glm4v, llava_next_video, llava_onevision, internvl],
    ids=lambda make: make.__name__,
)
def test_tensors_are_those_of_the_hugging_face_processor(make: Any) -> None:
    """Transformers' video processors need torchvision; without it the references above are what holds."""
    pytest.importorskip("torchvision")
    model = make()
    ours = model.prepare([SHORT, LONG], videos=[VIDEO, VIDEO.flip(0)])
    real = _real(make.__name__, model)
    arrays = [VIDEO.numpy(), VIDEO.flip(0).numpy()]
    texts = list(ours.prompts)
    theirs = dict(real(text=texts, videos=arrays, return_tensors="pt", padding=True, padding_side="left"))
    for name, tensor in ours.items():
        found = torch.as_tensor(theirs[name]).to(tensor.dtype)
        torch.testing.assert_close(tensor, found, atol=1e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    model.processor.video_processor = real.video_processor
    again = model.prepare([SHORT, LONG], videos=[VIDEO, VIDEO.flip(0)])
    assert set(again) == set(ours)
    for name, tensor in ours.items():
        torch.testing.assert_close(again[name], tensor, atol=1e-5, rtol=0)
    assert [p.frames for p in again.layout.places] == [p.frames for p in ours.layout.places]
