"""The measures of the house, on packages that are planted for them."""

from pathlib import Path

import pytest

from benchmarks.house import House, measures

FILES = {
    "__init__.py": "",
    "core/__init__.py": "",
    "core/names.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from planted.hooks.point import Point\n",
    "core/errors.py": "class Point:\n    pass  # type: ignore[misc]\n",
    "hooks/__init__.py": "",
    "hooks/point.py": "from planted.core.errors import Point as Error\n\n\nclass Point:\n    pass\n",
    "hooks/graph.py": "def names(found, seed):\n    from planted.core import names\n\n    each = [found for _own in seed]\n",
}


@pytest.fixture
def planted(tmp_path: Path) -> House:
    """A package of two rooms, with one import up, one circle and three bad names of five."""
    for name, text in FILES.items():
        file = tmp_path / "planted" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return House(tmp_path / "planted")


def test_imports_in_functions_and_under_type_checking_count(planted: House) -> None:
    assert {(edge.source, edge.target) for edge in planted.imports} == {
        ("planted.core.names", "planted.hooks.point"),
        ("planted.hooks.point", "planted.core.errors"),
        ("planted.hooks.graph", "planted.core.names"),
    }
    assert [edge.source for edge in planted.upward] == ["planted.core.names"]
    assert len(planted.closure("planted.hooks.graph")) == 4
    assert planted.circles == []


def test_a_circle_is_found_also_where_half_of_it_is_for_type_checkers_only(planted: House) -> None:
    (planted.package / "hooks" / "point.py").write_text("import planted.core.names\n")
    assert House(planted.package).circles == [["planted.core.names", "planted.hooks.point"]]


def test_names_lines_and_doubles(planted: House) -> None:
    assert planted.names == {"found": 1, "seed": 1, "each": 1, "_own": 1}
    assert planted.share_of_participles == 3 / 4
    assert planted.type_ignores == 1
    assert planted.doubles == ["Point"]
    assert planted.lines == {"(top)": 0, "core": 6, "hooks": 9}
    assert measures(planted.package)["lines"] == "15"
