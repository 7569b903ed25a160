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
from mmlens.lab.course import check as check_module
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
        assert not check.passed
        assert exercise.asks in check.message


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


def test_units_are_answered_alone_by_name_or_in_a_list() -> None:
    for answer in (mm.neurons.Head(0, 2), "L0.h2", ["L0.h2"]):
        assert mm.lab.check("capstone.2", answer).passed
    for answer in ("L0H2", (0, 2), [(0, 2)]):
        assert "is not what is asked for. Wanted: the head" in mm.lab.check("capstone.2", answer).message


@pytest.mark.parametrize("seed", [1, 2])
def test_an_unknown_model_is_judged_by_its_own_truth(seed: int) -> None:
    model = mm.lab.unknown(seed).model
    assert not mm.lab.check("capstone.3", "a neuron writes the answer", model=model).passed
    assert mm.lab.check("capstone.4", [], model=model).passed
    assert not mm.lab.check("capstone.4", []).passed


def test_a_check_draws_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    check_module._lab_model.cache_clear()
    assert mm.lab.check("circuits.1", ["L0.h2", "L2.h1"]).passed
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("exercise", "answer", "verdict"),
    [
        ("lens.4", "rest", "'rest' is not what is asked for"),
        ("lens.4", "Last", "it is not 'last'"),
        ("lens.1", float("nan"), "nan is no finite number"),
        ("lens.1", -1.4, "-1.4 is much too small"),
        ("lens.1", None, "None (does a function lack its return?)"),
        ("lens.2", torch.zeros(1, 12), "a tensor of shape [1, 12] is not"),
        ("rows.3", 5, "it is not row 5"),
        ("rows.3", 5.5, "5.5 is no whole number (row)"),
        ("steering.2", 0.7, "0.7 is no whole number (answers)"),
        ("patching.2", 1.01, "that is a share of the gap"),
    ],
)
def test_a_wrong_answer_is_told_what_is_wrong_about_it(
    exercise: str, answer: object, verdict: str, model: mm.HookedMultimodal
) -> None:
    check = mm.lab.check(exercise, answer, model=model)
    assert not check.passed
    assert verdict in check.message


def test_a_number_may_stand_in_a_list(model: mm.HookedMultimodal) -> None:
    assert mm.lab.check("patching.3", [3], model=model).passed
