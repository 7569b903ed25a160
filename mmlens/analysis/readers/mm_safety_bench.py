"""MM-SafetyBench: harmful requests whose object is in the picture: drawn, written, or both.

Source: Liu et al., "MM-SafetyBench: A Benchmark for Safety Evaluation of Multimodal Large Language Models", ECCV 2024
(https://arxiv.org/abs/2311.17600), `processed_questions/01-Illegal_Activitiy.json` (as it is spelt) and on, pictures in
`imgs/<scenario>/<variant>/<number>.jpg`.
"""

from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from mmlens.analysis.readers.json_records import field, json_records
from mmlens.analysis.readers.picture_folder import MissingPictures, PictureFolder
from mmlens.analysis.readers.questions import PLAIN, Template, require_once, worded
from mmlens.analysis.readers.sample_set import SampleSet, picture_samples
from mmlens.analysis.samples.sample import Sample
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import PathLike, SeveralDistinct, Text
from mmlens.core.names import nearest

#: What the picture shows: a drawing of the key phrase, the phrase in letters, both, or no picture and the request in words.
Variant: TypeAlias = Literal["SD", "TYPO", "SD_TYPO", "text"]
_QUESTIONS: dict[Variant, str] = {
    "SD": "Rephrased Question(SD)",
    "TYPO": "Rephrased Question",
    "SD_TYPO": "Rephrased Question",
    "text": "Changed Question",
}


@checked
def mm_safety_bench(
    questions: PathLike,
    images: PathLike,
    *,
    variant: Variant = "SD_TYPO",
    scenario: Text | SeveralDistinct[Text] | None = None,
    prompt: Template = PLAIN,
    missing: MissingPictures = "error",
    progress: bool = True,
) -> SampleSet:
    """MM-SafetyBench's requests; in `types` the scenario, the variant and the original `Question`, as `writing` the key phrase.

    Args:
        questions: the folder `processed_questions`, or one file in it.
        images: the folder `imgs`.
        variant: of the picture, which decides the words too; `"text"` asks without a picture.
        scenario: one or several, `"01-Illegal_Activitiy"`; all by default.
        prompt: the words around the request.
        missing: whether pictures that are not there are an error, or their samples are left out.
        progress: show a progress bar while files are read.

    Raises:
        InputError: for a folder without questions, a file that is broken or of another form, an unknown scenario, a question that
            comes twice, or missing pictures.
    """
    path = Path(questions)
    files = [path] if path.is_file() else sorted(path.glob("*.json"))
    if not files:
        raise InputError(f"questions={str(path)!r} must be a folder with a JSON file per scenario; there are none.")
    by_name = {file.stem: file for file in files}
    scenarios = list(by_name) if scenario is None else [scenario] if isinstance(scenario, str) else list(scenario)
    for name in scenarios:
        if name not in by_name:
            close = nearest(name, by_name, count=1)
            raise InputError(
                f"There is no scenario {name!r} in {path}"
                + (f"; nearest: {close[0]!r}" if close else "")
                + "; there are "
                f"{', '.join(by_name)}."
            )
    records = [record for name in scenarios for record in _read(by_name[name], name, variant, progress)]
    title = f"MM-SafetyBench, {variant}"
    make = partial(_sample, prompt, variant)
    folder = PictureFolder(images)
    if variant == "text":
        return SampleSet(title, records, partial(make, path=None))
    return picture_samples(title, records, partial(_names, variant), make, folder, missing)


_Record: TypeAlias = tuple[str, str, dict[str, str]]


def _read(path: Path, scenario: str, variant: Variant, progress: bool) -> list[_Record]:
    records: dict[str, _Record] = {}
    for number, record in json_records(path, "MM-SafetyBench questions", progress=progress):
        where = f"question {number!r} of {path.name}"
        require_once(records, number, where, path)
        keys = ("Question", "Key Phrase", _QUESTIONS[variant])
        records[number] = (scenario, number, {key: field(record, key, str, where) for key in keys})
    return list(records.values())


def _names(variant: Variant, record: _Record) -> tuple[str, ...]:
    return (f"{record[0]}/{variant}/{record[1]}.jpg",)


def _sample(prompt: str, variant: Variant, record: _Record, path: Path | None) -> Sample:
    scenario, number, texts = record
    return Sample(
        () if path is None else (path,),
        worded(prompt, texts[_QUESTIONS[variant]]),
        writing=texts["Key Phrase"],
        name=f"{scenario}/{number}",
        types={"scenario": scenario, "variant": variant, "question": texts["Question"]},
        image_id=f"{scenario}/{number}",
    )
