"""Contract: paint one pixel box, and exactly the named rows change, also where the language model's rows have no place.

Behind learned queries or cross-attention nothing of the language model stands for pixels; the tower's rows do, and what the
projector receives or returns may. The other families are painted in `test_families`.
"""

import pytest

from mmlens.models.hooked import HookedMultimodal
from tests.contracts import test_families as contract
from tests.families import FAMILIES
from tests.tiny import Tiny, picture

_PLACELESS = [tiny for tiny in FAMILIES if not tiny.has_places]


@pytest.fixture(params=_PLACELESS, ids=lambda tiny: tiny.name)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Each family whose language rows have no place, in turn."""
    return request.param


@pytest.fixture
def model(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> HookedMultimodal:
    """Its model, painted at the points whose rows have a place."""
    made = tiny.make()
    size = tiny.sizes[0]
    grids = made.prepare(contract.SHORT, images=picture(0, *size)).layout.place().grids
    points = [name for name in contract.POINTS if name in made.graph and made.graph[name].sequence in grids]
    assert "vision.hook_embed" in points
    monkeypatch.setattr(contract, "POINTS", points)
    return made


def test_one_painted_box_changes_the_rows_that_the_layout_names(tiny: Tiny, model: HookedMultimodal) -> None:
    contract.check_painting(tiny, model, [[picture(number, *size)] for number, size in enumerate(tiny.sizes)])


def test_painting_with_several_pictures_in_a_sample(tiny: Tiny, model: HookedMultimodal) -> None:
    if not tiny.several:
        pytest.skip(f"{tiny.name}: one picture per sample")
    first, second = tiny.sizes
    contract.check_painting(tiny, model, [[picture(0, *first), picture(1, *second)], [picture(2, *first)]])
