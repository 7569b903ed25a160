"""Data sets of any other form: rows of `datasets`, of lists, or of a file with one JSON object a line, by a declared mapping."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from PIL import Image

from mmlens.analysis.readers.json_records import json_lines
from mmlens.analysis.readers.picture_folder import MissingPictures, PictureFolder, few
from mmlens.analysis.readers.questions import PLAIN, Template, worded
from mmlens.analysis.readers.sample_set import SampleSet
from mmlens.analysis.samples.items import texts_of
from mmlens.analysis.samples.sample import DEFAULT_PROMPT, Sample
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Must, PathLike
from mmlens.core.names import nearest
from mmlens.core.wording import short

#: What a mapping can declare: the fields of a sample.
SampleField: TypeAlias = Literal[
    "images",
    "prompt",
    "caption",
    "answer",
    "references",
    "types",
    "boxes",
    "attributes",
    "regions",
    "writing",
    "name",
    "image_id",
]
#: From fields of a sample to the row's keys: a key, several (of pictures, types and references), or a function of the row.
Fields: TypeAlias = Annotated[
    Mapping[SampleField, str | Sequence[str] | Callable[[Mapping[str, Any]], Any]],
    Must("say at least where 'images' or 'prompt' are", lambda value: bool({"images", "prompt"} & set(value))),
]


@checked
def from_rows(
    rows: Any,
    fields: Fields,
    *,
    images: PathLike | None = None,
    prompt: Template = PLAIN,
    missing: MissingPictures = "error",
) -> SampleSet:
    """The rows of a data set as samples, one each, made when it is asked for.

    Args:
        rows: what has a length and gives mappings by number: a `datasets.Dataset`, a list of dictionaries.
        fields: from the fields of a sample to keys of a row; keys that are not named are left alone. A key stands for its value;
            several for all of them (`{"types": ["answer_type", "question_type"]}`); a function is given the row. Pictures may be
            names of files, PIL images, or what `datasets` keeps undecoded (`{"bytes": ..., "path": ...}`).
        images: the folder in which pictures are found by name; paths are taken as they are without one.
        prompt: the words around the prompts of the rows; without one, samples have that of captions.
        missing: whether pictures that are not in the folder are an error, or their samples are left out.

    Raises:
        InputError: for rows that cannot be counted or are no mappings, keys that the first row lacks, or missing pictures.

    Example:
        >>> rows = [{"img": scene.image, "q": "what color is the moon", "a": ["red", "red", "orange"], "kind": "color"}]
        >>> data = from_rows(rows, {"images": "img", "prompt": "q", "references": "a", "types": ["kind"]})
        >>> data[0].references, data[0].types, len(data)
        (('red', 'red', 'orange'), {'kind': 'color'}, 1)
    """
    if isinstance(rows, str | Mapping) or not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        raise InputError(
            f"rows={short(rows)} must be rows that can be counted and indexed: a datasets.Dataset, or a list of mappings. "
            "Make a list of a stream."
        )
    return _declared(rows, fields, images, prompt, missing, type(rows).__name__, "row")


@checked
def from_jsonl(
    path: PathLike,
    fields: Fields,
    *,
    images: PathLike | None = None,
    prompt: Template = PLAIN,
    missing: MissingPictures = "error",
    progress: bool = True,
) -> SampleSet:
    """The lines of a file of JSON objects as samples, by a declared mapping.

    Args:
        path: the file, one object a line.
        fields, images, prompt, missing: as for `from_rows`; without a folder, paths of pictures go out from the file's own.
        progress: show a progress bar while the file is read.

    Raises:
        InputError: for a file that is not there or broken, keys that a line lacks, or missing pictures.
    """
    file = Path(path)
    rows = [row for _, row in json_lines(file, "one JSON object a line", progress=progress)]
    return _declared(rows, fields, file.parent if images is None else images, prompt, missing, file.name, "object")


def _declared(
    rows: Any, fields: Fields, images: PathLike | None, prompt: str, missing: MissingPictures, title: str, kind: str
) -> SampleSet:
    if not len(rows):
        raise InputError(f"{title} holds no samples.")
    folder = None if images is None else PictureFolder(images)
    make = partial(_sample, rows, fields, folder, prompt)
    numbers: Sequence[int] = range(len(rows))
    absent: list[str] = []
    if isinstance(rows, list):  # elsewhere looking at a row may decode its picture
        for number, row in enumerate(rows):
            _require(row, fields, f"{kind} {number + 1} of {title}")
        if folder is not None and "images" in fields:
            names = {number: _missing(row, fields, folder) for number, row in enumerate(rows)}
            absent = list(dict.fromkeys(name for several in names.values() for name in several))
            numbers = [number for number, several in names.items() if not several]
    else:
        _require(rows[0], fields, f"{kind} 1 of {title}")
    if absent and folder is not None and (missing == "error" or not numbers):
        raise InputError(
            f"{len(absent):,} pictures that {title} names are not under {folder.path}: {few(absent)}. {folder.content()}"
            + ("" if missing == "skip" else " missing='skip' leaves their samples out.")
        )
    return SampleSet(title, numbers, make, tuple(absent))


def _require(row: Any, fields: Fields, where: str) -> None:
    """Refuse a row that is no mapping or lacks a key."""
    if not isinstance(row, Mapping):
        raise InputError(f"{where} must be a mapping, found {short(row)}.")
    keys = [key for value in fields.values() if not callable(value) for key in _keys(value)]
    for key in keys:
        if key not in row:
            close = nearest(key, list(map(str, row)), count=1)
            raise InputError(
                f"{where} has no {key!r}; it has {', '.join(map(repr, row))}"
                + (f" (nearest: {close[0]!r})." if close else ".")
            )


def _keys(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value


def _value(row: Mapping[str, Any], field: str, value: Any) -> Any:
    """What a row has for a field."""
    if callable(value):
        return value(row)
    if isinstance(value, str):
        return {value: row[value]} if field == "types" else row[value]
    if field == "types":
        return {key: row[key] for key in value}
    return tuple(row[key] for key in value)


def _pictures(row: Mapping[str, Any], fields: Fields) -> list[Any]:
    values = _value(row, "images", fields["images"])
    items = list(values) if isinstance(values, list | tuple) else [values]
    return [picture for picture in items if picture is not None]


def _missing(row: Mapping[str, Any], fields: Fields, folder: PictureFolder) -> list[str]:
    paths = [picture for picture in _pictures(row, fields) if isinstance(picture, str)]
    return [name for name in paths if folder.at(name) is None]


def _picture(value: Any, folder: PictureFolder | None) -> Any:
    """A picture of a row as `Sample` takes it."""
    if isinstance(value, Mapping):  # as `datasets` keeps what it does not decode
        return value["path"] if value.get("bytes") is None else Image.open(BytesIO(value["bytes"]))
    return folder.at(value) or value if isinstance(value, str) and folder is not None else value


def _sample(rows: Any, fields: Fields, folder: PictureFolder | None, prompt: str, number: int) -> Sample:
    row = rows[number]
    _require(row, fields, f"row {number + 1}")
    values = {field: _value(row, field, value) for field, value in fields.items() if field != "images"}
    values = {field: value for field, value in values.items() if value is not None}
    for field in ("references", "answer"):
        if field in values:
            values[field] = texts_of(values[field])
    if isinstance(values.get("references"), str):
        values["references"] = (values["references"],)
    if "types" in values:
        values["types"] = {key: str(value) for key, value in values["types"].items() if value is not None}
    for field in ("name", "image_id"):
        if field in values:
            values[field] = str(values[field])
    values["prompt"] = worded(prompt, str(values["prompt"])) if "prompt" in values else DEFAULT_PROMPT
    if "caption" not in values and "references" in values and "prompt" not in fields:
        values["caption"] = values["references"][0]
    pictures = _pictures(row, fields) if "images" in fields else []
    return Sample(tuple(_picture(picture, folder) for picture in pictures), **values)
