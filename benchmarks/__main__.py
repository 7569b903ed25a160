"""`python -m benchmarks`: one table of how fast mmlens is, beside the limit and its peers."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tqdm.auto import tqdm

from benchmarks.agreement import DisagreementError
from benchmarks.collecting import collecting, collecting_memory
from benchmarks.decomposing import decomposing
from benchmarks.models import Subject, lab_model, random_llava
from benchmarks.patching import patching
from benchmarks.points import points
from benchmarks.running import TASKS, running
from benchmarks.scoring import memory, scoring
from benchmarks.starting import lab, starting
from benchmarks.steered import steered
from benchmarks.table import Row, as_table, machine

_MODELS = ("llava", "lab", "gpu")
_NAMES = (*TASKS, "neurons", "patching", "points", "steering", "collect", "concepts", "lab", "start")
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks.

    Args:
        arguments: of the command line; the process's own by default.

    Returns:
        Exit code: 1 if answers disagree, else 0, also where a target is missed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=_NAMES, action="append", help="one benchmark; may be given several times")
    parser.add_argument("--model", choices=_MODELS, action="append", help="one model; may be given several times")
    parser.add_argument("--repeats", type=int, default=30, help="timed rounds (default 30)")
    parser.add_argument("--threads", type=int, help="torch threads; 1 is steadier on a shared machine")
    parser.add_argument(
        "--clock", choices=_CLOCKS, default="wall", help="cpu: do not count what other programs take; needs --threads 1"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu adds the times of all threads, waiting ones among them; use it with --threads 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = options.only or _NAMES
    rows: list[Row] = []
    try:
        for found in tqdm(
            _benchmarks(chosen, options.model or _MODELS, options.repeats, _CLOCKS[options.clock]),
            unit="benchmark",
            disable=not sys.stderr.isatty(),
        ):
            rows += found
    except DisagreementError as error:
        print(f"The answers disagree, so no speed is compared. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the table holds what was finished.", file=sys.stderr)
    print(machine())
    print(f"{options.repeats} rounds, {options.clock} clock, contenders in turns; ratios are medians over rounds\n")
    print(as_table(rows))
    if options.json:
        result = {
            "machine": machine(),
            "repeats": options.repeats,
            "clock": options.clock,
            "rows": [row.as_json() for row in rows],
        }
        options.json.write_text(json.dumps(result, indent=2))
    return 0


def _benchmarks(
    chosen: Sequence[str], models: Sequence[str], repeats: int, clock: Callable[[], float]
) -> Iterator[list[Row]]:
    tasks = [task for task in TASKS if task in chosen]
    subjects: list[Subject | None] = []
    on_models = bool(tasks) or "neurons" in chosen
    if "llava" in models and (on_models or {"points", "patching", "steering"} & set(chosen)):
        llava = random_llava()
        subjects.append(llava)
        if "points" in chosen:
            yield points(llava, repeats=repeats)
        if "patching" in chosen:
            yield patching(llava, repeats=min(repeats, 5), clock=clock)
        if "steering" in chosen:
            yield steered(llava, repeats=min(repeats, 20), clock=clock)
    if on_models and "lab" in models:
        subjects.append(lab_model())
    if on_models and "gpu" in models:
        if torch.cuda.is_available():
            subjects.append(random_llava("cuda"))
        else:
            yield [Row("everything again on a GPU", "all", note="skipped: no CUDA device")]
    for subject in filter(None, subjects):
        yield from running(subject, tasks, repeats=repeats, clock=clock)
        if "neurons" in chosen:
            yield scoring(subject, repeats=repeats, clock=clock)
    if "neurons" in chosen:
        yield memory()
    if "collect" in chosen:
        yield list(collecting(repeats=min(repeats, 5), clock=clock))
        yield list(collecting_memory())
    if "concepts" in chosen:
        yield from decomposing(clock=clock)
    if "lab" in chosen:
        yield lab(repeats=min(repeats, 10))
    if "start" in chosen:
        yield starting(repeats=min(repeats, 10))


if __name__ == "__main__":
    sys.exit(main())
