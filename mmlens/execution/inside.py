"""Changes inside a block of packed rows: hooks on the rows of each cell, and edits of its scores and pattern."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mmlens.execution.affected_rows import ChangeLocation
from mmlens.execution.cells import Change
from mmlens.execution.jobs import Job
from mmlens.execution.query_groups import RowSpan
from mmlens.execution.whole import new_rows
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.session import HookPair

_PAIRS = ("attn.attn_scores", "attn.pattern")


def changes_inside(
    graph: HookGraph, layer: int, jobs: Sequence[Job], spans: Sequence[RowSpan]
) -> tuple[list[HookPair], dict[int, list[tuple[str, Change]]]]:
    """What cells change inside a block.

    Args:
        graph: the hook-point graph.
        layer: the block.
        jobs: the cells in it.
        spans: their rows in the packed sequence.

    Returns:
        Hooks for the changes at packed rows, and the changes of scores and patterns by the cell's number.
    """
    by_point: dict[str, list[tuple[RowSpan, Change]]] = {}
    edits: dict[int, list[tuple[str, Change]]] = {}
    for number, (job, span) in enumerate(zip(jobs, spans, strict=True)):
        for stage in ("keys", "rows"):
            for change in job.inner.get(ChangeLocation(layer, stage), ()):
                kind = graph[change.at].kind
                if kind in _PAIRS:
                    edits.setdefault(number, []).append((kind, change))
                else:
                    by_point.setdefault(change.at, []).append((span, change))
    return [(name, at_rows(changes)) for name, changes in by_point.items()], edits


def at_rows(changes: Sequence[tuple[RowSpan, Change]]) -> Callable[..., torch.Tensor]:
    """A hook function that carries changes out on packed rows."""

    def change_rows(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        for span, change in changes:
            rows = activation[0, span.start : span.stop]
            at = slice(None) if change.rows is None else torch.searchsorted(span.rows, change.rows.cpu())
            rows[at] = new_rows(change, rows[at]).to(rows)
        return activation

    return change_rows


def row_edit_of(changes: Sequence[tuple[str, Change]], span: RowSpan) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Changes of a cell's scores and pattern."""

    def edit(kind: str, tensor: torch.Tensor) -> torch.Tensor:
        for own_kind, change in changes:
            if own_kind == kind:
                at = torch.arange(len(span.rows))
                at = at if change.rows is None else torch.searchsorted(span.rows, change.rows.cpu())
                tensor = tensor.clone()
                tensor[:, at] = new_rows(change, tensor[:, at]).to(tensor)
        return tensor

    return edit
