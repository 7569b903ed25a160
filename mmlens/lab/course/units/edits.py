"""Unit 9, edits and their side effects: what a change of twenty rows teaches, and what it does not."""

from functools import lru_cache

import torch

from mmlens.analysis.neurons.find import find_neurons
from mmlens.interventions.edits.edit import Edit
from mmlens.interventions.edits.words import replace_token
from mmlens.lab.composing import scenes
from mmlens.lab.course.answers import Choice, Number
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.course.setting import clean, moon_scene, output_rows
from mmlens.lab.scenery import Scene
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal

N = 12


def red_to_blue(model: HookedMultimodal) -> Edit:
    """The edit of the unit: "blue" for "red" about the moon, by the 20 neurons that add the most to "red" there."""
    return _edit(model, fingerprint(model))


@lru_cache(maxsize=1)
def _edit(model: HookedMultimodal, weights: str) -> Edit:
    batch = clean(model)
    neurons = find_neurons(model, batch, token="red").top(20)
    with torch.enable_grad():
        return replace_token(model, batch, source="red", target="blue", neurons=neurons, progress=False)


def _questions(red: bool) -> list[tuple[Scene, str]]:
    """The first question about a colour that is red, or is not, of the first twelve scenes that have one."""
    firsts = [
        (scene, [q.text for q in scene.questions if q.kind == "color" and (q.answer == "red") == red][:1])
        for scene in scenes(80, seed=2)
    ]
    return [(scene, texts[0]) for scene, texts in firsts if texts][:N]


def _answers(model: HookedMultimodal, questions: list[tuple[Scene, str]]) -> list[str]:
    return [model.answer(scene.image, text) for scene, text in questions]


def _asked(model: HookedMultimodal, question: str) -> str:
    with model.edited(red_to_blue(model)):
        return model.answer(moon_scene().image, question)


def _renamed(model: HookedMultimodal) -> int:
    with model.edited(red_to_blue(model)):
        return _answers(model, _questions(red=True)).count("blue")


def _spilt(model: HookedMultimodal) -> int:
    before = _answers(model, _questions(red=False))
    with model.edited(red_to_blue(model)):
        return sum(old != new for old, new in zip(before, _answers(model, _questions(red=False)), strict=True))


def _sizes(model: HookedMultimodal) -> tuple[float, float]:
    """Length of the change of all rows together, and of the rows before."""
    edit = red_to_blue(model)
    layers = range(model.cfg.n_layers)
    before = [output_rows(model, layer).clone() for layer in layers]
    with model.edited(edit):
        after = [output_rows(model, layer).clone() for layer in layers]
    row_masks = [(old != new).any(-1) for old, new in zip(before, after, strict=True)]
    change = torch.cat([(new - old)[rows] for old, new, rows in zip(before, after, row_masks, strict=True)])
    return float(change.norm()), float(
        torch.cat([old[rows] for old, rows in zip(before, row_masks, strict=True)]).norm()
    )


def _relative(model: HookedMultimodal) -> float:
    change, rows = _sizes(model)
    return change / rows


EXERCISES = (
    Exercise(
        "edits.1",
        'the answer to "is there a red moon" about scene 30 with the edit in force',
        Choice(("yes", "no")),
        lambda model: _asked(model, "is there a red moon"),
        "with model.edited(edit): model.answer(scene.image, ...).",
        (
            Slip(
                lambda model: {"yes": "no", "no": "yes"}[_asked(model, "is there a red moon")],
                "what would follow from the new answer is one thing, what the model says another: ask it.",
            ),
        ),
    ),
    Exercise(
        "edits.2",
        f"how many of the {N} questions about other red things are answered blue with the edit in force",
        Number("answers", relative=0, absolute=1),
        _renamed,
        "the questions are those of the unit's cell; count the answers that are 'blue'.",
        (Slip(lambda model: N, "the edit was made on one question; ask the others."),),
        lambda model: 0,
    ),
    Exercise(
        "edits.3",
        f"how many of the {N} answers about things that are not red change",
        Number("answers", relative=0, absolute=1),
        _spilt,
        "compare the answers with and without the edit, one by one.",
        (Slip(_renamed, "those are the questions about red things, whose answers should change."),),
        lambda model: N,
    ),
    Exercise(
        "edits.4",
        "the length of the change of all edited rows together, over the length of these rows before",
        Number("share", relative=0.05),
        _relative,
        "model.blocks[layer].mlp.W_out of all layers, with and without the edit; take the rows that differ.",
        (
            Slip(lambda model: _sizes(model)[0], "that is the length of the change itself; beside how long rows?"),
            Slip(lambda model: 1 / _relative(model), "the other way round."),
        ),
        lambda model: 10.0,
    ),
)
