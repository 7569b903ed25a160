"""The measuring itself: planted delays are found, turns alternate, and wrong answers stop a comparison."""

import gc
import time
from typing import Any

import pytest
import torch

from benchmarks.agreement import DisagreementError, largest_difference
from benchmarks.compare import compare
from benchmarks.contender import Absent, Contender
from benchmarks.measure import Ratio, Timing, alternate, ratio
from benchmarks.table import Row, as_table

ANSWER = {"logits": torch.tensor([1.0, 2.0])}


def contender(name: str, answer: dict[str, torch.Tensor], calls: list[str], **more: Any) -> Contender:
    """Answers at once, and notes that it was called."""

    def run() -> dict[str, torch.Tensor]:
        calls.append(name)
        return answer

    return Contender(name, run, lambda result: result, **more)


def test_the_ratio_of_two_planted_delays_is_found() -> None:
    timings = alternate({"short": lambda: time.sleep(0.02), "long": lambda: time.sleep(0.05)}, repeats=7, warm_up=1)
    assert timings["short"].milliseconds == pytest.approx(20, rel=0.15)
    assert ratio(timings["long"], timings["short"]).median == pytest.approx(2.5, rel=0.15)


def test_contenders_take_turns_and_a_lead_in_runs_right_before_its_timed_run() -> None:
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "ABC"}
    timings = alternate(runs, repeats=2, warm_up=1, lead_in=0)
    assert "".join(calls) == "ABC" * 3
    assert all(len(timing.seconds) == 2 for timing in timings.values())
    calls.clear()
    alternate(runs, repeats=1, warm_up=0, lead_in=1)
    assert "".join(calls) == "AABBCC"


def test_a_lead_in_is_not_timed() -> None:
    delays = iter([0.05, 0.01] * 3)
    timing = alternate({"run": lambda: time.sleep(next(delays))}, repeats=3, warm_up=0)["run"]
    assert max(timing.seconds) < 0.04


def test_ratios_are_taken_within_a_round_so_that_a_machine_that_slows_down_does_not_matter() -> None:
    limit = Timing((1.0, 2.0, 4.0, 8.0))
    assert ratio(Timing((1.5, 3.0, 6.0, 12.0)), limit) == Ratio(1.5, 1.5, 1.5)
    uneven = ratio(Timing((1.0, 4.0, 12.0, 32.0)), limit)
    assert (uneven.low, uneven.median, uneven.high) == (1.75, 2.5, 3.25)


def test_the_garbage_collector_is_off_in_a_run_and_as_before_afterwards() -> None:
    seen: list[bool] = []

    def fails() -> None:
        seen.append(gc.isenabled())
        raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        alternate({"fails": fails}, repeats=1)
    assert seen == [False]
    assert gc.isenabled()


def test_a_wrong_answer_stops_the_comparison_before_anything_is_timed() -> None:
    calls: list[str] = []
    wrong = contender("wrong", {"logits": torch.tensor([1.0, 2.5])}, calls, tolerance=0.4)
    with pytest.raises(
        DisagreementError, match=r"task: wrong differs from the limit in 1 of 1 answers .*logits by 0.5"
    ):
        compare("task", contender("limit", ANSWER, calls), [wrong], repeats=5)
    assert calls == ["limit", "wrong"]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "does not answer 1 of 1 things: logits"),
        ({"logits": torch.tensor([1.0, float("nan")])}, "logits by nan"),
        ({"logits": torch.tensor([1.0])}, "logits by inf"),
    ],
    ids=["missing", "not a number", "another shape"],
)
def test_what_is_missing_or_not_comparable_is_a_disagreement(found: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(DisagreementError, match=message):
        largest_difference("peer", ANSWER, found, tolerance=1e9)


def test_a_comparison_says_who_agreed_how_far_and_who_is_not_there() -> None:
    calls: list[str] = []
    close = contender("close", {"logits": torch.tensor([1.0, 2.25])}, calls, tolerance=0.3, target=1000.0)
    lacking = contender("lacking", {}, calls, lacks=frozenset({"logits"}))
    rows = compare(
        "task", contender("limit", ANSWER, calls), [close, lacking, Absent("gone", "not installed")], repeats=2
    )
    by_name = {row.contender: row for row in rows}
    assert by_name["close"].difference == 0.25
    assert by_name["close"].met is True
    assert "has no logits" in by_name["lacking"].note
    assert by_name["gone"].milliseconds is None
    assert by_name["gone"].note == "not installed"
    assert by_name["the limit again (control)"].ratio is not None


def test_a_missed_target_is_plain_in_the_table() -> None:
    table = as_table([
        Row("task", "limit", 10.0, note="the limit"),
        Row("task", "mmlens", 11.0, Ratio(1.1, 1.09, 1.12), target=1.05, difference=0.0),
        Row("task", "peer", note="not installed"),
    ])  # fmt: skip
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[3] == ["", "mmlens", "11.00", "1.100x [1.090, 1.120]", "<= 1.05x", "NO", "0", ""]
    assert lines[4] == ["", "peer", "-", "-", "", "", "-", "not installed"]
    assert len({len(line) for line in table.splitlines()}) == 1
