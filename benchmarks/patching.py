"""Patching sweeps: mmlens beside the plain loop, one forward pass per cell, on bare Hugging Face, in TransformerLens and nnsight.

A loop takes as long for every cell, so it runs a few of them, spread over the sweep, and its time is scaled by their number;
mmlens runs every cell that a row counts. Answers are compared before anything is timed. The floor is what the cells' cones take
in operations, at the rate of one large matrix product that is timed in the same rounds.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.agreement import DisagreementError, largest_difference
from benchmarks.measure import Ratio, Timing, alternate, ratio
from benchmarks.models import Subject
from benchmarks.patching_loops import Loop, loops
from benchmarks.table import Row
from mmlens.execution import Cell, Change, CleanRun

#: Largest difference from the plain loop that rounding explains.
_ROUNDING = 1e-5
#: Cells of a sweep that bare Hugging Face runs, and the other libraries.
_SAMPLE, _FEW = 6, 3
#: Rows of the matrix product whose rate the floor takes: those of a large packed call.
_ROWS, _PRODUCTS = 2048, 10


@dataclass(frozen=True)
class Sweep:
    """One sweep.

    Attributes:
        name: for the table.
        cells: those of its cells that are run.
        target: how many times faster than the plain loop it must be.
    """

    name: str
    cells: list[Cell]
    target: float


@dataclass(frozen=True)
class Patched:
    """Puts a row of other values into the place of a row, or of one head of it."""

    values: torch.Tensor
    head: int | None = None

    def __call__(self, activation: torch.Tensor) -> torch.Tensor:
        if self.head is None:
            return self.values.expand_as(activation)
        return activation.index_copy(1, torch.tensor([self.head]), self.values.expand(len(activation), 1, -1))


def sweeps(subject: Subject, *, positions: int = 16, heads: int = 4) -> list[Sweep]:
    """The standard sweeps of a LLaVA, all layers each.

    Args:
        subject: the model.
        positions: sweeps over all positions take every so-manieth, sweeps over heads every second of those.
        heads: sweeps over heads take every so-manieth head.
    """
    cfg, layout = subject.hooked.cfg, subject.batch.layout
    generator = torch.Generator().manual_seed(1)
    whole, part = torch.randn(1, cfg.d_model, generator=generator), torch.randn(1, 1, cfg.d_head, generator=generator)
    text, length = layout.text[0].tolist(), layout.is_token.shape[1]

    def spread(every: int) -> list[int]:
        # from the middle of the first stretch, so that they lie on average where all positions do
        return list(range(every // 2, length, every))

    def residual(rows: Sequence[int]) -> list[Cell]:
        names = [f"blocks.{layer}.hook_resid_pre" for layer in range(cfg.n_layers)]
        return [Cell(0, (Change(name, torch.tensor([row]), Patched(whole)),)) for name in names for row in rows]

    def of_heads(rows: Sequence[int]) -> list[Cell]:
        names = [f"blocks.{layer}.attn.hook_z" for layer in range(cfg.n_layers)]
        return [
            Cell(0, (Change(name, torch.tensor([row]), Patched(part, head)),))
            for name in names
            for head in range(0, cfg.n_heads, heads)
            for row in rows
        ]

    return [
        Sweep("residual, text positions", residual(text), 20),
        Sweep(f"residual, all positions (1 in {positions} run)", residual(spread(positions)), 4),
        Sweep(f"heads, text positions (1 head in {heads} run)", of_heads(text), 15),
        Sweep(
            f"heads, all positions (1 in {2 * positions}, 1 head in {heads} run)", of_heads(spread(2 * positions)), 2
        ),
    ]


def patching(subject: Subject, *, repeats: int, clock: Callable[[], float] = time.perf_counter) -> Iterator[list[Row]]:
    """Rows of the standard sweeps, each sweep's as soon as they are measured.

    Args:
        subject: the model.
        repeats: timed rounds.
        clock: as for `alternate`.

    Raises:
        DisagreementError: if a cell's logits differ from those of the plain loop, or if the comparison could not see it.
    """
    others = loops(subject)
    for sweep in sweeps(subject):
        yield _measured(subject, sweep, others, repeats, clock)


def _over(loop: Loop, cells: Sequence[Cell]) -> list[object]:
    return [loop(cell) for cell in cells]


def _measured(
    subject: Subject, sweep: Sweep, others: Sequence[Loop], repeats: int, clock: Callable[[], float]
) -> list[Row]:
    run = CleanRun(subject.hooked, subject.batch)
    found = run.logits(sweep.cells, progress=False)
    numbers = torch.arange(_SAMPLE) * (len(sweep.cells) // _SAMPLE)
    gaps, effect = _compared(sweep, others, numbers.tolist(), found, run.clean_logits)
    plan = run.plan(sweep.cells)
    some = [sweep.cells[number] for number in numbers.tolist()]
    chosen = {loop.name: some if loop is others[0] else some[:: _SAMPLE // _FEW] for loop in others}
    weights, rows = torch.randn(512, 1376), torch.randn(_ROWS, 512)
    timings = alternate(
        {
            "mmlens": lambda: run.logits(sweep.cells, progress=False),
            **{loop.name: partial(_over, loop, chosen[loop.name]) for loop in others},
            "product": lambda: [rows @ weights for _ in range(_PRODUCTS)],
        },
        repeats=repeats,
        lead_in=0,
        warm_up=0,
        clock=clock,
    )
    scaled = {name: _times(timings[name], len(sweep.cells) / len(cells)) for name, cells in chosen.items()}
    floor = _times(timings["product"], plan.computed / (_PRODUCTS * 2.0 * rows.numel() * weights.shape[1]))
    limit, own = scaled[others[0].name], timings["mmlens"]
    name = f"patch {sweep.name}, {subject.name}"
    note = (
        f"{len(sweep.cells)} cells; {_faster(ratio(own, limit))} faster, target {sweep.target:g}x, counted "
        f"{1 / plan.fraction:.1f}x; {ratio(own, floor)} of the floor; {effect}"
    )
    counted = f"{plan.computed / 1e9:.0f} GFLOP at {plan.computed / floor.milliseconds / 1e6:.1f} GFLOP/s"
    return [
        *(
            Row(
                name,
                loop.name,
                scaled[loop.name].milliseconds,
                None if loop is others[0] else ratio(scaled[loop.name], limit),
                difference=None if loop is others[0] else gaps[loop.name],
                note=f"{len(chosen[loop.name])} of {len(sweep.cells)} cells, scaled",
            )
            for loop in others
        ),
        Row(name, "mmlens", own.milliseconds, ratio(own, limit), 1 / sweep.target, gaps["mmlens"], note=note),
        Row(name, "counted floor", floor.milliseconds, ratio(floor, limit), note=counted),
    ]


def _compared(
    sweep: Sweep, others: Sequence[Loop], numbers: Sequence[int], found: torch.Tensor, clean: torch.Tensor
) -> tuple[dict[str, float], str]:
    """Largest differences from the plain loop by contender, and in words how large the effects are."""
    expected = {number: others[0](sweep.cells[number]) for number in numbers}
    truth = torch.cat(list(expected.values()))
    own = found[list(numbers)]
    gaps = {"mmlens": largest_difference(sweep.name, {"logits": truth}, {"logits": own}, tolerance=_ROUNDING)}
    for loop in others[1:]:
        few = numbers[:: _SAMPLE // _FEW]
        theirs = torch.cat([loop(sweep.cells[number]) for number in few])
        wanted = torch.cat([expected[number] for number in few])
        gaps[loop.name] = largest_difference(
            f"{sweep.name}: {loop.name}", {"logits": wanted}, {"logits": theirs}, tolerance=loop.tolerance
        )
    shifted = float((own.roll(1, 0) - truth).abs().amax(-1).max())
    if shifted < 100 * _ROUNDING:
        raise DisagreementError(f"{sweep.name}: cells are so alike that taking one for another would not be seen.")
    effects = (truth - clean).abs().amax(-1)
    return gaps, f"effects up to {effects.max():.2g}, by a row shifted {shifted:.2g}"


def _times(timing: Timing, factor: float) -> Timing:
    return Timing(tuple(seconds * factor for seconds in timing.seconds))


def _faster(taken: Ratio) -> str:
    return f"{1 / taken.median:.1f}x [{1 / taken.high:.1f}, {1 / taken.low:.1f}]"
