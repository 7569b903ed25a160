"""Captions in Karpathy's splits.

Source: Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015
(https://arxiv.org/abs/1412.2306): `dataset_coco.json`, `dataset_flickr8k.json`, `dataset_flickr30k.json`.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from mmlens.analysis.readers.json_records import field, json_records, lacking
from mmlens.analysis.readers.picture_folder import MissingPictures, PictureFolder
from mmlens.analysis.readers.sample_set import SampleSet, picture_samples
from mmlens.analysis.samples.sample import DEFAULT_PROMPT, Sample
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import PathLike, SeveralDistinct, Text

Split: TypeAlias = Literal["train", "restval", "val", "test"]
#: Identifier, file name with its folder, and captions.
_Record: TypeAlias = tuple[str, str, tuple[str, ...]]


@checked
def karpathy(
    path: PathLike,
    images: PathLike,
    *,
    split: Split | SeveralDistinct[Split] = "test",
    prompt: Text = DEFAULT_PROMPT,
    missing: MissingPictures = "error",
    progress: bool = True,
) -> SampleSet:
    """The pictures of a split of Karpathy's, one sample each: the first caption, and all as references.

    Args:
        path: `dataset_coco.json`, or that of Flickr8k or Flickr30k.
        images: the folder of the pictures, or one above it.
        split: one, or several; `("train", "restval")` is what captioning models are usually trained on.
        prompt: what the model is asked.
        missing: whether pictures that are not there are an error, or their samples are left out.
        progress: show a progress bar while the file is read.

    Raises:
        InputError: for a file that is not there, broken or of another form, a split without pictures, a picture twice, or
            missing pictures.
    """
    file, kind = Path(path), "Karpathy's splits"
    splits = (split,) if isinstance(split, str) else tuple(split)
    records: dict[str, _Record] = {}
    counts: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for key, record in json_records(file, kind, progress=progress):
        keys[key] += 1
        if key != "images":
            continue
        where = f"images {keys[key]} of {file.name}"
        of = field(record, "split", str, where)
        counts[of] += 1
        if of not in splits:
            continue
        sentences = field(record, "sentences", list, where)
        captions = tuple(field(sentence, "raw", str, f"a sentence of {where}").strip() for sentence in sentences)
        name, folder = field(record, "filename", str, where), record.get("filepath")
        identifier = str(record.get("cocoid", record.get("imgid", name)))
        if identifier in records:
            raise InputError(f"{file} has the picture {identifier} twice, the second time as {where}.")
        records[identifier] = (identifier, f"{folder}/{name}" if folder else name, captions)
    if "images" not in keys:
        raise lacking(file, kind, "images", list(keys))
    absent = [name for name in splits if name not in counts]
    if absent:
        splits_text = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
        raise InputError(f"{file} has no pictures of the split {', '.join(absent)}; it has {splits_text}.")
    title = f"Karpathy's {' and '.join(splits)}, {file.name}"
    items = list(records.values())
    return picture_samples(title, items, _names, partial(_sample, prompt), PictureFolder(images), missing)


def _names(record: _Record) -> tuple[str, ...]:
    return record[1], Path(record[1]).name


def _sample(prompt: str, record: _Record, path: Path) -> Sample:
    identifier, _, captions = record
    caption = captions[0] if captions else None
    return Sample((path,), prompt, caption, name=identifier, references=captions, image_id=identifier)
