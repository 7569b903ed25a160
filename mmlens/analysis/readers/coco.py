"""COCO's captions and instances.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014 (https://arxiv.org/abs/1405.0312), annotation files of
2014 and 2017 (https://cocodataset.org/#format-data).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmlens.analysis.readers.json_records import field as field_of
from mmlens.analysis.readers.json_records import json_records, lacking
from mmlens.analysis.readers.masks import mask_of
from mmlens.analysis.readers.picture_folder import MissingPictures, PictureFolder, few
from mmlens.analysis.readers.questions import require_once
from mmlens.analysis.readers.sample_set import SampleSet, picture_samples
from mmlens.analysis.samples.regions import LazyMasks
from mmlens.analysis.samples.sample import DEFAULT_PROMPT, Sample
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import PathLike, Text
from mmlens.core.regions import Box

_NUMBER = (int, float)


@dataclass
class _Picture:
    """A picture of a file, with what the file says of it."""

    id: int
    file_name: str
    size: tuple[int, int]
    captions: list[str] = field(default_factory=list)
    objects: list[tuple[int, str, Box, Any]] = field(default_factory=list)


@checked
def coco_captions(
    annotations: PathLike,
    images: PathLike,
    *,
    prompt: Text = DEFAULT_PROMPT,
    missing: MissingPictures = "error",
    progress: bool = True,
) -> SampleSet:
    """The pictures of a file of COCO captions, one sample each: the first caption, and all as references.

    Args:
        annotations: `captions_val2014.json` or another of its form.
        images: the folder of the pictures, or one above it.
        prompt: what the model is asked.
        missing: whether pictures that are not there are an error, or their samples are left out.
        progress: show a progress bar while the file is read.

    Raises:
        InputError: for a file that is not there, broken or of another form, ids that do not match, or missing pictures.

    Example:
        >>> data = coco_captions("captions_val2014.json", "val2014")  # doctest: +SKIP
        >>> data[0].caption, len(data[0].references)  # doctest: +SKIP
        ('A child holding a flowered umbrella.', 5)
    """
    path = Path(annotations)
    pictures, _ = _read(path, "COCO captions", {"caption": str}, progress)
    records = [picture for picture in pictures.values() if picture.captions]
    return picture_samples(
        f"COCO captions, {path.name}", records, _name, partial(_sample, prompt), PictureFolder(images), missing
    )


@checked
def coco_instances(
    annotations: PathLike,
    images: PathLike,
    *,
    captions: PathLike | None = None,
    prompt: Text = DEFAULT_PROMPT,
    missing: MissingPictures = "error",
    progress: bool = True,
) -> SampleSet:
    """The pictures of a file of COCO instances, one sample each: boxes and masks by category, crowds among them.

    Args:
        annotations: `instances_val2014.json` or another of its form.
        images: the folder of the pictures, or one above it.
        captions: the file of captions of the same pictures; CHAIR takes objects from both.
        prompt: what the model is asked.
        missing: whether pictures that are not there are an error, or their samples are left out.
        progress: show a progress bar while files are read.

    Raises:
        InputError: for a file that is not there, broken or of another form, ids that do not match, or missing pictures.
    """
    path = Path(annotations)
    pictures, categories = _read(path, "COCO instances", {"category_id": int, "bbox": list}, progress)
    for picture in pictures.values():
        unknown = sorted({number for number, *_ in picture.objects} - set(categories))
        if unknown:
            raise InputError(f"{path} has annotations of the categories {few(unknown)}, which it does not list.")
        picture.objects = [(number, categories[number], *rest) for number, _, *rest in picture.objects]
    if captions is not None:
        texts, _ = _read(Path(captions), "COCO captions", {"caption": str}, progress)
        without = [number for number in pictures if number not in texts]
        if without:
            raise InputError(
                f"{len(without):,} pictures of {path} are not in {captions}: ids {few(without)}; take the captions of the same "
                "year and split."
            )
        for number, picture in pictures.items():
            picture.captions = texts[number].captions
    return picture_samples(
        f"COCO instances, {path.name}",
        list(pictures.values()),
        _name,
        partial(_sample, prompt),
        PictureFolder(images),
        missing,
    )


def _read(
    path: Path, kind: str, fields: Mapping[str, type], progress: bool
) -> tuple[dict[int, _Picture], dict[int, str]]:
    """The pictures of a file by id, and its categories."""
    pictures: dict[int, _Picture] = {}
    categories: dict[int, str] = {}
    later: list[tuple[int, Any]] = []  # annotations may stand before pictures
    keys: dict[str, int] = {}
    identifiers: set[int] = set()
    for key, record in json_records(path, kind, progress=progress):
        keys[key] = keys.get(key, 0) + 1
        where = f"{key} {keys[key]} of {path.name}"
        if key == "images":
            number = field_of(record, "id", int, where)
            size = tuple(int(record.get(side) or 0) for side in ("height", "width"))
            picture = _Picture(number, field_of(record, "file_name", str, where), (size[0], size[1]))
            if pictures.setdefault(number, picture) != picture:
                raise InputError(f"{path} has two pictures of the id {number}: {few(_two(pictures[number], picture))}.")
        elif key == "categories":
            categories[field_of(record, "id", int, where)] = field_of(record, "name", str, where)
        elif key == "annotations":
            values = [field_of(record, name, cls, where) for name, cls in fields.items()]
            if "id" in record:  # made by others, some files number nothing
                require_once(identifiers, record["id"], where, path)
                identifiers.add(record["id"])
            later.append((field_of(record, "image_id", int, where), _annotation(record, values, where)))
    for key in ("images", "annotations"):
        if key not in keys:
            raise lacking(path, kind, key, list(keys))
    strangers = {number for number, _ in later if number not in pictures}
    if strangers:
        raise InputError(
            f"{path} has annotations of {len(strangers):,} pictures that it does not list: ids {few(sorted(strangers))}."
        )
    for number, annotation in later:
        if isinstance(annotation, str):
            pictures[number].captions.append(annotation)
        else:
            pictures[number].objects.append(annotation)
    return pictures, categories


def _annotation(record: Mapping[str, Any], values: Sequence[Any], where: str) -> str | tuple[int, str, Box, Any]:
    if isinstance(values[0], str):
        return values[0].strip()
    number, sides = values
    if len(sides) != 4 or not all(isinstance(side, _NUMBER) for side in sides):
        raise InputError(f"'bbox' of {where} must be [left, top, width, height], found {sides}.")
    left, top, width, height = map(float, sides)
    return number, "", (left, top, left + width, top + height), record.get("segmentation")


def _two(first: _Picture, second: _Picture) -> tuple[str, str]:
    return first.file_name, second.file_name


def _name(picture: _Picture) -> tuple[str, ...]:
    return (picture.file_name,)


def _sample(prompt: str, picture: _Picture, path: Path) -> Sample:
    boxes: dict[str, tuple[Box, ...]] = {}
    for _, noun, box, _ in picture.objects:
        boxes[noun] = (*boxes.get(noun, ()), box)
    nouns = {noun: None for _, noun, _, outline in picture.objects if outline is not None}
    return Sample(
        (path,),
        prompt,
        picture.captions[0] if picture.captions else None,
        LazyMasks(partial(_masks, picture), nouns),
        name=str(picture.id),
        references=tuple(picture.captions),
        boxes=boxes,
        image_id=str(picture.id),
    )


def _masks(picture: _Picture) -> dict[str, np.ndarray]:
    masks: dict[str, np.ndarray] = {}
    for _, noun, _, outline in picture.objects:
        if outline is not None:
            if not all(picture.size):
                raise InputError(f"The file gives no height and width of {picture.file_name}, which masks need.")
            masks[noun] = masks.get(noun, False) | mask_of(outline, *picture.size, f"{noun} in {picture.file_name}")
    return masks
