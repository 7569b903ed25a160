"""Steering vectors lead from source to target, and a planted direction is found."""

import pytest
import torch

from mmlens import lab
from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.steering.vectors import concept_steering_vectors, contrastive_vector, steering_vector
from mmlens.analysis.store.states import States
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject

AT = "blocks.1.hook_resid_post"


def test_the_vector_is_the_planted_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    shift = torch.randn(32, generator=generator)
    source = torch.randn(4000, 32, generator=generator)
    target = torch.randn(4000, 32, generator=generator) + shift
    found = steering_vector(States(source, AT, tokens=("yes",) * 4000), States(target, AT, tokens=("no",) * 4000))
    assert torch.cosine_similarity(found.direction, shift, dim=0) > 0.99
    assert found.norm == pytest.approx(float(shift.norm()), rel=0.02)
    assert (found.provenance["target"]["count"], found.provenance["target"]["words"]) == (4000, ["no"])


def test_steered_means_land_on_the_target(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    _, cache = model.run_with_cache(batch, names=AT)
    text, image = cache[AT][batch.layout.is_token & ~batch.layout.is_image], cache[AT][batch.layout.is_image]
    vector = steering_vector(text, image, at=AT)
    with model.intervene(Steer(vector, positions="text")):
        _, steered = model.run_with_cache(batch, names=AT)
    moved = steered[AT][batch.layout.is_token & ~batch.layout.is_image].mean(0)
    torch.testing.assert_close(moved, image.mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen", "blip"])
def test_contrastive_prompts_by_hand(name: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(name)
    model = subject.model
    pictures = [lab.scene(seed).image for seed in range(3)]
    found = contrastive_vector(model, pictures, positive=SHORT, negative=LONG, at=AT, batch_size=2, progress=False)
    states = []
    for prompt in (SHORT, LONG):
        one_by_one = [model.run_with_cache(model.prepare(prompt, images=p), names=AT)[1][AT][0, -1] for p in pictures]
        states.append(torch.stack(one_by_one).double().mean(0))
    torch.testing.assert_close(found.direction, (states[0] - states[1]).float(), atol=1e-5, rtol=1e-4)


def test_a_planted_direction_flips_the_answer_and_its_random_twin_does_not() -> None:
    planted = lab.planted("direction")
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    truth = planted.truth
    at = f"blocks.{truth.layer}.hook_resid_post"
    states = {}
    for present in (True, False):
        batch = model.prepare([planted.prompt] * 4, images=[[planted.image(present, seed=n)] for n in range(4)])
        states[present] = model.run_with_cache(batch, names=at, positions="last")[1][at][:, 0]
    vector = steering_vector(states[False], states[True], at=at)
    assert truth.direction is not None
    assert torch.cosine_similarity(vector.direction, truth.direction, dim=0) > 0.99
    held_out = model.prepare(planted.prompt, images=planted.image(False, seed=99))
    assert model(held_out)[0, -1].argmax() == truth.default_token
    with model.intervene(Steer(vector, 1.0, positions=positions.last | positions.generated)):
        assert model(held_out)[0, -1].argmax() == truth.token
    for seed in range(5):
        with model.intervene(Steer(vector.random(seed=seed), 1.0, positions=positions.last | positions.generated)):
            assert model(held_out)[0, -1].argmax() == truth.default_token


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="belongs to one hook point, found none"):
        steering_vector(torch.ones(2, 3), torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"found blocks\.0\.hook_mlp_out, blocks\.1\.hook_resid_post"):
        steering_vector(States(torch.ones(2, 3), AT), States(torch.ones(2, 3), "blocks.0.hook_mlp_out"))
    with pytest.raises(InputError, match="source has width 3 and target 4"):
        steering_vector(torch.ones(2, 3), torch.zeros(2, 4), at=AT)
    with pytest.raises(InputError, match=r"target must be .* found \[0, 3\]"):
        steering_vector(torch.ones(2, 3), torch.ones(0, 3), at=AT)
    assert isinstance(steering_vector(torch.ones(2, 3), torch.zeros(1, 3), at=AT), SteeringVector)


def test_fine_vectors_lead_from_the_first_concept_to_the_second() -> None:
    centres = torch.tensor([[10.0, 0, 0], [0, 10, 0], [0, 0, 10]])
    values = centres.repeat_interleave(4, 0)
    bank = extract_concepts(States(values, AT), 3, method="kmeans")
    first, second, third = (int(bank.dominant()[row]) for row in (0, 4, 8))
    found = concept_steering_vectors(bank)
    assert set(found) == {(i, j) for i in range(3) for j in range(3) if i != j}
    torch.testing.assert_close(found[first, second].direction, torch.tensor([-10.0, 10, 0]))
    assert found[first, second].direction.equal(-found[second, first].direction)
    assert found[first, second].provenance["source"] == first
    assert set(concept_steering_vectors(bank, sources=[first], targets=[third])) == {(first, third)}
    # a state of the first concept, steered, is one of the second
    moved = values[:1] + found[first, second].direction
    assert bank.encode(moved).argmax() == second
    with pytest.raises(InputError, match=r"The bank has concepts 0\.\.2, not 3, 9"):
        concept_steering_vectors(bank, sources=[3, 0], targets=[9])
