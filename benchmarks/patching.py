"""Patching sweeps: mmlens beside the plain hook loop on bare Hugging Face.

The plain loop takes as long for every cell, so it runs a sample of the cells, spread over the sweep, and its time for all is that
times the number of cells; mmlens runs every cell. Answers are compared with the loop's on the sample before anything is timed.
What the plan counts says how much faster it would be at the loop's own rate of operations.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.agreement import largest_difference
from benchmarks.measure import alternate, ratio
from benchmarks.models import Subject
from benchmarks.table import Row
from mmlens.execution import Cell, Change, CleanRun

_ROUNDING = 1e-5


@dataclass(frozen=True)
class Sweep:
    """One sweep.

    Attributes:
        name: for the table.
        cells: all of its cells.
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


def sweeps(subject: Subject, *, every: int = 1) -> list[Sweep]:
    """The standard sweeps of a LLaVA.

    Args:
        subject: the model.
        every: take every so-manieth position of the sweeps over all of them.
    """
    cfg, layout = subject.hooked.cfg, subject.batch.layout
    generator = torch.Generator().manual_seed(1)
    whole, part = torch.randn(1, cfg.d_model, generator=generator), torch.randn(1, 1, cfg.d_head, generator=generator)
    text, everywhere = layout.text[0].tolist(), list(range(0, layout.is_token.shape[1], every))

    def residual(rows: Sequence[int]) -> list[Cell]:
        names = [f"blocks.{layer}.hook_resid_pre" for layer in range(cfg.n_layers)]
        return [Cell(0, (Change(name, torch.tensor([row]), Patched(whole)),)) for name in names for row in rows]

    def heads(rows: Sequence[int]) -> list[Cell]:
        names = [f"blocks.{layer}.attn.hook_z" for layer in range(cfg.n_layers)]
        return [
            Cell(0, (Change(name, torch.tensor([row]), Patched(part, head)),))
            for name in names
            for head in range(cfg.n_heads)
            for row in rows
        ]

    several = "all" if every == 1 else f"every {every}th"
    return [
        Sweep("residual, text positions", residual(text), 20),
        Sweep(f"residual, {several} position", residual(everywhere), 4),
        Sweep("heads, text positions", heads(text), 15),
        Sweep(f"heads, {several} position", heads(everywhere[:: max(1, 16 // every)]), 2),
    ]


def patching(subject: Subject, *, repeats: int, clock: Callable[[], float] = time.perf_counter) -> list[Row]:
    """Rows of the standard sweeps.

    Args:
        subject: the model.
        repeats: timed rounds.
        clock: as for `alternate`.

    Raises:
        DisagreementError: if a cell's logits differ from those of the plain loop.
    """
    rows: list[Row] = []
    for sweep in sweeps(subject, every=4):
        rows += _measured(subject, sweep, repeats, clock)
    return rows


def _measured(subject: Subject, sweep: Sweep, repeats: int, clock: Callable[[], float]) -> list[Row]:
    run = CleanRun(subject.hooked, subject.batch)
    some = sweep.cells[:: max(1, len(sweep.cells) // 6)][:6]
    loop = Loop(subject)
    expected = torch.cat([loop(cell) for cell in some])
    found = run.logits(sweep.cells, progress=False)
    chosen = [sweep.cells.index(cell) for cell in some]
    answers, theirs = {"logits": found[chosen]}, {"logits": expected}
    gap = largest_difference(f"{sweep.name}: mmlens", theirs, answers, tolerance=_ROUNDING)
    effect = float((expected - run.clean_logits).abs().max())
    timings = alternate(
        {"mmlens": lambda: run.logits(sweep.cells, progress=False), "loop": lambda: [loop(cell) for cell in some]},
        repeats=repeats,
        lead_in=0,
        warm_up=0,
        clock=clock,
    )
    scale = len(sweep.cells) / len(some)
    whole = timings["loop"].milliseconds * scale
    own = ratio(timings["mmlens"], timings["loop"])
    plan = run.plan(sweep.cells)
    times = scale / own.median
    note = (
        f"{times:.1f}x faster [{scale / own.high:.1f}, {scale / own.low:.1f}], target {sweep.target:g}x; by counted operations "
        f"{1 / plan.fraction:.1f}x; effect up to {effect:.2f}"
    )
    name = f"patch {sweep.name} ({len(sweep.cells)} cells, {subject.name})"
    return [
        Row(name, "plain hook loop", whole, note=f"{len(some)} cells, times {scale:g}"),
        Row(name, "mmlens", timings["mmlens"].milliseconds, difference=gap, target=whole / sweep.target, note=note),
    ]


class Loop:
    """One forward pass of the bare model per cell, with one torch hook."""

    def __init__(self, subject: Subject):
        self.model, self.inputs = subject.bare, subject.inputs
        self.d_head = subject.hooked.cfg.d_head

    @torch.no_grad()
    def __call__(self, cell: Cell) -> torch.Tensor:
        (change,) = cell.changes
        block = self.model.model.language_model.layers[int(change.at.split(".")[1])]
        heads = change.at.endswith("hook_z")
        module = block.self_attn.o_proj if heads else block

        def hook(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            stream = args[0].clone()
            own = stream[0, change.rows]
            new = change.apply(own.unflatten(-1, (-1, self.d_head))).flatten(1) if heads else change.apply(own)
            stream[0, change.rows] = new
            return (stream, *args[1:])

        handle = module.register_forward_pre_hook(hook)
        try:
            return self.model(**self.inputs, use_cache=False).logits[:, -1]
        finally:
            handle.remove()
