"""Unit 3, neurons and doubt: what a neuron writes, what becomes of the word without it, and what chance would do."""

import torch

from mmlens.analysis.controls.random_units import random_units
from mmlens.core.unit_sets import Units
from mmlens.core.units import Neuron
from mmlens.interventions.ablation import Ablate
from mmlens.lab.course.answers import Items, Number, Numbers
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.course.setting import clean, output_rows
from mmlens.models.hooked import HookedMultimodal

WORD = "red"


def _activations(model: HookedMultimodal) -> torch.Tensor:
    """What every neuron multiplies its output row by at the last position, `[layer neuron]`."""
    _, cache = model.run_with_cache(clean(model), names="blocks.*.mlp.hook_post")
    return torch.stack([cache["post", layer][0, -1] for layer in range(model.cfg.n_layers)]).float()


def _weights(model: HookedMultimodal) -> torch.Tensor:
    """The product of every output row with the word's unembedding, `[layer neuron]`."""
    direction = model.W_U[:, model.to_single_token(WORD)].float()
    return torch.stack([output_rows(model, layer) @ direction for layer in range(model.cfg.n_layers)])


def contributions(model: HookedMultimodal) -> torch.Tensor:
    """What every neuron adds to the word's logit, by bare tensors."""
    return _activations(model) * _weights(model)


def top(scores: torch.Tensor, k: int) -> Units:
    """The k neurons of the highest scores `[layer neuron]`."""
    return Units(Neuron(*divmod(int(index), scores.shape[1])) for index in scores.flatten().topk(k).indices)


def log_odds(model: HookedMultimodal, units: Units | None = None) -> float:
    """Of the word at the last position, in nats, with neurons zeroed."""
    with model.intervene(Ablate(units)) if units is not None else model.hooks():
        logits = model(clean(model))[0, -1].double()
    return float(logits.softmax(-1)[model.to_single_token(WORD)].logit())


def _log_p_change(model: HookedMultimodal, units: Units) -> float:
    token = model.to_single_token(WORD)
    before = model(clean(model))[0, -1].log_softmax(-1)[token]
    with model.intervene(Ablate(units)):
        return float(model(clean(model))[0, -1].log_softmax(-1)[token] - before)


def _change(model: HookedMultimodal, units: Units) -> float:
    return log_odds(model, units) - log_odds(model)


def _draws(model: HookedMultimodal) -> list[float]:
    top_units = top(contributions(model), 50)
    before = log_odds(model)
    return [log_odds(model, units) - before for units in random_units(model, like=top_units, draws=10, seed=0)]


def _band(model: HookedMultimodal) -> list[float]:
    changes = _draws(model)
    return [min(changes), max(changes)]


EXERCISES = (
    Exercise(
        "neurons.1",
        f'what neuron 543 of layer 3 adds to the logit of "{WORD}" at the last position of the question about the moon',
        Number("logits"),
        lambda model: float(contributions(model)[3, 543]),
        "its activation (mlp.hook_post) times the product of its output row, blocks[3].mlp.W_out[543], with W_U's column.",
        (
            Slip(lambda model: float(_activations(model)[3, 543]), "that is the activation alone."),
            Slip(
                lambda model: float(_weights(model)[3, 543]), "that is what its weights say, whatever the picture is."
            ),
        ),
        lambda model: 0.123,
    ),
    Exercise(
        "neurons.2",
        f'the five neurons that add the most to "{WORD}" there, as units or as names such as "L3.u12"',
        Items("neuron"),
        lambda model: top(contributions(model), 5),
        'mm.find_neurons(model, batch, token="red").top(5).',
        (
            Slip(lambda model: top(_activations(model), 5), "those are the most active; what do they write?"),
            Slip(lambda model: top(_weights(model), 5), "those write the word by their weights; are they active here?"),
        ),
        lambda model: [Neuron(0, index) for index in range(5)],
    ),
    Exercise(
        "neurons.3",
        f'the change of the log-odds of "{WORD}" when the 50 neurons that add the most are zeroed',
        Number("nats", relative=0.03),
        lambda model: _change(model, top(contributions(model), 50)),
        "log-odds are log(p / (1 - p)); take them in double precision, with and without mm.Ablate(neurons.top(50)).",
        (
            Slip(
                lambda model: _log_p_change(model, top(contributions(model), 50)),
                "that is the change of the log-probability, which hardly moves while the model is sure; use log-odds.",
            ),
            Slip(
                lambda model: -_change(model, top(contributions(model), 50)), "after minus before: a loss is negative."
            ),
            Slip(lambda model: _change(model, top(contributions(model), 5)), "those are the first 5, not 50."),
        ),
        lambda model: _draws(model)[0],
    ),
    Exercise(
        "neurons.4",
        "the lowest and the highest change by 10 draws of as many random neurons of the same layers (seed 0)",
        Numbers("nats", relative=0.1),
        _band,
        "mm.random_units(model, like=neurons.top(50), draws=10, seed=0) gives them; zero each as before.",
        (
            Slip(
                lambda model: [_change(model, top(contributions(model), 50))] * 2,
                "those are the found neurons; the question is what random ones do.",
            ),
        ),
        lambda model: [-1.0, 1.0],
    ),
)
