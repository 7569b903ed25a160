"""POPE: whether an object is in the picture, asked of objects that are and that are not.

Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", EMNLP 2023
(https://arxiv.org/abs/2305.10355), files of https://github.com/RUCAIBox/POPE: one question a line.
"""

from functools import partial
from pathlib import Path
from typing import TypeAlias

from mmlens.analysis.readers.json_records import field, json_lines
from mmlens.analysis.readers.picture_folder import MissingPictures, PictureFolder
from mmlens.analysis.readers.questions import PLAIN, Template, require_once, worded
from mmlens.analysis.readers.sample_set import SampleSet, picture_samples
from mmlens.analysis.samples.sample import Sample
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import PathLike, SeveralDistinct

SUBSETS = ("random", "popular", "adversarial")
#: Identifier, picture, question, answer, subset.
_Record: TypeAlias = tuple[str, str, str, str, str]


@checked
def pope(
    path: PathLike | SeveralDistinct[PathLike],
    images: PathLike,
    *,
    prompt: Template = PLAIN,
    missing: MissingPictures = "error",
    progress: bool = True,
) -> SampleSet:
    """POPE's questions, their answers, and in `types` the subset: `random`, `popular` or `adversarial`, from the file's name.

    Args:
        path: `coco_pope_random.json` or another of its form; or several, which become one set (`.by("subset")` parts them).
        images: the folder of the pictures, or one above it.
        prompt: the words around the question: `"{question} Please answer this question with one word."`
        missing: whether pictures that are not there are an error, or their samples are left out.
        progress: show a progress bar while files are read.

    Raises:
        InputError: for a file that is not there, broken or of another form, a question that comes twice, a label that is
            neither yes nor no, or missing pictures.
    """
    files = [Path(path)] if isinstance(path, str | Path) else list(map(Path, path))
    records: dict[str, _Record] = {}
    for file in files:
        subset = next((name for name in SUBSETS if name in file.stem.lower()), file.stem)
        for line, record in json_lines(file, "POPE questions", progress=progress):
            where = f"line {line} of {file.name}"
            label = field(record, "label", str, where)
            if label.lower() not in ("yes", "no"):
                raise InputError(f"'label' of {where} must be 'yes' or 'no', found {label!r}.")
            name = f"{subset}/{field(record, 'question_id', (int, str), where)}"
            require_once(records, name, where, file)
            texts = [field(record, key, str, where) for key in ("image", "text")]
            records[name] = (name, texts[0], texts[1], label.lower(), subset)
    title = f"POPE, {', '.join(file.name for file in files)}"
    items = list(records.values())
    return picture_samples(title, items, _names, partial(_sample, prompt), PictureFolder(images), missing)


def _names(record: _Record) -> tuple[str, ...]:
    return (record[1],)


def _sample(prompt: str, record: _Record, path: Path) -> Sample:
    name, picture, question, label, subset = record
    text = worded(prompt, question)
    return Sample(
        (path,), text, name=name, answer=label, references=(label,), types={"subset": subset}, image_id=picture
    )
