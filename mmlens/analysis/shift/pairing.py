"""Which state of the tuned model belongs to which of the base model: the one of the same sample and word."""

from collections import Counter
from typing import Literal

from mmlens.analysis.store.states import States
from mmlens.core.contract import checked
from mmlens.core.errors import InputError

#: Which samples are compared: every one must be in both sets; those that both have; none, the two are different data.
Pairs = Literal["all", "common", "none"]
_Label = tuple[str, str]
_SHOWN = 5


@checked
def paired(base_states: States, tuned_states: States, *, pairs: Pairs) -> tuple[States, States]:
    """Both sets in one order, so that row i of both is the same sample; with `pairs="none"` as they are.

    Two states are a pair if their samples have the same hash and they predict the same word. Where the words do not
    matter, take them away: `dataclasses.replace(states, tokens=())`.

    Args:
        base_states, tuned_states: states of one point.
        pairs: see `Pairs`.

    Raises:
        InputError: for states of different points, without samples' hashes, with several states of one sample and word, or
            with samples that only one of the two has (all of them, for `pairs="common"`).
    """
    shapes = [tuple(states.values.shape[1:]) for states in (base_states, tuned_states)]
    if base_states.at != tuned_states.at or shapes[0] != shapes[1]:
        raise InputError(
            f"base_states are of {base_states.at} {list(shapes[0])} and tuned_states of {tuned_states.at} {list(shapes[1])}; "
            "collect both at one point."
        )
    if pairs == "none":
        return base_states, tuned_states
    words = bool(base_states.tokens and tuned_states.tokens)
    rows = [
        _rows(states, name, words) for states, name in ((base_states, "base_states"), (tuned_states, "tuned_states"))
    ]
    common = [label for label in rows[0] if label in rows[1]]
    alone = [
        [label for label in own_labels if label not in other_labels] for own_labels, other_labels in (rows, rows[::-1])
    ]
    if not common or (pairs == "all" and any(alone)):
        raise InputError(_unpaired(alone, [len(labels) for labels in rows], len(common)))
    return base_states[[rows[0][label] for label in common]], tuned_states[[rows[1][label] for label in common]]


def _rows(states: States, name: str, words: bool) -> dict[_Label, int]:
    """The row of each sample (and word)."""
    if not states.keys:
        raise InputError(
            f"{name} do not know which samples they come from (States.keys), so they cannot be paired; take them from "
            "mm.collect, or pass pairs='none' for two unrelated sets."
        )
    labels = list(zip(states.keys, states.tokens if words else [""] * len(states), strict=True))
    duplicates = [label for label, count in Counter(labels).items() if count > 1]
    if duplicates:
        raise InputError(
            f"{name} hold several states of one sample: {_listed(duplicates)}. Keep one each, e.g. by mm.collect(..., token=...)."
        )
    return {label: row for row, label in enumerate(labels)}


def _unpaired(alone: list[list[_Label]], sizes: list[int], common: int) -> str:
    names = ("base_states", "tuned_states")
    sentences = [
        f"{len(labels)} of {size} states of {name} have no partner in {other}: {_listed(labels)}"
        for labels, size, name, other in zip(alone, sizes, names, names[::-1], strict=True)
        if labels
    ]
    if common:
        hint = f"Pass pairs='common' to compare the {common} that both have, or collect both from one dataset."
    else:
        hint = (
            "They have no sample in common: collect both from one dataset, or pass pairs='none' for two unrelated sets."
        )
    return f"{'. '.join(sentences)}. {hint}"


def _listed(labels: list[_Label]) -> str:
    words = [f"{key} ({word})" if word else key for key, word in labels[:_SHOWN]]
    return ", ".join(words) + (" ..." if len(labels) > _SHOWN else "")
