"""`CleanRun`: the run without changes, and the counterfactual runs that start from it."""

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.kinds import Count, Positive
from mmlens.core.progress import ProgressBar
from mmlens.core.shares import shared
from mmlens.execution.cell_runs import CellCall
from mmlens.execution.cells import Cell
from mmlens.execution.plan import Plan
from mmlens.execution.strategies import ExecutionStrategies
from mmlens.execution.whole import hooks_for
from mmlens.inputs.batch import BatchLike
from mmlens.inputs.point_rows import GROWING
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.predicting import last_rows
from mmlens.models.processes import process_of

#: Called with the numbers of finished cells and their logits, so that a long sweep can be kept as it grows.
Done: TypeAlias = Callable[[list[int], torch.Tensor], None]


class CleanRun:
    """A batch, run once without changes; counterfactual runs are served from it as far as they cannot differ.

    Args:
        model: the hooked model.
        batch: the batch.
        n_rows: how many of each sample's last positions `"last"` means: words of several tokens are predicted by several.

    Attributes:
        clean_logits: what the unchanged run answers at each sample's last position, `[batch vocab]`; at its last ones,
            `[batch row vocab]`, for several.

    Example:
        >>> from mmlens.execution import Cell, Change
        >>> run = CleanRun(model, batch)
        >>> nothing = Change("blocks.1.hook_resid_pre", None, lambda x: x)
        >>> logits = run.logits([Cell(0, (nothing,))], progress=False)
        >>> bool(torch.allclose(logits, run.clean_logits[:1].cpu(), atol=1e-5))
        True
    """

    @checked
    def __init__(self, model: HookedMultimodal, batch: BatchLike, *, n_rows: Count = 1):
        self.model = model
        self.batch = batch
        self.n_rows = n_rows
        self._ways, logits = ExecutionStrategies.of(model, batch)
        self.clean_logits: Float[torch.Tensor, "batch *row vocab"] = last_rows(model, logits, batch, n_rows)

    @checked
    def logits(
        self,
        cells: Sequence[Cell],
        *,
        positions: Literal["last"] | Sequence[int] = "last",
        tokens: Sequence[int] | None = None,
        budget: Positive | None = None,
        finished: Collection[int] = (),
        progress: bool = True,
        on_done: Done | None = None,
    ) -> Float[torch.Tensor, "cell ... vocab"]:
        """What each cell answers.

        Args:
            cells: the counterfactual runs.
            positions: where the logits are read: at each sample's last position (or `n_rows` of them), or at given ones, which
                adds an axis of positions.
            tokens: only the logits of these tokens, in this order; all by default.
            budget: memory for the activations of one packed call, in MiB; what is free on the device, within reason, by
                default. Not in it: what is kept of the clean run (`plan` says how much), the logits that are returned, and
                passes of the whole batch, which cells of towers, of families without packed rows, and a handful of cells
                take, one cell of each sample at a time; a batch of fewer samples makes them smaller.
            finished: numbers of cells whose answers are known from an earlier call; they run again only where they share a
                call with others, so that the others' answers have the same bits, and are NaN in the result if they do not.
            progress: show a progress bar.
            on_done: called with the numbers of the cells that are finished and their logits, as they are.

        Returns:
            Logits `[cell vocab]` (`[cell token]` with `tokens`; `[cell pos vocab]` with several positions), on the CPU, in the
            order of the cells.

        Raises:
            InputError: for samples, points or positions that do not exist, before any forward pass; for a budget that holds
                no cell, before any cell runs.
        """
        self._require(cells)
        where = self._where(positions)
        clean = self._clean_at(where, positions)
        columns = slice(None) if tokens is None else list(tokens)
        result: torch.Tensor | None = None
        process = process_of(self.model)
        with ProgressBar(total=len(cells), desc="cells", disable=not progress) as bar:
            for kind, numbers in self._ways.sorted(cells, self._ends).items():
                group = [cells[number] for number in numbers]

                def read(call: CellCall, group: list[Cell] = group) -> torch.Tensor:
                    answers = [
                        clean[group[number].sample] if answer is None else answer
                        for number, answer in zip(call.cells, call.run(), strict=True)
                    ]
                    logits = torch.stack(answers)[..., columns].cpu()
                    return logits[:, 0] if positions == "last" and self.n_rows == 1 else logits

                calls = self._ways.runs.calls(kind, group, where, None if budget is None else budget * 2**20)
                places = {place for place, number in enumerate(numbers) if number in finished}
                due = (call for call in calls if not places.issuperset(call.cells))
                for call, logits in shared(due, read, process, run=self._described):
                    result = logits.new_full((len(cells), *logits.shape[1:]), torch.nan) if result is None else result
                    cell_numbers = [numbers[place] for place in call.cells]
                    result[cell_numbers] = logits
                    if on_done is not None:
                        on_done(cell_numbers, logits)
                    bar.update(len(cell_numbers))
        if result is None:
            raise InputError("There are no cells to run.")
        return result

    @checked
    def plan(self, cells: Sequence[Cell], *, positions: Literal["last"] | Sequence[int] = "last") -> Plan:
        """What cells cost, counted before they run: what is computed, what is served, and why not more of it.

        Ways that were not tried yet are tried for it: a small part of a forward pass, or a few of them where the model is not
        made of known modules alone.

        Args:
            cells: the counterfactual runs.
            positions: as for `logits`.
        """
        self._require(cells)
        return self._ways.plan(cells, self._where(positions), self._ends)

    @checked
    def generate(self, cell: Cell, *, max_new_tokens: Count = 20) -> Int[torch.Tensor, "pos"]:
        """What the model goes on to write, greedily, after a cell's changes of the prompt.

        The changes happen when the prompt is read; later steps see their consequences through the cache of keys and values.

        Args:
            cell: the changes.
            max_new_tokens: upper bound on the new tokens.

        Returns:
            The new tokens of the cell's sample.
        """
        self._require([cell])
        pairs = [(name, _first_time(function)) for name, function in hooks_for(self.model, self.batch, [cell])]
        with torch.no_grad(), self.model.hooks(pairs):
            trace = self.model.trace_generation(self.batch, names="hook_logits", max_new_tokens=max_new_tokens)
        return trace.tokens[cell.sample, : int(trace.lengths[cell.sample])]

    def _described(self, calls: Sequence[CellCall]) -> str:
        """What some calls are of."""
        return f"a sweep of {[len(call.cells) for call in calls]} cells over a batch {self._identity}"

    @cached_property
    def _identity(self) -> str:
        return identity_of(self.batch, "the batch")

    # -- checks and reading ------------------------------------------------------------------------------------------

    def _require(self, cells: Sequence[Cell]) -> None:
        """Refuse cells that cannot happen, before anything runs."""
        if not cells:
            raise InputError("There are no cells to run.")
        for number, cell in enumerate(cells):
            if not 0 <= cell.sample < self.batch.size:
                raise InputError(
                    f"Cell {number} is about sample {cell.sample}, but the batch has samples 0..{self.batch.size - 1}."
                )
            if not cell.changes:
                raise InputError(f"Cell {number} changes nothing; the answer without changes is run.clean_logits.")
            for change in cell.changes:
                node = self.model.graph[change.at]
                length = self.batch.layout.length(node.sequence)
                rows = change.rows
                if rows is None or length is None:
                    continue
                rows = rows[:, 1] if rows.ndim == 2 and node.sequence not in GROWING else rows
                if rows.ndim != 1 or not len(rows) or int(rows.min()) < 0 or int(rows.max()) >= length:
                    raise InputError(
                        f"Cell {number} changes rows {rows.tolist()} of {change.at}, whose sequence has positions "
                        f"0..{length - 1}; rows must be a list of them, [row], that is not empty."
                    )

    @property
    def _ends(self) -> torch.Tensor:
        """Logits of the unchanged run at the very last positions, `[batch vocab]`."""
        return self.clean_logits if self.n_rows == 1 else self.clean_logits[:, -1]

    def _where(self, positions: Literal["last"] | Sequence[int]) -> list[torch.Tensor] | int:
        """Positions at which logits are read, per sample; or how many of the last ones of what a decoder writes; 1 of scores."""
        decodes = self.model.graph["hook_logits"].sequence != "language"
        if isinstance(positions, str):
            if positions != "last":
                raise InputError(f"positions={positions!r} must be 'last' or a list of positions.")
            if decodes:
                return self.n_rows
            return list(self.batch.layout.last[:, None] + torch.arange(1 - self.n_rows, 1))
        rows = torch.as_tensor(list(positions))
        length = self.batch.layout.is_token.shape[1]
        if (
            decodes
            or not len(rows)
            or int(rows.min()) < 0
            or int(rows.max()) >= length
            or len(rows.unique()) < len(rows)
        ):
            raise InputError(
                f"positions={list(positions)} must be some of 0..{length - 1}, each once, where there are logits."
            )
        return [rows] * self.batch.size

    def _clean_at(self, where: list[torch.Tensor] | int, positions: Literal["last"] | Sequence[int]) -> torch.Tensor:
        """Clean logits where they are read, `[batch read vocab]`."""
        if isinstance(where, int) or positions == "last":
            return self.clean_logits[:, None] if self.n_rows == 1 else self.clean_logits
        with torch.no_grad():
            return _at(self.model(self.batch), where)


def _at(logits: torch.Tensor, where: list[torch.Tensor]) -> torch.Tensor:
    """Logits of each sample at its positions."""
    return torch.stack(
        [sample_logits[rows.to(sample_logits.device)] for sample_logits, rows in zip(logits, where, strict=True)]
    )


def _first_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """A hook function that acts on the first forward pass alone."""
    has_acted = False

    def once(activation: torch.Tensor, hook: Any) -> Any:
        nonlocal has_acted
        if has_acted:
            return None
        has_acted = True
        return function(activation, hook)

    return once
