"""Which way each cell takes: packed rows of the language model, a run with frozen blocks, or a whole forward pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal, TypeAlias

import torch
from torch import nn

from mmlens.core.errors import InputError
from mmlens.execution.affected_rows import AffectedRows
from mmlens.execution.cells import Cell
from mmlens.execution.cost import Costs, costs_of, counted_pass, total
from mmlens.execution.equivalence_check import Evidence, evidence, front_trials, language_trials
from mmlens.execution.frozen import Frozen
from mmlens.execution.jobs import Job, chunks
from mmlens.execution.packed import Packed
from mmlens.execution.plan import Plan
from mmlens.execution.recording import Recording, record_run
from mmlens.execution.whole import rounds, run_whole
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.decoder import Decoder, NotAloneError, decoder_of
from mmlens.models.hooked import HookedMultimodal

#: `packed`: the language model's rows alone. `front`: vision with frozen blocks, then packed rows. `frozen`: the whole model with
#: frozen blocks. `whole`: forward passes.
Kind: TypeAlias = Literal["packed", "front", "frozen", "whole"]

#: With fewer cells than this, trying whether a short way holds costs more than it saves.
WORTHWHILE = 6
#: Rows in one packed call that a processor's caches still hold; more gain nothing there.
_ROWS_ON_CPU = 2048


_NAMES: dict[Kind, str] = {
    "packed": "rows of the language model alone",
    "front": "vision with the language model's rows",
    "frozen": "frozen blocks",
    "whole": "whole forward passes",
}
_SERVED: dict[Kind, str] = {
    "packed": "vision, earlier blocks, and keys and values of rows that cannot change come from the clean run",
    "front": "vision blocks in front of the change, and the language model's rows in front of the picture, come from the clean "
    "run",
    "frozen": "blocks that no change reaches return what they returned in the clean run",
    "whole": "nothing; each is a whole forward pass",
}


@dataclass(frozen=True)
class Call:
    """What runs at once: a packed call, or a pass of the batch.

    Attributes:
        cells: numbers of its cells.
        run: gives their logits `[read vocab]`, in that order; None where they are the clean ones.
    """

    cells: list[int]
    run: Callable[[], list[torch.Tensor | None]]


@dataclass
class ExecutionStrategies:
    """The ways of one batch.

    Attributes:
        model: the hooked model.
        batch: the batch.
        decoder, recording: the language model's modules and what was kept of them; None if they cannot be run alone.
        refused: why not, by the way that is closed.
    """

    model: HookedMultimodal
    batch: MultimodalBatch
    decoder: Decoder | None = None
    recording: Recording | None = None
    refused: dict[Kind, str] = field(default_factory=dict)
    tried: dict[Kind, Evidence] = field(default_factory=dict)

    @classmethod
    def of(cls, model: HookedMultimodal, batch: MultimodalBatch) -> tuple["ExecutionStrategies", torch.Tensor]:
        """Run a batch once and keep what its ways need; returns them and the logits `[batch pos vocab]`."""
        ways = cls(model, batch)
        try:
            if ways.hooked:
                raise NotAloneError(
                    "hooks are attached to the model, and blocks of packed rows would show them other tensors"
                )
            decoder = decoder_of(model)
            recording, logits = record_run(model, batch, decoder)
            ways.decoder, ways.recording = decoder, recording
        except NotAloneError as error:
            ways.refused["packed"] = str(error)
            with torch.no_grad():
                logits = model(batch)
        return ways, logits

    @property
    def hooked(self) -> bool:
        """Whether somebody's hooks are attached."""
        return any(point.attached for point in self.model.hook_dict.values())

    @cached_property
    def frozen(self) -> Frozen:
        """Runs with frozen blocks."""
        return Frozen(self.model, self.batch, self.decoder)

    # -- choosing ------------------------------------------------------------------------------------------------------

    def asked(self, cell: Cell) -> Kind:
        """The shortest way that a cell could take by its points."""
        nodes = [self.model.graph[change.at] for change in cell.changes]
        if all(node.part == "language" for node in nodes):
            return "frozen" if self.recording is None else "packed"
        reach = self.frozen.reach
        around = [node for node in nodes if node.part != "language" and reach.past_embeddings(node.name)]
        return "frozen" if self.recording is None or around else "front"

    def sorted(self, cells: Sequence[Cell], clean: torch.Tensor) -> dict[Kind, list[int]]:
        """Numbers of cells by the way that they take; tries a way when it is first worth it.

        Args:
            cells: the cells.
            clean: logits of the unchanged run at the last positions.
        """
        kinds = [self.asked(cell) for cell in cells]
        groups: dict[Kind, list[int]] = {}
        for kind in dict.fromkeys(kinds):
            numbers = [number for number, cell_kind in enumerate(kinds) if cell_kind == kind]
            final_kind = self._open(kind, len(numbers), clean)
            groups.setdefault(final_kind, []).extend(numbers)
        return groups

    def _open(self, kind: Kind, many: int, clean: torch.Tensor) -> Kind:
        """A way, or the next longer one that holds."""
        if self.hooked or (many < WORTHWHILE and kind not in self.tried):
            return "whole"
        if kind == "front" and self._holds("packed", clean) and self._holds("front", clean):
            return "front"
        if kind == "packed" and self._holds("packed", clean):
            return "packed"
        return "frozen" if self._holds("frozen", clean) else "whole"

    def _holds(self, kind: Kind, clean: torch.Tensor) -> bool:
        """Whether a way gives what whole passes give; tried once."""
        if kind in self.refused:
            return False
        if kind not in self.tried:
            decodes = self.model.graph["hook_logits"].sequence == "decoder"
            last = 1 if decodes else list(self.batch.layout.last[:, None])

            def way(cells: Sequence[Cell]) -> torch.Tensor:
                return torch.stack([logits[0] for logits in self.run(kind, cells, last, clean[:, None])])

            def whole(cells: Sequence[Cell]) -> torch.Tensor:
                return torch.stack([logits[0] for logits in self.run("whole", cells, last, clean[:, None])])

            trials = [*language_trials(self.model, self.batch)] if kind != "front" else []
            if kind == "front":
                reach = self.frozen.reach
                trials = front_trials(self.model, self.batch, lambda name: not reach.past_embeddings(name))
            elif kind == "frozen":
                trials += front_trials(self.model, self.batch)
            try:
                self.tried[kind] = evidence(trials, way, whole, clean)
            except NotAloneError as error:
                self.refused[kind] = str(error)
                return False
            if not self.tried[kind].holds:
                self.refused[kind] = f"a trial {self.tried[kind]}"
        return kind not in self.refused

    def plan(self, cells: Sequence[Cell], read: list[torch.Tensor] | int, clean: torch.Tensor) -> Plan:
        """What cells cost by the ways that they take; `read` and `clean` as for `run` and `sorted`."""
        products = counted_pass(self.model, self.batch)
        size, length = self.batch.layout.is_token.shape
        full_cost = sum(products.values()) / size
        work, reasons = 0.0, []
        costs = None
        if self.decoder is not None and self.recording is not None:
            decoder_cost = total(products, [*self.decoder.blocks, self.decoder.head]) / size
            causal = all(layer_attention.causal for layer_attention in self.recording.attended)
            costs = costs_of(self.decoder, length, full_cost - decoder_cost, causal=causal)
        pass_cost = full_cost if costs is None else costs.whole
        for kind, numbers in self.sorted(cells, clean).items():
            group = [cells[number] for number in numbers]
            reasons.append(f"{len(group)} cells: {_SERVED[kind]}")
            if kind in ("packed", "front") and costs is not None and not isinstance(read, int):
                work += self._packed_cost(kind, group, read, costs, products)
            else:
                savings = self._spared(kind, group, products)
                work += sum(size * pass_cost - savings[number] for number in range(len(savings)))
        refusals = [f"{_NAMES[kind]}: {why}" for kind, why in self.refused.items()]
        memory = 0 if self.recording is None else self.recording.size
        if "frozen" in vars(self):
            memory += self.frozen.size
        return Plan(len(cells), work, pass_cost * len(cells), memory, tuple(reasons), tuple(refusals))

    def _packed_cost(
        self,
        kind: Kind,
        cells: Sequence[Cell],
        read: list[torch.Tensor],
        costs: Costs,
        products: dict[nn.Module, float],
    ) -> float:
        """Operations of cells in the language model, and of the passes in front of it."""
        if self.decoder is None or self.recording is None:
            return 0.0
        runner = Packed(
            self.model, self.decoder, self.recording, AffectedRows(self.recording.attended, costs.length, read)
        )
        if kind == "packed":
            return sum(costs.of(runner.job(cell).schedule) for cell in cells)
        cost = sum(costs.of(self._at_most(runner, cell).schedule) for cell in cells)
        savings = self._spared("front", cells, products)
        return cost + sum(self.batch.size * costs.front - spare for spare in savings)

    def _at_most(self, runner: Packed, cell: Cell) -> Job:
        """The rows of a cell that starts in front of the language model, before a run has shown which the picture changes:
        all from the first image token on.
        """
        image = self.batch.layout.image[cell.sample]
        return runner.job(self._later(cell), (image, torch.empty(0)) if len(image) else None)

    def _later(self, cell: Cell) -> Cell:
        """A cell's changes in the language model alone."""
        graph = self.model.graph
        return Cell(cell.sample, tuple(change for change in cell.changes if graph[change.at].part == "language"))

    def _spared(self, kind: Kind, cells: Sequence[Cell], products: dict[nn.Module, float]) -> list[float]:
        """Operations of the frozen blocks in each pass that cells take."""
        savings = []
        for numbers in rounds(cells):
            names = [] if kind == "whole" else self.frozen.frozen([cells[number] for number in numbers])
            modules = [self.frozen.modules[name] for name in names]
            if kind == "front" and self.decoder is not None:
                modules = [module for module in modules if module not in self.decoder.blocks]
            savings.append(total(products, modules))
        return savings

    # -- running -------------------------------------------------------------------------------------------------------

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
    ) -> Iterator[Call]:
        """What has to run for cells, one after another; `kind`, `cells` and `read` as for `run`.

        Args:
            kind, cells, read: as for `run`.
            budget: bytes for the rows of one packed call; passes of the whole batch take what they take.
        """
        return (
            self._packed(kind, cells, read, budget) if kind in ("packed", "front") else self._passes(kind, cells, read)
        )

    def _passes(self, kind: Kind, cells: Sequence[Cell], read: list[torch.Tensor] | int) -> Iterator[Call]:
        for numbers in rounds(cells):
            yield Call(numbers, partial(self._pass, kind, [cells[number] for number in numbers], read))

    def _pass(self, kind: Kind, cells: Sequence[Cell], read: list[torch.Tensor] | int) -> list[torch.Tensor | None]:
        logits = self.frozen.run(cells) if kind == "frozen" else run_whole(self.model, self.batch, cells)
        rows = [slice(-read, None) if isinstance(read, int) else read[c.sample].to(logits.device) for c in cells]
        return [logits[cell.sample, cell_rows] for cell, cell_rows in zip(cells, rows, strict=True)]

    def _packed(
        self, kind: Kind, cells: Sequence[Cell], read: list[torch.Tensor] | int, budget: float | None
    ) -> Iterator[Call]:
        if self.decoder is None or self.recording is None or isinstance(read, int):
            raise InputError("The language model's blocks cannot be run by themselves.")
        length = self.batch.layout.is_token.shape[1]
        runner = Packed(self.model, self.decoder, self.recording, AffectedRows(self.recording.attended, length, read))
        if kind == "packed":
            jobs = dict(enumerate(runner.job(cell) for cell in cells))
            self._require_budget(runner, max(job.schedule.most for job in jobs.values()), budget)
            for numbers in chunks(jobs, self._rows(runner, budget), runner.depth):
                yield Call(numbers, partial(runner.run, [jobs.pop(number) for number in numbers]))
            return
        self._require_budget(runner, max(self._at_most(runner, cell).schedule.most for cell in cells), budget)
        for numbers in rounds(cells):
            yield Call(numbers, partial(self._behind_front, runner, [cells[number] for number in numbers], budget))

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
