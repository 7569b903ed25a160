"""Which rows of a point's activation an intervention reaches: its rule is resolved against the batch of each run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from mmlens.core.axes import batch_axis
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.core.rules import Named, Positions, Rule, as_rule
from mmlens.hooks.nodes import Node, Selection
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.inputs.picture_tensors import require_running
from mmlens.inputs.point_rows import GROWING, PointRows, UnknownRowsError
from mmlens.inputs.positions import ResolvedPositions, resolve
from mmlens.interventions.passes import Follower, refuse_known_positions
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run


@dataclass(frozen=True)
class RowMask:
    """The rows of one pass that are meant.

    Attributes:
        marks: True at them, broadcastable to the activation; True or False where it is all or none of them.
        first: position of the pass's first row.
        run: the run; None where every row of every pass is meant.
    """

    marks: torch.Tensor | bool
    first: int
    run: Run | None = None

    def put(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`new` at the rows that are meant, `old` elsewhere."""
        new = new.to(old.dtype)
        if isinstance(self.marks, bool):
            return new if self.marks else old
        return torch.where(self.marks, new, old)


#: Finds, for an activation that a pass shows, the rows in it that are meant.
Finder: TypeAlias = Callable[[torch.Tensor], RowMask]


@dataclass(frozen=True)
class PositionedIntervention(ABC):
    """An intervention at some positions: when a run starts, their rule is resolved against its batch.

    Attributes:
        positions: which positions (see `mm.positions`); `"all"` means every position of the prompt and every new token.
    """

    positions: Positions = field(default="all", kw_only=True)

    @property
    def rule(self) -> Rule:
        """The positions as a rule."""
        return as_rule(self.positions)

    @abstractmethod
    def points(self, model: HookedMultimodal) -> Iterable[Node]:
        """Where it acts."""

    def everywhere(self, node: Node) -> bool:
        """Whether every row of every pass is meant, whatever runs."""
        return self.rule == Named("all")

    def reached(self, run: Run, node: Node, shape: Sequence[int] | None) -> ResolvedPositions:
        """What the rule means at a point, given the shape of its tensor once the run gets there; InputError if nothing."""
        return resolve(self.rule, run.batch, node, shape, steps=new_tokens_read(run))

    def starts(self, run: Run) -> None:
        """Resolve the rule against the batch that is about to run.

        Where only the run tells how long a sequence is (a Q-Former's queries, windows), this happens when it gets there.

        Raises:
            InputError: if it names nothing there, or positions that do not exist, or without a picture none of its points runs.
        """
        nodes = list(self.points(run.model))
        if nodes and run.branch == "conditional" and all(node.part != "language" for node in nodes):
            require_running(run.batch, nodes[0].part, nodes[0].name)
        for node in nodes:
            if not self.everywhere(node):
                with suppress(UnknownRowsError):
                    self._resolved(run, node, None)

    def finder(self, model: HookedMultimodal, node: Node) -> Finder:
        """Finds the rows that are meant in every pass of every run, at one point."""
        if self.everywhere(node):
            return lambda activation: RowMask(True, 0)
        follow = Follower(model, node)

        def find(activation: torch.Tensor) -> RowMask:
            run, _, first = follow(activation)
            shape = None if node.sequence in GROWING else once_per_prompt(activation.shape, node, run)
            where = self._resolved(run, node, shape)
            marks = where.marks(first, activation.shape[node.position_axis], activation.device)
            return RowMask(marks if isinstance(marks, bool) else _shaped(marks, activation, node, run), first, run)

        return find

    def _resolved(self, run: Run, node: Node, shape: tuple[int, ...] | None) -> ResolvedPositions:
        size = shape and (shape[0], shape[node.position_axis])
        return run.remember(
            (id(self), node.part, node.sequence, node.axes, size), lambda: self._checked(run, node, shape)
        )

    def _checked(self, run: Run, node: Node, shape: tuple[int, ...] | None) -> ResolvedPositions:
        if node.sequence in GROWING:
            refuse_known_positions(run)
        return self.reached(run, node, shape)


def new_tokens_read(run: Run) -> int | None:
    """How many new tokens a run reads: the last one is written and not read; None where that is not bounded."""
    if run.kind == "forward":
        return 0
    limit = run.options.get("max_new_tokens")
    return None if limit is None else max(limit - 1, 0)


def once_per_prompt(shape: Sequence[int], node: Node, run: Run) -> tuple[int, ...]:
    """The shape of a tower's tensor as if each prompt stood in the batch once: a generation holds it for every beam."""
    axis = batch_axis(node.axes)
    rows = PointRows.of(run.batch, node)
    count, expected = (shape[node.position_axis], rows.length) if axis is None else (shape[axis], rows.entries)
    if run.kind == "forward" or not expected or count <= expected or count % expected:
        return tuple(shape)
    place = node.position_axis if axis is None else axis
    return tuple(expected if i == place else length for i, length in enumerate(shape))


def _shaped(marks: torch.Tensor, activation: torch.Tensor, node: Node, run: Run) -> torch.Tensor:
    """Marks `[entry pos]` made broadcastable to an activation."""
    shape = [1] * activation.ndim
    shape[node.position_axis] = activation.shape[node.position_axis]
    axis = batch_axis(node.axes)
    if axis is None:
        return marks[0].reshape(shape)
    marks = per_entry(marks, activation.shape[axis], node, run)
    shape[axis] = len(marks)
    return marks.reshape(shape)


def per_entry(marks: torch.Tensor, entries: int, node: Node, run: Run) -> torch.Tensor:
    """Marks with a row for each entry of a point's batch axis.

    Args:
        marks: a row for each sample (in towers: picture or tile).
        entries: length of the batch axis.
        node: the point.
        run: what runs; a generation holds each prompt once for every beam.

    Raises:
        InputError: if it is not known which entry is whose.
    """
    if len(marks) == entries:
        return marks
    if run.kind == "forward" or entries % len(marks):
        raise InputError(
            f"{node.name} has {entries} entries along its batch axis in this run, and the batch has {len(marks)} there, so that "
            "it is not known which are whose; run the samples one by one."
        )
    return marks.repeat_interleave(entries // len(marks), dim=0)


@dataclass(frozen=True)
class AtPoints(PositionedIntervention):
    """An intervention at some points and positions: says where; what happens there is its subclasses' part.

    Attributes:
        at: hook names.
    """

    at: Names | Selection

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per point.

        Raises:
            InputError: if a point does not exist, positions are no rule, or what is put there does not fit.
        """
        as_rule(self.positions)
        nodes = self.points(model)
        for node in nodes:
            self.check(node)
        return [(node.name, self._hook(node, self.finder(model, node))) for node in nodes]

    def points(self, model: HookedMultimodal) -> Selection:
        """Where it acts."""
        return model.graph.select(self.at)

    def check(self, node: Node) -> None:
        """Refuse, before any forward pass, what cannot be done at a point."""

    def change(self, activation: torch.Tensor, node: Node) -> torch.Tensor:
        """What stands in the place of the activation, at every position."""
        raise NotImplementedError

    def _hook(self, node: Node, find: Finder) -> HookFunction:
        def act(activation: torch.Tensor, hook: object) -> torch.Tensor | None:
            rows = find(activation)
            return None if rows.marks is False else rows.put(activation, self.change(activation, node))

        return act
