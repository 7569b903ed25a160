"""Runs of cells by one way: packed rows of the language model, runs with frozen blocks, or whole forward passes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import nn

from mmlens.architectures.tensor_parallel import is_split
from mmlens.core.errors import InputError
from mmlens.execution.affected_rows import AffectedRows
from mmlens.execution.cells import Cell
from mmlens.execution.cost import counted_products
from mmlens.execution.frozen import Frozen
from mmlens.execution.jobs import Job, chunks
from mmlens.execution.packed import Packed
from mmlens.execution.recording import Recorder, Recording
from mmlens.execution.whole import rounds, run_whole, with_positions
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.claims import claimed
from mmlens.models.decoder import Decoder, NotAloneError, decoder_of
from mmlens.models.hooked import HookedMultimodal

#: `packed`: the language model's rows alone. `front`: vision with frozen blocks, then packed rows. `frozen`: the whole model with
#: frozen blocks. `whole`: forward passes.
Kind: TypeAlias = Literal["packed", "front", "frozen", "whole"]

#: Rows in one packed call that a processor's caches still hold; more gain nothing there.
_ROWS_ON_CPU = 2048


@dataclass(frozen=True)
class CellCall:
    """What runs at once: a packed call, or a pass of the batch.

    Attributes:
        cells: numbers of its cells.
        run: gives their logits `[read vocab]`, in that order; None where they are the clean ones.
    """

    cells: list[int]
    run: Callable[[], list[torch.Tensor | None]]


@dataclass
class CellRuns:
    """The clean run of one batch, and runs of cells that start from it.

    Attributes:
        model: the hooked model.
        batch: the batch.
        products: operations of every linear and convolution in it, by module.
        frozen: runs with frozen blocks.
        decoder, recording: the language model's modules and what was kept of them; None if they cannot be run alone.
        alone: why they cannot; empty if they can.
    """

    model: HookedMultimodal
    batch: MultimodalBatch
    products: dict[nn.Module, float]
    frozen: Frozen
    decoder: Decoder | None = None
    recording: Recording | None = None
    alone: str = ""

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedMultimodal, batch: MultimodalBatch) -> tuple["CellRuns", torch.Tensor]:
        """Run a batch once and keep what its cells need; returns that and the logits `[batch pos vocab]`."""
        decoder, reason = None, ""
        try:
            if hooked(model):
                raise NotAloneError(
                    "hooks are attached to the model, and blocks of packed rows would show them other tensors"
                )
            if is_split(model.base):
                raise NotAloneError(
                    "its weights are split over processes, and blocks of packed rows would see each process's heads alone"
                )
            decoder = decoder_of(model)
        except NotAloneError as error:
            reason = str(error)
        frozen = Frozen(model, batch, decoder)
        recorder = None if decoder is None else Recorder(decoder)
        with ExitStack() as stack:
            stack.enter_context(claimed(model, "A sweep"))
            products = stack.enter_context(counted_products(model))
            if not hooked(model):  # what hooks of others make of it is not what blocks return once these are gone
                stack.enter_context(frozen.recorded())
            if recorder is not None:
                stack.enter_context(recorder.running())
            logits = with_positions(model(batch))
        recording = None
        if recorder is not None:
            try:
                recording = recorder.recording(model, batch, logits)
            except NotAloneError as error:
                reason = str(error)
                frozen.decoder = decoder = None
        return cls(model, batch, products, frozen, decoder, recording, reason), logits

    @property
    def memory(self) -> int:
        """Memory of what is kept of the clean run, in bytes."""
        tensors = [*([] if self.recording is None else self.recording.tensors), *self.frozen.tensors]
        # what one block returns and the next one receives is one tensor
        return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())

    def packed(self, read: list[torch.Tensor]) -> Packed:
        """What runs cells of the language model alone.

        Args:
            read: per sample, the positions that are read.

        Raises:
            InputError: if the language model's blocks cannot be run by themselves.
        """
        if self.decoder is None or self.recording is None:
            raise InputError("The language model's blocks cannot be run by themselves.")
        length = self.batch.layout.is_token.shape[1]
        rows = AffectedRows(self.recording.attended, length, read)
        return Packed(self.model, self.decoder, self.recording, rows)

    def at_most(self, runner: Packed, cell: Cell) -> Job:
        """The rows of a cell that starts in front of the language model, before a run has shown which the picture changes:
        all from the first image token on.
        """
        image = self.batch.layout.image[cell.sample]
        return runner.job(self._later(cell), (image, torch.empty(0)) if len(image) else None)

    def _later(self, cell: Cell) -> Cell:
        """A cell's changes in the language model alone."""
        graph = self.model.graph
        return Cell(cell.sample, tuple(change for change in cell.changes if graph[change.at].part == "language"))

    def run(
        self, kind: Kind, cells: Sequence[Cell], read: list[torch.Tensor] | int, clean: torch.Tensor
    ) -> list[torch.Tensor]:
        """Logits `[read vocab]` of cells, all by one way.

        Args:
            kind: the way.
            cells: the cells.
            read: per sample, the positions that are read; or how many of the last ones of what a decoder writes.
            clean: logits of the unchanged run at these, `[batch read vocab]`.
        """
        results: dict[int, torch.Tensor] = {}
        for call in self.calls(kind, cells, read, None):
            for number, answer in zip(call.cells, call.run(), strict=True):
                results[number] = clean[cells[number].sample] if answer is None else answer
        return [results[number] for number in range(len(cells))]

    def calls(
        self, kind: Kind, cells: Sequence[Cell], read: list[torch.Tensor] | int, budget: float | None
    ) -> Iterator[CellCall]:
        """What has to run for cells, one after another; `kind`, `cells` and `read` as for `run`.

        Args:
            kind, cells, read: as for `run`.
            budget: bytes for the rows of one packed call; passes of the whole batch take what they take.
        """
        return (
            self._packed(kind, cells, read, budget) if kind in ("packed", "front") else self._passes(kind, cells, read)
        )

    def rounds(self, cells: Sequence[Cell]) -> Iterator[list[int]]:
        """Numbers of cells that share a pass; in a dual encoder such that change a text share it with no other, as every
        picture is scored with the texts of all samples.
        """
        graph = self.model.graph
        return rounds(
            cells, lambda cell: self.batch.apart and any(graph[change.at].part == "language" for change in cell.changes)
        )

    def _passes(self, kind: Kind, cells: Sequence[Cell], read: list[torch.Tensor] | int) -> Iterator[CellCall]:
        for numbers in self.rounds(cells):
            yield CellCall(numbers, partial(self._pass, kind, [cells[number] for number in numbers], read))

    def _pass(self, kind: Kind, cells: Sequence[Cell], read: list[torch.Tensor] | int) -> list[torch.Tensor | None]:
        logits = self.frozen.run(cells) if kind == "frozen" else run_whole(self.model, self.batch, cells)
        rows = [slice(-read, None) if isinstance(read, int) else read[c.sample].to(logits.device) for c in cells]
        return [logits[cell.sample, cell_rows] for cell, cell_rows in zip(cells, rows, strict=True)]

    def _packed(
        self, kind: Kind, cells: Sequence[Cell], read: list[torch.Tensor] | int, budget: float | None
    ) -> Iterator[CellCall]:
        if isinstance(read, int):
            raise InputError("The language model's blocks cannot be run by themselves.")
        runner = self.packed(read)
        if kind == "packed":
            jobs = dict(enumerate(runner.job(cell) for cell in cells))
            self._require_budget(runner, max(job.schedule.most for job in jobs.values()), budget)
            for numbers in chunks(jobs, self._rows(runner, budget), runner.depth):
                yield CellCall(numbers, partial(runner.run, [jobs.pop(number) for number in numbers]))
            return
        self._require_budget(runner, max(self.at_most(runner, cell).schedule.most for cell in cells), budget)
        for numbers in self.rounds(cells):
            yield CellCall(numbers, partial(self._behind_front, runner, [cells[number] for number in numbers], budget))

    def _behind_front(self, runner: Packed, cells: Sequence[Cell], budget: float | None) -> list[torch.Tensor | None]:
        """A pass up to the merged embeddings, and the language model's rows for what came of it."""
        embeddings = self.frozen.embeddings(cells)
        jobs = {number: self._given(runner, cell, embeddings) for number, cell in enumerate(cells)}
        answers: dict[int, torch.Tensor | None] = {}
        for chunk in chunks(jobs, self._rows(runner, budget), runner.depth):
            answers.update(zip(chunk, runner.run([jobs[number] for number in chunk]), strict=True))
        return [answers[number] for number in range(len(cells))]

    def _given(self, runner: Packed, cell: Cell, embeddings: torch.Tensor) -> Job:
        """A cell that starts from other merged embeddings, with its changes in the language model to come."""
        sample_embeddings = embeddings[cell.sample]
        before = runner.recording.entered[0].stream[cell.sample]
        rows = (sample_embeddings != before).any(-1).nonzero().flatten().cpu()
        return runner.job(self._later(cell), (rows, sample_embeddings[rows]) if len(rows) else None)

    @staticmethod
    def _require_budget(runner: Packed, largest: int, budget: float | None) -> None:
        if budget is not None and largest * runner.bytes_per_row > budget:
            raise InputError(
                f"budget={budget / 2**20:.3g} MiB is less than one cell takes: {largest} rows of "
                f"{runner.bytes_per_row / 2**10:.3g} KiB are {largest * runner.bytes_per_row / 2**20:.3g} MiB."
            )

    def _rows(self, runner: Packed, budget: float | None) -> int:
        """How many rows fit into one packed call."""
        if budget is None:
            if runner.device.type == "cpu":
                return _ROWS_ON_CPU
            budget = torch.cuda.mem_get_info(runner.device)[0] / 2 if runner.device.type == "cuda" else 2.0**31
        return max(int(budget / runner.bytes_per_row), 1)


def hooked(model: HookedMultimodal) -> bool:
    """Whether somebody's hooks are attached to a model."""
    return any(point.attached for point in model.hook_dict.values())
