"""Edits about words: one said in the place of another, or no more."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch

from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Neuron
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.edits.direct import Direct, direct
from mmlens.interventions.edits.edit import Edit, provenance
from mmlens.interventions.edits.lessons import Lesson, as_batches, as_token, lessons
from mmlens.interventions.edits.optimise import Found, Through, free_rows, optimise
from mmlens.interventions.edits.rows import read_rows
from mmlens.models.hooked import HookedMultimodal

Batches = MultimodalBatch | Iterable[MultimodalBatch]
#: What batches are needed for.
TEACHING = "to teach the edit from"


def replace_token(
    model: HookedMultimodal,
    batches: Batches,
    *,
    source: str | int,
    target: str | int,
    neurons: UnitsLike,
    controls: Batches = (),
    method: Literal["direct", "through"] | Direct | Through = "through",
    max_new_tokens: int = 30,
    progress: bool = True,
) -> Edit:
    """Rows changed so that the model says the target where it said the source, and as little else as possible.

    The model answers the prompts first; wherever its answers say the source, the target is wanted.

    Args:
        model: the hooked model.
        batches: prompts whose answers hold the source: several pictures and, best, several questions.
        source, target: words that are one token each, or ids.
        neurons: whose rows change: those that write the source (`mm.find_neurons(...).top(20)`), or the ones among them that
            write nothing else (`mm.specific_neurons`).
        controls: prompts whose answers should stay as they are; for `"through"` only. Without them an edit is easily a
            plain preference for the target.
        method: `"through"` (gradient descent through the real network) or `"direct"` (closed form, a reconstruction), with
            the settings of `Through()` and `Direct()`; pass one of these for other settings.
        max_new_tokens: length of the model's answers.
        progress: show a progress bar.

    Returns:
        The edit; nothing is applied, and an interrupt leaves the model as it was. `edit.provenance.settings` says whether
        it reached what was asked (`"stopped"`, `"reached"`), `.losses` how it got there.

    Raises:
        InputError: if a word is not one token, the answers never hold the source, or a row cannot be edited.

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
    chosen = {"direct": Direct(), "through": Through()}.get(method, method) if isinstance(method, str) else method
    if not isinstance(chosen, Direct | Through):
        raise InputError(f"method={method!r} must be 'direct', 'through', or settings Direct(...) or Through(...).")
    old, new = as_token(model, source), as_token(model, target)
    if old == new:
        raise InputError(f"source and target are the same token, {model.to_string(old).strip()!r}.")
    others = as_batches(controls, "controls")
    if isinstance(chosen, Direct) and others:
        raise InputError(
            "method='direct' has no use for controls: it sees the source's places alone. Leave them out, or use 'through'."
        )
    rows = _editable(model, neurons, chosen.frozen_last if isinstance(chosen, Through) else 0)
    elsewhere = [str(row) for row in rows if (row.part, row.stack) != ("language", "blocks")]
    if isinstance(chosen, Direct) and elsewhere:
        raise InputError(
            f"{', '.join(elsewhere[:5])} do not write into the stream that words are read from; use method='through' for them."
        )
    taught = lessons(
        model,
        as_batches(batches, "batches", needed_for=TEACHING),
        source=old,
        target=new,
        max_new_tokens=max_new_tokens,
    )
    words: dict[str, Any] = {"source": model.to_string(old).strip(), "target": model.to_string(new).strip()}
    settings = {**asdict(chosen), **counts(taught)}
    if isinstance(chosen, Direct):
        deltas, found = direct(model, rows, taught, chosen, source=old, target=new)
        about = provenance(model, "direct (a reconstruction)", settings={**settings, **found}, **words)
        return Edit(rows, deltas, about)
    kept = lessons(model, others, source=None, target=None, max_new_tokens=max_new_tokens)
    start = torch.zeros_like(read_rows(model, rows), dtype=torch.float32)
    result = optimise(model, rows, taught, kept, chosen, token=new, wanted="said", start=start, progress=progress)
    return optimised_edit(model, "through", rows, result, kept, settings, words)


def remove_word(
    model: HookedMultimodal,
    batches: Batches,
    *,
    word: str | int,
    neurons: UnitsLike,
    controls: Batches = (),
    settings: Through | None = None,
    max_new_tokens: int = 30,
    progress: bool = True,
) -> Edit:
    """Rows changed so that the model no longer says a word (a sensitive or hallucinated one), with no other in its place.

    As `replace_token` through the network, with `-log(1 - p(word))` where the word is said now, and there (weighted by
    `keep`) the KL to the model's own probabilities of the other words: its next choice is what it should say instead.

    Args:
        model: the hooked model.
        batches: prompts whose answers hold the word.
        word: one token, or an id.
        neurons: whose rows change.
        controls: prompts whose answers should stay as they are.
        settings: of the optimisation; `Through()` by default. `repetition` has no meaning here.
        max_new_tokens: length of the model's answers.
        progress: show a progress bar.

    Returns:
        The edit; nothing is applied.

    Raises:
        InputError: as `replace_token`.
    """
    chosen = Through() if settings is None else settings
    token = as_token(model, word)
    rows = _editable(model, neurons, chosen.frozen_last)
    taught = lessons(
        model,
        as_batches(batches, "batches", needed_for=TEACHING),
        source=token,
        target=None,
        max_new_tokens=max_new_tokens,
    )
    kept = lessons(model, as_batches(controls, "controls"), source=None, target=None, max_new_tokens=max_new_tokens)
    start = torch.zeros_like(read_rows(model, rows), dtype=torch.float32)
    result = optimise(model, rows, taught, kept, chosen, token=token, wanted="unsaid", start=start, progress=progress)
    words = {"source": model.to_string(token).strip()}
    return optimised_edit(model, "remove", rows, result, kept, {**asdict(chosen), **counts(taught)}, words)


def _editable(model: HookedMultimodal, neurons: UnitsLike, frozen_last: int) -> Units:
    """The neurons whose rows an edit may change, once it is known that these can be edited."""
    rows = Units.of(neurons, model, kind=Neuron, verb="An edit of rows")
    read_rows(model, rows)
    return free_rows(model, rows, frozen_last)


def counts(taught: Sequence[Lesson]) -> dict[str, int]:
    """How many samples taught an edit, and at how many places."""
    return {
        "samples": sum(lesson.batch.size for lesson in taught),
        "places": sum(len(lesson.spots) for lesson in taught),
    }


def optimised_edit(
    model: HookedMultimodal,
    method: str,
    rows: Units,
    found: Found,
    kept: Sequence[Lesson],
    settings: dict[str, Any],
    words: dict[str, Any],
) -> Edit:
    """The edit that an optimisation found, with what it was told and how it went.

    Args:
        model: the hooked model.
        method: its name.
        rows: of the deltas.
        found: what the optimisation gave.
        kept: the controls it had.
        settings: what it was told, `seed` among it.
        words: `source` and `target`, as far as it has them.
    """
    told = {**settings, "controls": sum(lesson.batch.size for lesson in kept), "stopped": found.stopped}
    about = provenance(model, method, settings=told, seed=settings["seed"], losses=found.losses, **words)
    return Edit(rows, found.deltas, about)
