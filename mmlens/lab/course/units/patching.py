"""Unit 4, patching and twins: where a colour stands, how far it has come at which layer, and what a patch's direction says."""

import torch

from mmlens.lab.course.answers import Number
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.course.setting import clean, corrupted, gap, moon_rows, patched, picture_rows
from mmlens.models.hooked import HookedMultimodal

HEADS = (2, 3, 4)
LAYER = 2


def _moon_effect(model: HookedMultimodal, layer: int = 1) -> float:
    """What the clean moon's rows in front of a layer bring back in the blue run."""
    run = patched(model, clean(model), corrupted(model), {f"blocks.{layer}.hook_resid_pre": moon_rows(model)})
    return run - gap(model(corrupted(model)), model)


def _noising(model: HookedMultimodal) -> float:
    run = patched(model, corrupted(model), clean(model), {"blocks.1.hook_resid_pre": moon_rows(model)})
    return run - gap(model(clean(model)), model)


def _rest_effect(model: HookedMultimodal) -> float:
    rows = sorted({*picture_rows(model, clean(model)).tolist()} - {*moon_rows(model)})
    run = patched(model, clean(model), corrupted(model), {"blocks.1.hook_resid_pre": rows})
    return run - gap(model(corrupted(model)), model)


def _whole(model: HookedMultimodal) -> float:
    return gap(model(clean(model)), model) - gap(model(corrupted(model)), model)


def _arrival(model: HookedMultimodal, share: float = 0.5) -> int:
    """The first layer in front of which the last position alone brings back half of the gap."""
    start, whole = gap(model(corrupted(model)), model), _whole(model)
    for layer in range(model.cfg.n_layers):
        run = patched(model, clean(model), corrupted(model), {f"blocks.{layer}.hook_resid_pre": [-1]})
        if run - start > share * whole:
            return layer
    return model.cfg.n_layers


def _head_effects(model: HookedMultimodal, heads: tuple[int, ...]) -> float:
    def put(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        patched_rows = old.clone()
        patched_rows[..., list(heads), :] = new[..., list(heads), :]
        return patched_rows

    run = patched(model, clean(model), corrupted(model), {f"blocks.{LAYER}.attn.hook_z": [-1]}, put)
    return run - gap(model(corrupted(model)), model)


EXERCISES = (
    Exercise(
        "patching.1",
        'how far "red" is ahead of "blue" about the red moon, minus the same about the blue one',
        Number("logits"),
        _whole,
        'mm.metrics.logit_difference("red", "blue").on(model)(logits[:, -1]) of both runs.',
        (
            Slip(lambda model: gap(model(clean(model)), model), "that is the clean run alone."),
            Slip(lambda model: -_whole(model), "clean minus corrupted."),
        ),
        lambda model: 1.0,
    ),
    Exercise(
        "patching.2",
        "what the clean run's states at the moon's rows, in front of layer 1, change in the run about the blue moon",
        Number("logits"),
        _moon_effect,
        'mm.patch(model, clean, corrupted, at="blocks.1.hook_resid_pre", positions=mm.positions.box(moon.box), metric=...).',
        (
            Slip(_noising, "there the blue moon went into the clean run; here the clean states go into the blue run."),
            Slip(
                lambda model: _moon_effect(model) / _whole(model), "that is a share of the gap; logits are asked for."
            ),
            Slip(_rest_effect, "those are the rows of the rest of the picture."),
            Slip(
                lambda model: _moon_effect(model, LAYER + 1), "in front of a later layer: the colour has left by then."
            ),
        ),
        lambda model: 0.05,
    ),
    Exercise(
        "patching.3",
        "the first layer in front of which the last position alone brings back more than half of the gap",
        Number("layer", relative=0, absolute=0),
        _arrival,
        'one sweep over "blocks.*.hook_resid_pre" with positions="last".',
        (
            Slip(
                lambda model: _arrival(model) - 1,
                "that is the layer that moves the colour; in front of it the last position does not have it yet.",
            ),
        ),
        lambda model: 0,
    ),
    Exercise(
        "patching.4",
        "what heads 2, 3 and 4 of layer 2, patched together at the last position (hook_z), change in the run about the blue moon",
        Number("logits"),
        lambda model: _head_effects(model, HEADS),
        "one hook that puts the clean z of the three heads in at once.",
        (
            Slip(
                lambda model: sum(_head_effects(model, (head,)) for head in HEADS),
                "that is the sum of the three patched one by one; effects of patches need not add up.",
            ),
            Slip(
                lambda model: _head_effects(model, (0, 1, 5)),
                "those are the other heads of the layer; or is it a share of the gap? Logits are asked for.",
            ),
        ),
        lambda model: _head_effects(model, (5,)),
    ),
)
