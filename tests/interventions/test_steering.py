"""Steering acts at exactly the positions and steps that were asked for: in a generation as in a forward over its tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmlens.core import positions as rules
from mmlens.core.errors import InputError
from mmlens.interventions.steering import ProjectOut, Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject

AT = "blocks.1.hook_resid_post"
STEPS = 3
#: Strong enough to see, weak enough that the random models do not write image tokens.
ALPHA = 0.5


def vector_of(model: HookedMultimodal, at: str = AT) -> SteeringVector:
    """A random direction, about as long as a state."""
    drawn = torch.randn(model.graph[at].width or 0, generator=torch.Generator().manual_seed(3))
    return SteeringVector(drawn, at)


@pytest.mark.parametrize(
    "positions",
    [
        "all",
        "prompt",
        "generated",
        rules.last | rules.generated,
        "text",
        "image",
        slice(2, None),
        slice(0, 4),
        slice(20, 25),
    ],
)
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_is_a_forward_over_its_tokens(llava: Subject, positions: Any, use_cache: bool) -> None:
    model, batch = llava.model, llava.batches["left"]
    steer = Steer(vector_of(model), ALPHA, positions=positions)
    with model.intervene(steer):
        trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=STEPS, use_cache=use_cache)
    touched = steer.touched.tokens
    prompt = batch["input_ids"].shape[1]
    whole = model.extend(batch, trace.tokens[:, :-1])
    mask = torch.zeros(whole["input_ids"].shape, dtype=torch.bool)
    layout, new = batch.layout, slice(prompt, None)
    real = layout.is_token
    if positions == "all":
        mask[:, :prompt], mask[:, new] = real, True
    elif positions == "prompt":
        mask[:, :prompt] = real
    elif positions == "image":
        mask[:, :prompt] = layout.is_image
    elif positions == "text":
        mask[:, :prompt] = real & ~layout.is_image
    elif not isinstance(positions, str | slice):
        mask[:, prompt - 1 :] = True
    elif positions == "generated":
        mask[:, new] = True
    else:
        for sample, is_token in enumerate(whole.layout.is_token):  # of each sample's own
            mask[sample, is_token.nonzero().flatten()[positions]] = True
    added = torch.where(mask[..., None], ALPHA * steer.vector.direction, torch.zeros(()))
    expected = model.run_with_hooks(whole, fwd_hooks=[(AT, lambda x, hook: x + added)])[:, prompt - 1 :]
    plain = model(whole)[:, prompt - 1 :]
    assert (expected[:, -1] - plain[:, -1]).abs().max() > 1e-2, "the steering does nothing, so nothing is compared"
    torch.testing.assert_close(trace.logits, expected, atol=1e-4, rtol=1e-4)
    assert touched == int(
        mask.sum()
    )  # without a KV cache every pass holds the earlier positions again: they count once


@pytest.mark.parametrize("name", ["qwen", "blip"])
def test_on_other_structures(name: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(name)
    model, batch = subject.model, subject.batches["left"]
    with model.intervene(Steer(vector_of(model), ALPHA, positions=rules.last | rules.generated)):
        trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=2)
    whole = model.extend(batch, trace.tokens[:, :-1])
    start = batch["input_ids"].shape[1] - 1
    with model.intervene(Steer(vector_of(model), ALPHA, positions=slice(start - whole["input_ids"].shape[1], None))):
        expected = model(whole)[:, start:]
    assert (model(whole)[:, start:] - expected).abs().max() > 1e-2
    torch.testing.assert_close(trace.logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at", ["vision.blocks.0.hook_resid_post", "vision.blocks.1.hook_mlp_out", "projector.hook_in"])
def test_in_towers_every_row_is_steered(subject: Subject, at: str) -> None:
    """Also in packed ones, whose rows have no batch axis."""
    model, batch = subject.model, subject.batches["left"]
    vector = vector_of(model, at)
    length = None

    def add(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        nonlocal length
        length = activation.shape[:-1].numel()
        return activation + ALPHA * vector.direction

    expected = model.run_with_hooks(batch, fwd_hooks=[(at, add)])
    steer = Steer(vector, ALPHA)
    with model.intervene(steer):
        found = model(batch)
    assert not torch.equal(found, model(batch))
    torch.testing.assert_close(found, expected)
    assert (steer.touched.tokens, steer.touched.steps) == (length, 1)
    with model.intervene(ProjectOut(vector)):
        states = model.run_with_cache(batch, names=at)[1][at]
    assert (states @ vector.direction).abs().max() < 1e-4


def test_padding_is_never_steered(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    steer = Steer(vector_of(model))
    with model.intervene(steer):
        model(batch)
    assert not batch.layout.is_token.all()
    assert (steer.touched.tokens, steer.touched.steps) == (int(batch.layout.is_token.sum()), 1)


def test_a_direction_that_is_projected_out_is_gone(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    vector = vector_of(model)
    unit = vector.direction / vector.norm
    _, before = model.run_with_cache(batch, names=AT)
    with model.intervene(ProjectOut(vector)):
        _, after = model.run_with_cache(batch, names=AT)
    real = batch.layout.is_token
    assert (before[AT] @ unit)[real].abs().max() > 0.1
    assert (after[AT] @ unit)[real].abs().max() < 1e-5
    # the rest of the state stays
    rest = before[AT] - (before[AT] @ unit)[..., None] * unit
    torch.testing.assert_close(after[AT][real], rest[real])


def test_norms_are_kept_when_asked(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    _, before = model.run_with_cache(batch, names=AT)
    with model.intervene(Steer(vector_of(model), 5.0, keep_norm=True)):
        _, after = model.run_with_cache(batch, names=AT)
    real = batch.layout.is_token
    torch.testing.assert_close(after[AT].norm(dim=-1)[real], before[AT].norm(dim=-1)[real])
    assert torch.cosine_similarity(after[AT], before[AT], dim=-1)[real].max() < 0.99


def test_a_gate_says_where(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    seen = []

    def gate(states: torch.Tensor) -> torch.Tensor:
        seen.append(states.shape)
        return states[..., 0] > states[..., 0].median()

    _, cache = model.run_with_cache(batch, names=AT)
    steer = Steer(vector_of(model), gate=gate)
    with model.intervene(steer):
        model(batch)
    states = cache[AT]
    expected = (states[..., 0] > states[..., 0].median()) & batch.layout.is_token
    assert steer.touched.tokens == int(expected.sum()) > 0
    assert seen == [states.shape]


def test_a_vector_survives_its_file(llava: Subject, tmp_path: Path) -> None:
    vector = SteeringVector(torch.arange(1.0, 5.0), AT, {"method": "mean difference", "source": ["a", "b"]})
    vector.save(tmp_path / "v.safetensors")
    found = SteeringVector.load(tmp_path / "v.safetensors")
    assert (found.at, found.provenance) == (vector.at, vector.provenance)
    assert torch.equal(found.direction, vector.direction)


def test_what_cannot_happen_is_refused(llava: Subject, tmp_path: Path) -> None:
    model, batch = llava.model, llava.batches["left"]
    vector = vector_of(model)
    with (
        pytest.raises(InputError, match="a forward pass has none"),
        model.intervene(Steer(vector, positions="generated")),
    ):
        model(batch)
    with (
        pytest.raises(InputError, match=r"the first is predicted by positions.last"),
        model.intervene(Steer(vector, positions="generated")),
    ):
        model.generate(batch, max_new_tokens=1)
    with (
        pytest.raises(InputError, match=r"but blocks.0.mlp.hook_post is \[batch pos neuron\]"),
        model.intervene(Steer(vector, at="blocks.0.mlp.hook_post")),
    ):
        pass
    with (
        pytest.raises(InputError, match="'new' does not stand in the text"),
        model.intervene(Steer(vector, positions="new")),
    ):
        model(batch)
    with pytest.raises(InputError, match="Zero means that source and target"):
        SteeringVector(torch.zeros(4), AT)
    (tmp_path / "no.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="or a damaged one"):
        SteeringVector.load(tmp_path / "no.safetensors")
