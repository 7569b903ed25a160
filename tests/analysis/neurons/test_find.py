"""Contribution scores: against a float64 reference, and against a model whose neuron is known."""

import copy
from typing import Any

import pytest
import torch

from mmlens.analysis.controls.random_units import random_units
from mmlens.analysis.neurons.find import find_neurons
from mmlens.analysis.neurons.maps import activation_map
from mmlens.analysis.neurons.methods.contribution import Contribution
from mmlens.analysis.neurons.methods.gradient_x_activation import GradientXActivation
from mmlens.analysis.neurons.methods.integrated_gradients import IntegratedGradients
from mmlens.analysis.neurons.words import neuron_words
from mmlens.core import positions
from mmlens.core.errors import InputError, NoPlaceError, UnsupportedModelError
from mmlens.core.units import Neuron
from mmlens.interventions.ablation import Ablate
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject
from tests.tiny import llava as tiny_llava

TOKEN = "circle"


def test_the_planted_neuron_comes_first_and_only_where_it_is(planted_neuron: Wrapped) -> None:
    truth = planted_neuron.truth
    planted = Neuron(truth.layer, truth.neuron)
    batch = planted_neuron.batch()
    scores = find_neurons(planted_neuron.model, batch, token=truth.word)
    assert scores.top(1) == [planted]
    assert scores[planted] > 5 * scores[scores.top(2)[1]]
    assert scores.words(1, neurons=[planted]) == [[truth.word]]
    assert scores.layers(1) == [int(layer == truth.layer) for layer in range(len(scores.scores))]
    absent = find_neurons(planted_neuron.model, planted_neuron.batch(False), token=truth.word)
    assert absent[planted] < 0.1 * scores[planted]
    twin = find_neurons(planted_neuron.twin, batch, token=truth.word)
    assert twin[planted] < 0.1 * scores[planted]


def test_ablating_the_planted_neuron_takes_the_answer_and_random_ones_do_not(planted_neuron: Wrapped) -> None:
    model, truth, batch = planted_neuron.model, planted_neuron.truth, planted_neuron.batch()
    planted = Neuron(truth.layer, truth.neuron)
    with model.intervene(Ablate(str(planted))):
        assert model(batch)[0, -1].argmax() == truth.default_token
    for control in random_units(model, like=planted, draws=10):
        with model.intervene(Ablate(control)):
            assert model(batch)[0, -1].argmax() == truth.token


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_equal_a_float64_reference(subject: Subject, side: str) -> None:
    batch = subject.batches[side]
    scores = find_neurons(subject.model, batch, token=TOKEN)
    blocks = [subject.bare.get_submodule(subject.model.family.language.stack.path)[i] for i in range(3)]
    inputs: list[torch.Tensor] = []
    handles = [b.mlp.down_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for b in blocks]
    with torch.no_grad():
        subject.bare(**batch)
    for handle in handles:
        handle.remove()
    token = subject.model.to_single_token(TOKEN)
    column = subject.bare.get_output_embeddings().weight[token].double()
    last = batch.layout.last
    for layer, (block, q) in enumerate(zip(blocks, inputs, strict=True)):
        q = q[torch.arange(2), last].double().mean(0)
        expected = q * (block.mlp.down_proj.weight.double().T @ column)
        torch.testing.assert_close(scores.scores[layer].double(), expected, rtol=1e-4, atol=1e-5)


def test_scores_sum_to_what_the_mlps_add_to_the_logit(subject: Subject) -> None:
    batch = subject.batches["left"]
    scores = find_neurons(subject.model, batch, token=TOKEN)
    _, cache = subject.model.run_with_cache(batch, names="blocks.*.hook_mlp_out", positions="last")
    column = subject.model.W_U[:, subject.model.to_single_token(TOKEN)]
    for layer, block in enumerate(subject.model.blocks):
        written = (cache["mlp_out", layer][:, 0] - block.mlp.b_out).mean(0) @ column
        torch.testing.assert_close(scores.scores[layer].sum(), written, rtol=1e-3, atol=1e-4)


def test_the_published_multiplier_leaves_out_the_gates_partner(llava: Subject) -> None:
    batch = llava.batches["left"]
    exact = find_neurons(llava.model, batch, token=TOKEN)
    published = find_neurons(llava.model, batch, token=TOKEN, method=Contribution("act"))
    _, cache = llava.model.run_with_cache(
        batch, names=["blocks.1.mlp.hook_post", "blocks.1.mlp.hook_act"], positions="last"
    )
    block = llava.model.blocks[1].mlp
    column = block.W_out @ llava.model.W_U[:, llava.model.to_single_token(TOKEN)]
    torch.testing.assert_close(published.scores[1], cache["blocks.1.mlp.hook_act"][:, 0].mean(0) * column)
    assert not torch.allclose(exact.scores, published.scores, atol=1e-3)


def test_words_are_the_largest_entries_of_the_rows_projection(llava: Subject) -> None:
    neuron = Neuron(2, 7)
    row = llava.bare.model.language_model.layers[2].mlp.down_proj.weight[:, 7]
    best = (llava.bare.lm_head.weight @ row).argsort(descending=True)[:3]
    assert neuron_words(llava.model, [neuron], k=3) == [[llava.model.to_string(t).strip() for t in best]]


def test_a_map_lies_on_the_picture_as_the_layout_says(subject: Subject) -> None:
    batch = subject.batches["left"]
    neuron = Neuron(1, 4)
    if not subject.tiny.has_places:
        with pytest.raises(NoPlaceError, match="queries of the Q-Former mix all patches"):
            activation_map(subject.model, batch, [neuron])
        return
    heat = activation_map(subject.model, batch, [neuron], sample=1)
    _, cache = subject.model.run_with_cache(batch, names=neuron.hook)
    grid = batch.layout.grid(sample=1)
    for position, (row, column) in zip(grid.rows.tolist(), grid.cells.tolist(), strict=True):
        assert heat.values[row, column] == cache[neuron.hook][1, position, 4]
    assert heat.size == batch.layout.place(1).size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token": "zebra"}, r"'zebra' is unknown to the tokenizer, which makes \['<unk>'\] of it"),
        ({"token": "red zebra"}, "'red zebra' is unknown to the tokenizer"),
        ({"token": ""}, "'' is unknown to the tokenizer"),
        ({"token": 32}, r"There is no token 32; ids run from 0 to 31\."),
        ({"token": 1.5}, r"token=1\.5 must be a string"),
        ({"token": "red", "method": "contributions"}, r"'contributions' is unknown; .*; nearest: 'contribution'\."),
        ({"token": "red", "method": Contribution}, r"class .*Contribution'> must be .* call it to make settings"),
        ({"token": "red", "method": 3}, r"method=3 must be one of 'activation', .*, or settings: Activation\(\.\.\.\)"),
        ({"token": "red", "keep": 145}, r"keep=145 must lie in 0\.\.144, the number of neurons"),
        ({"token": "red", "part": "vision"}, "those of the vision part see none .* use one of 'gradient_x_activation'"),
        ({"token": "red", "part": "tail"}, "part='tail' must be 'vision', 'projector' or 'language'"),
        ({"token": "red", "stack": "stages"}, "no neurons in a stack 'stages'; its stacks are 'blocks'"),
        (
            {"token": "red", "part": "vision", "method": GradientXActivation("last")},
            r"positions='last' has no meaning at vision\.blocks\.0\.mlp\.hook_post, whose vision sequence",
        ),
        ({"token": "red", "method": GradientXActivation("zebra")}, "'zebra' does not stand in the text of"),
        ({"token": "red", "method": IntegratedGradients(positions=positions.index(99))}, "outside the"),
    ],
)
def test_wrong_choices_are_refused_before_anything_runs(
    llava: Subject, arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llava.model.hf_model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    with pytest.raises(InputError, match=message):
        find_neurons(llava.model, llava.batches["left"], **arguments)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (IntegratedGradients, {"steps": 0}, r"steps=0 must be at least 1\."),
        (IntegratedGradients, {"steps": True}, "steps=True must be a whole number"),
        (IntegratedGradients, {"path": "each"}, "path='each' must be 'joint' or 'layerwise'"),
        (GradientXActivation, {"positions": 1.5}, "positions=1.5 are none"),
        (Contribution, {"activation": "up"}, "activation='up' must be 'down_in' or 'act'"),
        (Contribution, {"steps": 3}, "there is no argument 'steps'; it takes activation"),
    ],
)
def test_settings_are_checked_where_they_are_made(cls: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cls(**settings)


def test_top_is_bounded(llava: Subject) -> None:
    scores = find_neurons(llava.model, llava.batches["left"], token=TOKEN)
    with pytest.raises(InputError, match=r"k=0 must be at least 1"):
        scores.top(0)


@pytest.mark.parametrize("method", ["contribution", "direct_effect", "gradient_x_activation"])
def test_half_precision_scores_are_those_of_the_same_weights_in_single(method: Any) -> None:
    half = tiny_llava().hf_model.to(torch.bfloat16)
    single = copy.deepcopy(half).float()
    found = []
    for hf_model in (half, single):
        model = HookedMultimodal.from_hf(hf_model)
        batch = model.batch(input_ids=torch.arange(9, 20)[None])
        found.append(find_neurons(model, batch, token=14, method=method).scores)
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found[0], found[1], rtol=0.1, atol=0.05 * float(found[1].abs().max()))


def test_weights_that_cannot_be_read_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HookedMultimodal.from_hf(tiny_llava().hf_model)
    monkeypatch.setattr(model.hf_model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    down = model.hf_model.model.language_model.layers[0].mlp.down_proj
    down.weight = torch.nn.Parameter(down.weight.data.to(torch.int8), requires_grad=False)
    for method in ("contribution", "direct_effect"):
        with pytest.raises(UnsupportedModelError, match=r"down_proj is quantised \(torch\.int8\) and cannot be read"):
            find_neurons(model, torch.arange(9, 20)[None], token=14, method=method)  # type: ignore[arg-type]
