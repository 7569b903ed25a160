"""The record of what an intervention has changed, position by position."""

from collections import Counter
from dataclasses import dataclass, field

import torch

from mmlens.hooks.nodes import Node
from mmlens.inputs.point_rows import GROWING
from mmlens.interventions.positioned import RowMask
from mmlens.models.run import Branch, Window


@dataclass
class Touched:
    """What an intervention has changed since the last run began.

    A position counts once, in however many passes it is computed anew (without a KV cache), and not if it was taken back
    (candidates that assisted generation rejects).
    """

    _rows: dict[tuple[Branch, str], list[int]] = field(default_factory=dict, repr=False)
    _windows: dict[Branch, Window] = field(default_factory=dict, repr=False)
    _passes: Counter[tuple[Branch, str]] = field(default_factory=Counter, repr=False)

    @property
    def tokens(self) -> int:
        """Positions, summed over samples (each beam of them), points and branches of a generation."""
        return sum(self.branches.values())

    @property
    def branches(self) -> dict[Branch, int]:
        """Positions by branch of a generation; conditional ones alone but where an intervention acts in all passes."""
        counts: Counter[Branch] = Counter()
        for (branch, _), rows in self._rows.items():
            window = self._windows.get(branch)
            counts[branch] += sum(rows if window is None or window.kept is None else rows[: window.kept])
        return dict(counts)

    @property
    def steps(self) -> int:
        """Forward passes in which something was changed."""
        return max(self._passes.values(), default=0)

    def count(self, where: RowMask, node: Node, changed: torch.Tensor | None) -> None:
        """Note how a pass changed a point.

        Args:
            where: the rows of the pass that were meant.
            node: the point.
            changed: `[... pos ...]` true at rows that were changed; None for none, where an earlier pass may be taken back.
        """
        run = where.run
        branch: Branch = "conditional" if run is None else run.branch
        key, grows = (branch, node.name), node.sequence in GROWING
        if changed is None:
            counts = []
        elif grows:
            axis = node.position_axis
            counts = changed.sum([i for i in range(changed.ndim) if i != axis]).tolist()
        else:
            counts = [int(changed.sum())]
        if any(counts):
            self._passes[key] += 1
        rows = self._rows.setdefault(key, [])
        if grows:
            rows[where.first :] = []
            rows += [0] * (where.first - len(rows))
            if run is not None and run.window is not None:
                self._windows[branch] = run.window
        rows += counts  # a tower reads its pictures once, maybe in several calls

    def forget(self) -> None:
        """Begin anew."""
        self._rows.clear()
        self._windows.clear()
        self._passes.clear()

    def __str__(self) -> str:
        return f"{self.tokens} positions in {self.steps} steps"
