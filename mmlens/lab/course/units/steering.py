"""Unit 11, steering: a vector that turns an answer, what a random one does, and what it costs elsewhere."""

from functools import lru_cache
from typing import Any

import torch

from mmlens.core.positions import generated, last
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.lab.composing import scenes
from mmlens.lab.course.answers import Judged, Number
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.scenery import Scene
from mmlens.lab.world import QuestionKind
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal

LAYER, ALPHA, N_FIT, N = 2, 2.0, 30, 10


def _questions(kind: QuestionKind, answer: str | None, *, fit: bool) -> list[tuple[Scene, str]]:
    """The first question of a kind, with this answer, of each scene that has one."""
    scene_list = scenes(60, seed=8, split="train") if fit else scenes(60, seed=9)
    texts = [
        (scene, [q.text for q in scene.questions if q.kind == kind and answer in (None, q.answer)][:1])
        for scene in scene_list
    ]
    return [(scene, named[0]) for scene, named in texts if named][: N_FIT if fit else N]


def difference(model: HookedMultimodal, layer: int = LAYER) -> SteeringVector:
    """Mean state at the last position of questions answered no, minus that of questions answered yes, behind a block."""
    return _difference(model, layer, fingerprint(model))


@lru_cache(maxsize=2)
def _difference(model: HookedMultimodal, layer: int, weights: str) -> SteeringVector:
    means = []
    for answer in ("no", "yes"):
        questions = _questions("presence", answer, fit=True)
        batch = model.prepare([text for _, text in questions], images=[scene.image for scene, _ in questions])
        _, cache = model.run_with_cache(batch, names=f"blocks.{layer}.hook_resid_post")
        means.append(cache["resid_post", layer][:, -1].mean(0))
    return SteeringVector(means[0] - means[1], f"blocks.{layer}.hook_resid_post")


def _cosine(model: HookedMultimodal, layer: int = LAYER) -> float:
    apart = model.W_U[:, model.to_single_token("no")] - model.W_U[:, model.to_single_token("yes")]
    return float(torch.cosine_similarity(difference(model, layer).direction, apart, dim=0))


def _steer(vector: SteeringVector) -> Steer:
    return Steer(vector, alpha=ALPHA, positions=last | generated)


def _answers(model: HookedMultimodal, questions: list[tuple[Scene, str]], steer: Steer | None) -> list[str]:
    with model.intervene(steer) if steer is not None else model.hooks():
        return [model.answer(scene.image, text) for scene, text in questions]


def flipped(model: HookedMultimodal, steer: Steer) -> int:
    """How many of ten questions answered yes are answered no."""
    return _answers(model, _questions("presence", "yes", fit=False), steer).count("no")


def changed(model: HookedMultimodal, steer: Steer) -> int:
    """How many of ten answers about colours change."""
    questions = _questions("color", None, fit=False)
    return sum(a != b for a, b in zip(_answers(model, questions, None), _answers(model, questions, steer), strict=True))


def _random(model: HookedMultimodal) -> Steer:
    return _steer(difference(model).random(seed=0))


def _judge(steer: Any, model: HookedMultimodal) -> str | None:
    turns, harm = flipped(model, steer), changed(model, steer)
    faults = [] if turns >= 8 else [f"only {turns} of {N} answers turn: a larger alpha, or another layer"]
    faults += [] if harm <= 2 else [f"{harm} of {N} answers about colours change: a smaller alpha, or an earlier layer"]
    return "; ".join(faults) or None


EXERCISES = (
    Exercise(
        "steering.1",
        f"the cosine of the means' difference (no - yes, behind block {LAYER}) with the unembedding difference of no and yes",
        Number("cosine", absolute=0.01),
        _cosine,
        'model.W_U[:, model.to_single_token("no")] minus that of "yes".',
        (
            Slip(lambda model: -_cosine(model), "no minus yes, in both."),
            Slip(
                lambda model: _cosine(model, model.cfg.n_layers - 1),
                "that is behind the last block, where states nearly are words.",
            ),
        ),
        lambda model: 0.0,
    ),
    Exercise(
        "steering.2",
        f"how many of {N} held-out questions answered yes the difference turns to no, with alpha={ALPHA:g}",
        Number("answers", relative=0, absolute=1),
        lambda model: flipped(model, _steer(difference(model))),
        "mm.Steer(vector, alpha=2.0, positions=mm.positions.last | mm.positions.generated) in model.intervene.",
        (Slip(lambda model: flipped(model, _steer(-difference(model))), "yes minus no makes yes likelier."),),
        lambda model: 4,
    ),
    Exercise(
        "steering.3",
        "how many of them a random direction of the same length turns (vector.random(seed=0))",
        Number("answers", relative=0, absolute=0.5),
        lambda model: flipped(model, _random(model)),
        "vector.random(seed=0) is a control of equal norm; steer with it as before.",
        (Slip(lambda model: flipped(model, _steer(difference(model))), "that is the vector's own count."),),
        lambda model: 5,
    ),
    Exercise(
        "steering.4",
        f"an mm.Steer that turns at least 8 of the {N} answers to no and changes at most two of {N} about colours",
        Judged("an mm.Steer", Steer, _judge),
        lambda model: model,
        "sweep alpha, and count both.",
        control=_random,
        example=lambda model: Steer(difference(model), alpha=2.25, positions=last | generated),
    ),
)
