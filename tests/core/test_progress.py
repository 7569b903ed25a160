"""A call shows one bar, whatever runs in it, and leaves one line."""

import io

import pytest

from mmlens.core import progress
from mmlens.core.contract import checked
from mmlens.core.progress import LINE, ProgressBar, progress_over, say


class Shown:
    """What was drawn.

    Attributes:
        lines: labels and totals of the bars, as they were when each ended or was set anew.
    """

    def __init__(self) -> None:
        self.bars: list[progress.tqdm] = []
        self.states: list[tuple[str, int, int | None]] = []


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    found, tqdm = Shown(), progress.tqdm

    class Bar(tqdm):  # type: ignore[misc, valid-type]
        def __init__(self, **options: object):
            found.bars.append(self)
            super().__init__(file=io.StringIO(), **options)

        def refresh(self, *args: object, **options: object) -> bool:
            found.states.append((str(self.desc).removesuffix(": "), self.n, self.total))
            return bool(super().refresh(*args, **options))

    monkeypatch.setattr(progress, "tqdm", Bar)
    return found


@checked
def outer(*, message: str = "", is_shown: bool = True) -> list[int]:
    say(message, disable=not message)
    taken = []
    for step in progress_over([1, 2, 3], "first", disable=not is_shown):
        taken += [step * part for part in progress_over(range(2), "inside")] if is_shown else [step]
    with ProgressBar("second", total=5, initial=1, disable=not is_shown) as bar:
        bar.update(4)
    assert bar.n == 5
    return taken


def test_bars_of_a_call_share_one_line(shown: Shown) -> None:
    assert outer() == [0, 1, 0, 2, 0, 3]
    assert len(shown.bars) == 1
    assert ("first", 3, 3) in shown.states
    assert shown.states[-1] == ("second", 5, 5)
    assert not [label for label, *_ in shown.states if label == "inside"]
    assert shown.bars[0].disable, "closed when the call ended"
    assert LINE.get() is None
    outer()
    assert len(shown.bars) == 2, "the next call has a line of its own"


def test_what_is_said_of_a_call_is_its_label(shown: Shown) -> None:
    outer(message="two phases")
    assert len(shown.bars) == 1
    assert {label for label, *_ in shown.states} == {"two phases"}
    assert shown.states[-1] == ("two phases", 5, 5)


def test_nothing_is_shown_where_nothing_is_asked_for(shown: Shown) -> None:
    assert outer(is_shown=False) == [1, 2, 3]
    assert not shown.bars


def test_a_call_that_fails_leaves_no_line_under_way(shown: Shown) -> None:
    @checked
    def failing() -> None:
        with ProgressBar("steps", total=2):
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        failing()
    assert LINE.get() is None
    assert len(list(progress_over([1, 2], "alone"))) == 2
    assert [bar.disable for bar in shown.bars] == [True, True]
