"""Cells under way: the rows of each one's stream that differ from the clean run's, in front of and behind every block."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from mmlens.execution.affected_rows import BlockStep, ChangeLocation, Schedule
from mmlens.execution.cells import Cell, Change
from mmlens.execution.recording import Recording
from mmlens.execution.whole import new_rows


@dataclass
class Job:
    """A cell under way.

    Attributes:
        cell: what is asked.
        schedule: what has to be computed for it.
        inner: its changes by block and stage.
        rows: rows of its stream that differ from the clean run's.
        stream: their values `[row d_model]`.
        given: rows and values of the merged embeddings that differ from the start; None where the changes alone make a cell.
    """

    cell: Cell
    schedule: Schedule
    inner: dict[ChangeLocation, list[Change]]
    rows: torch.Tensor
    stream: torch.Tensor
    given: tuple[torch.Tensor, torch.Tensor] | None = None


def chunks(jobs: Mapping[int, Job], limit: int, depth: int) -> Iterator[list[int]]:
    """Numbers of cells that run together: such that begin at the same block, and side by side.

    Args:
        jobs: cells by number.
        limit: rows in one call; a cell with more runs alone.
        depth: number of blocks.
    """

    def place(number: int) -> tuple[int, ...]:
        steps = jobs[number].schedule.steps
        first = min(steps, default=depth)
        return first, jobs[number].cell.sample, *(steps[first].rows[:1].tolist() if steps else ())

    chunk: list[int] = []
    rows = 0
    for number in sorted(jobs, key=place):
        size = jobs[number].schedule.most
        if chunk and rows + size > limit:
            yield chunk
            chunk, rows = [], 0
        chunk.append(number)
        rows += size
    if chunk:
        yield chunk


class Streams:
    """The streams of cells, on top of the clean run's.

    Args:
        recording: of the clean run.
    """

    def __init__(self, recording: Recording):
        self.recording = recording
        self.length = recording.returned.shape[1]

    def entering(self, layer: int, job: Job, step: BlockStep) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows that are needed of a cell's stream in front of a block, and their values, changes at the stream done."""
        changes = job.inner.get(ChangeLocation(layer, "pre"), [])
        start = job.given if layer == 0 else None
        rows = step.rows
        if step.keys is not None:
            rows = torch.cat([step.keys, step.rows]).unique()
        layer_input = self.recording.entered[layer]
        sample = job.cell.sample
        if rows is job.rows and not changes and start is None:
            stream = job.stream
            return rows, stream if layer_input.added is None else stream + layer_input.added[sample, rows]
        stream = layer_input.stream[sample, rows]
        if len(job.rows):
            is_job_row = torch.isin(job.rows, rows)
            job_rows, values = (
                (job.rows, job.stream) if is_job_row.all() else (job.rows[is_job_row], job.stream[is_job_row])
            )
            if layer_input.added is not None:
                values = values + layer_input.added[sample, job_rows]
            stream[torch.searchsorted(rows, job_rows)] = values
        if start is not None:
            stream[torch.searchsorted(rows, start[0])] = start[1].to(stream)
        carry_out(changes, rows, stream)
        return rows, stream

    def hand_on(self, layer: int, job: Job, step: BlockStep, out: torch.Tensor | None) -> None:
        """Keep what differs of a cell's stream behind a block."""
        changes = job.inner.get(ChangeLocation(layer, "post"), [])
        if out is not None and not changes:
            job.stream = out if step.handed_on is step.rows else cut(step.rows, out, step.handed_on)
            job.rows = step.handed_on
            return
        rows, values = step.rows, out
        if values is None:
            row_sets = [torch.arange(self.length) if c.rows is None else c.rows.cpu() for c in changes]
            rows = torch.cat([step.handed_on, *row_sets]).unique()
            values = self.behind(layer)[job.cell.sample, rows]
        values = values.clone()
        carry_out(changes, rows, values)
        job.rows, job.stream = step.handed_on, cut(rows, values, step.handed_on)

    def behind(self, layer: int) -> torch.Tensor:
        """The clean stream behind a block."""
        if layer + 1 == len(self.recording.entered):
            return self.recording.returned
        next_input = self.recording.entered[layer + 1]
        return next_input.stream if next_input.added is None else next_input.stream - next_input.added

    def at_end(self, job: Job, rows: torch.Tensor) -> torch.Tensor:
        """Rows of a cell's stream behind the last block."""
        stream = self.recording.returned[job.cell.sample, rows]
        is_job_row = torch.isin(job.rows, rows)
        stream[torch.searchsorted(rows, job.rows[is_job_row])] = job.stream[is_job_row]
        return stream


def cut(rows: torch.Tensor, values: torch.Tensor, rows_out: torch.Tensor) -> torch.Tensor:
    """The values of some of the rows."""
    return values if rows_out is rows else values[torch.searchsorted(rows, rows_out)]


def carry_out(changes: Sequence[Change], rows: torch.Tensor, values: torch.Tensor) -> None:
    """Carry changes out on the values of rows, in place."""
    for change in changes:
        at = slice(None) if change.rows is None else torch.searchsorted(rows, change.rows.cpu())
        values[at] = new_rows(change, values[at]).to(values)
