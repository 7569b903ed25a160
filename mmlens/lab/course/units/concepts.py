"""Unit 8, concepts: what groups of states have in common, and whether that is more than the words they were taken at."""

from collections import Counter
from functools import lru_cache

import torch

from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.lab.composing import scenes
from mmlens.lab.course.answers import Number
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.world import SHAPES
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal

AT, N, SEED, N_CONCEPTS = "blocks.4.hook_resid_post", 40, 4, 8


def states_of(model: HookedMultimodal) -> States:
    """The states at the nouns of shapes in the captions of 40 scenes."""
    return _states(model, fingerprint(model))


@lru_cache(maxsize=1)
def _states(model: HookedMultimodal, weights: str) -> States:
    return collect(
        model, scenes(N, seed=SEED), at=AT, token=SHAPES, batch_size=20, dtype="float32", progress=False
    ).at()


def _groups(model: HookedMultimodal) -> tuple[int, ...]:
    bank = extract_concepts(states_of(model), N_CONCEPTS, method="kmeans")
    return tuple(bank.codes.abs().argmax(1).tolist())


def _purity(model: HookedMultimodal, groups: tuple[int, ...]) -> float:
    """The share of states whose noun is the most frequent one of their group."""
    nouns = states_of(model).tokens
    counts = {
        group: Counter(noun for noun, other in zip(nouns, groups, strict=True) if other == group) for group in {*groups}
    }
    return sum(counter.most_common(1)[0][1] for counter in counts.values()) / len(groups)


def _error(model: HookedMultimodal, *, centred: bool) -> float:
    values, groups = states_of(model).values.double(), torch.tensor(_groups(model))
    rest = sum(float((values[groups == g] - values[groups == g].mean(0)).pow(2).sum()) for g in groups.unique())
    return rest / float((values - values.mean(0) * centred).pow(2).sum())


def _moon_group(model: HookedMultimodal) -> int:
    pairs = zip(states_of(model).tokens, _groups(model), strict=True)
    return Counter(group for noun, group in pairs if noun == "moon").most_common(1)[0][0]


EXERCISES = (
    Exercise(
        "concepts.1",
        f"how many states mm.collect keeps at the shapes' nouns of mm.lab.scenes({N}, seed={SEED})",
        Number("states", relative=0, absolute=0),
        lambda model: len(states_of(model).tokens),
        f'mm.collect(model, scenes, at="{AT}", token=mm.lab.SHAPES).at() holds one state for each scene that names a shape.',
        (Slip(lambda model: N, "that is how many scenes there are: does each name a shape?"),),
        lambda model: 7,
    ),
    Exercise(
        "concepts.2",
        f"the share of states whose noun is the most frequent one of their concept ({N_CONCEPTS} concepts, k-means)",
        Number("share of states", relative=0.01),
        lambda model: _purity(model, _groups(model)),
        "each state belongs to the concept of its largest code; states.tokens are the nouns.",
        (
            Slip(
                lambda model: _purity(model, (0,) * len(_groups(model))),
                "that is the share of the most frequent noun of all: what no concept at all would give.",
            ),
        ),
        lambda model: 0.125,
    ),
    Exercise(
        "concepts.3",
        "the share of variance that the concepts leave: squared distances to their means over those to the mean",
        Number("share of variance"),
        lambda model: _error(model, centred=True),
        "sum both over all states and coordinates, then divide.",
        (
            Slip(
                lambda model: _error(model, centred=False),
                "below the line stand distances to the states' mean, not to zero.",
            ),
            Slip(lambda model: 1 - _error(model, centred=True), "that is the part that they explain."),
        ),
        lambda model: 0.5,
    ),
    Exercise(
        "concepts.4",
        'the number of the concept that most states at "moon" belong to',
        Number("concept", relative=0, absolute=0),
        _moon_group,
        'count the concepts of the states whose token is "moon".',
        (
            Slip(
                lambda model: next(
                    (group for group, _ in Counter(_groups(model)).most_common() if group != _moon_group(model))
                ),
                "that concept holds many states; count only those at the moon.",
            ),
        ),
        lambda model: (_moon_group(model) + 1) % N_CONCEPTS,
    ),
)
