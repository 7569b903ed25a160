"""Visual Genome: objects with their attributes, and phrases of regions.

Source: Krishna et al., "Visual Genome", IJCV 2017 (https://arxiv.org/abs/1602.07332), `attributes.json` and
`region_descriptions.json` of https://homes.cs.washington.edu/~ranjay/visualgenome/; pictures in `VG_100K` and `VG_100K_2`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from mmlens.analysis.readers.json_records import field, json_records
from mmlens.analysis.readers.picture_folder import MissingPictures, PictureFolder
from mmlens.analysis.readers.questions import require_once
from mmlens.analysis.readers.sample_set import SampleSet, picture_samples
from mmlens.analysis.samples.sample import DEFAULT_PROMPT, Sample
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import PathLike, Text
from mmlens.core.regions import Box

#: The picture's id, boxes by noun or phrase, attributes by noun.
_Record: TypeAlias = tuple[int, dict[str, tuple[Box, ...]], dict[str, tuple[str, ...]]]


@checked
def visual_genome(
    path: PathLike,
    images: PathLike,
    *,
    prompt: Text = DEFAULT_PROMPT,
    missing: MissingPictures = "error",
    progress: bool = True,
) -> SampleSet:
    """Visual Genome's pictures, one sample each: boxes and attributes of objects by first name, or regions by phrase.

    Boxes are as annotators drew them: some reach over the picture's edge.

    Args:
        path: `attributes.json` or `region_descriptions.json`, of any version.
        images: the folder of the pictures, or one above it.
        prompt: what the model is asked.
        missing: whether pictures that are not there are an error, or their samples are left out.
        progress: show a progress bar while the file is read.

    Raises:
        InputError: for a file that is not there, broken or of another form, a picture that comes twice, or missing pictures.
    """
    path = Path(path)
    records: dict[int, _Record] = {}
    key = "attributes"
    for number, (name, picture) in enumerate(json_records(path, "Visual Genome", progress=progress), 1):
        if name:
            raise InputError(
                f"{path} is no file of Visual Genome: it must be a list of pictures, found an object with {name!r}."
            )
        key = "regions" if "regions" in picture else key
        where = f"picture {number} of {path.name}"
        parts = field(picture, key, list, where)
        # the first versions, and the regions of all, call it "id"
        identifier = field(picture, "image_id" if "image_id" in picture else "id", int, where)
        require_once(records, identifier, where, path)
        things = (_READERS[key](part, f"{key} {n} of {where}") for n, part in enumerate(parts, 1))
        records[identifier] = (identifier, *by_noun(things))
    title = f"Visual Genome {key}, {path.name}"
    items = list(records.values())
    return picture_samples(title, items, _names, partial(_sample, prompt), PictureFolder(images), missing)


def _object(part: Any, where: str) -> tuple[str, Box, tuple[str, ...]]:
    names = field(part, "names", list, where)
    if not names or not isinstance(names[0], str):
        raise InputError(f"'names' of {where} must be a list of one or more names, found {names!r}.")
    attributes = part.get("attributes") or ()  # many objects have none
    return names[0].strip(), box_of(part, where), tuple(str(attribute).strip() for attribute in attributes)


def _region(part: Any, where: str) -> tuple[str, Box, tuple[str, ...]]:
    return field(part, "phrase", str, where).strip(), box_of(part, where, ("x", "y", "width", "height")), ()


#: From a part of a picture and its name for messages to its noun or phrase, its box and its attributes.
_READERS: dict[str, Callable[[Any, str], tuple[str, Box, tuple[str, ...]]]] = {
    "attributes": _object,
    "regions": _region,
}


def by_noun(
    things: Iterable[tuple[str, Box, tuple[str, ...]]],
) -> tuple[dict[str, tuple[Box, ...]], dict[str, tuple[str, ...]]]:
    """Boxes and attributes of several things by noun, attributes once each."""
    boxes: dict[str, tuple[Box, ...]] = {}
    attributes: dict[str, tuple[str, ...]] = {}
    for noun, box, words in things:
        boxes[noun] = (*boxes.get(noun, ()), box)
        if words:
            attributes[noun] = tuple(dict.fromkeys((*attributes.get(noun, ()), *words)))
    return boxes, attributes


def box_of(part: Mapping[str, Any], where: str, keys: tuple[str, ...] = ("x", "y", "w", "h")) -> Box:
    """The box of an object, (left, top, right, bottom), from its corner and sides.

    Args:
        part: the object.
        where: names it, for messages.
        keys: of left, top, width and height.

    Raises:
        InputError: if one is missing or no number.
    """
    left, top, width, height = (float(field(part, key, (int, float), where)) for key in keys)
    return left, top, left + width, top + height


def _names(record: _Record) -> tuple[str, ...]:
    return tuple(f"{folder}{record[0]}.jpg" for folder in ("VG_100K/", "VG_100K_2/", ""))


def _sample(prompt: str, record: _Record, path: Path) -> Sample:
    identifier, boxes, attributes = str(record[0]), record[1], record[2]
    return Sample((path,), prompt, name=identifier, boxes=boxes, attributes=attributes, image_id=identifier)
