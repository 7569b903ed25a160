"""SBU's captioned photographs.

Source: Ordonez, Kulkarni, Berg, "Im2Text: Describing Images Using 1 Million Captioned Photographs", NIPS 2011
(https://www.cs.rice.edu/~vo9/sbucaptions/): `sbu-captions-all.json`, or the two text files
`SBU_captioned_photo_dataset_captions.txt` and `SBU_captioned_photo_dataset_urls.txt`, line by line.
"""

from functools import partial
from pathlib import Path
from urllib.parse import urlparse

from mmlens.analysis.readers.json_records import json_records, lacking
from mmlens.analysis.readers.picture_folder import MissingPictures, PictureFolder
from mmlens.analysis.readers.sample_set import SampleSet, picture_samples
from mmlens.analysis.samples.sample import DEFAULT_PROMPT, Sample
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.files import require_file
from mmlens.core.kinds import PathLike, Text
from mmlens.core.wording import short


@checked
def sbu_captions(
    path: PathLike,
    images: PathLike,
    *,
    urls: PathLike | None = None,
    prompt: Text = DEFAULT_PROMPT,
    missing: MissingPictures = "error",
    progress: bool = True,
) -> SampleSet:
    """SBU's photographs with their captions. A picture is found by the last part of its address.

    Many addresses are dead by now: `missing="skip"` leaves out what could not be downloaded.

    Args:
        path: `sbu-captions-all.json`, or the text file of captions.
        images: the folder of the pictures that were downloaded.
        urls: the text file of addresses, beside that of captions.
        prompt: what the model is asked.
        missing: whether pictures that are not there are an error, or their samples are left out.
        progress: show a progress bar while the file is read.

    Raises:
        InputError: for a file that is not there, broken or of another form, captions and addresses that differ in number, or
            missing pictures.
    """
    file = Path(path)
    if urls is not None:
        captions, addresses = _lines(file, "SBU captions"), _lines(Path(urls), "SBU addresses")
    elif file.suffix == ".json":
        captions, addresses = _columns(file, progress)
    else:
        raise InputError(f"{file} holds SBU's captions as text; pass the file of their addresses as urls=.")
    if len(captions) != len(addresses):
        raise InputError(
            f"There are {len(captions):,} captions in {file} and {len(addresses):,} addresses"
            + (f" in {urls}" if urls is not None else "")
            + "; they belong together one by one."
        )
    records = [(Path(urlparse(address).path).name, caption) for address, caption in zip(addresses, captions)]
    title = f"SBU captions, {file.name}"
    return picture_samples(title, records, _name, partial(_sample, prompt), PictureFolder(images), missing)


def _lines(path: Path, kind: str) -> list[str]:
    try:
        # other signs that Python ends lines at stand in captions
        return require_file(path, kind).read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 ({error.reason}).") from error


def _columns(path: Path, progress: bool) -> tuple[list[str], list[str]]:
    columns: dict[str, list[str]] = {}
    for key, value in json_records(path, "SBU captions", progress=progress):
        column = columns.setdefault(key, [])
        if key in ("captions", "image_urls"):
            if not isinstance(value, str):
                raise InputError(
                    f"{key!r} of {path.name} must be texts, found {short(value)} as number {len(column) + 1}."
                )
            column.append(value)
    for key in ("captions", "image_urls"):
        if key not in columns:
            raise lacking(path, "SBU captions", key, list(columns))
    return columns["captions"], columns["image_urls"]


def _name(record: tuple[str, str]) -> tuple[str, ...]:
    return (record[0],)


def _sample(prompt: str, record: tuple[str, str], path: Path) -> Sample:
    name, caption = record[0], record[1].strip()
    return Sample((path,), prompt, caption, name=name, references=(caption,), image_id=name)
