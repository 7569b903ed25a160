"""Timing on a machine that is never quite quiet: contenders take turns, and only ratios within a turn are compared."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """One contender's times.

    Attributes:
        seconds: one per round, in order.
    """

    seconds: tuple[float, ...]

    @property
    def milliseconds(self) -> float:
        """Median, in milliseconds."""
        return 1000 * statistics.median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """How long one contender takes, as a multiple of another, over the rounds in which both ran.

    Attributes:
        median: of the ratios of single rounds; 1 means as fast.
        low, high: their quartiles.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f}x [{self.low:.3f}, {self.high:.3f}]"


def alternate(
    runs: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    warm_up: int = 1,
    lead_in: int = 1,
    synchronise: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time functions in turns, A B C A B C ..., so that what the machine does meanwhile hits all of them alike.

    Each result is dropped before the next run, outside the timing. The garbage collector runs between rounds only.

    Args:
        runs: functions by name.
        repeats: rounds that count.
        warm_up: rounds before those.
        lead_in: untimed runs of a function right before its timed one, so that it finds its own weights in the
            processor's caches and not those of whoever ran before it (worth 9% on a small model).
        synchronise: waits for a device to finish; called before and after each run.
        clock: seconds; `time.process_time` does not count what other programs take from a shared processor.

    Returns:
        Times by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with _no_collection():
        for turn in range(warm_up + repeats):
            gc.collect()
            for name, run in runs.items():
                for _ in range(lead_in):
                    run()
                synchronise()
                start = clock()
                result = run()
                synchronise()
                taken = clock() - start
                del result
                if turn >= warm_up:
                    seconds[name].append(taken)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratio(timing: Timing, limit: Timing) -> Ratio:
    """Compare round by round, which is steadier than a ratio of medians when the machine's speed drifts.

    Args:
        timing: the contender.
        limit: what it is measured against, from the same call of `alternate`.
    """
    ratios = [ours / theirs for ours, theirs in zip(timing.seconds, limit.seconds, strict=True)]
    if len(ratios) < 2:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


@contextmanager
def _no_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
