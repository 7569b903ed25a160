"""A steering vector as a value: how it prints, turns round, makes controls of its length, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.interventions.steering_vector import SteeringVector

VECTOR = SteeringVector(torch.tensor([3.0, 0.0, -4.0]), "blocks.1.hook_resid_post", {"method": "by hand", "seed": 7})


def test_how_it_prints_and_turns_round() -> None:
    assert repr(VECTOR) == "SteeringVector(blocks.1.hook_resid_post, [3], norm 5.000, by hand)"
    assert repr(replace(VECTOR, provenance={})) == "SteeringVector(blocks.1.hook_resid_post, [3], norm 5.000)"
    assert (-VECTOR).direction.tolist() == [-3, 0, 4]
    assert ((-VECTOR).at, (-VECTOR).provenance) == (VECTOR.at, VECTOR.provenance)
    assert VECTOR.norm == 5


def test_controls_are_as_long_and_say_how_they_were_made() -> None:
    other = VECTOR.with_direction(torch.tensor([0.0, 0.5, 0.0]), "another")
    assert (other.direction.tolist(), other.at, other.provenance) == ([0, 5, 0], VECTOR.at, {"method": "another"})
    seeded = VECTOR.with_direction(torch.tensor([0.0, 0.0, 2.0]), "drawn", 0)
    assert (seeded.direction.tolist(), seeded.provenance) == ([0, 0, 5], {"method": "drawn", "seed": 0})
    drawn = VECTOR.random(seed=3)
    assert drawn.norm == pytest.approx(5)
    assert drawn.provenance == {"method": "random direction of equal norm", "seed": 3}
    assert torch.equal(drawn.direction, VECTOR.random(seed=3).direction)
    assert not torch.equal(drawn.direction, VECTOR.random(seed=4).direction)


@pytest.mark.parametrize(
    "direction", [torch.zeros(3), torch.tensor([1.0, float("nan")]), torch.ones(2, 3), torch.tensor(1.0)]
)
def test_what_is_no_direction_is_refused(direction: torch.Tensor) -> None:
    with pytest.raises(InputError):
        SteeringVector(direction, "blocks.1.hook_resid_post")
    loose = object.__new__(SteeringVector)  # as it is made inside of what was checked already
    object.__setattr__(loose, "direction", direction)
    with pytest.raises(
        InputError, match=r"^A steering vector must be one finite direction \[d_model\] that is not zero"
    ):
        loose.__post_init__()
