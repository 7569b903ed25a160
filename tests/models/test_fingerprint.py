"""Fingerprints: the same weights have one, however they are stored; other weights have another."""

import copy

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


def test_a_change_of_a_few_columns_of_a_square_matrix_is_seen() -> None:
    hf_model = tiny_llava().hf_model
    model = HookedMultimodal.from_hf(hf_model)
    before = fingerprint(model)
    weight = hf_model.model.language_model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[:, 5:9] += 1
    assert fingerprint(model) != before
