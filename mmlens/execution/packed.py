"""Cells of the language model, packed: the changed rows of many cells lie in one sequence and pass the blocks together.

Blocks are the model's own modules, called with what they were called with in the clean run, cut to the rows at hand. All they
do but attention works row by row, so that cells with different first rows and first blocks share every matrix product and no
row pays for another's cone; `lent` stands in for their attention. A cell joins at the block where it begins.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from mmlens.architectures.attention_interface import lent_attention
from mmlens.core.errors import MMLensError
from mmlens.execution.affected_rows import AffectedRows, BlockStep, ChangeLocation, Schedule, place_of
from mmlens.execution.cell_attention import KernelCall, KeysKnown, PackedAttention
from mmlens.execution.cells import Cell, Change
from mmlens.execution.equivalence_check import RecomputedRows
from mmlens.execution.inside import at_rows, changes_inside
from mmlens.execution.jobs import Job, Streams, cut
from mmlens.execution.query_groups import QueryGroup, RowSpan, query_groups, spans_of
from mmlens.execution.recording import Recording, first_of
from mmlens.execution.rowwise import RowsOf, only_rows
from mmlens.models.claims import claimed
from mmlens.models.decoder import Decoder
from mmlens.models.hooked import HookedMultimodal

#: Share of a call's rows from which on serving their queries, keys and values gains more than it costs.
_WORTH = 0.1


class Packed:
    """Runs cells of the language model.

    Args:
        model: the hooked model.
        decoder: its language model's modules.
        recording: of the clean run.
        cone: what cells can change, and which rows are read.
    """

    def __init__(self, model: HookedMultimodal, decoder: Decoder, recording: Recording, cone: AffectedRows):
        self.model = model
        self.decoder = decoder
        self.recording = recording
        self.cone = cone
        self.depth = len(decoder.blocks)
        self.device = recording.returned.device
        self.streams = Streams(recording)
        self.lent = PackedAttention(recording.attended)
        self._layout: tuple[tuple[Any, ...], Any] | None = None

    def job(self, cell: Cell, start: tuple[torch.Tensor, torch.Tensor] | None = None) -> Job:
        """A cell, ready to run.

        Args:
            cell: whose changes are at points of the language model.
            start: rows and values of the merged embeddings that are others from the start.
        """
        inner: dict[ChangeLocation, list[Change]] = {}
        for change in cell.changes:
            node = self.model.graph[change.at]
            inner.setdefault(place_of(node.kind, node.layer, self.depth), []).append(change)
        places = [(where, change.rows) for where, changes in inner.items() for change in changes]
        if start is not None:
            places.append((ChangeLocation(0, "pre"), start[0]))
        schedule = self.cone.schedule(cell.sample, places)
        empty = torch.empty(0, dtype=torch.long)
        width = self.recording.returned.shape[-1]
        return Job(cell, schedule, inner, empty, self.recording.returned.new_empty(0, width), start)

    @cached_property
    def bytes_per_row(self) -> int:
        """Memory that a row of a packed call takes at most, in bytes."""
        block = self.decoder.blocks[0]
        linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
        width = self.recording.returned.shape[-1]
        inside = 2 * sum(linear.out_features for linear in linears) + 12 * width
        heads = max(linear.out_features for linear in linears) // max(self.recording.attended[0].key.shape[-1], 1)
        scores = 4 * heads * self.cone.length
        return (inside + scores) * self.recording.returned.element_size()

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> list[torch.Tensor | None]:
        """Logits `[read vocab]` of each cell; None where they are the clean ones."""
        with claimed(self.model, "A sweep"), lent_attention(self.decoder.configs, self.lent.attend):
            for layer in range(self.depth):
                due = [job for job in jobs if layer in job.schedule.steps]
                self._block(layer, due)
        self._layout = None
        return self._answers(jobs)

    def again(self, rows: Sequence[torch.Tensor]) -> Iterator[RecomputedRows]:
        """Rows of the clean run computed anew in every block, each block from what it received in that run.

        Args:
            rows: of each sample.
        """
        empty = rows[0][:0]
        steps = [BlockStep(sample_rows, None, sample_rows, empty) for sample_rows in rows]
        jobs = [
            Job(Cell(sample, ()), Schedule({}, None), {}, empty, self.recording.returned.new_empty(0))
            for sample in range(len(rows))
        ]
        for layer in range(self.depth):
            block_input = self.recording.entered[layer].stream
            inputs = {
                id(job): (step.rows, block_input[job.cell.sample, step.rows])
                for job, step in zip(jobs, steps, strict=True)
            }
            with claimed(self.model, "A sweep"), lent_attention(self.decoder.configs, self.lent.attend):
                outputs = self._run_block(layer, list(zip(jobs, steps, strict=True)), inputs, None)
            behind = self.streams.behind(layer)
            expected = [behind[sample, sample_rows] for sample, sample_rows in enumerate(rows)]
            yield RecomputedRows(outputs, torch.cat(expected), torch.cat([stream for _, stream in inputs.values()]))
        self._layout = None

    # -- one block -----------------------------------------------------------------------------------------------------

    def _block(self, layer: int, jobs: list[Job]) -> None:
        """Run a block for the cells that are in it."""
        steps = [job.schedule.steps[layer] for job in jobs]
        active = [(job, step) for job, step in zip(jobs, steps, strict=True) if len(step.rows)]
        for job, step in zip(jobs, steps, strict=True):
            if not len(step.rows):
                self.streams.hand_on(layer, job, step, None)
        if not active:
            return
        first = [(job, step) for job, step in active if step.keys is not None]
        inputs = {id(job): self.streams.entering(layer, job, step) for job, step in active}
        stash = None
        order = first + [pair for pair in active if pair[1].keys is None]
        if first:
            stash = self._keys_first(layer, first, inputs)
        out = self._run_block(layer, order, inputs, stash)
        start = 0
        for job, step in order:
            self.streams.hand_on(layer, job, step, out[start : start + len(step.rows)])
            start += len(step.rows)

    def _keys_first(
        self, layer: int, pairs: Sequence[tuple[Job, BlockStep]], inputs: dict[int, tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of rows that do not run themselves: the block is left as soon as they are known."""
        rows = [step.keys for _, step in pairs if step.keys is not None]
        spans = spans_of([job.cell.sample for job, _ in pairs], rows)
        streams = [cut(*inputs[id(job)], job_rows) for (job, _), job_rows in zip(pairs, rows, strict=True)]
        self.lent.call = call = KernelCall(layer, spans, spans, [], only_keys=True)
        try:
            self._called(layer, torch.cat(streams), spans)
        except KeysKnown:
            pass
        finally:
            self.lent.call = None
        if call.stash is None:
            raise MMLensError(f"Block {layer} returned without computing attention.")
        return call.stash

    def _run_block(
        self,
        layer: int,
        pairs: Sequence[tuple[Job, BlockStep]],
        inputs: dict[int, tuple[torch.Tensor, torch.Tensor]],
        stash: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """The block's output `[row d_model]` for the rows of all cells."""
        samples = [job.cell.sample for job, _ in pairs]
        streams = [cut(*inputs[id(job)], step.rows) for job, step in pairs]
        device = self._device(layer)
        queries, keys, groups = self._grouped(samples, [step for _, step in pairs], device)
        hooks, edits = changes_inside(self.model.graph, layer, [job for job, _ in pairs], queries)
        if edits:
            groups = self._without(edits, queries, keys, device)
        from_record, others = self._served(layer, pairs, queries)
        self.lent.call = KernelCall(layer, queries, keys, groups, edits, stash, served=from_record)
        try:
            with self.model.hooks(hooks), only_rows(self.decoder.linears[layer], others):
                return first_of(self._called(layer, streams[0] if len(streams) == 1 else torch.cat(streams), queries))[
                    0
                ]
        finally:
            self.lent.call = None

    def _grouped(
        self, samples: Sequence[int], steps: Sequence[BlockStep], device: torch.device
    ) -> tuple[list[RowSpan], list[RowSpan], list[QueryGroup]]:
        """Spans and groups of a call; those of the block before where they are the same."""
        key = (device, *samples, *(id(step.rows) for step in steps), *(id(step.keys) for step in steps))
        if self._layout is None or self._layout[0] != key:
            queries = spans_of(samples, [step.rows for step in steps])
            # keys that were found first lie in front of those that come with the queries
            rows = [step.rows if step.keys is None else step.keys for step in steps]
            keys = spans_of(samples, rows)
            self._layout = (key, (queries, keys, self._groups(queries, keys, device), RowsOf(queries)))
        return self._layout[1][:3]

    def _served(
        self, layer: int, pairs: Sequence[tuple[Job, BlockStep]], spans: Sequence[RowSpan]
    ) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None, torch.Tensor | None]:
        """Rows that enter a block as they did in the clean run, whose queries, keys and values need not be made again.

        Returns:
            Those rows, and where the others lie in the packed sequence; None for both where there are too few.
        """
        inside = [ChangeLocation(layer, stage) for stage in ("keys", "rows")]
        clean = [
            torch.zeros(len(step.rows), dtype=torch.bool)
            if any(where in job.inner for where in inside)
            else ~torch.isin(step.rows, step.differs, assume_unique=True)
            for job, step in pairs
        ]
        flags = torch.cat(clean)
        if not self.decoder.linears[layer] or int(flags.sum()) < _WORTH * len(flags):
            return None, None
        samples = torch.cat([torch.full((len(span.rows),), span.sample) for span in spans])
        rows = torch.cat([span.rows for span in spans])
        where = flags.nonzero().flatten()
        device = self._device(layer)
        record_index = (samples[where].to(device), rows[where].to(device), where.to(device))
        return record_index, (~flags).nonzero().flatten().to(device)

    def _device(self, layer: int) -> torch.device:
        """Where a block computes: blocks may lie on several devices."""
        return self.recording.attended[layer].key.device

    def _groups(self, queries: Sequence[RowSpan], keys: Sequence[RowSpan], device: torch.device) -> list[QueryGroup]:
        return query_groups(queries, keys, self.cone.length, self.cone.causal, device) if queries else []

    def _without(
        self, edits: dict[int, Any], queries: list[RowSpan], keys: list[RowSpan], device: torch.device
    ) -> list[QueryGroup]:
        """Groups of the cells whose scores and patterns are left alone."""
        rest = [i for i in range(len(queries)) if i not in edits]
        return self._groups([queries[i] for i in rest], [keys[i] for i in rest], device)

    def _called(self, layer: int, stream: torch.Tensor, spans: Sequence[RowSpan]) -> Any:
        """KernelCall a block with packed rows, and with what it was called with in the clean run for these."""
        rows = RowsOf(spans)
        if self._layout is not None and self._layout[1][0] is spans:
            rows = self._layout[1][3]
        return self.decoder.blocks[layer](
            stream[None], **rows.of_all(self.recording.entered[layer].kwargs, self._shape)
        )

    @property
    def _shape(self) -> tuple[int, int]:
        """Batch and positions of the clean run."""
        return self.recording.returned.shape[0], self.recording.returned.shape[1]

    # -- the end -------------------------------------------------------------------------------------------------------

    def _answers(self, jobs: Sequence[Job]) -> list[torch.Tensor | None]:
        """The final norm and the unembedding, for the rows that are read."""
        live = [job for job in jobs if job.schedule.final is not None]
        if not live:
            return [None] * len(jobs)
        rows = [job.schedule.final for job in live if job.schedule.final is not None]
        spans = spans_of([job.cell.sample for job in live], rows)
        streams = [self.streams.at_end(job, job_rows) for job, job_rows in zip(live, rows, strict=True)]
        final = ChangeLocation(self.depth, "final")
        by_point: dict[str, list[tuple[RowSpan, Change]]] = {}
        for job, span in zip(live, spans, strict=True):
            for change in job.inner.get(final, ()):
                by_point.setdefault(change.at, []).append((span, change))
        with self.model.hooks([(name, at_rows(changes)) for name, changes in by_point.items()]):
            logits = self.logits(torch.cat(streams))
        answers = {
            id(job): cut(span.rows, logits[span.start : span.stop], self.cone.read[span.sample])
            for job, span in zip(live, spans, strict=True)
        }
        return [answers.get(id(job)) for job in jobs]

    def logits(self, stream: torch.Tensor) -> torch.Tensor:
        """Logits `[row vocab]` of rows of the last stream."""
        norm_output = stream[None] if self.decoder.norm is None else self.decoder.norm(stream[None])
        return self.recording.to_logits(self.decoder.head(norm_output))[0].to(self.recording.home)
