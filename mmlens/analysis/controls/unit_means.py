"""Mean activations of neurons and heads over a dataset: what mean-ablation sets them to."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float

from mmlens.analysis.samples.chunks import DataChunk, chunks_of, shared_chunks
from mmlens.analysis.samples.sample import Data, length_of
from mmlens.core.axes import unit_axis
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Text
from mmlens.core.rules import Positions, as_rule
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.hooks.nodes import Node
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.row_reader import RowReader
from mmlens.models.hooked import HookedMultimodal


@checked
@torch.no_grad()
def mean_activation(
    model: HookedMultimodal,
    dataset: Data,
    units: UnitsLike,
    *,
    positions: Positions = "all",
    prompt: Text | None = None,
    batch_size: Count = 8,
    progress: bool = True,
) -> list[torch.Tensor]:
    """The mean of each unit over the positions of a dataset.

    Args:
        model: the hooked model.
        dataset: samples (see `mmlens.analysis.samples.sample`), or one batch.
        units: neurons and heads, or their names; repeated ones count once.
        positions: over which positions (see `mm.positions`); all of them by default, padding left out.
        prompt: for samples that bring none.
        batch_size: samples at a time.
        progress: show a progress bar.

    Returns:
        One mean per unit, in their order: a number for a neuron, `[d_head]` for a head. `Ablate(units, value=...)` takes them.

    Raises:
        InputError: for units that the model lacks, or a dataset without samples.

    Example:
        >>> from mmlens import Ablate
        >>> units = ["L0.u3", "L1.h2"]
        >>> means = mean_activation(model, batch, units)
        >>> [tuple(mean.shape) for mean in means] == [(), (model.cfg.d_head,)]
        True
        >>> with model.intervene(Ablate(units, value=means)):
        ...     logits = model(batch)
    """
    units = Units.of(units, model, verb="mean_activation")
    means = point_means(
        model,
        dataset,
        list(units.by_point()),
        positions=positions,
        prompt=prompt,
        batch_size=batch_size,
        progress=progress,
    )
    return [means[unit.hook][unit.index] for unit in units]


@torch.no_grad()
def point_means(
    model: HookedMultimodal,
    dataset: Data,
    points: Sequence[str],
    *,
    positions: Positions = "all",
    prompt: str | None = None,
    batch_size: int = 8,
    progress: bool = True,
    of: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows,
) -> dict[str, Float[torch.Tensor, "unit *rest"]]:
    """The means of all units of some points; arguments as for `mean_activation`.

    Args:
        model, dataset, positions, prompt, batch_size, progress: as there.
        points: hook points that hold units.
        of: what the mean is of, made of rows `[row unit ...]`, e.g. `unit_sizes`; the rows themselves by default.

    Raises:
        InputError: for a dataset without samples.
    """
    totals: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def work(chunk: DataChunk) -> dict[str, tuple[torch.Tensor, int]]:
        sums: dict[str, tuple[torch.Tensor, int]] = {}
        reader = RowReader(as_rule(positions), chunk.batch, [model.graph[name] for name in points])
        adders = [(name, _adder(model.graph[name], reader, sums, of)) for name in points]
        model.run_with_hooks(chunk.batch, fwd_hooks=adders)
        return sums

    chunks = chunks_of(model, dataset, prompt, batch_size)
    show = progress and not isinstance(dataset, MultimodalBatch)
    memory = Checkpoint(None, "mean", lambda exact: {})
    for _, sums in shared_chunks(
        model, chunks, work, checkpoint=memory, desc="samples", total=length_of(dataset), progress=show
    ):
        for name, (summed, count) in sums.items():
            totals[name] = totals[name] + summed if name in totals else summed
            counts[name] = counts.get(name, 0) + count
    if not totals:
        raise InputError("The dataset has no samples, so there is no mean.")
    return {name: total / counts[name] for name, total in totals.items()}


def _adder(
    node: Node,
    reader: RowReader,
    sums: dict[str, tuple[torch.Tensor, int]],
    of: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[..., None]:
    """A hook that adds up a point's rows, or what is made of them, by unit."""
    has_batch = node.axes.startswith("batch")

    @reads_only
    def add(activation: torch.Tensor, hook: Any) -> None:
        if reader.rows_at(node, activation.shape).whole:
            by_row = activation.detach().movedim(node.position_axis, 1 if has_batch else 0)
            rows = by_row.flatten(0, 1) if has_batch else by_row
        else:
            rows = reader.flat(node, activation.detach())
        unit = unit_axis(node.axes) - (2 if has_batch else 1)
        total, count = of(rows.float().movedim(unit + 1, 1)).sum(0).cpu(), len(rows)
        if node.name in sums:
            total, count = sums[node.name][0] + total, sums[node.name][1] + count
        sums[node.name] = (total, count)

    return add


def unit_sizes(rows: torch.Tensor) -> torch.Tensor:
    """The size of each unit in each row `[row unit ...]`: of a neuron its magnitude, of a head the norm of its output."""
    return rows.abs() if rows.ndim == 2 else rows.flatten(2).norm(dim=2)
