"""What is planted decides the answer, in plain transformers; without it, and in the twin, it does not."""

import numpy as np
import pytest
import torch

from mmlens import lab
from mmlens.core.errors import InputError
from mmlens.lab.bare_model import PURE
from mmlens.lab.weight_built import Planted

KINDS = ("neuron", "direction", "patch", "direct_flow", "question_flow")


@pytest.fixture(scope="module", params=[(kind, seed) for kind in KINDS for seed in (0, 1)], ids=str)
def planted(request) -> Planted:
    kind, seed = request.param
    return lab.planted(kind, seed=seed)


@torch.no_grad()
def answer(planted: Planted, image, model=None) -> str:
    inputs = planted.inputs(image)
    logits = (model or planted.model)(**inputs).logits[0, -1]
    return planted.processor.tokenizer.decode(int(logits.argmax()))


@torch.no_grad()
def answer_hooked(planted: Planted, image, module, hook, *, pre: bool = False) -> str:
    register = module.register_forward_pre_hook if pre else module.register_forward_hook
    handle = register(hook)
    try:
        return answer(planted, image)
    finally:
        handle.remove()


def layer(planted: Planted, number: int):
    return planted.model.model.language_model.layers[number]


@pytest.mark.parametrize("seed", range(4))
def test_the_answer_needs_the_cause(planted, seed):
    truth = planted.truth
    assert answer(planted, planted.image(True, seed=seed)) == truth.word
    assert answer(planted, planted.image(False, seed=seed)) == truth.default_word
    for present in (True, False):
        assert answer(planted, planted.image(present, seed=seed), planted.twin) == truth.default_word


def test_generation_says_the_one_word_and_stops(planted):
    inputs = planted.inputs(planted.image(True))
    output = planted.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert planted.processor.tokenizer.decode(output) == f"{planted.truth.word} <eos>"


def test_only_the_planted_patch_matters(planted):
    logits = []
    with torch.no_grad():
        for seed in range(6):
            logits.append(planted.model(**planted.inputs(planted.image(True, seed=seed))).logits[0, -1])
    spread = torch.stack(logits).std(dim=0).max()
    with torch.no_grad():
        without = planted.model(**planted.inputs(planted.image(False, seed=0))).logits[0, -1]
    assert spread < 0.05 * (without - logits[0]).abs().max()


def test_the_image_has_the_colour_in_its_box(planted):
    left, top, right, bottom = planted.truth.box
    pixels = np.asarray(planted.image(True, seed=2))
    assert (pixels[top:bottom, left:right] == PURE[planted.truth.color]).all()
    assert planted.truth.patch == planted.truth.row * 3 + planted.truth.column
    assert not (np.asarray(planted.image(True, seed=3)) == pixels).all()


def test_the_known_head_carries_it(planted):
    truth = planted.truth
    columns = slice(truth.head * 8, (truth.head + 1) * 8)

    def silence(_, inputs, heads=columns):
        states = inputs[0].clone()
        states[..., heads] = 0
        return (states,)

    module = layer(planted, truth.head_layer).self_attn.o_proj
    image = planted.image(True)
    if planted.kind == "direction":  # without the colour, nothing lies along the direction
        assert answer_hooked(planted, image, module, silence, pre=True) == truth.default_word
    else:
        assert answer_hooked(planted, image, module, silence, pre=True) != truth.word
    for other in range(4):
        if other != truth.head:
            other_columns = slice(other * 8, (other + 1) * 8)
            hook = lambda _, inputs, heads=other_columns: silence(_, inputs, heads)  # noqa: E731
            assert answer_hooked(planted, image, module, hook, pre=True) == truth.word


def test_the_head_looks_at_the_patch():
    planted = lab.planted("patch")
    planted.model.set_attn_implementation("eager")
    inputs = planted.inputs(planted.image(True))
    with torch.no_grad():
        pattern = planted.model(**inputs, output_attentions=True).attentions[planted.truth.head_layer]
    first = inputs["input_ids"][0].tolist().index(planted.model.config.image_token_id)
    assert pattern[0, planted.truth.head, -1, first + planted.truth.patch] > 0.99


def test_every_colour_of_the_patch_is_its_own_answer():
    planted = lab.planted("patch")
    for color in PURE:
        assert answer(planted, planted.image(color=color, seed=5)) == color


@pytest.mark.parametrize("color", [color for color in PURE if color != "red"])
def test_the_neuron_answers_to_no_other_colour(color):
    planted = lab.planted("neuron")
    assert answer(planted, planted.image(color=color)) == "no"


@pytest.mark.parametrize("present", [True, False])
def test_the_neuron_is_the_cause(present):
    planted = lab.planted("neuron")
    truth = planted.truth
    module = layer(planted, truth.layer).mlp.down_proj

    def fix(neuron: int, value: float):
        def hook(_, inputs):
            states = inputs[0].clone()
            states[..., neuron] = value
            return (states,)

        return hook

    image = planted.image(present)
    assert answer_hooked(planted, image, module, fix(truth.neuron, 0.0), pre=True) == truth.default_word
    assert answer_hooked(planted, image, module, fix(truth.neuron, 10.0), pre=True) == truth.word
    unhooked = answer(planted, image)
    for other in range(16):
        if other != truth.neuron:
            assert answer_hooked(planted, image, module, fix(other, 0.0), pre=True) == unhooked


def test_the_contribution_score_finds_the_neuron():
    planted = lab.planted("neuron")
    truth = planted.truth
    recorded = []
    handles = [
        each.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0][0, -1]))
        for each in planted.model.model.language_model.layers
    ]
    with torch.no_grad():
        planted.model(**planted.inputs(planted.image(True)))
    for handle in handles:
        handle.remove()
    unembedding = planted.model.lm_head.weight[truth.token]
    scores = torch.stack(
        [
            q * (each.mlp.down_proj.weight.T @ unembedding)
            for q, each in zip(recorded, planted.model.model.language_model.layers, strict=True)
        ]
    )
    best = scores.flatten().topk(2)
    assert divmod(int(best.indices[0]), scores.shape[1]) == (truth.layer, truth.neuron)
    assert best.values[0] > 50 * best.values[1].abs()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_direction_decides(seed):
    planted = lab.planted("direction", seed=seed)
    truth = planted.truth
    assert truth.direction.norm() == pytest.approx(1.0, abs=1e-6)
    across = torch.randn(truth.direction.shape, generator=torch.Generator().manual_seed(seed))
    across[:12] = 0  # constants and places steer attention, which is another cause than this one
    across -= (across @ truth.direction) * truth.direction
    across /= across.norm()

    def add(vector: torch.Tensor):
        return lambda _, inputs, output: output + vector

    module = layer(planted, truth.layer)
    absent, present = planted.image(False), planted.image(True)
    assert answer_hooked(planted, absent, module, add(6 * truth.direction)) == truth.word
    assert answer_hooked(planted, present, module, add(-6 * truth.direction)) == truth.default_word
    assert answer_hooked(planted, absent, module, add(0.5 * across)) == truth.default_word
    assert answer_hooked(planted, present, module, add(0.5 * across)) == truth.word


def test_only_planted_weights_differ_from_the_twin(planted):
    model, twin = planted.model.state_dict(), planted.twin.state_dict()
    different = {name for name, value in model.items() if not torch.equal(value, twin[name])}
    attention = {
        f"model.language_model.layers.{hop.layer}.self_attn.{part}_proj.weight"
        for hop in planted.truth.route
        for part in "qkvo"
    }
    mlp = {f"model.language_model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    expected = {"neuron": attention | mlp, "direction": attention | {"lm_head.weight"}}
    expected["question_flow"] = attention | {"lm_head.weight", "model.language_model.embed_tokens.weight"}
    assert different == expected.get(planted.kind, attention | {"lm_head.weight"})


def test_building_leaves_the_global_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    lab.planted("neuron")
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_kind_says_which_there_are():
    with pytest.raises(InputError, match=r"kind='neurons' must be 'neuron', .*'prior'; nearest: 'neuron'"):
        lab.planted("neurons")


def test_an_unknown_colour_says_which_there_are():
    with pytest.raises(InputError, match="no pure colour 'pink'"):
        lab.planted("patch").image(color="pink")
