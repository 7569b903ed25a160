"""VQAv2: questions, and the answers of ten people to each.

Source: Goyal et al., "Making the V in VQA Matter", CVPR 2017 (https://arxiv.org/abs/1612.00837), files of
https://visualqa.org/download.html.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from mmlens.analysis.readers.json_records import field, json_records, lacking
from mmlens.analysis.readers.picture_folder import MissingPictures, PictureFolder
from mmlens.analysis.readers.questions import PLAIN, Template, require_once, require_partners, worded
from mmlens.analysis.readers.sample_set import SampleSet, picture_samples
from mmlens.analysis.samples.sample import Sample
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import PathLike

#: The picture's id, and the question or what is known of its answer.
_Question: TypeAlias = tuple[int, str]
_Answer: TypeAlias = tuple[int, str, tuple[str, ...], dict[str, str]]


@checked
def vqa_v2(
    questions: PathLike,
    annotations: PathLike | None = None,
    *,
    images: PathLike,
    prompt: Template = PLAIN,
    missing: MissingPictures = "error",
    progress: bool = True,
) -> SampleSet:
    """VQAv2's questions: the answer given most, all ten as references, the types of answer and question.

    Args:
        questions: `v2_OpenEnded_mscoco_val2014_questions.json` or another of its form.
        annotations: `v2_mscoco_val2014_annotations.json` or another of its form; test questions have none.
        images: the folder of COCO's pictures, or one above it; named as in 2014 or as in 2017.
        prompt: the words around the question: `"{question} Answer the question using a single word or phrase."`
        missing: whether pictures that are not there are an error, or their samples are left out.
        progress: show a progress bar while files are read.

    Raises:
        InputError: for a file that is not there, broken or of another form, a question that comes twice, questions and
            annotations that do not match, or missing pictures.
    """
    path = Path(questions)
    by_id, subset = _questions(path, progress)
    answers: dict[int, _Answer] = {}
    if annotations is not None:
        answers = _answers(Path(annotations), progress)
        require_partners(by_id, answers, path, Path(annotations), "questions")
        require_partners(answers, by_id, Path(annotations), path, "annotations")
        for number, (picture, *_) in answers.items():
            if picture != by_id[number][0]:
                raise InputError(
                    f"The question {number} is about the picture {by_id[number][0]} in {path}, and about {picture} in "
                    f"{annotations}."
                )
    records = [(number, *question, answers.get(number)) for number, question in by_id.items()]
    title = f"VQAv2, {path.name}"
    return picture_samples(
        title, records, partial(_names, subset), partial(_sample, prompt), PictureFolder(images), missing
    )


def _questions(path: Path, progress: bool) -> tuple[dict[int, _Question], str]:
    questions: dict[int, _Question] = {}
    keys: Counter[str] = Counter()
    subset = ""
    for key, record in json_records(path, "VQAv2 questions", progress=progress):
        keys[key] += 1
        if key == "data_subtype":
            subset = str(record)
        if key != "questions":
            continue
        where = f"questions {keys[key]} of {path.name}"
        number = field(record, "question_id", int, where)
        require_once(questions, number, where, path)
        questions[number] = (field(record, "image_id", int, where), field(record, "question", str, where))
    if not questions:
        hint = " These are annotations: pass them second." if "annotations" in keys else ""
        raise InputError(f"{lacking(path, 'VQAv2 questions', 'questions', list(keys))}{hint}")
    return questions, subset


def _answers(path: Path, progress: bool) -> dict[int, _Answer]:
    answers: dict[int, _Answer] = {}
    keys: Counter[str] = Counter()
    for key, record in json_records(path, "VQAv2 annotations", progress=progress):
        keys[key] += 1
        if key != "annotations":
            continue
        where = f"annotations {keys[key]} of {path.name}"
        number = field(record, "question_id", int, where)
        require_once(answers, number, where, path)
        people = field(record, "answers", list, where)
        texts = tuple(field(person, "answer", str, f"an answer of {where}") for person in people)
        types = {name: field(record, name, str, where) for name in ("answer_type", "question_type")}
        best = field(record, "multiple_choice_answer", str, where)
        answers[number] = (field(record, "image_id", int, where), best, texts, types)
    if not answers:
        raise lacking(path, "VQAv2 annotations", "annotations", list(keys))
    return answers


def _names(subset: str, record: tuple[Any, ...]) -> tuple[str, ...]:
    picture = record[1]
    return (f"COCO_{subset}_{picture:012d}.jpg", f"{picture:012d}.jpg")


def _sample(prompt: str, record: tuple[int, int, str, _Answer | None], path: Path) -> Sample:
    number, picture, question, known = record
    _, answer, people, types = known or (0, None, (), {})
    return Sample(
        (path,),
        worded(prompt, question),
        name=str(number),
        answer=answer,
        references=people,
        types=types,
        image_id=str(picture),
    )
