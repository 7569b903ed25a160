"""Collecting states beside a bare loop of the same work, and the memory that it takes as the dataset grows."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import mmlens as mm
from benchmarks.measure import Ratio, alternate, ratio
from benchmarks.table import Row

_PROMPT, _NEW_TOKENS = "describe the image", 20


def collecting(*, repeats: int, samples: int = 128, clock: Callable[[], float]) -> Iterator[Row]:
    """Collecting into a folder beside a bare loop that prepares the same batches and runs the same model."""
    model = mm.lab.load()
    scenes = mm.lab.scenes(samples, seed=2)
    for scene in scenes:
        _ = scene.image  # drawn once, for both
    size = 16
    places = [scenes[i : i + size] for i in range(0, samples, size)]

    def bare(run: Callable[..., Any], **options: Any) -> None:
        with torch.no_grad():
            for some in places:
                batch = model.prepare([_PROMPT] * len(some), images=[[scene.image] for scene in some])
                run(**batch, **options)

    def ours(**options: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            at = "blocks.*.hook_resid_post"
            mm.collect(model, scenes, at=at, into=Path(folder) / "store", batch_size=size, progress=False, **options)

    tasks: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "generate, states of a word": (
            lambda: bare(model.hf_model.generate, do_sample=False, max_new_tokens=_NEW_TOKENS),
            lambda: ours(token=mm.lab.NOUNS, max_new_tokens=_NEW_TOKENS),
        ),
        "forward, last position": (lambda: bare(model.hf_model, use_cache=False), lambda: ours(positions="last")),
    }
    for name, (limit, mine) in tasks.items():
        times = alternate({"bare": limit, "mmlens": mine}, repeats=repeats, lead_in=0, clock=clock)
        benchmark = f"collect {samples} scenes at {model.cfg.n_layers} points ({name})"
        yield Row(benchmark, "bare loop", times["bare"].milliseconds, note="the limit; keeps nothing")
        yield Row(
            benchmark,
            "mm.collect",
            times["mmlens"].milliseconds,
            ratio(times["mmlens"], times["bare"]),
            target=1 / 0.95,
        )


def collecting_memory(counts: Sequence[int] = (50, 200, 400)) -> Iterator[Row]:
    """The peak memory of a collect as the dataset grows, each in a new process of its own."""
    benchmark = "peak memory of a collect of all image positions into a folder"
    if not Path("/proc/self/status").exists():
        yield Row(benchmark, "mm.collect", note="skipped: read from /proc, which is Linux's")
        return
    fewest = None
    for count in counts:
        command = [sys.executable, "-c", f"from benchmarks.collecting import peak; print(peak({count}))"]
        found = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        fewest = found if fewest is None else fewest
        yield Row(benchmark, f"{count} scenes", None, Ratio(*[found / fewest] * 3), 1.05, note=f"{found:.0f} MiB")


def peak(count: int) -> float:
    """The most memory that this process ever held, in MiB, after a collect of so many scenes."""
    torch.set_num_threads(1)
    model = mm.lab.load()
    stream = (scene.image for scene in (mm.lab.scene(seed) for seed in range(count)))
    with tempfile.TemporaryDirectory() as folder:
        mm.collect(
            model, stream, at="blocks.*.hook_resid_post", positions="image",
            into=Path(folder) / "store", save_every=32, progress=False,
        )  # fmt: skip
    # getrusage would count what the process that started this one held
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(status["VmHWM"].split()[0]) / 1024
