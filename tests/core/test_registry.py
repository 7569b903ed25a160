"""Registries: names and settings in, methods out; what cannot be is refused with what would be right."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmlens.core.errors import InputError, UnknownNameError
from mmlens.core.registry import Method, Registry


@dataclass(frozen=True)
class Cut(Method):
    """A way of cutting."""


@pytest.fixture
def cuts() -> Registry[Cut]:
    registry: Registry[Cut] = Registry("cutting", Cut, verb="cut")

    @registry.register("saw")
    @dataclass(frozen=True)
    class Saw(Cut):
        """Back and forth."""

        strokes: int = 3
        side: str = "left"

    @registry.register("knife")
    @dataclass(frozen=True)
    class Knife(Cut):
        """Down."""

        blade: str

    return registry


def test_a_name_is_short_for_the_class_with_its_defaults(cuts: Registry[Cut]) -> None:
    saw = cuts["saw"]
    assert cuts.get("saw") == saw() != saw(strokes=4)
    assert cuts.get(saw(strokes=4)) == saw(strokes=4)  # type: ignore[call-arg]
    assert cuts.names == ("saw", "knife")
    assert [cls.__name__ for cls in cuts] == ["Saw", "Knife"]
    assert cuts.by_class_name("Knife") is cuts["knife"]
    assert "saw" in cuts
    assert cuts.get_all("saw") == (saw(),)
    assert cuts.get_all(["saw", saw(strokes=5)]) == (saw(), saw(strokes=5))  # type: ignore[call-arg]


def test_methods_print_what_is_not_default(cuts: Registry[Cut]) -> None:
    saw: Any = cuts["saw"]
    assert [str(saw()), str(saw(side="right")), str(cuts["knife"]("thin"))] == [  # type: ignore[call-arg]
        "saw",
        "saw(side='right')",
        "knife(blade='thin')",
    ]
    assert saw(9).settings == {"strokes": 9, "side": "left"}


def test_unknown_names_are_refused_with_the_nearest(cuts: Registry[Cut]) -> None:
    with pytest.raises(
        UnknownNameError, match=r"method='swa' is unknown; for cutting there are 'saw', 'knife'; nearest: 'saw'\."
    ):
        cuts.get("swa")
    with pytest.raises(UnknownNameError, match=r"'axe' is unknown; for cutting there are 'saw', 'knife'\.$"):
        cuts.get("axe")


@pytest.mark.parametrize("wrong", [None, 3, ["saw"], {"saw": 1}, Cut()])
def test_what_is_no_method_is_refused_with_the_classes_there_are(cuts: Registry[Cut], wrong: Any) -> None:
    with pytest.raises(
        InputError, match=r"must be one of 'saw', 'knife', or settings: Saw\(\.\.\.\), Knife\(\.\.\.\)\.$"
    ):
        cuts.get(wrong)


def test_a_class_in_the_place_of_settings_and_settings_that_are_missing_are_named(cuts: Registry[Cut]) -> None:
    with pytest.raises(InputError, match="It is a class; call it to make settings of it"):
        cuts.get(cuts["saw"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"does not work without settings; pass method=Knife\(blade=\.\.\.\)"):
        cuts.get("knife")


def test_only_frozen_dataclasses_of_the_task_enter_and_names_are_kept_by_their_owners(cuts: Registry[Cut]) -> None:
    with pytest.raises(InputError, match="Bite must be a frozen dataclass derived from Cut"):

        @cuts.register("bite")
        class Bite(Cut):
            """No dataclass."""

    with pytest.raises(InputError, match="Other must be a frozen dataclass derived from Cut"):

        @cuts.register("other")
        @dataclass(frozen=True)
        class Other(Method):
            """Of another task."""

    with pytest.raises(InputError, match=r"'saw' is the name of .*Saw already; choose another"):
        cuts.register("saw")(dataclass(frozen=True)(type("Jigsaw", (Cut,), {})))
    again = dataclass(frozen=True)(type("Saw", (Cut,), {"__module__": cuts["saw"].__module__}))
    again.__qualname__ = cuts["saw"].__qualname__
    cuts.register("saw")(again)  # as a notebook's cell that is run again
    assert cuts["saw"] is again
    cuts.remove("saw")
    assert cuts.names == ("knife",)


def test_files_of_a_package_are_found(cuts: Registry[Cut], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "found_cuts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("seen = True")
    monkeypatch.syspath_prepend(tmp_path)
    cuts.discover("found_cuts", [str(package)])
    import found_cuts.one  # type: ignore[import-not-found]

    assert found_cuts.one.seen
