"""Steering acts where a concept is active, and nowhere else."""

import pytest
import torch

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.steering.gates import ActiveConcept
from mmlens.analysis.store.states import States
from mmlens.core.errors import InputError
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from tests.conftest import Subject

AT = "blocks.1.hook_resid_post"


def _bank(values: torch.Tensor, n_concepts: int, method: str = "kmeans") -> ConceptBank:
    return extract_concepts(States(values, AT), n_concepts, method=method)  # type: ignore[arg-type]


def test_open_where_the_nearest_centre_is_meant() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(3, 16, generator=generator)
    values = centres.repeat_interleave(20, 0) + torch.randn(60, 16, generator=generator)
    bank = _bank(values, 3)
    which = int(bank.dominant()[0])  # the concept of the first twenty
    states = values.reshape(6, 10, 16)
    expected = (torch.cdist(states, centres).argmin(-1) == 0).tolist()
    assert ActiveConcept(bank, which)(states).tolist() == expected
    others = [number for number in range(3) if number != which]
    assert ActiveConcept(bank, others)(states).logical_not().tolist() == expected


def test_at_least_shuts_out_states_that_are_far_from_everything() -> None:
    bank = _bank(torch.eye(4)[:2], 2)
    which = int(bank.dominant()[0])
    near = torch.tensor([[[1.0, 0, 0, 0], [4.0, 0, 0, 0]]])  # distances 0 and 3: activations 1 and 1/4
    assert ActiveConcept(bank, which)(near).tolist() == [[True, True]]
    assert ActiveConcept(bank, which, at_least=0.3)(near).tolist() == [[True, False]]
    assert ActiveConcept(bank, which, at_least=0.25)(near).tolist() == [[True, True]]


def test_by_value_and_by_size_differ_for_signed_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 6, generator=generator) * torch.tensor([9.0, 3, 1, 1, 1, 1])
    bank = _bank(values, 2, "pca")
    codes = bank.encode(values)
    for by, strength in (("absolute", codes.abs()), ("signed", codes)):
        gate = ActiveConcept(bank, 0, by=by)  # type: ignore[arg-type]
        assert gate(values[None])[0].tolist() == (strength.argmax(1) == 0).tolist()
    assert (codes.abs().argmax(1) != codes.argmax(1)).any()


@pytest.mark.parametrize("name", ["llava", "qwen", "blip"])
def test_only_gated_positions_move(name: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(name)
    model, batch = subject.model, subject.batches["left"]
    states = model.run_with_cache(batch, names=AT)[1][AT]
    real = states[batch.layout.is_token]
    bank = _bank(real, 3)
    vector = SteeringVector(torch.ones(states.shape[-1]), AT)
    steer = Steer(vector, positions="all", gate=ActiveConcept(bank, 1))
    with model.intervene(steer):
        steered = model.run_with_cache(batch, names=AT)[1][AT]
    meant = (torch.cdist(states, bank.vectors).argmin(-1) == 1) & batch.layout.is_token
    assert 0 < int(meant.sum()) < int(batch.layout.is_token.sum())
    torch.testing.assert_close(steered - states, meant[..., None] * torch.ones_like(states), atol=1e-5, rtol=0)
    assert steer.touched.tokens == int(meant.sum())


def test_what_does_not_fit_is_refused(llava: Subject) -> None:
    bank = _bank(torch.eye(32)[:2], 2)
    with pytest.raises(InputError, match=r"concepts=2 must be one or more of the bank's 0\.\.1"):
        ActiveConcept(bank, 2)
    with pytest.raises(InputError, match=r"concepts=\[\] must be non-empty"):
        ActiveConcept(bank, [])
    with pytest.raises(InputError, match="by='size' must be 'absolute' or 'signed'"):
        ActiveConcept(bank, 0, by="size")  # type: ignore[arg-type]
    width = llava.model.cfg.d_model
    elsewhere = Steer(SteeringVector(torch.ones(width), "blocks.0.hook_resid_post"), gate=ActiveConcept(bank, 0))
    with pytest.raises(
        InputError, match=r"directions at blocks\.1\.hook_resid_post, but the steering acts at blocks\.0"
    ):
        elsewhere.hooks(llava.model)
