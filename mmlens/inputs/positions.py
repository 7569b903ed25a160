"""The one place where rules become rows: a rule, a batch and a point give each sample's rows and the generated steps.

Rows are counted among each sample's own: its tokens on the language sequence (padding is none of them), the rows of its
pictures in a tower, whether these lie in entries of a batch axis, in several tiles, or packed with other samples' in one
sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int

from mmlens.core.errors import InputError
from mmlens.core.rules import ALL, Image, Named, Positions, Rule, as_rule
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch, forced_on
from mmlens.inputs.picture_positions import blocks, boxes_of_rows
from mmlens.inputs.point_rows import GROWING, PointRows, place_part
from mmlens.inputs.rule_rows import numbers_of, rows_meant, steps_meant


@dataclass(frozen=True, eq=False)
class ResolvedPositions:
    """What a rule means for a batch at a point.

    Attributes:
        rule: the rule.
        point: the rows of the point.
        numbers: per sample, the rows that are meant, counted among the sample's own; in the order of the rule. Teacher-forced
            tokens are behind these, see `forced`.
        whole: whether every row is meant where it is not known which are whose, or how many there are.
        steps: which teacher-forced tokens are meant; what the rule says by default.
    """

    rule: Rule
    point: PointRows
    numbers: tuple[Int[torch.Tensor, "row"], ...]
    whole: bool = False
    steps: Bool[torch.Tensor, "batch step"] | None = None
    _memory: dict[object, torch.Tensor | bool] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def rows(self) -> tuple[Int[torch.Tensor, "row 2"], ...]:
        """Per sample, (entry of the batch axis, row) of what is meant; entry 0 where there is no such axis."""
        if not self.forced.any():
            return self._prompt_rows
        steps = [step.nonzero().flatten() + self.point.extent for step in self.forced]
        forced = [torch.stack([torch.full_like(rows, sample), rows], 1) for sample, rows in enumerate(steps)]
        return tuple(torch.cat(both) for both in zip(self._prompt_rows, forced, strict=True))

    @cached_property
    def _prompt_rows(self) -> tuple[Int[torch.Tensor, "row 2"], ...]:
        """The same without teacher-forced tokens."""
        if self.point.length is None and not self.whole:  # one entry per sample, as far as is known before a run
            return tuple(torch.stack([torch.full_like(n, s), n], 1) for s, n in enumerate(self.numbers))
        return tuple(sample_rows[numbers] for sample_rows, numbers in zip(self.point.known, self.numbers, strict=True))

    @property
    def empty(self) -> list[int]:
        """The samples in which no row is meant."""
        forced = self.forced.any(1).tolist() if self.forced.shape[1] else [False] * len(self.numbers)
        return [sample for sample, numbers in enumerate(self.numbers) if not len(numbers) and not forced[sample]]

    @cached_property
    def mask(self) -> Bool[torch.Tensor, "entry pos"]:
        """True at the rows that are meant; one row in all where the point has no batch axis."""
        mask = torch.full((self.point.entries or 1, self.point.extent), self.whole)
        for pairs in () if self.whole else self._prompt_rows:
            mask[pairs[:, 0], pairs[:, 1]] = True
        steps = self.forced
        return torch.cat([mask, steps], dim=1) if steps.shape[1] else mask

    @cached_property
    def forced(self) -> Bool[torch.Tensor, "batch step"]:
        """Which of the batch's teacher-forced tokens are meant."""
        count = forced_on(self.point.batch, self.point.node.sequence)
        return self.new(0, count) if self.steps is None else self.steps

    def one(self, at: int) -> "ResolvedPositions":
        """The row of each sample that comes at a place among those that are meant; samples that have fewer have none."""
        steps = torch.zeros_like(self.forced)
        for sample, numbers in enumerate(self.numbers):
            steps[
                sample, self.forced[sample].nonzero().flatten()[max(at - len(numbers), 0) :][: at >= len(numbers)]
            ] = True
        return replace(self, numbers=tuple(numbers[at : at + 1] for numbers in self.numbers), steps=steps)

    def rows_of(self, sample: int) -> Int[torch.Tensor, "row ..."] | None:
        """A sample's rows as a change names them: `[row]`, (entry, row) where it has several entries, None for all rows."""
        grows, sample_pairs = self.point.node.sequence in GROWING, self.point.own
        is_whole = (
            sample_pairs is not None
            and not self.point.shared
            and len(self.numbers[sample]) == len(sample_pairs[sample]) > 0
        )
        if self.whole or (is_whole and not grows):
            return None
        pairs = self.rows[sample]
        single = (
            sample_pairs is None
            or not len(sample_pairs[sample])
            or int(sample_pairs[sample][0, 0]) == int(sample_pairs[sample][-1, 0])
        )
        return pairs[:, 1].clone(memory_format=torch.contiguous_format) if single else pairs

    @property
    def boxes(self) -> Float[torch.Tensor, "row 4"] | None:
        """The pixel boxes of the first sample's rows, where all of them have one."""
        return None if self.point.own is None else boxes_of_rows(self.point, self.rows[0])

    def new(self, first: int, count: int) -> Bool[torch.Tensor, "batch step"]:
        """Which of the new tokens `first`, `first + 1`, ... are meant, counted from the first one."""
        return steps_meant(self.rule, self.point, torch.arange(first, first + count))

    def all_numbers(self, count: int) -> list[Int[torch.Tensor, "row"]]:
        """Per sample, what is meant, counted among its own tokens: of the prompt, and of so many new tokens behind it."""
        new = numbers_of(list(self.new(0, count) if self.steps is None else self.steps))
        pairs = zip(self.numbers, new, self.point.counts, strict=True)
        return [torch.cat([numbers, steps + length]) for numbers, steps, length in pairs]

    def marks(self, first: int, count: int, device: torch.device) -> torch.Tensor | bool:
        """True at the rows of a pass that are meant, `[entry pos]`; True or False where it is all or none of them.

        Args:
            first: position of the pass's first row.
            count: how many rows it holds.
            device: where the marks are needed.
        """
        if self.whole:
            return True
        key = (first, count, device)
        if key not in self._memory:
            end = self.mask.shape[1]
            rows = self.mask[:, first : first + count]
            if first + count > end:
                start = max(first, end)
                rows = torch.cat([rows, self.new(start - self.point.extent, first + count - start)], dim=1)
            uniform = bool(rows.any()) == bool(rows.all())
            if len(self._memory) > 8:  # steps of a long generation come once each
                self._memory.clear()
            self._memory[key] = bool(rows.all()) if uniform else rows.to(device)
        return self._memory[key]


def resolve(
    positions: Positions,
    batch: MultimodalBatch,
    node: Node,
    shape: Sequence[int] | None = None,
    *,
    steps: int | None = 0,
    written: Sequence[Sequence[int]] | None = None,
    required: bool = True,
) -> ResolvedPositions:
    """What a rule means for a batch at a point.

    Args:
        positions: the rule, or what is short for one.
        batch: the batch.
        node: the point.
        shape: of the point's tensor in the run under way; None before one.
        steps: how many new tokens the run reads, so that a rule may mean these alone; None for no bound.
        written: per sample, the new tokens, once they are written: words are looked for among them too.
        required: whether the rule must mean something in some sample.

    Raises:
        InputError: if it means nothing, rows that do not exist, or what the sequence does not hold.
        NoPlaceError: for a part of the picture where rows have no place in it.
    """
    rule, point = as_rule(positions), replace(PointRows.of(batch, node, shape), written=written)
    part = place_part(node.sequence)
    placeless = part is None or any(part not in places.grids for places in batch.layout.places)
    is_pictures = placeless and node.sequence not in GROWING and "+" not in node.sequence
    is_pictures = is_pictures and not (batch.apart and node.part == "language")
    if point.own is None and (rule in (ALL, Named("prompt")) or (is_pictures and rule == Image())):
        return ResolvedPositions(rule, point, (torch.zeros(0, dtype=torch.long),) * point.size, whole=True)
    resolution = ResolvedPositions(rule, point, tuple(rows_meant(rule, point)))
    steps = None if steps is None else max(steps, forced_on(batch, node.sequence))
    if (
        required
        and len(resolution.empty) == point.size
        and not resolution.new(0, 4096 if steps is None else steps).any()
    ):
        raise InputError(_nothing(rule, point, steps))
    return resolution


def resolve_blocks(batch: MultimodalBatch, node: Node, side: int) -> dict[str, ResolvedPositions]:
    """The picture in blocks of `side x side` patches at a point, by name: `r0c0`, `r0c1`, ... row by row.

    Raises:
        InputError: where rows have no place in a picture, or samples have not one picture each, all of one shape.
    """
    point = PointRows.of(batch, node)
    return {name: ResolvedPositions(Image(), point, tuple(numbers)) for name, numbers in blocks(point, side)}


def _nothing(rule: Rule, point: PointRows, steps: int | None) -> str:
    batch, sequence = point.batch, point.node.sequence
    holds = {"language": repr(batch.layout), "decoder": f"{point.length} positions of what the decoder has written"}
    hint = ""
    if steps == 0 and steps_meant(rule, point, torch.arange(64)).any():
        hint = " New tokens are read in model.generate(...) from its second step on; a forward pass has none, and the first is "
        hint += "predicted by positions.last."
    return (
        f"{rule!r} names nothing in samples {list(range(point.size))} at {point.node.name}, on the {sequence} sequence"
        f" ({holds.get(sequence, f'{point.length} rows')}).{hint}"
    )
