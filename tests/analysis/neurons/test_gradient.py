"""Gradient scores against finite differences; integrated gradients add up to what is lost when neurons fall silent."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmlens.analysis.neurons.find import find_neurons
from mmlens.analysis.neurons.methods.gradient_x_activation import GradientXActivation
from mmlens.analysis.neurons.methods.integrated_gradients import IntegratedGradients
from mmlens.core import positions as rules
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.neurons.test_direct import in_double
from tests.conftest import Subject
from tests.contracts.test_families import batch_of
from tests.tiny import TINY, Tiny

TOKEN = 18
Change = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(params=TINY, ids=lambda tiny: tiny.name)
def doubled(request: pytest.FixtureRequest) -> tuple[HookedMultimodal, MultimodalBatch]:
    tiny: Tiny = request.param
    model = tiny.make()
    return in_double(model, batch_of(tiny, model))


@torch.no_grad()
def logit(model: HookedMultimodal, batch: MultimodalBatch, changes: dict[str, Change]) -> torch.Tensor:
    """The mean logit of the token over samples, with activations changed."""

    def change(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return changes[hook.name](activation.clone())

    logits = model.run_with_hooks(batch, fwd_hooks=[(name, change) for name in changes])
    return logits[torch.arange(batch.size), batch.layout.last, TOKEN].mean()


def scaled(rows: Any, neuron: int, factor: float) -> Change:
    """A neuron's activation times a factor at some rows."""

    def change(activation: torch.Tensor) -> torch.Tensor:
        activation[(*rows, neuron)] *= factor
        return activation

    return change


def rows_of(batch: MultimodalBatch, positions: str) -> Any:
    if positions == "last":
        return torch.arange(batch.size), batch.layout.last
    return batch.layout.is_image.nonzero(as_tuple=True) if positions == "image" else (...,)


def silent(batch: MultimodalBatch, positions: str) -> Change:
    """All neurons of a layer at zero, at some rows."""

    def change(activation: torch.Tensor) -> torch.Tensor:
        activation[rows_of(batch, positions)] = 0
        return activation

    return change


def slope(
    model: HookedMultimodal, batch: MultimodalBatch, name: str, rows: Any, neuron: int, step: float = 1e-5
) -> torch.Tensor:
    """The derivative of the logit by the factor that a neuron is multiplied by, from two runs."""
    up, down = (logit(model, batch, {name: scaled(rows, neuron, 1 + sign * step)}) for sign in (1, -1))
    return (up - down) / (2 * step)


@pytest.mark.parametrize("positions", ["last", "image", "all"])
def test_activation_times_gradient_is_the_slope(doubled: Any, positions: str) -> None:
    model, batch = doubled
    scores = find_neurons(model, batch, token=TOKEN, method=GradientXActivation(positions)).scores  # type: ignore[arg-type]
    for layer, neuron in ((0, 3), (1, 17), (2, 40)):
        name = f"blocks.{layer}.mlp.hook_post"
        found = slope(model, batch, name, rows_of(batch, positions), neuron)
        torch.testing.assert_close(scores[layer, neuron], found, rtol=1e-4, atol=1e-6)


def test_a_rule_sums_over_what_it_means_in_every_tower(llava: Subject) -> None:
    """What two rules sum over together is the sum of what each sums over; a box has its patches in either tower."""
    model, batch = llava.model, llava.batches["left"]
    box = rules.box((0, 0, 16, 32))
    for part in ("language", "vision"):
        first, second, both = (
            find_neurons(model, batch, token=TOKEN, method=GradientXActivation(rule), part=part).scores  # type: ignore[arg-type]
            for rule in (box, rules.image - box, rules.image)
        )
        torch.testing.assert_close(first + second, both, rtol=1e-4, atol=1e-6)
        assert float(first.abs().max()) > 1e-4
        assert float(second.abs().max()) > 1e-4


def test_an_index_counts_each_samples_own_tokens(doubled: Any) -> None:
    model, batch = doubled
    rows = torch.arange(batch.size), batch.layout.is_token.int().argmax(1)
    scores = find_neurons(model, batch, token=TOKEN, method=GradientXActivation(0)).scores
    for neuron in (3, 17):
        found = slope(model, batch, "blocks.0.mlp.hook_post", rows, neuron)
        torch.testing.assert_close(scores[0, neuron], found, rtol=1e-4, atol=1e-6)


def test_neurons_of_vision_and_projector_are_scored_over_all_their_rows(doubled: Any) -> None:
    model, batch = doubled
    for part in ("vision", "projector"):
        found = find_neurons(model, batch, token=TOKEN, method="gradient_x_activation", part=part)  # type: ignore[arg-type]
        for layer, index in ((0, 2), (len(found.scores) - 1, 9)):
            neuron = found.neuron(layer * found.scores.shape[1] + index)
            assert (neuron.layer, neuron.index, neuron.part) == (layer, index, part)
            # Qwen's vision tower rotates in float32, so that a smaller step would drown in rounding
            expected = slope(model, batch, neuron.hook, (...,), index, step=1e-3)
            torch.testing.assert_close(found[neuron], float(expected), rtol=1e-3, atol=2e-6)
        assert found.scores.abs().max() > 1e-3
        assert found.top(1)[0].hook in model.graph


def test_integrated_gradients_add_up_to_the_logit_that_silence_costs(doubled: Any) -> None:
    model, batch = doubled
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(3)]
    for positions in ("last", "image") if model.family.name == "llava" else ("last",):
        scores = find_neurons(
            model, batch, token=TOKEN, method=IntegratedGradients(positions=positions, steps=16)
        ).scores  # type: ignore[arg-type]
        lost = logit(model, batch, {}) - logit(model, batch, dict.fromkeys(names, silent(batch, positions)))
        torch.testing.assert_close(scores.sum(), lost, rtol=2e-2, atol=2e-3)


def test_layer_by_layer_they_add_up_to_what_each_layer_costs() -> None:
    model = TINY[0].make()
    model, batch = in_double(model, batch_of(TINY[0], model))
    scores = find_neurons(model, batch, token=TOKEN, method=IntegratedGradients(path="layerwise", steps=16)).scores
    for layer in range(3):
        change = {f"blocks.{layer}.mlp.hook_post": silent(batch, "last")}
        lost = logit(model, batch, {}) - logit(model, batch, change)
        torch.testing.assert_close(scores[layer].sum(), lost, rtol=1e-2, atol=1e-3)


def test_more_steps_bring_the_sum_closer(llava: Subject) -> None:
    batch = llava.batches["left"]
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(3)]
    lost = logit(llava.model, batch, {}) - logit(llava.model, batch, dict.fromkeys(names, torch.zeros_like))
    methods = [IntegratedGradients(steps=steps, positions="all") for steps in (1, 4, 16)]
    sums = [find_neurons(llava.model, batch, token=TOKEN, method=method).scores.sum() for method in methods]
    gaps = [abs(float(total - lost)) for total in sums]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 2e-2


def test_parameters_are_left_as_they_were(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    frozen = model.hf_model.lm_head.weight
    frozen.requires_grad_(False)
    try:
        find_neurons(model, batch, token=TOKEN, method="gradient_x_activation")
        wanted = {name: parameter.requires_grad for name, parameter in model.hf_model.named_parameters()}
        assert [name for name, grad in wanted.items() if not grad] == ["lm_head.weight"]
        assert all(parameter.grad is None for parameter in model.hf_model.parameters())
    finally:
        frozen.requires_grad_(True)


def test_vision_blocks_that_are_not_read_score_zero(llava: Subject) -> None:
    scores = find_neurons(
        llava.model, llava.batches["left"], token=TOKEN, method="gradient_x_activation", part="vision"
    ).scores
    assert scores[:2].abs().min(1).values.max() > 0
    assert torch.equal(scores[2], torch.zeros_like(scores[2]))
