"""Which way each cell takes: packed rows of the language model, a run with frozen blocks, or a whole forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mmlens.execution.cell_runs import CellRuns, Kind, hooked
from mmlens.execution.cells import Cell
from mmlens.execution.cost import Costs, costs_of, total
from mmlens.execution.plan import Plan
from mmlens.execution.verdicts import Verdicts
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

#: With fewer cells than this, trying whether a short way holds costs more than it saves.
WORTHWHILE = 6

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


@dataclass
class ExecutionStrategies:
    """The ways of one batch.

    Attributes:
        runs: runs of cells by each way.
        verdicts: which ways hold.
    """

    runs: CellRuns
    verdicts: Verdicts = field(init=False)

    def __post_init__(self) -> None:
        self.verdicts = Verdicts(self.runs)

    @classmethod
    def of(cls, model: HookedMultimodal, batch: MultimodalBatch) -> tuple["ExecutionStrategies", torch.Tensor]:
        """Run a batch once and keep what its ways need; returns them and the logits `[batch pos vocab]`."""
        runs, logits = CellRuns.of(model, batch)
        return cls(runs), logits

    # -- choosing ------------------------------------------------------------------------------------------------------

    def shortest(self, cell: Cell) -> Kind:
        """The shortest way that a cell could take by its points."""
        graph, reach = self.runs.model.graph, self.runs.frozen.reach
        nodes = [graph[change.at] for change in cell.changes]
        if self.runs.recording is None:
            return "frozen"
        if all(node.part == "language" for node in nodes):
            return "packed"
        around = [node for node in nodes if node.part != "language" and reach.past_embeddings(node.name)]
        return "frozen" if around else "front"

    def sorted(self, cells: Sequence[Cell], clean: torch.Tensor) -> dict[Kind, list[int]]:
        """Numbers of cells by the way that they take; tries a way when it is first worth it.

        Args:
            cells: the cells.
            clean: logits of the unchanged run at the last positions.
        """
        kinds = [self.shortest(cell) for cell in cells]
        groups: dict[Kind, list[int]] = {}
        for kind in dict.fromkeys(kinds):
            numbers = [number for number, cell_kind in enumerate(kinds) if cell_kind == kind]
            final_kind = self._open(kind, [cells[number] for number in numbers], clean)
            groups.setdefault(final_kind, []).extend(numbers)
        return groups

    def _open(self, kind: Kind, cells: Sequence[Cell], clean: torch.Tensor) -> Kind:
        """A way, or the next longer one that holds."""
        verdicts, graph = self.verdicts, self.runs.model.graph
        if hooked(self.runs.model) or (len(cells) < WORTHWHILE and not verdicts.knows(kind)):
            return "whole"
        if kind == "front" and verdicts.holds("packed", clean) and verdicts.holds("front", clean):
            return "front"
        if kind == "packed" and verdicts.holds("packed", clean):
            return "packed"
        in_front = any(graph[change.at].part != "language" for cell in cells for change in cell.changes)
        return "frozen" if verdicts.holds("frozen", clean, in_front=in_front) else "whole"

    # -- counting ------------------------------------------------------------------------------------------------------

    def plan(self, cells: Sequence[Cell], read: list[torch.Tensor] | int, clean: torch.Tensor) -> Plan:
        """What cells cost by the ways that they take; `read` as for `CellRuns.run`, `clean` as for `sorted`."""
        runs = self.runs
        size, length = runs.batch.size, runs.batch.layout.is_token.shape[1]
        full_cost = sum(runs.products.values()) / size
        work, reasons = 0.0, []
        costs = None
        if runs.decoder is not None and runs.recording is not None:
            decoder_cost = total(runs.products, [*runs.decoder.blocks, runs.decoder.head]) / size
            causal = all(layer_attention.causal for layer_attention in runs.recording.attended)
            costs = costs_of(runs.decoder, length, full_cost - decoder_cost, causal=causal)
        pass_cost = full_cost if costs is None else costs.whole
        for kind, numbers in self.sorted(cells, clean).items():
            group = [cells[number] for number in numbers]
            reasons.append(f"{len(group)} cells: {_SERVED[kind]}")
            if kind in ("packed", "front") and costs is not None and not isinstance(read, int):
                work += self._packed_cost(kind, group, read, costs)
            else:
                savings = self._spared(kind, group)
                work += sum(size * pass_cost - share for share in savings)
        refusals = [f"{_NAMES[kind]}: {why}" for kind, why in self.verdicts.refused.items()]
        return Plan(len(cells), work, pass_cost * len(cells), runs.memory, tuple(reasons), tuple(refusals))

    def _packed_cost(self, kind: Kind, cells: Sequence[Cell], read: list[torch.Tensor], costs: Costs) -> float:
        """Operations of cells in the language model, and of the passes in front of it."""
        runner = self.runs.packed(read)
        if kind == "packed":
            return sum(costs.of(runner.job(cell).schedule) for cell in cells)
        cost = sum(costs.of(self.runs.at_most(runner, cell).schedule) for cell in cells)
        return cost + sum(self.runs.batch.size * costs.front - share for share in self._spared("front", cells))

    def _spared(self, kind: Kind, cells: Sequence[Cell]) -> list[float]:
        """Operations of the frozen blocks in each pass that cells take."""
        savings, frozen, decoder = [], self.runs.frozen, self.runs.decoder
        for numbers in self.runs.rounds(cells):
            names = [] if kind == "whole" else frozen.frozen([cells[number] for number in numbers])
            modules = [frozen.modules[name] for name in names]
            if kind == "front" and decoder is not None:
                modules = [module for module in modules if module not in decoder.blocks]
            savings.append(total(self.runs.products, modules))
        return savings
