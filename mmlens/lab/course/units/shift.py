"""Unit 10, shift: what a fine-tune did to states, and whether one vector says it."""

from functools import lru_cache

import torch
from jaxtyping import Float

from mmlens.analysis.store.collect import collect
from mmlens.lab.checkpoints import ADAPTERS, WEIGHTS
from mmlens.lab.composing import scenes
from mmlens.lab.course.answers import Number
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.tuned import tuned_model
from mmlens.lab.world import SHAPES
from mmlens.models.hooked import HookedMultimodal

AT, N, SEED, N_FIT = "blocks.4.hook_resid_post", 24, 4, 10

Pairs = Float[torch.Tensor, "two state d_model"]


@lru_cache(maxsize=3)
def _pairs(style: str) -> Pairs:
    """Base and fine-tuned states at the same nouns of the same scenes."""
    model = tuned_model(WEIGHTS, ADAPTERS)
    base = _by_noun(model)
    with model.adapter(style):
        tuned = _by_noun(model)
    nouns = [key for key in base if key in tuned]
    return torch.stack([torch.stack([states[key] for key in nouns]) for states in (base, tuned)])


def _by_noun(model: HookedMultimodal) -> dict[tuple[str, str], torch.Tensor]:
    states = collect(
        model, scenes(N, seed=SEED), at=AT, token=SHAPES, batch_size=N, dtype="float32", progress=False
    ).at()
    return dict(zip(zip(states.keys, states.tokens, strict=True), states.values, strict=True))


def _shifts(style: str) -> Float[torch.Tensor, "state d_model"]:
    base, tuned = _pairs(style)
    return tuned - base


def _cosine(first: str, second: str) -> float:
    return float(torch.cosine_similarity(_shifts(first).mean(0), _shifts(second).mean(0), dim=0))


def _consistency(style: str) -> float:
    shifts = _shifts(style)
    return float(torch.cosine_similarity(shifts, shifts.mean(0)[None]).mean())


def _recovery(style: str, *, fresh: bool) -> float:
    """The share of the distance that the mean shift of the first pairs spares the others, or the first themselves."""
    shifts = _shifts(style)
    rest = shifts[N_FIT:] if fresh else shifts[:N_FIT]
    return float(1 - (rest - shifts[:N_FIT].mean(0)).norm(dim=1).mean() / rest.norm(dim=1).mean())


EXERCISES = (
    Exercise(
        "shift.1",
        'the length of the mean shift by "place" over the mean length of the base states',
        Number("share"),
        lambda model: float(_shifts("place").mean(0).norm() / _pairs("place")[0].norm(dim=1).mean()),
        "shift = tuned - base, pair by pair; the mean first, then its length.",
        (
            Slip(
                lambda model: float(_shifts("place").mean(0).norm()), "that is the length itself; how long are states?"
            ),
            Slip(
                lambda model: float(_shifts("place").norm(dim=1).mean() / _pairs("place")[0].norm(dim=1).mean()),
                "that is the mean of the lengths; the length of the mean is less where shifts go different ways.",
            ),
        ),
        lambda model: 0.01,
    ),
    Exercise(
        "shift.2",
        'the cosine of the mean shifts by "place" and by "mood"',
        Number("cosine", absolute=0.01),
        lambda model: _cosine("place", "mood"),
        "torch.cosine_similarity of the two mean vectors.",
        (Slip(lambda model: _cosine("place", "color"), 'that is with "color".'),),
        lambda model: 0.0,
    ),
    Exercise(
        "shift.3",
        'the mean cosine of each state\'s shift by "place" with the mean shift',
        Number("cosine", absolute=0.005),
        lambda model: _consistency("place"),
        "how alike the shifts are: one cosine a state, then the mean.",
        (
            Slip(
                lambda model: float(torch.cosine_similarity(*_pairs("place")).mean()),
                "that is between base and tuned states, which are alike whatever the shift does.",
            ),
        ),
        lambda model: 0.0,
    ),
    Exercise(
        "shift.4",
        f"what the mean shift of the first {N_FIT} pairs spares the others: 1 - mean distance with it / without",
        Number("share", absolute=0.01),
        lambda model: _recovery("place", fresh=True),
        "a vector that was made of some states is to be judged on others.",
        (Slip(lambda model: _recovery("place", fresh=False), "those are the states that the vector was made of."),),
        lambda model: 0.0,
    ),
)
