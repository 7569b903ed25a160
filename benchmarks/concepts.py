"""Concepts: `python -m benchmarks.concepts`, in less than ten minutes of one processor.

Semi-NMF beside scikit-learn's dictionary learning on the same formula, `||Z - UV||^2 + penalty ||V||_1`, each with its time and
the formula's value that it reached; collecting beside a bare loop of the same work; and the memory that collecting takes as the
dataset grows. Scikit-learn is stopped after some rounds where it would go on for long; the table says where. The ratio of times
is then what it is at least, and the objectives are compared as far as scikit-learn had come.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from sklearn.decomposition import DictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

import mmlens as mm
from benchmarks.measure import Ratio, alternate, ratio
from benchmarks.table import Row, as_table, machine
from mmlens.analysis.concepts.semi_nmf import semi_nmf

SAMPLES, WIDTH, CONCEPTS = 2000, 4096, 20
PENALTY = 1.0
_PROMPT, _NEW_TOKENS = "describe the image", 20


def planted(generator: torch.Generator) -> torch.Tensor:
    """Sums of 20 unit vectors with half-normal weights, and noise: what semi-NMF assumes."""
    vectors = torch.nn.functional.normalize(torch.randn(CONCEPTS, WIDTH, generator=generator), dim=1)
    codes = 10 * torch.randn(SAMPLES, CONCEPTS, generator=generator).relu()
    return codes @ vectors + 0.05 * torch.randn(SAMPLES, WIDTH, generator=generator)


def clusters(generator: torch.Generator) -> torch.Tensor:
    """20 clusters around a common mean: what k-means assumes."""
    centres = 0.3 * torch.randn(CONCEPTS, WIDTH, generator=generator)
    owner = torch.randint(0, CONCEPTS, (SAMPLES,), generator=generator)
    mean = 0.5 * torch.randn(WIDTH, generator=generator)
    return centres[owner] + mean + 0.1 * torch.randn(SAMPLES, WIDTH, generator=generator)


def power_law(generator: torch.Generator) -> torch.Tensor:
    """300 directions whose sizes fall off slowly, around a mean: no structure that either assumes."""
    directions = torch.linalg.qr(torch.randn(WIDTH, 300, generator=generator)).Q
    sizes = 100 * torch.arange(1, 301).float() ** -0.8
    return (torch.randn(SAMPLES, 300, generator=generator) * sizes) @ directions.T + torch.randn(
        WIDTH, generator=generator
    )


def lab_states(generator: torch.Generator) -> torch.Tensor:
    """States of the lab model that predict a noun; 192 wide."""
    scenes = mm.lab.scenes(SAMPLES + SAMPLES // 20, seed=1)  # some captions have no noun
    store = mm.collect(mm.lab.load(), scenes, at="blocks.4.hook_resid_post", token=mm.lab.NOUNS, batch_size=32)
    return store.at().values[:SAMPLES]


@dataclass(frozen=True)
class Data:
    """States to decompose.

    Attributes:
        make: makes them, from a seeded generator.
        rounds: most rounds of scikit-learn; 5000, as published, where it comes to its end in a minute.
    """

    make: Callable[[torch.Generator], torch.Tensor]
    rounds: int = 5000


DATA = {
    "planted": Data(planted),
    "clusters": Data(clusters),
    "power law": Data(power_law, 150),
    "lab": Data(lab_states, 200),
}


def objective(values: torch.Tensor, vectors: torch.Tensor, codes: torch.Tensor) -> float:
    """The formula's value, in float64."""
    left = values.double() - codes.double() @ vectors.double()
    return float(left.square().sum() + PENALTY * codes.double().abs().sum())


def decomposition(name: str, values: torch.Tensor, *, max_iter: int, clock: Callable[[], float]) -> list[Row]:
    """Ours beside scikit-learn's on one data set."""
    times = []
    for _ in range(3):
        start = clock()
        ours = semi_nmf(values, CONCEPTS, penalty=PENALTY)
        times.append(clock() - start)
    taken = statistics.median(times)
    # scikit-learn's formula is half of this one: its alpha is half of the penalty
    options = {"positive_code": True, "fit_algorithm": "cd", "transform_algorithm": "lasso_cd"}
    alpha = PENALTY / 2
    theirs = DictionaryLearning(
        CONCEPTS, alpha=alpha, transform_alpha=alpha, max_iter=max_iter, random_state=0, **options
    )
    start = clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        codes = torch.from_numpy(theirs.fit_transform(values.numpy()))
    limit = clock() - start
    mine = objective(values, ours.vectors, ours.codes)
    other = objective(values, torch.from_numpy(theirs.components_), codes)
    benchmark = f"semi-NMF {list(values.shape)}, {CONCEPTS} concepts ({name})"
    stopped = ", where it was stopped" if theirs.n_iter_ >= max_iter else ""
    return [
        Row(
            benchmark, "scikit-learn", 1e3 * limit, note=f"objective {other:.2f} after {theirs.n_iter_} rounds{stopped}"
        ),
        Row(
            benchmark,
            "mmlens",
            1e3 * taken,
            Ratio(taken / limit, taken / limit, taken / limit),
            target=1 / 20,
            note=f"objective {mine:.2f}: {'no worse' if mine <= other * (1 + 1e-5) else 'WORSE'} ({mine / other - 1:+.1e})",
        ),
    ]


def collecting(*, samples: int, repeats: int, clock: Callable[[], float]) -> Iterator[Row]:
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
            lambda: bare(model.hf_model.generate, do_sample=False, max_new_tokens=_NEW_TOKENS),  # type: ignore[operator]
            lambda: ours(token=mm.lab.NOUNS, max_new_tokens=_NEW_TOKENS),
        ),
        "forward, last position": (
            lambda: bare(model.hf_model, use_cache=False),
            lambda: ours(positions="last", generate=False),
        ),
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


def memory(counts: Sequence[int]) -> Iterator[Row]:
    """The peak memory of a collect as the dataset grows, each in a process of its own."""

    def peak(count: int) -> float:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            model = mm.lab.load()
            stream = (scene.image for scene in (mm.lab.scene(seed) for seed in range(count)))
            with tempfile.TemporaryDirectory() as folder:
                mm.collect(
                    model, stream, at="blocks.*.hook_resid_post", positions="image", generate=False,
                    into=Path(folder) / "store", save_every=32, progress=False,
                )  # fmt: skip
                os.write(write, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024).encode())
            os._exit(0)
        os.waitpid(child, 0)
        return float(os.read(read, 64))

    fewest = None
    for count in counts:
        found = peak(count)
        fewest = found if fewest is None else fewest
        yield Row(
            "peak memory of a collect of all image positions into a folder",
            f"{count} scenes",
            None,
            Ratio(*[found / fewest] * 3),
            1.05,
            note=f"{found:.0f} MiB",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("semi-nmf", "collect", "memory"), action="append")
    parser.add_argument("--data", choices=DATA, action="append", help="states to decompose")
    parser.add_argument("--max-iter", type=int, help="most rounds of scikit-learn, on all data (5000, as published)")
    parser.add_argument("--samples", type=int, default=128, help="scenes to collect")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu", help="cpu runs on one thread")
    chosen = parser.parse_args(arguments)
    on_cpu = chosen.clock == "cpu"
    if on_cpu:
        torch.set_num_threads(1)
    rows: list[Row] = []
    # scikit-learn's products run on threads that are not torch's
    with threadpool_limits(1) if on_cpu else nullcontext():
        for some in _benchmarks(chosen, time.process_time if on_cpu else time.perf_counter):
            rows += some
            print(as_table(some), flush=True)
    print(f"{machine()}\n\n{as_table(rows)}")


def _benchmarks(chosen: argparse.Namespace, clock: Callable[[], float]) -> Iterator[list[Row]]:
    """The rows of each benchmark that was chosen."""
    wanted = chosen.only or ("semi-nmf", "collect", "memory")
    if "memory" in wanted:  # first, while this process is small
        yield list(memory((50, 200, 400)))
    if "collect" in wanted:
        yield list(collecting(samples=chosen.samples, repeats=chosen.repeats, clock=clock))
    if "semi-nmf" in wanted:
        for name, data in DATA.items():
            if name in (chosen.data or DATA):
                values = data.make(torch.Generator().manual_seed(0))
                yield decomposition(name, values, max_iter=chosen.max_iter or data.rounds, clock=clock)


if __name__ == "__main__":
    main()
