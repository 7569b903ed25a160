"""`CleanRun`: the run without changes, and the counterfactual runs that start from it."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from mmlens.core.errors import InputError
from mmlens.execution.cells import Cell
from mmlens.execution.plan import Plan
from mmlens.execution.whole import hooks_for, rounds, run_whole
from mmlens.models.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

#: Called with the numbers of finished cells and their logits, so that a long sweep can be kept as it grows.
Done: TypeAlias = Callable[[list[int], torch.Tensor], None]


class CleanRun:
    """A batch, run once without changes; counterfactual runs are served from it as far as they cannot differ.

    Args:
        model: the hooked model.
        batch: the batch.

    Attributes:
        clean_logits: what the unchanged run answers at each sample's last position.

    Example:
        >>> from mmlens.execution import Cell, Change
        >>> run = CleanRun(model, batch)
        >>> nothing = Change("blocks.1.hook_resid_pre", None, lambda x: x)
        >>> logits = run.logits([Cell(0, (nothing,))], progress=False)
        >>> bool(torch.allclose(logits, run.clean_logits[:1].cpu(), atol=1e-5))
        True
    """

    def __init__(self, model: HookedMultimodal, batch: MultimodalBatch):
        self.model = model
        self.batch = batch
        with torch.no_grad():
            self.clean_logits: Float[torch.Tensor, "batch vocab"] = self._read(
                model(batch), range(batch.size), self._where("last")
            )[:, 0]

    def logits(
        self,
        cells: Sequence[Cell],
        *,
        positions: Literal["last"] | Sequence[int] = "last",
        tokens: Sequence[int] | None = None,
        budget: float | None = None,
        progress: bool = True,
        done: Done | None = None,
    ) -> Float[torch.Tensor, "cell ... vocab"]:
        """What each cell answers.

        Args:
            cells: the counterfactual runs.
            positions: where the logits are read: at each sample's last position, or at given ones, which adds an axis of
                positions.
            tokens: only the logits of these tokens, in this order; all by default.
            budget: memory for activations, in MiB; what is free on the device, within reason, by default.
            progress: show a progress bar.
            done: called with the numbers of the cells that are finished and their logits, as they are.

        Returns:
            Logits `[cell vocab]` (`[cell token]` with `tokens`; `[cell pos vocab]` with given positions), on the CPU, in the
            order of the cells.

        Raises:
            InputError: for samples, points or positions that do not exist; before any forward pass.
        """
        self._require(cells)
        where = self._where(positions)
        found: torch.Tensor | None = None
        with tqdm(total=len(cells), desc="cells", disable=not progress) as bar:
            for numbers in rounds(cells):
                whole = run_whole(self.model, self.batch, [cells[number] for number in numbers])
                read = self._read(whole, [cells[number].sample for number in numbers], where)
                read = (read if tokens is None else read[..., list(tokens)]).cpu()
                read = read[:, 0] if positions == "last" else read
                found = read.new_empty(len(cells), *read.shape[1:]) if found is None else found
                found[numbers] = read
                if done is not None:
                    done(numbers, read)
                bar.update(len(numbers))
        if found is None:
            raise InputError("There are no cells to run.")
        return found

    def plan(self, cells: Sequence[Cell]) -> Plan:
        """What cells cost, counted before they run: what is computed, what is served, and why not more of it."""
        self._require(cells)
        weights = sum(parameter.numel() for parameter in self.model.hf_model.parameters() if parameter.ndim > 1)
        whole = 2.0 * weights * self.batch.layout.is_token.shape[1] * len(cells)
        return Plan(len(cells), whole, whole, (), ("every cell is a whole forward pass",))

    def generate(self, cell: Cell, *, max_new_tokens: int = 20) -> Int[torch.Tensor, "pos"]:
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
                if rows.ndim != 1 or not len(rows) or int(rows.min()) < 0 or int(rows.max()) >= length:
                    raise InputError(
                        f"Cell {number} changes rows {rows.tolist()} of {change.at}, whose sequence has positions "
                        f"0..{length - 1}; rows must be a list of them, [row], that is not empty."
                    )

    def _where(self, positions: Literal["last"] | Sequence[int]) -> torch.Tensor | None:
        """Positions at which logits are read, `[batch read]`; None for the last one of what a decoder writes."""
        decodes = self.model.graph["hook_logits"].sequence == "decoder"
        if isinstance(positions, str):
            if positions != "last":
                raise InputError(f"positions={positions!r} must be 'last' or a list of positions.")
            return None if decodes else self.batch.layout.last[:, None]
        rows = torch.as_tensor(list(positions))
        length = self.batch.layout.is_token.shape[1]
        if not decodes and (not len(rows) or int(rows.min()) < 0 or int(rows.max()) >= length):
            raise InputError(f"positions={list(positions)} must be some of 0..{length - 1}, where there are logits.")
        return rows.expand(self.batch.size, -1)

    def _read(self, logits: torch.Tensor, samples: Sequence[int], where: torch.Tensor | None) -> torch.Tensor:
        """Logits of samples at the positions that are read, `[sample read vocab]`."""
        if where is None:
            return logits[list(samples), -1:]
        chosen = where[list(samples)].to(logits.device)
        return logits[torch.tensor(list(samples))[:, None], chosen]


def _first_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """A hook function that acts on the first forward pass alone."""
    acted = False

    def once(activation: torch.Tensor, hook: Any) -> Any:
        nonlocal acted
        if acted:
            return None
        acted = True
        return function(activation, hook)

    return once
