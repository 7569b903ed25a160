"""One benchmark: check that all contenders agree, then time them in turns."""

import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.agreement import largest_difference
from benchmarks.contender import Absent, Contender
from benchmarks.measure import alternate, ratio
from benchmarks.table import Row

_CONTROL = "the limit again (control)"


@torch.no_grad()
def compare(
    benchmark: str,
    limit: Contender,
    others: Sequence[Contender | Absent],
    *,
    repeats: int,
    synchronise: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Time contenders beside the limit, and the limit beside itself: that ratio says how far the others can be trusted.

    Args:
        benchmark: what is done.
        limit: the least that can do it.
        others: who else does it; those that cannot run get a row that says why.
        repeats: timed rounds.
        synchronise: waits for the device.
        clock: as for `alternate`.

    Raises:
        DisagreementError: if a contender's answers differ from the limit's; nothing is timed then.
    """
    able = [other for other in others if isinstance(other, Contender)]
    expected = limit.answers(limit.run())
    differences = {}
    for other in able:
        asked = {name: value for name, value in expected.items() if name not in other.lacks}
        differences[other.name] = largest_difference(
            f"{benchmark}: {other.name}", asked, other.answers(other.run()), tolerance=other.tolerance
        )
    del expected
    runs = {limit.name: limit.run, **{other.name: other.run for other in able[:1]}, _CONTROL: limit.run}
    runs |= {other.name: other.run for other in able[1:]}
    timings = alternate(runs, repeats=repeats, synchronise=synchronise, clock=clock)
    against = timings[limit.name]
    rows = [
        Row(benchmark, limit.name, against.milliseconds, note="the limit"),
        Row(benchmark, _CONTROL, timings[_CONTROL].milliseconds, ratio(timings[_CONTROL], against)),
    ]
    for way in others:
        if isinstance(way, Absent):
            rows.append(Row(benchmark, way.name, note=way.why))
            continue
        timing = timings[way.name]
        note = "; ".join(filter(None, [way.note, f"has no {', '.join(way.lacks)}" if way.lacks else ""]))
        rows.append(
            Row(
                benchmark,
                way.name,
                timing.milliseconds,
                ratio(timing, against),
                target=way.target,
                difference=differences[way.name],
                note=note,
            )
        )
    return rows
