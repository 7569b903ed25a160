"""Cells of the language model, packed: the changed rows of many cells lie in one sequence and pass the blocks together.

Blocks are the model's own modules, called with what they were called with in the clean run, cut to the rows at hand. All they
do but attention works row by row, so that cells with different first rows and first blocks share every matrix product and no
row pays for another's cone; attention is lent out to `packed_attention`. A cell joins at the block where it begins.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.execution.cells import Cell, Change
from mmlens.execution.cone import Cone, Schedule, Step, Where, place_of
from mmlens.execution.packed_attention import Group, Span, attend, attend_by_steps, groups_of, spans_of
from mmlens.execution.recording import Recording, first_of
from mmlens.execution.rowwise import RowsOf, only_rows
from mmlens.execution.whole import checked
from mmlens.hooks.session import HookPair
from mmlens.models.attention_interface import lent_attention
from mmlens.models.decoder import Decoder, NotAloneError
from mmlens.models.hooked import HookedMultimodal

#: Share of a call's rows from which on serving their queries, keys and values gains more than it costs.
_WORTH = 0.1
_PAIRS = ("attn.attn_scores", "attn.pattern")


class _KeysKnown(MMLensError):
    """Raised out of a block once its keys and values are known."""


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
    inner: dict[Where, list[Change]]
    rows: torch.Tensor
    stream: torch.Tensor
    given: tuple[torch.Tensor, torch.Tensor] | None = None


@dataclass
class _Call:
    """What the lent attention has to know about the call of a block that is under way.

    Attributes:
        layer: the block.
        queries, keys: per cell, the rows that run and those whose keys are its own.
        groups: the cells that are computed together.
        edits: cells whose scores or pattern change, by number.
        stash: keys and values that were found before; None if they come with the queries.
        only_keys: stop as soon as keys and values are known.
        served: samples and positions of rows whose queries, keys and values are the clean run's, and where they lie in the
            packed sequence; None if there are none.
    """

    layer: int
    queries: list[Span]
    keys: list[Span]
    groups: list[Group]
    edits: dict[int, list[tuple[str, Change]]] = field(default_factory=dict)
    stash: tuple[torch.Tensor, torch.Tensor] | None = None
    only_keys: bool = False
    served: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None


class Packed:
    """Runs cells of the language model.

    Args:
        model: the hooked model.
        decoder: its language model's modules.
        recording: of the clean run.
        cone: what cells can change, and which rows are read.
    """

    def __init__(self, model: HookedMultimodal, decoder: Decoder, recording: Recording, cone: Cone):
        self.model = model
        self.decoder = decoder
        self.recording = recording
        self.cone = cone
        self.depth = len(decoder.blocks)
        self.device = recording.returned.device
        self._call: _Call | None = None
        self._layout: tuple[tuple[int, ...], Any] | None = None

    def job(self, cell: Cell, given: tuple[torch.Tensor, torch.Tensor] | None = None) -> Job:
        """A cell, ready to run.

        Args:
            cell: whose changes are at points of the language model.
            given: rows and values of the merged embeddings that are others from the start.
        """
        inner: dict[Where, list[Change]] = {}
        for change in cell.changes:
            node = self.model.graph[change.at]
            inner.setdefault(place_of(node.kind, node.layer, self.depth), []).append(change)
        places = [(where, change.rows) for where, changes in inner.items() for change in changes]
        if given is not None:
            places.append((Where(0, "pre"), given[0]))
        schedule = self.cone.schedule(cell.sample, places)
        nothing = torch.empty(0, dtype=torch.long)
        width = self.recording.returned.shape[-1]
        return Job(cell, schedule, inner, nothing, self.recording.returned.new_empty(0, width), given)

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

    def chunks(self, jobs: Mapping[int, Job], limit: int) -> Iterator[list[int]]:
        """Numbers of cells that run together: such that begin at the same block, and side by side.

        Args:
            jobs: cells by number.
            limit: rows in one call; a cell with more runs alone.
        """

        def place(number: int) -> tuple[int, ...]:
            steps = jobs[number].schedule.steps
            first = min(steps, default=self.depth)
            return first, jobs[number].cell.sample, *(steps[first].rows[:1].tolist() if steps else ())

        chunk: list[int] = []
        rows = 0
        for number in sorted(jobs, key=place):
            own = jobs[number].schedule.most
            if chunk and rows + own > limit:
                yield chunk
                chunk, rows = [], 0
            chunk.append(number)
            rows += own
        if chunk:
            yield chunk

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> list[torch.Tensor | None]:
        """Logits `[read vocab]` of each cell; None where they are the clean ones."""
        with lent_attention(self.decoder.configs, self._attend):
            for layer in range(self.depth):
                due = [job for job in jobs if layer in job.schedule.steps]
                self._block(layer, due)
        self._layout = None
        return self._answers(jobs)

    # -- one block -----------------------------------------------------------------------------------------------------

    def _block(self, layer: int, jobs: list[Job]) -> None:
        """Run a block for the cells that are in it."""
        steps = [job.schedule.steps[layer] for job in jobs]
        running = [(job, step) for job, step in zip(jobs, steps, strict=True) if len(step.rows)]
        for job, step in zip(jobs, steps, strict=True):
            if not len(step.rows):
                self._hand_on(layer, job, step, None)
        if not running:
            return
        first = [(job, step) for job, step in running if step.keys is not None]
        inputs = {id(job): self._entering(layer, job, step) for job, step in running}
        stash = None
        ordered = first + [pair for pair in running if pair[1].keys is None]
        if first:
            stash = self._keys_first(layer, first, inputs)
        out = self._run_block(layer, ordered, inputs, len(first), stash)
        start = 0
        for job, step in ordered:
            self._hand_on(layer, job, step, out[start : start + len(step.rows)])
            start += len(step.rows)

    def _entering(self, layer: int, job: Job, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows that are needed of a cell's stream in front of a block, and their values, changes at the stream done."""
        changes = job.inner.get(Where(layer, "pre"), [])
        given = job.given if layer == 0 else None
        rows = step.rows
        if step.keys is not None:
            rows = torch.cat([step.keys, step.rows]).unique()
        entered = self.recording.entered[layer]
        sample = job.cell.sample
        if rows is job.rows and not changes and given is None:
            stream = job.stream
            return rows, stream if entered.added is None else stream + entered.added[sample, rows]
        stream = entered.stream[sample, rows]
        if len(job.rows):
            held = torch.isin(job.rows, rows)
            own, values = (job.rows, job.stream) if held.all() else (job.rows[held], job.stream[held])
            if entered.added is not None:
                values = values + entered.added[sample, own]
            stream[torch.searchsorted(rows, own)] = values
        if given is not None:
            stream[torch.searchsorted(rows, given[0])] = given[1].to(stream)
        self._change(changes, rows, stream)
        return rows, stream

    @staticmethod
    def _change(changes: Sequence[Change], rows: torch.Tensor, values: torch.Tensor) -> None:
        """Carry changes out on the values of rows, in place."""
        for change in changes:
            at = slice(None) if change.rows is None else torch.searchsorted(rows, change.rows.cpu())
            values[at] = checked(change, values[at]).to(values)

    def _keys_first(
        self,
        layer: int,
        pairs: Sequence[tuple[Job, Step]],
        inputs: dict[int, tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of rows that do not run themselves: the block is left as soon as they are known."""
        rows = [step.keys for _, step in pairs if step.keys is not None]
        spans = spans_of([job.cell.sample for job, _ in pairs], rows)
        streams = [_cut(*inputs[id(job)], own) for (job, _), own in zip(pairs, rows, strict=True)]
        self._call = call = _Call(layer, spans, spans, [], only_keys=True)
        try:
            self._called(layer, torch.cat(streams), spans)
        except _KeysKnown:
            pass
        finally:
            self._call = None
        if call.stash is None:
            raise MMLensError(f"Block {layer} returned without computing attention.")
        return call.stash

    def _run_block(
        self,
        layer: int,
        pairs: Sequence[tuple[Job, Step]],
        inputs: dict[int, tuple[torch.Tensor, torch.Tensor]],
        n_first: int,
        stash: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """The block's output `[row d_model]` for the rows of all cells."""
        samples = [job.cell.sample for job, _ in pairs]
        streams = [_cut(*inputs[id(job)], step.rows) for job, step in pairs]
        queries, keys, groups = self._grouped(samples, [step for _, step in pairs], n_first)
        hooks, edits = self._inner(layer, pairs, queries)
        if edits:
            groups = self._without(edits, queries, keys)
        served, others = self._served(layer, pairs, queries)
        self._call = _Call(layer, queries, keys, groups, edits, stash, served=served)
        try:
            with self.model.hooks(hooks), only_rows(self.decoder.linears[layer], others):
                return first_of(self._called(layer, streams[0] if len(streams) == 1 else torch.cat(streams), queries))[
                    0
                ]
        finally:
            self._call = None

    def _grouped(
        self, samples: Sequence[int], steps: Sequence[Step], n_first: int
    ) -> tuple[list[Span], list[Span], list[Group]]:
        """Spans and groups of a call; those of the block before where they are the same."""
        key = (*samples, *(id(step.rows) for step in steps), *(id(step.keys) for step in steps))
        if self._layout is None or self._layout[0] != key:
            queries = spans_of(samples, [step.rows for step in steps])
            # keys that were found first lie in front of those that come with the queries
            rows = [step.rows if step.keys is None else step.keys for step in steps]
            keys = spans_of(samples, rows)
            self._layout = (key, (queries, keys, self._groups(queries, keys), RowsOf(queries, self.device)))
        return self._layout[1][:3]

    def _served(
        self, layer: int, pairs: Sequence[tuple[Job, Step]], spans: Sequence[Span]
    ) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None, torch.Tensor | None]:
        """Rows that enter a block as they did in the clean run, whose queries, keys and values need not be made again.

        Returns:
            Those rows, and where the others lie in the packed sequence; None for both where there are too few.
        """
        inside = [Where(layer, stage) for stage in ("keys", "rows")]
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
        served = (samples[where].to(self.device), rows[where].to(self.device), where.to(self.device))
        return served, (~flags).nonzero().flatten().to(self.device)

    def _groups(self, queries: Sequence[Span], keys: Sequence[Span]) -> list[Group]:
        return groups_of(queries, keys, self.cone.length, self.cone.causal, self.device) if queries else []

    def _without(self, edits: dict[int, Any], queries: list[Span], keys: list[Span]) -> list[Group]:
        """Groups of the cells whose scores and patterns are left alone."""
        rest = [i for i in range(len(queries)) if i not in edits]
        return self._groups([queries[i] for i in rest], [keys[i] for i in rest])

    def _called(self, layer: int, stream: torch.Tensor, spans: Sequence[Span]) -> Any:
        """Call a block with packed rows, and with what it was called with in the clean run for these."""
        rows = RowsOf(spans, self.device)
        if self._layout is not None and self._layout[1][0] is spans:
            rows = self._layout[1][3]
        return self.decoder.blocks[layer](
            stream[None], **rows.of_all(self.recording.entered[layer].kwargs, self._shape)
        )

    @property
    def _shape(self) -> tuple[int, int]:
        """Batch and positions of the clean run."""
        return self.recording.returned.shape[0], self.recording.returned.shape[1]

    def _inner(
        self, layer: int, pairs: Sequence[tuple[Job, Step]], spans: Sequence[Span]
    ) -> tuple[list[HookPair], dict[int, list[tuple[str, Change]]]]:
        """Hooks for the changes inside a block, and the changes of scores and patterns, by the cell's number."""
        by_point: dict[str, list[tuple[Span, Change]]] = {}
        edits: dict[int, list[tuple[str, Change]]] = {}
        for number, ((job, _), span) in enumerate(zip(pairs, spans, strict=True)):
            for stage in ("keys", "rows"):
                for change in job.inner.get(Where(layer, stage), ()):
                    kind = self.model.graph[change.at].kind
                    if kind in _PAIRS:
                        edits.setdefault(number, []).append((kind, change))
                    else:
                        by_point.setdefault(change.at, []).append((span, change))
        return [(name, _at_rows(found)) for name, found in by_point.items()], edits

    def _hand_on(self, layer: int, job: Job, step: Step, out: torch.Tensor | None) -> None:
        """Keep what differs of a cell's stream behind a block."""
        changes = job.inner.get(Where(layer, "post"), [])
        if out is not None and not changes:
            job.stream = out if step.handed_on is step.rows else _cut(step.rows, out, step.handed_on)
            job.rows = step.handed_on
            return
        rows, values = step.rows, out
        if values is None:
            wanted = [torch.arange(self.cone.length) if c.rows is None else c.rows.cpu() for c in changes]
            rows = torch.cat([step.handed_on, *wanted]).unique()
            values = self._behind(layer)[job.cell.sample, rows]
        values = values.clone()
        self._change(changes, rows, values)
        job.rows, job.stream = step.handed_on, _cut(rows, values, step.handed_on)

    def _behind(self, layer: int) -> torch.Tensor:
        """The clean stream behind a block."""
        if layer + 1 == self.depth:
            return self.recording.returned
        entered = self.recording.entered[layer + 1]
        return entered.stream if entered.added is None else entered.stream - entered.added

    # -- attention -----------------------------------------------------------------------------------------------------

    def _attend(
        self,
        own: Callable[..., Any],
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Stands in for the attention function while cells run."""
        call = self._call
        if call is None:
            raise MMLensError(f"{type(module).__name__} ran outside the blocks of a packed run.")
        if key.shape[2] != query.shape[2]:
            raise NotAloneError(f"block {call.layer} has keys that are not its own rows'")
        if call.only_keys:
            call.stash = key[0], value[0]
            raise _KeysKnown("keys and values are known")
        attended = self.recording.attended[call.layer]
        k, v = key[0], value[0]
        if call.served is not None:
            samples, rows, where = call.served
            query[0, :, where] = attended.query[samples, :, rows].transpose(0, 1)
            k, v = (
                new.index_copy(1, where, clean[samples, :, rows].transpose(0, 1))
                for new, clean in ((k, attended.key), (v, attended.value))
            )
        if call.stash is not None:
            alone = sum(len(q.rows) for q, held in zip(call.queries, call.keys, strict=True) if held.rows is not q.rows)
            k = torch.cat([call.stash[0], k[:, alone:]], 1)
            v = torch.cat([call.stash[1], v[:, alone:]], 1)
        out = query.new_empty(query.shape[2], query.shape[1], v.shape[-1])
        for group in call.groups:
            attend(group, attended, query[0], k, v, out)
        for number, changes in call.edits.items():
            span = call.queries[number]
            attend_by_steps(span, call.keys[number], attended, query[0], k, v, out, _edit(changes, span))
        return out[None]

    # -- the end -------------------------------------------------------------------------------------------------------

    def _answers(self, jobs: Sequence[Job]) -> list[torch.Tensor | None]:
        """The final norm and the unembedding, for the rows that are read."""
        live = [job for job in jobs if job.schedule.final is not None]
        if not live:
            return [None] * len(jobs)
        rows = [job.schedule.final for job in live if job.schedule.final is not None]
        spans = spans_of([job.cell.sample for job in live], rows)
        streams = []
        for job, own in zip(live, rows, strict=True):
            stream = self.recording.returned[job.cell.sample, own]
            held = torch.isin(job.rows, own)
            stream[torch.searchsorted(own, job.rows[held])] = job.stream[held]
            streams.append(stream)
        final = Where(self.depth, "final")
        by_point: dict[str, list[tuple[Span, Change]]] = {}
        for job, span in zip(live, spans, strict=True):
            for change in job.inner.get(final, ()):
                by_point.setdefault(change.at, []).append((span, change))
        with self.model.hooks([(name, _at_rows(found)) for name, found in by_point.items()]):
            logits = self.logits(torch.cat(streams))
        answers = {
            id(job): _cut(span.rows, logits[span.start : span.stop], self.cone.read[span.sample])
            for job, span in zip(live, spans, strict=True)
        }
        return [answers.get(id(job)) for job in jobs]

    def logits(self, stream: torch.Tensor) -> torch.Tensor:
        """Logits `[row vocab]` of rows of the last stream."""
        normed = stream[None] if self.decoder.norm is None else self.decoder.norm(stream[None])
        return self.recording.to_logits(self.decoder.head(normed))[0]


def _cut(rows: torch.Tensor, values: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The values of some of the rows."""
    return values if wanted is rows else values[torch.searchsorted(rows, wanted)]


def _at_rows(changes: Sequence[tuple[Span, Change]]) -> Callable[..., torch.Tensor]:
    """A hook function that carries changes out on packed rows."""

    def change_rows(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        for span, change in changes:
            own = activation[0, span.start : span.stop]
            at = slice(None) if change.rows is None else torch.searchsorted(span.rows, change.rows.cpu())
            own[at] = checked(change, own[at]).to(own)
        return activation

    return change_rows


def _edit(changes: Sequence[tuple[str, Change]], span: Span) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Changes of a cell's scores and pattern."""

    def edit(kind: str, tensor: torch.Tensor) -> torch.Tensor:
        for own_kind, change in changes:
            if own_kind == kind:
                at = torch.arange(len(span.rows))
                at = at if change.rows is None else torch.searchsorted(span.rows, change.rows.cpu())
                tensor = tensor.clone()
                tensor[:, at] = checked(change, tensor[:, at]).to(tensor)
        return tensor

    return edit
