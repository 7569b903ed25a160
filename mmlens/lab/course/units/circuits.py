"""Unit 7, circuits: which heads carry a colour, and by which way, in models whose way is known."""

from collections.abc import Callable

import torch

from mmlens.analysis.metrics import logit_difference
from mmlens.interventions.knockout import KnockOut
from mmlens.lab.course.answers import Choice, Items, Number
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.weight_built import Planted, build_pair
from mmlens.lab.world import PlantedKind
from mmlens.models.hooked import HookedMultimodal

SEED = 3
WAYS = ("picture to last position", "picture to question to last position")


def _planted(kind: PlantedKind = "question_flow") -> Planted:
    return build_pair(kind, seed=SEED)


def _route(kind: PlantedKind = "question_flow") -> list[str]:
    return [f"L{hop.layer}.h{hop.head}" for hop in _planted(kind).truth.route]


def _lead(model: HookedMultimodal, logits: torch.Tensor, planted: Planted) -> float:
    metric = logit_difference(planted.truth.word, planted.truth.default_word)
    return float(metric.on(model)(logits[:, -1]))


def _cut_change(planted: Planted, queries: str) -> float:
    """The change of the answer's lead when some rows cannot look at the picture."""
    model = HookedMultimodal(planted.model, planted.processor)
    batch = model.prepare(planted.prompt, images=planted.image())
    with model.intervene(KnockOut(queries=queries, keys="image")):
        after = _lead(model, model(batch), planted)
    return after - _lead(model, model(batch), planted)


def _recovered(rows: Callable[[list[int]], list[int]]) -> float:
    """The share of the gap that the first head's clean output brings back at rows that are told from those of the question."""
    pair = _planted()
    model = HookedMultimodal(pair.model, pair.processor)
    clean = model.prepare(pair.prompt, images=pair.image())
    other = model.prepare(pair.prompt, images=pair.image(present=False))
    hop = pair.truth.route[0]
    name = f"blocks.{hop.layer}.attn.hook_z"
    _, cache = model.run_with_cache(clean, names=name)
    token = model.to_single_token(pair.prompt)
    at = rows((clean["input_ids"][0] == token).nonzero()[:, 0].tolist())

    def put(z: torch.Tensor, hook: object) -> torch.Tensor:
        new = z.clone()
        new[:, at, hop.head] = cache[name][:, at, hop.head]
        return new

    ends = [_lead(model, model(batch), pair) for batch in (other, clean)]
    run = _lead(model, model.run_with_hooks(other, fwd_hooks=[(name, put)]), pair)
    return (run - ends[0]) / (ends[1] - ends[0])


EXERCISES = (
    Exercise(
        "circuits.1",
        'the heads that carry the colour in mm.lab.planted("question_flow", seed=3), as heads or as names such as "L1.h0"',
        Items("head"),
        lambda model: _route(),
        "patch each head's z at all positions between a picture with the planted colour and one without.",
        (
            Slip(
                lambda model: _route()[1:], "that one reads the colour at the end; another brings it to where it reads."
            ),
            Slip(
                lambda model: _route()[:1],
                "that one takes the colour from the picture; another brings it on.",
            ),
            Slip(lambda model: _route("direct_flow"), 'that is the head of the "direct_flow" model.'),
        ),
        lambda model: ["L1.h1", "L2.h0"],
    ),
    Exercise(
        "circuits.2",
        "by how much the lead of the answer over planted.truth.default_word changes in that model when the last position "
        "cannot look at the picture, in any layer",
        Number("logits", absolute=0.05),
        lambda model: _cut_change(_planted(), "last"),
        'mm.KnockOut(queries="last", keys="image"), and the logit difference of the answer and planted.truth.default_word.',
        (
            Slip(
                lambda model: _cut_change(_planted(), "text"),
                "there the question's word could not look either; cut the last position alone.",
            ),
        ),
        lambda model: -1.0,
    ),
    Exercise(
        "circuits.3",
        'the way of the colour in mm.lab.planted("direct_flow", seed=3)',
        Choice(WAYS),
        lambda model: WAYS[len(_planted("direct_flow").truth.route) - 1],
        "the same cut, in this model.",
        (Slip(lambda model: WAYS[1], "does the answer stand when only the last position is kept from the picture?"),),
    ),
    Exercise(
        "circuits.4",
        'the share of the gap that the first head of "question_flow" brings back, patched at the question\'s word alone',
        Number("share", absolute=0.02),
        lambda model: _recovered(lambda word: word),
        "(patched - other) / (clean - other), with z of this head at this row.",
        (
            Slip(
                lambda model: _recovered(lambda word: [-1]),
                "nothing comes back at the last position, nor by another head: the first one writes at the question's word.",
            ),
        ),
        lambda model: 0.3,
    ),
)
