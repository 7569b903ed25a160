"""Edits about words: one said in the place of another, or no more."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Neuron
from mmlens.inputs.batch import BatchesLike, MultimodalBatch
from mmlens.interventions.edits.edit import Edit, provenance
from mmlens.interventions.edits.examples import AnsweredBatch, answered_examples, as_batches, as_word, edit_examples
from mmlens.interventions.edits.method import MethodDeltas, WordTask
from mmlens.interventions.edits.methods import EDIT_METHODS, EditChoice, EditMethod
from mmlens.interventions.edits.rows import read_rows
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.word_forms import WordForms, in_form

#: What batches are needed for.
NEEDED_FOR = "to teach the edit from"


@checked
def replace_token(
    model: WritingModel,
    batches: BatchesLike,
    *,
    source: str | int,
    target: str | int,
    neurons: UnitsLike,
    controls: BatchesLike = (),
    consistency: Sequence[AnsweredBatch] = (),
    method: EditChoice = "through",
    max_new_tokens: Count = 30,
    progress: bool = True,
) -> Edit:
    """Rows changed so that the model says the target where it said the source, and as little else as possible.

    The model answers the prompts first; wherever its answers say the source, the target is wanted.

    Args:
        model: the hooked model.
        batches: prompts whose answers hold the source: several pictures and, best, several questions.
        source, target: words, or ids of tokens. Words may be several tokens each (all tokens of the target are taught, by
            every method), and are taken in the form in which the answers say the source: with a blank in front, or a capital.
        neurons: whose rows change: those that write the source (`mm.find_neurons(...).top(20)`), or the ones among them that
            write nothing else (`mm.neurons.specific_neurons`).
        controls: prompts whose answers should stay as they are; not for `"direct"`. Without them an edit is easily a
            plain preference for the target.
        consistency: for `"belief"`: other questions with the answers that agree with the edit, as pairs of a batch and one
            answer per sample: `(batch, ["no", "yes"])` to "is there a red star", "is there a blue star".
        method: `"through"` (gradient descent through the real network), `"belief"` (the same, until other answers agree with
            the new word) or `"direct"` (closed form, a reconstruction), with the settings of `Through()`, `Belief()` and
            `Direct()`; pass one of these for other settings.
        max_new_tokens: length of the model's answers.
        progress: show a progress bar.

    Returns:
        The edit; nothing is applied, and an interrupt leaves the model as it was. `edit.provenance.settings` says whether
        it reached what was asked (`"stopped"`, `"reached"`), `.losses` how it got there.

    Raises:
        InputError: if the tokenizer does not know a word, the answers never hold the source, or a row cannot be edited.

    Example:
        >>> import mmlens as mm
        >>> asked = model.prepare("where is this", images=scene.image)
        >>> word = model.answer(scene.image, "where is this")
        >>> neurons = mm.find_neurons(model, asked, token=word).top(5)
        >>> edit = mm.edits.replace_token(
        ...     model, asked, source=word, target="star", neurons=neurons, method="direct", progress=False
        ... )
        >>> with model.edited(edit):
        ...     model.answer(scene.image, "where is this")
        'star'
        >>> model.answer(scene.image, "where is this") == word
        True

    Source: Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL 2024
    (https://arxiv.org/abs/2311.07470); the methods' own sources and departures stand at `Through` and `Direct`.
    """
    old, new = as_word(model, source), as_word(model, target)
    if any(form and form in new for form in old):
        raise InputError(f"source and target are the same word, {_text(model, old)!r}.")
    editor = EDIT_METHODS.get(method)
    prompts, control_prompts = as_batches(batches, "batches", needed_for=NEEDED_FOR), as_batches(controls, "controls")

    def teach(rows: UnitsLike) -> Edit:
        task = _task(model, prompts, control_prompts, editor, rows, old, new, max_new_tokens, consistency)
        result = editor.deltas(task, progress=progress)
        return replace(edit_of(task, result, editor.title, editor.settings), teach=teach)

    return teach(neurons)


@checked
def remove_word(
    model: WritingModel,
    batches: BatchesLike,
    *,
    word: str | int,
    neurons: UnitsLike,
    controls: BatchesLike = (),
    method: EditChoice = "through",
    max_new_tokens: Count = 30,
    progress: bool = True,
) -> Edit:
    """Rows changed so that the model no longer says a word (a sensitive or hallucinated one), with no other in its place.

    As `replace_token` through the network, with `-log(1 - p(word))` where the word is said now, and there (weighted by
    `keep`) the KL to the model's own probabilities of the other words: its next choice is what it should say instead.

    Args:
        model: the hooked model.
        batches: prompts whose answers hold the word.
        word: a word, or the id of a token. One of several tokens is kept from being begun where it was said.
        neurons: whose rows change.
        controls: prompts whose answers should stay as they are.
        method: `"through"`, or its settings, of which `repetition` has no meaning here.
        max_new_tokens: length of the model's answers.
        progress: show a progress bar.

    Returns:
        The edit; nothing is applied.

    Raises:
        InputError: as `replace_token`.
    """
    editor = EDIT_METHODS.get(method)
    prompts, control_prompts = as_batches(batches, "batches", needed_for=NEEDED_FOR), as_batches(controls, "controls")
    source = as_word(model, word)

    def teach(rows: UnitsLike) -> Edit:
        task = _task(model, prompts, control_prompts, editor, rows, source, None, max_new_tokens)
        result = editor.deltas(task, progress=progress)
        return replace(edit_of(task, result, "remove", editor.settings), teach=teach)

    return teach(neurons)


def _task(
    model: HookedMultimodal,
    prompts: Sequence[MultimodalBatch],
    control_prompts: Sequence[MultimodalBatch],
    method: EditMethod,
    neurons: UnitsLike,
    source: WordForms,
    target: WordForms | None,
    max_new_tokens: int,
    consistency: Sequence[AnsweredBatch] = (),
) -> WordTask:
    """What is to be achieved, once it is known that the rows can be edited by the method."""
    rows = Units.of(neurons, model, kind=Neuron, verb="An edit of rows")
    read_rows(model, rows)
    rows = method.editable(model, rows)
    method.check(rows, controls=bool(control_prompts), target=target is not None, consistency=bool(consistency))
    questions = answered_examples(model, consistency)
    examples = edit_examples(model, prompts, source=source, target=target, max_new_tokens=max_new_tokens)
    stay = edit_examples(model, control_prompts, source=None, target=None, max_new_tokens=max_new_tokens)
    return WordTask(model, rows, examples, stay, source, target, questions)


def edit_of(task: WordTask, result: MethodDeltas, method: str, settings: Mapping[str, Any]) -> Edit:
    """The edit of the deltas that were found, with what the method was told and how it went."""
    model = task.model
    facts = {
        **settings,
        "samples": sum(example.batch.size for example in task.examples),
        "places": sum(len(example.source_places) for example in task.examples),
        "controls": sum(example.batch.size for example in task.controls),
        "consistency": sum(example.batch.size for example in task.consistency),
        **result.facts,
    }
    words = {"source": _text(model, task.source)}
    if task.target is not None:
        words["target"] = _text(model, task.target)
    about = provenance(model, method, settings=facts, seed=settings.get("seed"), losses=result.losses, **words)
    return Edit(task.rows, result.deltas, about)


def _text(model: HookedMultimodal, word: WordForms) -> str:
    """A word as text."""
    return model.to_string(list(in_form(word, 0))).strip()
