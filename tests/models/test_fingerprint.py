"""Fingerprints: the same weights have one, however they are stored; other weights have another."""

import copy
import random

import pytest
import torch

from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject
from tests.tiny import llava as tiny_llava


def test_the_same_weights_have_one_fingerprint(subject: Subject) -> None:
    again = HookedMultimodal.from_hf(subject.bare, subject.model.processor)
    assert fingerprint(again) == fingerprint(subject.model)


def test_the_dtype_does_not_matter_where_it_holds_the_numbers() -> None:
    half = tiny_llava().hf_model.to(torch.bfloat16)
    wide = copy.deepcopy(half).to(torch.float32)
    assert fingerprint(HookedMultimodal.from_hf(half)) == fingerprint(HookedMultimodal.from_hf(wide))


def test_other_weights_names_or_shapes_have_another(llava: Subject, qwen: Subject) -> None:
    known = {fingerprint(llava.model), fingerprint(qwen.model)}
    trained = copy.deepcopy(llava.bare)
    with torch.no_grad():
        trained.model.language_model.layers[1].mlp.down_proj.weight.mul_(1 + 1e-6)
    known.add(fingerprint(HookedMultimodal.from_hf(trained)))
    swapped = copy.deepcopy(llava.bare)
    first, second = (swapped.model.language_model.layers[i].mlp.down_proj.weight for i in (0, 1))
    first.data, second.data = second.data, first.data
    known.add(fingerprint(HookedMultimodal.from_hf(swapped)))
    assert len(known) == 4


def test_one_value_of_any_weight_and_two_that_change_places_are_seen() -> None:
    """Every value counts, also of buffers that are saved, and of adapters that act."""
    hf_model = tiny_llava().hf_model
    hf_model.register_buffer("running", torch.linspace(0, 1, 700))
    hf_model.register_buffer("passing", torch.zeros(3), persistent=False)
    model = HookedMultimodal.from_hf(hf_model)
    before, rng = fingerprint(model), random.Random(0)
    weights = [*hf_model.parameters(), hf_model.running]
    for weight in rng.sample(weights, 20) + [hf_model.running]:
        flat, place = weight.data.view(-1), rng.randrange(weight.numel())
        kept = flat[place].clone()
        flat[place] = torch.nextafter(kept, torch.tensor(9.0))
        assert fingerprint(model) != before
        flat[place] = kept
        other = rng.randrange(weight.numel())
        flat[[place, other]] = flat[[other, place]]
        assert (fingerprint(model) == before) == (flat[place] == flat[other]).item()
        flat[[place, other]] = flat[[other, place]]
    assert fingerprint(model) == before
    hf_model.passing += 1
    assert fingerprint(model) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_that_another_dtype_holds_exactly_are_the_same(dtype: torch.dtype) -> None:
    narrow = torch.randn(3000, generator=torch.Generator().manual_seed(0)).to(
        torch.float16 if dtype != torch.bfloat16 else dtype
    )
    found = set()
    for kind in (narrow.dtype, torch.float32, dtype, torch.float64):
        model = tiny_llava()
        model.hf_model.register_parameter("probe", torch.nn.Parameter(narrow.to(kind)))
        found.add(fingerprint(model))
    assert len(found) == 1


def test_numbers_beyond_float32_count_whole() -> None:
    found = set()
    for step in (0.0, 1e-12):
        model = tiny_llava()
        model.hf_model.register_parameter("probe", torch.nn.Parameter(torch.tensor([1.0 + step], dtype=torch.float64)))
        found.add(fingerprint(model))
    assert len(found) == 2


def test_a_change_of_a_few_columns_of_a_square_matrix_is_seen() -> None:
    hf_model = tiny_llava().hf_model
    model = HookedMultimodal.from_hf(hf_model)
    before = fingerprint(model)
    weight = hf_model.model.language_model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[:, 5:9] += 1
    assert fingerprint(model) != before
