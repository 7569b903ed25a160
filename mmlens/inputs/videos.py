"""From videos, as frames that a user has, to one batch."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.batch import MultimodalBatch, make_batch
from mmlens.inputs.images import Picture, load_image
from mmlens.inputs.plain_text import holds_hidden, picture_tokens, reading_hidden, revealed
from mmlens.inputs.prepare import remark_length, side_for, special_tokens_once
from mmlens.inputs.prompts import Prompter, Text, count_placeholders, samples_of, visual_items
from mmlens.inputs.video_frames import by_processor

#: A video: its frames as an array `[frame height width 3]`, or as a list of pictures.
Video: TypeAlias = "np.ndarray | torch.Tensor | Sequence[Picture]"
Videos: TypeAlias = Annotated["Sequence[Video] | Sequence[Sequence[Video]] | None", Accepts(object)]


def holds_videos(text: Text) -> bool:
    """Whether chat messages bring videos along."""
    return any("video" in item for sample in samples_of(text) for item in visual_items(sample, "video"))


def prepare_videos(
    family: Family,
    config: Config,
    processor: Any,
    text: Text,
    videos: Videos,
    *,
    fps: float = 24.0,
    padding_side: Literal["left", "right"] | None = None,
) -> MultimodalBatch:
    """Make a batch of text and videos; see `HookedMultimodal.prepare`.

    Raises:
        InputError: if the family reads no videos, or the videos do not fit the text.
    """
    settings = family.videos
    if settings is None:
        raise InputError(
            f"videos= was given, but the family {family.name} reads no videos here; pass frames as pictures, "
            "prepare(text, images=[[frame, frame, ...]]), or the tensors of its own processor, model.batch(...)."
        )
    padding_side = side_for(family, padding_side)
    if not fps > 0:
        raise InputError(f"fps={fps} must be positive: how many of the given frames are shown in a second.")
    samples = samples_of(text)
    clips = _clips(videos, samples)
    mark = settings.mark or processor.tokenizer.convert_ids_to_tokens(config.video_token_id)
    placeholders = picture_tokens(processor.tokenizer, config)
    prompter = Prompter(processor, "video", mark, settings.placeholder.format(mark), placeholders)
    prompts = [prompter.prompt(sample, len(sample_clips)) for sample, sample_clips in zip(samples, clips, strict=True)]
    count_placeholders(prompts, [len(sample_clips) for sample_clips in clips], mark, "videos")
    reader = getattr(processor, "video_processor", None)
    has_reader = reader is not None
    if not has_reader:
        reader = settings.reader(processor.image_processor, getattr(processor, "video_settings", {}))
    flat = [video for sample_clips in clips for video in sample_clips]
    tensors = (by_processor if has_reader else settings.pixels)(reader, flat)
    pieces = iter(settings.expand(config, tensors, [len(video) for video in flat], fps, mark))
    texts, options = special_tokens_once(processor.tokenizer, [_expanded(prompt, mark, pieces) for prompt in prompts])
    tokenizer = (reading_hidden(processor) if any(map(holds_hidden, texts)) else processor).tokenizer
    tokens = tokenizer(texts, return_tensors="pt", padding=True, padding_side=padding_side, **options)
    tensors = {**tokens, **settings.inputs(config, tensors, fps)}
    if not family.token_kinds:
        tensors.pop("token_type_ids", None)
    if family.extra_inputs is not None:
        tensors |= family.extra_inputs(config, tensors)
    frames_of_samples = tuple(tuple(map(tuple, sample_clips)) for sample_clips in clips)
    batch = make_batch(
        family, config, tensors, processor=reader, prompts=tuple(map(revealed, prompts)), videos=frames_of_samples
    )
    remark_length(config, batch)
    return batch


def _expanded(prompt: str, mark: str, pieces: Iterator[str]) -> str:
    first, *rest = prompt.split(mark)
    return first + "".join(next(pieces) + between for between in rest)


def _is_video(item: Any) -> bool:
    """Whether something is one video, rather than several."""
    if isinstance(item, np.ndarray | torch.Tensor):
        return item.ndim == 4
    return isinstance(item, list | tuple) and bool(item) and not any(_is_many(frame) for frame in item)


def _is_many(item: Any) -> bool:
    return isinstance(item, list | tuple) or (isinstance(item, np.ndarray | torch.Tensor) and item.ndim == 4)


def _clips(videos: Any, samples: list[Any]) -> list[list[list[Image.Image]]]:
    """The frames of each video of each sample, read."""
    if videos is None:
        by_sample = [[item["video"] for item in visual_items(sample, "video") if "video" in item] for sample in samples]
    else:
        if _is_video(videos):
            videos = [videos]
        if not isinstance(videos, list | tuple):
            raise InputError(
                "videos must be an array [frame height width 3], a list of pictures, or a list of such, found "
                f"{type(videos).__name__}{f' {list(videos.shape)}' if hasattr(videos, 'shape') else ''}."
            )
        if len(samples) == 1 and all(map(_is_video, videos)):
            videos = [videos]
        by_sample = [[item] if _is_video(item) else item for item in videos]
    if len(by_sample) != len(samples):
        raise InputError(
            f"{len(samples)} texts came with {len(by_sample)} videos (or lists of videos); give as many. For a text without a "
            "video give an empty list."
        )
    if not any(by_sample):
        raise InputError("No video was given: every list is empty. For text alone leave videos out.")
    return [[_frames(video) for video in sample_clips] for sample_clips in by_sample]


def _frames(video: Any) -> list[Image.Image]:
    """The frames of one video, which must be of one size."""
    if not _is_video(video):
        shape = f" {list(video.shape)}" if hasattr(video, "shape") else ""
        raise InputError(
            f"A video must be an array [frame height width 3] or a list of pictures, found {type(video).__name__}{shape}. "
            "Files of videos are not decoded here; read their frames first."
        )
    frames = [load_image(frame) for frame in video]
    if not frames:
        raise InputError("A video has no frames.")
    sizes = sorted({(frame.height, frame.width) for frame in frames})
    if len(sizes) > 1:
        raise InputError(f"The frames of a video must have one size, found {sizes} (height, width).")
    return frames
