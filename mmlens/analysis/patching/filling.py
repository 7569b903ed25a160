"""Fills a grid of patched runs with a metric's values, a call of the engine at a time, and keeps what is finished."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TypeAlias

import torch

from mmlens.analysis.metrics import MetricReading
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.progress import ProgressBar
from mmlens.execution import Cell, CleanRun
from mmlens.execution.plan import Plan

#: Where a value stands in the grid: its row, column, ...
Place: TypeAlias = tuple[int, ...]
#: The counterfactual run at a place of the grid in one sample; None where nothing is changed there.
CellAt: TypeAlias = Callable[[Place, int], Cell | None]

#: Logits that are held at a time, as numbers; more cells than fit are run in several goes.
_HELD = 2**26


def fill(
    results: Checkpoint,
    run: CleanRun,
    shape: Sequence[int],
    cell: CellAt,
    reading: MetricReading,
    *,
    desc: str,
    name: str = "values",
    budget: float | None = None,
    plan: bool = True,
    progress: bool = True,
) -> Plan | None:
    """Run what is not finished of a grid, shared by the processes of a launch; `results.tensors[name]` is the whole then.

    Calls of the engine are made up of all cells, whatever is finished of them, so that a run which was interrupted ends with
    the bits of one that was not.

    Args:
        results: keeps values `[*shape sample]`; NaN where they are not finished.
        run: the run that is changed.
        shape: of the grid.
        cell: makes the cells.
        reading: what is read of the runs.
        desc: of the progress bar.
        name: of the values among the results.
        budget: memory for activations, in MiB.
        plan: count what the grid costs, which takes a pass of the batch.
        progress: show a progress bar.

    Returns:
        What the grid costs; None if nothing had to run, or it is not counted.
    """
    size = run.batch.size
    dtype = torch.promote_types(run.clean_logits.dtype, torch.float32)
    values = results.tensors.setdefault(name, torch.full((*shape, size), torch.nan, dtype=dtype))
    reads = reading.reads
    baseline = (run.clean_logits if reads is None else run.clean_logits[..., reads]).cpu()
    places = list(product(*map(range, shape)))
    finished = {place for place in places if not values[place].isnan().any()}
    if len(finished) == len(places):
        return None
    cells = [new_cell for place in places for sample in range(size) if (new_cell := cell(place, sample)) is not None]
    cost = run.plan(cells) if cells and plan else None
    limit = max(1, _HELD // baseline.numel())
    try:
        with ProgressBar(total=len(places), initial=len(finished), desc=desc, disable=not progress) as bar:
            for start in range(0, len(places), limit):
                turn = places[start : start + limit]
                if finished.issuperset(turn):
                    continue
                queue = _Waiting(turn, baseline, cell)

                def receive(numbers: Sequence[int], logits: torch.Tensor, queue: _Waiting = queue) -> None:
                    for place, answers in queue.receive(numbers, logits):
                        values[place] = reading.values(answers, only_reads=True)
                        bar.update(place not in finished)
                    results.save()

                receive([], baseline[:0])
                if queue.cells:
                    finished_cells = [number for number, place in enumerate(queue.places) if place in finished]
                    run.logits(
                        queue.cells,
                        tokens=reads,
                        budget=budget,
                        finished=finished_cells,
                        progress=False,
                        on_done=receive,
                    )
    finally:
        results.save(now=True)
    return cost


class _Waiting:
    """Answers of cells, held until a place has those of all samples: metrics read whole batches.

    Args:
        places: of the grid.
        baseline: answers without a change, for samples in which a place changes nothing.
        cell: makes the cells.

    Attributes:
        cells: of all places and samples.
        places: of each cell.
    """

    def __init__(self, places: Sequence[Place], baseline: torch.Tensor, cell: CellAt):
        self.cells: list[Cell] = []
        self.places: list[Place] = []
        self._samples: list[int] = []
        self._answers = {place: baseline.clone() for place in places}
        self._missing = dict.fromkeys(places, 0)
        for place in places:
            for sample in range(len(baseline)):
                new_cell = cell(place, sample)
                if new_cell is not None:
                    self.cells.append(new_cell)
                    self.places.append(place)
                    self._samples.append(sample)
                    self._missing[place] += 1
        self._whole = [place for place, count in self._missing.items() if not count]

    def receive(self, numbers: Sequence[int], logits: torch.Tensor) -> Iterator[tuple[Place, torch.Tensor]]:
        """Take answers of cells; gives back places whose answers are now there for all samples."""
        for number, answer in zip(numbers, logits, strict=True):
            place = self.places[number]
            self._answers[place][self._samples[number]] = answer
            self._missing[place] -= 1
            if not self._missing[place]:
                self._whole.append(place)
        while self._whole:
            place = self._whole.pop()
            yield place, self._answers.pop(place)
