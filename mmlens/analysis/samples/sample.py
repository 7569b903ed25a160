"""A dataset, as every analysis takes one: samples with a picture, a prompt, and what is known to be true of them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from copy import copy
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import islice
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from mmlens.analysis.samples.items import read_item
from mmlens.analysis.samples.regions import LazyMasks, Regions
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.identity import counts_with, identity_of
from mmlens.core.kinds import Accepts, Must, Text, With
from mmlens.core.progress import ProgressBar
from mmlens.core.regions import Box
from mmlens.core.wording import is_tensor, short
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.images import Picture, held_picture, is_picture, load_image
from mmlens.inputs.picture_tensors import PICTURE_TENSORS
from mmlens.models.hooked import HookedMultimodal

DEFAULT_PROMPT = "describe the image"

#: What analyses take as a dataset: lab scenes; `Sample`s; mappings with "image" and perhaps "question", "answer", "id",
#: "caption" (see `mmlens.analysis.samples.items`), as Hugging Face `datasets` give them; pairs (picture, prompt); or bare
#: pictures. Read once, in order, and only as needed.
Dataset: TypeAlias = Annotated[
    Iterable[Any],
    Accepts(object),
    Must(
        "an iterable of samples (scenes, mm.Sample, mappings with 'image', pairs of picture and prompt, pictures); put a single "
        "one into a list",
        lambda value: _is_dataset(value) or _is_tensors(value),
        instead=True,
    ),
    With(lambda arguments, value, name: _with_samples(value, name)),
]


#: What some analyses take in place of a dataset: a prepared batch, or raw tensors, of which one is made.
Data: TypeAlias = Annotated[
    MultimodalBatch | Iterable[Any],
    Accepts(object),
    Must(
        "a batch from model.prepare(...), or an iterable of samples",
        lambda value: _is_dataset(value) or _is_tensors(value),
        instead=True,
    ),
    With(lambda arguments, value, name: _as_data(arguments["model"], value, name)),
]


def _as_data(model: HookedMultimodal, value: Any, name: str) -> Any:
    """A batch, or the dataset."""
    if isinstance(value, MultimodalBatch):
        return value
    return model.batch(value) if _is_tensors(value) else _with_samples(value, name)


def _is_tensors(value: Any) -> bool:
    """Whether it is a batch, or tensors of which one could be made."""
    return is_tensor(value) or (
        isinstance(value, Mapping)
        and any(is_tensor(value.get(name)) for name in ("input_ids", "inputs_embeds", *PICTURE_TENSORS))
    )


def _is_dataset(value: Any) -> bool:
    return isinstance(value, Iterable) and not (isinstance(value, Mapping | type) or is_picture(value))


def _with_samples(dataset: Any, name: str) -> Iterable[Any]:
    """The dataset; of one that is in memory, every item is looked at before anything runs.

    Raises:
        InputError: for an item that is no sample, and for tensors.
    """
    if _is_tensors(dataset):
        kind = "is one prepared batch" if isinstance(dataset, MultimodalBatch) else "holds tensors"
        raise InputError(
            f"{name}={short(dataset)} {kind}: this analysis prepares pictures and prompts itself, so it takes samples, "
            "[mm.Sample(images=(picture,), prompt=...), ...]. What takes a batch (runs, lenses, patching, find_neurons) takes "
            "model.batch(inputs)."
        )
    if isinstance(dataset, list | tuple):
        if not dataset:
            raise InputError(f"{name} holds no samples.")
        for number, item in enumerate(dataset):
            if isinstance(item, MultimodalBatch | Mapping) and _is_tensors(item):
                return _with_samples(item, f"{name}[{number}]")
            if not hasattr(item, "written"):  # scenes would be drawn
                _sample(item, DEFAULT_PROMPT, number)
    return dataset


@checked
@counts_with(lambda sample: sample._content)
@dataclass(frozen=True)
class Sample:
    """One sample of a dataset; equal to another that shows the same pixels and says the same, however its pictures are kept.

    Attributes:
        images: its pictures; empty for text alone.
        prompt: what the model is asked.
        caption: a true caption, if known.
        regions: masks of the objects that are in the picture, by noun.
        writing: the same content in words, which can stand in the place of the picture, with a blank behind it unless it ends
            in one or in a new line; None if unknown.
        name: the caller's own identifier, if there is one.
        answer: the true answer to the prompt, or several that count as true, if known.
        references: what people said, repeats included: captions, or answers to the prompt. Scores compare with them.
        types: the kinds that the sample is of, by the data set's name for them: `{"answer_type": "yes/no"}`.
        boxes: (left, top, right, bottom) in pixels of the picture, of the objects of each noun.
        attributes: what is said of the objects of each noun: `{"clock": ("green", "tall")}`.
        image_id: the data set's identifier of what is shown; samples that share it are not independent.

    Example:
        >>> sample = next(as_samples([scene]))
        >>> sample.prompt, sorted(sample.regions) == sorted({thing.shape for thing in scene.objects})
        ('describe the image', True)
    """

    images: tuple[Picture, ...]
    prompt: Text = DEFAULT_PROMPT
    caption: str | None = None
    regions: Regions = field(default_factory=dict, repr=False)
    writing: str | None = field(default=None, repr=False)
    name: str | None = None
    answer: str | tuple[str, ...] | None = None
    references: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict, repr=False)
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    image_id: str | None = None

    def __post_init__(self) -> None:
        # an open file may be closed, or read by others, before the sample is; and no process could pass it on
        object.__setattr__(self, "images", tuple(map(held_picture, self.images)))

    def __eq__(self, other: object) -> bool:
        return identity_of(self) == identity_of(other) if isinstance(other, Sample) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        said = [(entry, getattr(self, entry.name)) for entry in fields(self) if entry.repr]
        shown = [f"{entry.name}={short(value)}" for entry, value in said if value or entry.name == "images"]
        return f"Sample({', '.join(shown)})"

    @property
    def _content(self) -> tuple[object, ...]:
        """What it counts with: pixels in place of what holds them."""
        pixels = [(picture.size, picture.tobytes()) for picture in self.pictures]
        return (pixels, *(getattr(self, entry.name) for entry in fields(self) if entry.name != "images"))

    @cached_property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The pictures, read as RGB."""
        return tuple(load_image(picture) for picture in self.images)

    @cached_property
    def key(self) -> str:
        """A hash of pixels and prompt, 16 hexadecimal digits: the same content has the same key in every run."""
        digest = hashlib.sha256(self.prompt.encode())
        for picture in self.pictures:
            digest.update(f"|{picture.width}x{picture.height}|".encode())
            digest.update(picture.tobytes())
        return digest.hexdigest()[:16]

    @property
    def shown(self) -> str:
        """What the sample shows: the picture's identifier, else the sample's name, else a hash of its pictures, else its text.
        Questions about one thing share it."""
        if self.image_id is not None:
            return self.image_id
        if self.name is not None or not self.pictures:
            return self.prompt if self.name is None else self.name
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(f"{picture.size}".encode() + picture.tobytes())
        return digest.hexdigest()[:16]

    @property
    def as_writing(self) -> "Sample":
        """The sample with its writing in the place of the pictures.

        Raises:
            InputError: if no writing is known.
        """
        if self.writing is None:
            raise InputError(f"The sample {self.name or self.key} has no writing; give Sample(writing=...).")
        blank = "" if self.writing[-1:].isspace() else " "
        prompt = f"{self.writing}{blank}{self.prompt}"
        return replace(self, images=(), prompt=prompt, writing=None, regions={}, boxes={})


def _scene_masks(scene: Any) -> dict[str, np.ndarray]:
    masks: dict[str, np.ndarray] = {}
    for thing in scene.objects:  # two objects of one noun are one region
        masks[thing.shape] = thing.mask | masks.get(thing.shape, False)
    return masks


@checked
def as_samples(dataset: Dataset, *, prompt: str | None = None) -> Iterator[Sample]:
    """Read a dataset as samples, one at a time.

    Args:
        dataset: see `Dataset`.
        prompt: for samples that bring none; `"describe the image"` by default.

    Raises:
        InputError: for a single string or picture in place of a dataset, or an item that is no sample.
    """
    question = DEFAULT_PROMPT if prompt is None else prompt
    return (_sample(item, question, number) for number, item in enumerate(dataset))


def _sample(item: Any, prompt: str, number: int) -> Sample:
    if isinstance(item, Sample):
        return copy(item)  # the pictures that it reads are let go with it
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], str):
        return Sample(_tuple(item[0]), item[1])
    if isinstance(item, Mapping) and not is_picture(item):
        return _from_mapping(item, prompt, number)
    if hasattr(item, "written"):  # a scene; looking for its objects would already draw their masks
        return Sample((item.image,), prompt, item.caption, LazyMasks(partial(_scene_masks, item)), item.written())
    if isinstance(item, list | tuple) and not item:
        raise InputError(f"Sample {number} is empty; give its picture, or mm.Sample((), prompt) for text alone.")
    return Sample(_tuple(item), prompt)


def _from_mapping(item: Mapping[str, Any], prompt: str, number: int) -> Sample:
    fields = read_item(item, number)
    fields["images"] = () if fields["images"] is None else _tuple(fields["images"])
    for key in ("name", "image_id"):
        if key in fields:
            fields[key] = str(fields[key])
    return Sample(**{"prompt": prompt, **fields})


def _tuple(images: Any) -> tuple[Picture, ...]:
    return tuple(images) if isinstance(images, list | tuple) else (images,)


def length_of(data: object) -> int | None:
    """The number of samples of a dataset or a batch, if it can tell."""
    if isinstance(data, MultimodalBatch):
        return data.size
    return len(data) if isinstance(data, Sized) and not isinstance(data, Mapping | torch.Tensor) else None


def batch_of(model: HookedMultimodal, samples: Sequence[Sample]) -> MultimodalBatch:
    """Samples as one batch, ready to run, padded on the left."""
    pictures = [list(sample.pictures) for sample in samples]
    return model.prepare([sample.prompt for sample in samples], images=pictures)


def batches(
    model: HookedMultimodal,
    dataset: Dataset,
    *,
    batch_size: int = 8,
    prompt: str | None = None,
    progress: bool = True,
    desc: str = "samples",
    total: int | None = None,
) -> Iterator[tuple[list[Sample], MultimodalBatch]]:
    """Prepare a dataset for a model, batch by batch, padded on the left; only one batch is in memory at a time.

    Args:
        model: the hooked model.
        dataset: see `Dataset`.
        batch_size: samples at a time.
        prompt: as for `as_samples`.
        progress: show a progress bar over samples.
        desc: its label.
        total: how many samples there are, where the dataset cannot tell.

    Raises:
        InputError: for a batch size below 1, or an item that is no sample.
    """
    samples = as_samples(dataset, prompt=prompt)
    if (length := length_of(dataset)) is not None:
        total = length
    return _batches(model, samples, batch_size, ProgressBar(total=total, desc=desc, disable=not progress))


def _batches(
    model: HookedMultimodal, samples: Iterator[Sample], batch_size: int, bar: ProgressBar
) -> Iterator[tuple[list[Sample], MultimodalBatch]]:
    with bar:
        while chunk := list(islice(samples, batch_size)):
            yield chunk, batch_of(model, chunk)
            bar.update(len(chunk))
