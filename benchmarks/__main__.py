"""`python -m benchmarks`: one table of how fast mmlens is, beside the limit and its peers."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.agreement import DisagreementError
from benchmarks.collecting import collecting, collecting_memory
from benchmarks.decomposing import decomposing
from benchmarks.kept_rows import KeptRows, OtherSettingsError
from benchmarks.models import Subject, lab_model, random_llava
from benchmarks.patching import patching
from benchmarks.points import points
from benchmarks.real_size import real_size
from benchmarks.running import TASKS, running
from benchmarks.scoring import memory, scoring
from benchmarks.starting import lab, starting
from benchmarks.steered import steered
from benchmarks.table import Row, as_table, machine

_MODELS = ("llava", "lab", "gpu")
_NAMES = (*TASKS, "neurons", "patching", "points", "steering", "collect", "concepts", "lab", "start")
#: A benchmark's name, and what runs it.
Benchmark: TypeAlias = tuple[str, Callable[[], Iterable[list[Row]]]]
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks.

    Args:
        arguments: of the command line; the process's own by default.

    Returns:
        Exit code: 1 if answers disagree, else 0, also where a target is missed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu adds the times of all threads, waiting ones among them; use it with --threads 1")
    if options.resume and options.json is None:
        parser.error("--resume goes on with --json FILE; name the file")
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = KeptRows({"machine": machine(load=False), "repeats": options.repeats, "clock": options.clock}, options.json)
    try:
        if options.resume:
            kept.resume()
    except OtherSettingsError as error:
        parser.error(str(error))
    if options.real:
        dtype = getattr(torch, options.dtype)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        sizes = {"layers": options.layers, "width": options.width, "dtype": dtype, "device": device}
        benchmarks = iter([(f"real size {tuple(map(str, sizes.values()))}", partial(real_size, **sizes))])
    else:
        models = options.model or _MODELS
        benchmarks = _benchmarks(options.only or _NAMES, models, options.repeats, _CLOCKS[options.clock])
    print(machine())
    print(f"{options.repeats} rounds, {options.clock} clock, contenders in turns; ratios are medians over rounds\n")
    any_rows = False
    try:
        for name, run in benchmarks:
            known = name in kept.finished
            for rows in [kept.rows.get(name, [])] if known else run():
                if not known:
                    kept.add(name, rows)
                if rows:
                    print(as_table(rows, header=not any_rows), flush=True)
                    any_rows = True
            if not known:
                kept.finish(name)
    except DisagreementError as error:
        print(f"The answers disagree, so no speed is compared. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the rows above are what was finished.", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=_NAMES, action="append", help="one benchmark; may be given several times")
    parser.add_argument("--model", choices=_MODELS, action="append", help="one model; may be given several times")
    parser.add_argument("--repeats", type=int, default=30, help="timed rounds (default 30)")
    parser.add_argument("--threads", type=int, help="torch threads; 1 is steadier on a shared machine")
    parser.add_argument(
        "--clock", choices=_CLOCKS, default="wall", help="cpu: do not count what other programs take; needs --threads 1"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too, as they come")
    parser.add_argument("--resume", action="store_true", help="leave out the benchmarks that --json FILE has whole")
    parser.add_argument("--real", action="store_true", help="only verbs on a LLaVA-1.5 of the real width (3.4 GB)")
    parser.add_argument("--layers", type=int, default=2, help="of the language model, for --real (default 2 of 32)")
    parser.add_argument("--width", type=int, default=4096, help="of the language model, for --real (default 4096)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights, for --real"
    )
    return parser


def _benchmarks(
    chosen: Sequence[str], models: Sequence[str], repeats: int, clock: Callable[[], float]
) -> Iterator[Benchmark]:
    """The benchmarks that were chosen; a model is made when the first of its benchmarks runs."""
    tasks = [task for task in TASKS if task in chosen]
    llava, lab_subject, on_gpu = cache(random_llava), cache(lab_model), cache(partial(random_llava, "cuda"))
    if "llava" in models:
        if "points" in chosen:
            yield "points", lambda: [points(llava(), repeats=repeats)]
        if "patching" in chosen:
            yield "patching", lambda: patching(llava(), repeats=min(repeats, 5), clock=clock)
        if "steering" in chosen:
            yield "steering", lambda: [steered(llava(), repeats=min(repeats, 20), clock=clock)]
    subjects: dict[str, Callable[[], Subject | None]] = {"llava": llava, "lab": lab_subject, "gpu": on_gpu}
    if (tasks or "neurons" in chosen) and "gpu" in models and not torch.cuda.is_available():
        del subjects["gpu"]
        yield "gpu", lambda: [[Row("everything again on a GPU", "all", note="skipped: no CUDA device")]]
    for name, make in subjects.items():
        if name in models:
            for task in tasks:
                yield f"{task}, {name}", partial(_running, make, task, repeats, clock)
            if "neurons" in chosen:
                yield f"neurons, {name}", partial(_scoring, make, repeats, clock)
    if "neurons" in chosen:
        yield "memory of neurons", lambda: [memory()]
    if "collect" in chosen:
        yield "collect", lambda: ([row] for row in collecting(repeats=min(repeats, 5), clock=clock))
        yield "memory of collecting", lambda: ([row] for row in collecting_memory())
    if "concepts" in chosen:
        yield "concepts", lambda: decomposing(clock=clock)
    if "lab" in chosen:
        yield "lab", lambda: [lab(repeats=min(repeats, 10))]
    if "start" in chosen:
        yield "start", lambda: [starting(repeats=min(repeats, 10))]


def _running(
    make: Callable[[], Subject | None], task: str, repeats: int, clock: Callable[[], float]
) -> Iterator[list[Row]]:
    subject = make()
    if subject is not None:
        yield from running(subject, [task], repeats=repeats, clock=clock)


def _scoring(make: Callable[[], Subject | None], repeats: int, clock: Callable[[], float]) -> Iterator[list[Row]]:
    subject = make()
    if subject is not None:
        yield scoring(subject, repeats=repeats, clock=clock)


if __name__ == "__main__":
    sys.exit(main())
