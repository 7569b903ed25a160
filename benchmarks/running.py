"""Forward passes with and without caches: mmlens beside bare Hugging Face, TransformerLens and nnsight."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks.compare import compare
from benchmarks.contender import Absent, Contender
from benchmarks.models import Subject
from benchmarks.table import Row
from benchmarks.ways import Bare, Hooked, Way, peers

_POINTS = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "mlp.hook_post")
#: The tasks by the name under which `--only` knows them.
TASKS = ("forward", "cache", "last", "everything")


def running(subject: Subject, tasks: Sequence[str], *, repeats: int, clock: Callable[[], float]) -> Iterator[list[Row]]:
    """Rows of each task on one model.

    Args:
        subject: the model and its input.
        tasks: some of `TASKS`.
        repeats: timed rounds.
        clock: as for `alternate`; on a GPU it is always the wall clock.
    """
    bare, hooked = Bare(subject), Hooked(subject)
    ways: list[Way | Absent] = [hooked, *peers(subject)]
    names = [name for name in hooked.model.hook_dict if name.endswith(_POINTS)]
    language = [name for name in names if name.startswith("blocks.")]
    where = f"{subject.name}, {hooked.model.device.type}"
    on_gpu = hooked.model.device.type == "cuda"
    synchronise = torch.cuda.synchronize if on_gpu else lambda: None
    clock = time.perf_counter if on_gpu else clock

    def row(task: str, do: Callable[[Way], Contender]) -> list[Row]:
        others = [way if isinstance(way, Absent) else do(way) for way in ways]
        return compare(f"{task} ({where})", do(bare), others, repeats=repeats, synchronise=synchronise, clock=clock)

    if "forward" in tasks:
        yield row("forward, no hooks", lambda way: way.forward())
    if "cache" in tasks:
        yield row(f"cache {len(names)} streams and neurons", lambda way: way.cache(names))
    if "last" in tasks:
        yield row(f"cache {len(language)} at the last position", lambda way: way.cache(language, last=True))
    if "everything" in tasks:
        yield row("default cache", lambda way: way.everything())
