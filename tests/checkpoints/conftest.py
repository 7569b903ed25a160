"""Each checkpoint folder written once and opened once in a session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmlens.models.hooked import HookedMultimodal
from tests.checkpoints.layouts import LAYOUTS, Layout

_OPENED: dict[str, HookedMultimodal] = {}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Layout], Path]:
    """Where a layout's folder is; it is written when first asked for."""
    root = tmp_path_factory.mktemp("checkpoints")

    def find(layout: Layout) -> Path:
        folder = root / layout.name
        return folder if folder.exists() else layout.write(folder)

    return find


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.name)
def layout(request: pytest.FixtureRequest) -> Layout:
    """Each layout in turn."""
    return request.param


@pytest.fixture
def model(layout: Layout, folder_of: Callable[[Layout], Path]) -> Iterator[HookedMultimodal]:
    """The model of a layout, opened from its folder; read-only."""
    if layout.name not in _OPENED:
        _OPENED[layout.name] = HookedMultimodal.from_pretrained(folder_of(layout))
    made = _OPENED[layout.name]
    yield made
    assert not any(point.attached for point in made.hook_dict.values())


@pytest.fixture
def open_layout(folder_of: Callable[[Layout], Path]) -> Callable[[Layout], HookedMultimodal]:
    """Opens a layout that a test names; read-only."""

    def find(layout: Layout) -> HookedMultimodal:
        if layout.name not in _OPENED:
            _OPENED[layout.name] = HookedMultimodal.from_pretrained(folder_of(layout))
        return _OPENED[layout.name]

    return find
