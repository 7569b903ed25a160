"""Results carry the identity of their run: what decided them, by name; in files too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.core.identity import UnknownIdentityError
from mmlens.models.fingerprint import fingerprint, recent_fingerprint
from tests.tiny import TINY, picture

AT = "blocks.0.hook_resid_post"
STREAM = iter(range(3)), (number for number in range(3))  # no other run has the generator
IN_FORCE = {"weights", "adapters", "edits", "interventions"}


@pytest.fixture(scope="module")
def model() -> mm.HookedMultimodal:
    return TINY[0].make()


@pytest.fixture(scope="module")
def batches(model: mm.HookedMultimodal) -> tuple[Any, Any]:
    clean = model.prepare(["what color is the big red circle"], images=[[picture(0)]])
    return clean, mm.corrupt.blur(model, clean)


def swept(model: Any, clean: Any, corrupted: Any, metric: Any, **more: Any) -> Any:
    return mm.patch(model, clean, corrupted, at=AT, positions=["last"], metric=metric, progress=False, **more)


MAKERS: dict[str, Callable[..., Any]] = {
    "patch": swept,
    "attribute": lambda model, clean, corrupted, metric: mm.attribute(
        model, clean, corrupted, at=AT, positions=["last"], metric=metric, progress=False
    ),
    "knock-out": lambda model, clean, corrupted, metric: mm.patching.knock_out(
        model, clean, queries="last", keys="image", metric=metric, progress=False
    ),
    "circuit": lambda model, clean, corrupted, metric: mm.find_circuit(
        model, (clean, corrupted), metric=metric, nodes="attention", method="eap", progress=False
    ),
    "neurons": lambda model, clean, corrupted, metric: mm.find_neurons(model, clean, token=7, progress=False),
    "dose": lambda model, clean, corrupted, metric: mm.steering.dose_curve(
        model,
        clean,
        mm.steering.SteeringVector(torch.ones(model.cfg.d_model), AT),
        alphas=[0.0, 1.0],
        metric=metric,
        seeds=[0],
        controls=["isotropic"],
        progress=False,
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_result_says_what_decided_it_and_keeps_that_in_its_file(
    name: str, model: mm.HookedMultimodal, batches: tuple[Any, Any], tmp_path: Path
) -> None:
    make, metric = MAKERS[name], mm.metrics.log_probability(5)
    plain = make(model, *batches, metric)
    assert set(plain.identity) > IN_FORCE
    plain.save(tmp_path / "file")
    assert type(plain).load(tmp_path / "file").identity == plain.identity
    assert make(model, *batches, metric).identity == plain.identity
    with model.intervene(mm.Scale("blocks.0.hook_mlp_out", 2.0)):
        scaled = make(model, *batches, metric)
    assert {key for key in plain.identity if scaled.identity[key] != plain.identity[key]} == {"interventions"}
    with model.edited(mm.edits.scale_neurons(model, ["L0.u3"], factor=2.0)):
        edited = make(model, *batches, metric)
    assert {key for key in plain.identity if edited.identity[key] != plain.identity[key]} == {"weights", "edits"}
    if "metric" in plain.identity:
        other = make(model, *batches, mm.metrics.log_probability(6))
        assert {key for key in plain.identity if other.identity[key] != plain.identity[key]} == {"metric"}


def test_what_cannot_be_told_is_said_and_refused_where_a_file_could_be_continued(
    model: mm.HookedMultimodal, batches: tuple[Any, Any], tmp_path: Path
) -> None:
    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, len(STREAM)]

    identity = swept(model, *batches, metric).identity
    assert [key for key, value in identity.items() if value == "unknown"] == ["metric"]
    with pytest.raises(UnknownIdentityError, match="STREAM"):
        swept(model, *batches, metric, checkpoint=tmp_path / "file")


def test_joined_sweeps_have_the_identity_of_all(model: mm.HookedMultimodal, batches: tuple[Any, Any]) -> None:
    metric = mm.metrics.log_probability(5)
    one = swept(model, *batches, metric)
    joined = type(one).joined([one, swept(model, *reversed(batches), metric)])
    different = {key for key in one.identity if joined.identity[key] != one.identity[key]}
    assert different == {"the clean batch", "the corrupted batch"}
    assert joined.identity["weights"] == one.identity["weights"]


def test_a_hash_that_is_kept_follows_the_weights() -> None:
    model = TINY[0].make()
    assert recent_fingerprint(model) == fingerprint(model)
    with torch.no_grad():
        next(model.hf_model.parameters())[0] += 1
    assert recent_fingerprint(model) == fingerprint(model)
    model.to(torch.float64)
    with torch.no_grad():
        next(model.hf_model.parameters())[0] *= 1 + 1e-12
    assert recent_fingerprint(model) == fingerprint(model)
