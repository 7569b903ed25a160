"""The course: its notebooks are those of its sources, its exercises know right from wrong, and its solutions pass."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.lab.course.check import EXERCISES
from mmlens.lab.course.exercise import Exercise, Grade

COURSE = Path(__file__).parents[1] / "notebooks" / "course"
sys.path.insert(0, str(COURSE))
build = pytest.importorskip("build", reason="jupytext reads the course's sources: pip install -e '.[dev]'")


@pytest.fixture(scope="module")
def model() -> mm.HookedMultimodal:
    return mm.lab.load()


@pytest.fixture(autouse=True)
def _no_windows() -> Iterator[None]:
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    yield
    matplotlib.use(backend)


def _checks(source: Path, *, solved: bool) -> dict[str, Grade]:
    """What the checks of a unit say when its cells run from top to bottom."""
    names: dict[str, object] = {}
    checks = {}
    for cell in build.unit(source, solved=solved).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            *body, last = tree.body
            exec(compile(ast.Module(body, []), source.name, "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), source.name, "eval"), names)
                checks |= {value.exercise: value} if isinstance(value, Grade) else {}
            else:
                exec(compile(ast.Module([last], []), source.name, "exec"), names)
    return checks


@pytest.mark.parametrize("source", build.SOURCES, ids=lambda source: source.stem)
class TestUnit:
    def test_its_notebook_is_that_of_its_source(self, source: Path) -> None:
        assert source.with_suffix(".ipynb").read_text(encoding="utf-8") == build.written(source)

    def test_it_says_its_time_level_and_aim(self, source: Path) -> None:
        first = build.unit(source).cells[0].source
        assert "minutes, level" in first
        assert "You will be able to" in first

    def test_its_solutions_pass(self, source: Path) -> None:
        checks = _checks(source, solved=True)
        assert len(checks) >= 4
        assert [str(check) for check in checks.values() if not check.passed] == []

    def test_without_solutions_every_exercise_fails_and_says_what_it_wants(self, source: Path) -> None:
        for name, check in _checks(source, solved=False).items():
            assert not check.passed
            assert EXERCISES[name].asks in check.message
            assert "no answer yet" in check.message


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=lambda exercise: exercise.name)
class TestExercise:
    def test_it_knows_right_from_wrong(self, exercise: Exercise, model: mm.HookedMultimodal) -> None:
        with torch.no_grad():
            reference = (exercise.truth if exercise.example is None else exercise.example)(model)
            wrong = [slip.answer(model) for slip in exercise.slips]
            chance = None if exercise.control is None else exercise.control(model)
        assert mm.lab.check(exercise.name, reference, model=model).passed
        for slip, answer in zip(exercise.slips, wrong, strict=True):
            check = mm.lab.check(exercise.name, answer, model=model)
            assert not check.passed
            assert check.message.endswith(slip.hint)
        if chance is not None:
            check = mm.lab.check(exercise.name, chance, model=model)
            assert not check.passed
            assert not any(check.message.endswith(slip.hint) for slip in exercise.slips)

    def test_an_answer_of_another_kind_is_told_what_is_wanted(
        self, exercise: Exercise, model: mm.HookedMultimodal
    ) -> None:
        check = mm.lab.check(exercise.name, {"an": object()}, model=model)
        assert (not check.passed and exercise.asks in check.message) or "0 of 1" in check.message


def test_an_unknown_exercise_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"Nearest: patching\.3"):
        mm.lab.check("patchin.3")


def test_a_check_shows_whether_it_passed() -> None:
    assert repr(mm.lab.check("lens.4")).startswith("✗ lens.4: no answer yet.")


@pytest.mark.parametrize("seed", [0, 1, 2, 5])
def test_an_unknown_model_does_not_say_what_it_is_and_answers_two_ways(seed: int) -> None:
    mystery = mm.lab.unknown(seed)
    assert mystery.kind not in repr(mystery)
    answers = [mystery.model.answer(mystery.image(number), mystery.prompt) for number in range(4)]
    assert answers[0] == answers[2] != answers[1] == answers[3]
