"""Unit 5, attention and knock-outs: where a head looks is not what it brings; a cut asks what is needed."""

import torch

from mmlens.interventions.knockout import KnockOut
from mmlens.lab.course.answers import Items, Number
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.course.setting import clean, gap, moon_rows, picture_rows
from mmlens.models.hooked import HookedMultimodal


def _looks(model: HookedMultimodal, layer: int) -> torch.Tensor:
    """Where the last position looks in a layer, `[head key]`."""
    _, cache = model.run_with_cache(clean(model), names=f"blocks.{layer}.attn.hook_pattern")
    return cache["pattern", layer][0, :, -1]


def _share(model: HookedMultimodal, layer: int, rows: list[int]) -> torch.Tensor:
    return _looks(model, layer)[:, rows].sum(-1)


def _cut(model: HookedMultimodal, keys: list[int], layers: list[int] | None = None) -> float:
    """The change of the lead of "red" when the last position cannot look at some rows."""
    with model.intervene(KnockOut(queries="last", keys=keys, layers=layers)):
        after = gap(model(clean(model)), model)
    return after - gap(model(clean(model)), model)


def _elsewhere(model: HookedMultimodal) -> list[int]:
    return sorted({*picture_rows(model, clean(model)).tolist()} - {*moon_rows(model)})


EXERCISES = (
    Exercise(
        "attention.1",
        "the share of attention that the last position gives to the moon's rows in layer 2, as a mean over heads",
        Number("share of attention"),
        lambda model: float(_share(model, 2, moon_rows(model)).mean()),
        'cache["pattern", 2][0][:, -1][:, rows].sum(-1).mean().',
        (
            Slip(
                lambda model: float(_share(model, 2, picture_rows(model, clean(model)).tolist()).mean()),
                "that is the share of the whole picture.",
            ),
            Slip(
                lambda model: float(_share(model, 2, moon_rows(model)).max()),
                "that is the largest head's share.",
            ),
            Slip(
                lambda model: float(_looks(model, 2)[:, moon_rows(model)].mean()),
                "that is a mean over rows; the share is their sum.",
            ),
        ),
        lambda model: 0.1,
    ),
    Exercise(
        "attention.2",
        "the heads of layer 0, by number, that give more than half of the last position's attention to the moon's rows",
        Items("head number"),
        lambda model: (_share(model, 0, moon_rows(model)) > 0.5).nonzero()[:, 0].tolist(),
        "the same share as before, head by head.",
        (
            Slip(
                lambda model: (
                    (_share(model, 0, picture_rows(model, clean(model)).tolist()) > 0.5).nonzero()[:, 0].tolist()
                ),
                "those look at the picture, and not all of them at the moon.",
            ),
        ),
        lambda model: [1, 2],
    ),
    Exercise(
        "attention.3",
        'what the lead of "red" over "blue" changes by when the last position cannot look at the moon\'s rows in layer 0',
        Number("logits", relative=0.03, absolute=0.02),
        lambda model: _cut(model, moon_rows(model), [0]),
        'mm.knock_out(model, batch, queries="last", keys=..., layers=[0]) or mm.KnockOut in an intervention.',
        (
            Slip(
                lambda model: _cut(model, moon_rows(model), [2]),
                "that is layer 2. Layer 0 looks at the moon too: is that look needed?",
            ),
        ),
        lambda model: -5.0,
    ),
    Exercise(
        "attention.4",
        "the layer in which the same cut costs the most",
        Number("layer", relative=0, absolute=0),
        lambda model: min(range(model.cfg.n_layers), key=lambda layer: _cut(model, moon_rows(model), [layer])),
        "cut layer by layer, and take the one after which the lead is smallest.",
        (
            Slip(
                lambda model: 1 + min(range(model.cfg.n_layers), key=lambda n: _cut(model, moon_rows(model), [n])),
                "in front of that layer the colour has arrived; the cut has to hit the layer that brings it.",
            ),
        ),
        lambda model: 0,
    ),
)
