"""ARCHITECTURE.md and the code: rooms in their order, no import up, no circle, and files that exist."""

import re
from pathlib import Path

import pytest

from benchmarks.house import ROOMS, House

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT / "mmlens")


def test_every_file_that_the_page_names_exists() -> None:
    names = re.findall(r"`(mmlens/[\w/]+\.py)`", PAGE)
    assert len(set(names)) > 20
    assert [name for name in names if not (ROOT / name).is_file()] == []


def test_the_page_and_contributing_name_the_rooms_in_their_order() -> None:
    table = re.findall(r"^\| `([\w./]+)` \|", PAGE, flags=re.MULTILINE)
    assert [name.removesuffix("/").removesuffix(".py") for name in table] == list(ROOMS)
    contributing = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    assert " -> ".join(ROOMS) in contributing


def test_lines_are_about_those_of_the_page(house: House) -> None:
    for room, lines in re.findall(r"^\| `([\w.]+?)/?` \|.*\| ([\d,]+) \|$", PAGE, flags=re.MULTILINE):
        assert house.lines[room.removesuffix(".py")] == pytest.approx(int(lines.replace(",", "")), rel=0.1, abs=100), (
            room
        )


def test_imports_go_down_and_in_no_circle(house: House) -> None:
    assert house.circles == []
    assert sorted({f"{edge.source} -> {edge.target}" for edge in house.upward}) == []
