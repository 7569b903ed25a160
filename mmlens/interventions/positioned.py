"""Which rows of a point's activation an intervention reaches: its rule is resolved against the batch of each run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool

from mmlens.core.axes import batch_axis
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.hooks.nodes import Node, Selection
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.passes import GROWING, Follower, ResolvedPositions, refuse_known_positions
from mmlens.interventions.sample_rows import RowRule, is_listed, listed_rows, sequence_length
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run


@dataclass(frozen=True)
class RowMask:
    """The rows of one pass that are meant.

    Attributes:
        marks: True at them, broadcastable to the activation; True or False where it is all or none of them.
        first: position of the pass's first row.
    """

    marks: torch.Tensor | bool
    first: int

    def put(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`new` at the rows that are meant, `old` elsewhere."""
        new = new.to(old.dtype)
        if isinstance(self.marks, bool):
            return new if self.marks else old
        return torch.where(self.marks, new, old)


#: Finds, for an activation that a pass shows, the rows in it that are meant.
Finder: TypeAlias = Callable[[torch.Tensor], RowMask]


class PositionedIntervention(ABC):
    """What interventions at some positions share: when a run starts, their rule is resolved against its batch."""

    @abstractmethod
    def points(self, model: HookedMultimodal) -> Iterable[Node]:
        """Where it acts."""

    @abstractmethod
    def reached(self, run: Run, node: Node, length: int) -> ResolvedPositions:
        """What the rule means on a point's sequence of `length` positions; raises InputError if that is nothing."""

    def everywhere(self, node: Node) -> bool:
        """Whether every row of every pass is meant, whatever runs."""
        return False

    def starts(self, run: Run) -> None:
        """Resolve the rule against the batch that is about to run.

        Where only the run tells how long a sequence is (a Q-Former's queries, windows), this happens when it gets there.

        Raises:
            InputError: if it names nothing there, or positions that do not exist.
        """
        for node in self.points(run.model):
            if not self.everywhere(node):
                length = sequence_length(run.batch, node.sequence)
                if length is not None:
                    self._resolved(run, node, length)

    def finder(self, model: HookedMultimodal, node: Node) -> Finder:
        """Finds the rows that are meant in every pass of every run, at one point."""
        if self.everywhere(node):
            return lambda activation: RowMask(True, 0)
        follow = Follower(model, node)

        def find(activation: torch.Tensor) -> RowMask:
            run, length, first = follow(activation)
            where = self._resolved(run, node, length)
            marks = where.held(first, activation.shape[node.position_axis], activation.device)
            return RowMask(marks if isinstance(marks, bool) else _shaped(marks, activation, node, run), first)

        return find

    def _resolved(self, run: Run, node: Node, length: int) -> ResolvedPositions:
        return run.remember((id(self), node.sequence, node.axes, length), lambda: self._checked(run, node, length))

    def _checked(self, run: Run, node: Node, length: int) -> ResolvedPositions:
        if node.sequence in GROWING:
            refuse_known_positions(run)
        return self.reached(run, node, length)


def _shaped(marks: torch.Tensor, activation: torch.Tensor, node: Node, run: Run) -> torch.Tensor:
    """Marks `[batch pos]` made broadcastable to an activation."""
    shape = [1] * activation.ndim
    shape[node.position_axis] = marks.shape[1]
    axis = batch_axis(node.axes)
    if axis is None:
        return marks[0].reshape(shape)
    marks = per_entry(marks, activation.shape[axis], node, run)
    shape[axis] = len(marks)
    return marks.reshape(shape)


def per_entry(marks: torch.Tensor, entries: int, node: Node, run: Run) -> torch.Tensor:
    """Marks with a row for each entry of a point's batch axis, or one for all.

    Args:
        marks: a row for each sample (in towers: picture or tile), or one for all.
        entries: length of the batch axis.
        node: the point.
        run: what runs; a generation holds each prompt once for every beam.

    Raises:
        InputError: if it is not known which entry is whose.
    """
    if len(marks) in (1, entries):
        return marks
    if run.kind == "forward" or entries % len(marks) or node.sequence not in GROWING:
        raise InputError(
            f"positions mean other rows in each of {len(marks)} samples, and {node.name} has {entries} entries along its batch "
            "axis (pictures, tiles); give positions that are the same for all."
        )
    return marks.repeat_interleave(entries // len(marks), dim=0)


def marked(batch: MultimodalBatch, positions: RowRule, sequence: str, length: int) -> Bool[torch.Tensor, "batch pos"]:
    """True at the positions of a rule; samples may differ in how many they have.

    Args:
        batch: the batch.
        positions: the rule, or one list of rows per sample; on the language sequence `"all"` leaves padding out.
        sequence: what positions run over.
        length: how many there are.

    Returns:
        A row per sample (in towers: per picture or tile), or one row that is the same for all.

    Raises:
        InputError: if the rule names nothing.
    """
    layout = batch.layout
    words = {"image": layout.is_image, "text": layout.is_token & ~layout.is_image, "all": layout.is_token}
    if sequence == "language" and isinstance(positions, str) and positions in words:
        found = words[positions]
        if not found.any():
            raise InputError(f"positions={positions!r} names nothing: no sample has {positions} positions.")
        return found
    if is_listed(positions):
        rows = listed_rows(layout, positions, sequence, length)  # type: ignore[arg-type]
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for sample, own in enumerate(rows):
            mask[sample, own.cpu()] = True
        return mask
    found = layout.rows(positions, sequence, length).cpu()  # type: ignore[arg-type]
    found = found if found.ndim == 2 else found[None]
    return torch.zeros(len(found), length, dtype=torch.bool).scatter(1, found, True)


def reached_by(batch: MultimodalBatch, positions: RowRule, node: Node, length: int) -> ResolvedPositions:
    """The positions of the prompt that a rule means at a point; new tokens are none of them.

    Raises:
        InputError: if it names nothing in one of the samples, or positions that do not exist.
    """
    by_number = not isinstance(positions, str | slice)
    per_sample = by_number and (is_listed(positions) or torch.as_tensor(positions).ndim == 2)
    owners = [places.sample for places in batch.layout.places]
    if per_sample and node.sequence not in GROWING and owners not in ([], list(range(batch.size))):
        raise InputError(
            f"positions differ by sample, and {node.name} holds pictures, of which the {batch.size} samples have "
            f"{len(owners)}; give positions [row] that are the same for all."
        )
    found = marked(batch, positions, node.sequence, length)
    empty = (~found.any(1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"positions={positions!r} names nothing in samples {empty}.")
    if batch_axis(node.axes) is None and len(found) > 1:
        raise InputError(
            f"{node.name} has no batch axis (all pictures in one sequence); give positions [row] along that sequence."
        )
    return ResolvedPositions(found)


def is_all(positions: Any) -> bool:
    """Whether a rule is the word for every row."""
    return isinstance(positions, str) and positions == "all"


def require_rule(positions: RowRule) -> None:
    """Refuse, whatever runs, what is no rule.

    Raises:
        InputError: for unknown words, and slices that go backwards.
    """
    words = ("all", "image", "text", "last")
    if isinstance(positions, str) and positions not in words:
        raise InputError(
            f"positions={positions!r} is unknown; the words are {', '.join(map(repr, words[:-1]))} and {words[-1]!r}."
        )
    require_forward(positions)


def require_forward(positions: Any) -> None:
    """Refuse slices that go backwards.

    Raises:
        InputError: for one.
    """
    if isinstance(positions, slice) and positions.step is not None and positions.step < 1:
        raise InputError(f"positions={positions!r} must go forward: its step is at least 1.")


@dataclass(frozen=True)
class AtPositions(PositionedIntervention):
    """An intervention at some positions of the prompt.

    Attributes:
        positions: which positions of the prompt, of the batch that runs; `"all"` means every position, and every step of a
            generation too.
    """

    positions: RowRule = field(default="all", kw_only=True)

    def everywhere(self, node: Node) -> bool:
        """Whether every row of every pass is meant."""
        return is_all(self.positions)

    def reached(self, run: Run, node: Node, length: int) -> ResolvedPositions:
        """The positions of the prompt that the rule means."""
        return reached_by(run.batch, self.positions, node, length)


@dataclass(frozen=True)
class AtPoints(AtPositions):
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
        require_rule(self.positions)
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
            held = find(activation)
            return None if held.marks is False else held.put(activation, self.change(activation, node))

        return act
