"""GQA: questions made of scene graphs, with the kinds of question and, where there is one, the graph's objects.

Source: Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question Answering", CVPR 2019
(https://arxiv.org/abs/1902.09506), files of https://cs.stanford.edu/people/dorarad/gqa/download.html.
"""

from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from mmlens.analysis.readers.json_records import field, json_records
from mmlens.analysis.readers.picture_folder import MissingPictures, PictureFolder, few
from mmlens.analysis.readers.questions import PLAIN, Template, require_once, worded
from mmlens.analysis.readers.sample_set import SampleSet, picture_samples
from mmlens.analysis.readers.visual_genome import box_of, by_noun
from mmlens.analysis.samples.sample import Sample
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import PathLike
from mmlens.core.regions import Box

_TYPES = ("structural", "semantic", "detailed")
#: Identifier, picture, question, answer, types.
_Record: TypeAlias = tuple[str, str, str, str | None, dict[str, str]]
#: Boxes and attributes by noun.
_Graph: TypeAlias = tuple[dict[str, tuple[Box, ...]], dict[str, tuple[str, ...]]]


@checked
def gqa(
    questions: PathLike,
    images: PathLike,
    *,
    scene_graphs: PathLike | None = None,
    prompt: Template = PLAIN,
    missing: MissingPictures = "error",
    progress: bool = True,
) -> SampleSet:
    """GQA's questions: the answer, the three types (`structural`, `semantic`, `detailed`), boxes and attributes of objects.

    Args:
        questions: `val_balanced_questions.json` or another of its form.
        images: the folder of the pictures, or one above it.
        scene_graphs: `val_sceneGraphs.json` or another of its form; there are none of test pictures.
        prompt: the words around the question.
        missing: whether pictures that are not there are an error, or their samples are left out.
        progress: show a progress bar while files are read.

    Raises:
        InputError: for a file that is not there, broken or of another form, a question that comes twice, pictures without a scene
            graph where there should be one, or missing pictures.
    """
    path = Path(questions)
    records: dict[str, _Record] = {}
    for number, record in json_records(path, "GQA questions", progress=progress):
        where = f"question {number!r} of {path.name}"
        if not number:
            raise InputError(
                f"{path} is no file of GQA questions: it must be an object of questions by id, found a list."
            )
        require_once(records, number, where, path)
        picture, question = (field(record, key, str, where) for key in ("imageId", "question"))
        answer = field(record, "answer", str, where) if "answer" in record else None
        types = record.get("types") or {}
        records[number] = (number, picture, question, answer, {key: types[key] for key in _TYPES if types.get(key)})
    graphs = {} if scene_graphs is None else _graphs(Path(scene_graphs), progress)
    if scene_graphs is not None:
        without = sorted({picture for _, picture, *_ in records.values()} - set(graphs))
        if without:
            raise InputError(
                f"{len(without):,} pictures of {path} have no scene graph in {scene_graphs}: {few(without)}. Take two files of "
                "one split."
            )
    title, items = f"GQA, {path.name}", list(records.values())
    make = partial(_sample, prompt, graphs)
    return picture_samples(title, items, _names, make, PictureFolder(images), missing)


def _graphs(path: Path, progress: bool) -> dict[str, _Graph]:
    graphs: dict[str, _Graph] = {}
    for picture, graph in json_records(path, "GQA scene graphs", progress=progress):
        where = f"picture {picture!r} of {path.name}"
        things = field(graph, "objects", dict, where).items()
        graphs[picture] = by_noun(_thing(thing, f"object {number!r} of {where}") for number, thing in things)
    return graphs


def _thing(thing: Any, where: str) -> tuple[str, Box, tuple[str, ...]]:
    noun = field(thing, "name", str, where)
    return noun, box_of(thing, where), tuple(map(str, thing.get("attributes") or ()))


def _names(record: _Record) -> tuple[str, ...]:
    return (f"{record[1]}.jpg",)


def _sample(prompt: str, graphs: dict[str, _Graph], record: _Record, path: Path) -> Sample:
    number, picture, question, answer, types = record
    boxes, attributes = graphs.get(picture, ({}, {}))
    truth: dict[str, Any] = {} if answer is None else {"answer": answer, "references": (answer,)}
    return Sample(
        (path,),
        worded(prompt, question),
        name=number,
        types=types,
        boxes=boxes,
        attributes=attributes,
        image_id=picture,
        **truth,
    )
