"""Matched random sets of units: the control for every finding about neurons or heads."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from math import comb, prod
from typing import overload

import torch

from mmlens.analysis.controls.matches import MATCHES, Match
from mmlens.analysis.samples.sample import Data
from mmlens.analysis.statistics.intervals import Interval, draws_interval
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Seed
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Unit
from mmlens.models.hooked import HookedMultimodal

#: Attempts per draw, after which no more sets are taken to exist.
_ATTEMPTS = 50


@checked
@dataclass(frozen=True)
class RandomUnits(Sequence[Units]):
    """Several draws of random units, each as many as were to be matched: a sequence of `Units`.

    Attributes:
        like: the units that they stand for; none of them is drawn.
        draws: the sets, each another one; the i-th unit of each stands for the i-th of `like`.
        match: what they share with them, beside the blocks.
        seed: of the draws.
        size: the mean of what they are matched by, over `like`; NaN where any unit of the block will do.
        sizes: the same over each draw.
        complete: whether these are all sets that there are.
    """

    like: Units
    draws: tuple[Units, ...]
    match: Match
    seed: Seed
    size: float = float("nan")
    sizes: tuple[float, ...] = ()
    complete: bool = False

    @overload
    def __getitem__(self, number: int) -> Units: ...

    @overload
    def __getitem__(self, number: slice) -> tuple[Units, ...]: ...

    def __getitem__(self, number: int | slice) -> Units | tuple[Units, ...]:
        return self.draws[number]

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[Units]:
        return iter(self.draws)

    def __repr__(self) -> str:
        kinds = " and ".join(f"{kind}s" for kind in dict.fromkeys(unit.kind for unit in self.like))
        how = (
            f"{self.match.quantity}: {draws_interval(self.sizes)}, of these {self.size:.3f}" if self.sizes else "block"
        )
        every = ", all there are" if self.complete else ""
        return (
            f"RandomUnits({len(self)} draws{every}, of {len(self.like)} {kinds} in {', '.join(self.like.by_layer())}; matched by "
            f"{how}; seed {self.seed})"
        )

    @checked
    def interval(self, values: Sequence[float]) -> Interval:
        """The mean of a number over the draws, and the interval in which 95% of the draws lie.

        Args:
            values: one per draw, in their order.

        Raises:
            InputError: for another count of numbers.
        """
        if len(values) != len(self):
            raise InputError(f"There are {len(self)} draws and {len(values)} values; give one each.")
        return draws_interval(values)


@checked
@torch.no_grad()
def random_units(
    model: HookedMultimodal,
    like: UnitsLike,
    *,
    match: str | Match = "layer",
    draws: Count = 20,
    seed: Seed = 0,
    batch: Data | None = None,
) -> RandomUnits:
    """Sets of as many random units of the same kind in the same blocks, none of them among `like`.

    A control that knows less than the finding: what random units of these blocks (as active, writing as strongly) do too is no
    matter of the units that were found. One draw says little; several say how far draws lie apart.

    Args:
        model: the hooked model.
        like: the units to match: neurons, heads, both, of any part.
        match: what they share beside kind and block: `"layer"` (nothing more), `"activation"` (the mean size of the
            activation), `"write_norm"` (the norm of the weights they write with), or settings of one, e.g.
            `mm.controls.Activation(nearest=5)`.
        draws: how many sets, each another one; fewer where there are no more.
        seed: of the draws.
        batch: what `"activation"` is measured on: a batch, or a dataset.

    Raises:
        InputError: for units that the model lacks, a block with too few others, an unknown match, or no batch where one is
            needed.

    Example:
        >>> import mmlens as mm
        >>> top = mm.find_neurons(model, batch, token="circle").top(5)
        >>> control = random_units(model, like=top, draws=3)
        >>> [len(units) for units in control], any(units & top for units in control)
        ([5, 5, 5], False)
        >>> random_units(model, like="L2.h3", draws=20)
        RandomUnits(5 draws, all there are, of 1 heads in L2; matched by block; seed 0)
    """
    rule = MATCHES.get(match)
    units = Units.of(like, model, verb="random_units")
    if "data" in rule.needs and batch is None:
        raise InputError(f"match={rule.name!r} is measured on samples: pass batch=... (a batch, or a dataset).")
    blocks = _blocks(model, units)
    return _drawn(blocks, units, rule, rule.sizes(model, list(units.by_point()), batch), draws, seed)


@checked
@torch.no_grad()
def sized_random_units(
    model: HookedMultimodal,
    units: Units,
    rule: Match,
    sizes: Mapping[str, torch.Tensor],
    *,
    draws: Count,
    seed: Seed,
) -> RandomUnits:
    """The same where the numbers that units are compared by are known: what they are read from runs once for many choices.

    Args:
        model: the hooked model.
        units: the units to match.
        rule: what they share.
        sizes: `rule.sizes` of all points that hold them; none where any other unit will do.
        draws, seed: as of `random_units`.

    Raises:
        InputError: for a block with too few others.
    """
    return _drawn(_blocks(model, units), units, rule, sizes, draws, seed)


def _blocks(model: HookedMultimodal, units: Units) -> list["_Block"]:
    """The units of each point.

    Raises:
        InputError: for a point with too few others.
    """
    blocks = [_Block(block_units, model.graph.unit_counts[point]) for point, block_units in units.by_point().items()]
    full_blocks = [
        f"{block.units[0].block} {len(block.free)} for {len(block.units)}" for block in blocks if block.is_full
    ]
    if full_blocks:
        raise InputError(f"Too few other units are left to match these by ({', '.join(full_blocks)}); match fewer.")
    return blocks


def _drawn(
    blocks: Sequence["_Block"], units: Units, rule: Match, sizes: Mapping[str, torch.Tensor], draws: int, seed: int
) -> RandomUnits:
    generator = torch.Generator().manual_seed(seed)
    sets, complete = _distinct(blocks, sizes, rule.pool, draws, generator)
    unit_sets = tuple(Units(draw[unit] for unit in units) for draw in sets)

    def mean(members: Units) -> float:
        parts = [sizes[point][[unit.index for unit in units]] for point, units in members.by_point().items()]
        return float(torch.cat(parts).mean())

    means = (mean(units), tuple(map(mean, unit_sets))) if sizes else (float("nan"), ())
    return RandomUnits(units, unit_sets, rule, seed, *means, complete)


class _Block:
    """Units of one hook point that are to be matched, and the other ones there.

    Args:
        units: those to be matched.
        count: how many the point holds.
    """

    def __init__(self, units: Units, count: int):
        indices = {unit.index for unit in units}
        self.units = units
        self.free = [index for index in range(count) if index not in indices]

    @property
    def is_full(self) -> bool:
        """Whether there are fewer others than units to match."""
        return len(self.free) < len(self.units)

    def replacement(self, indices: Sequence[int]) -> dict[Unit, Unit]:
        """Units at some indices, by the unit that each stands for."""
        return {unit: replace(unit, index=index) for unit, index in zip(self.units, indices, strict=True)}

    def all_sets(self) -> Iterator[dict[Unit, Unit]]:
        """Every set of as many others."""
        return map(self.replacement, combinations(self.free, len(self.units)))

    def draw(self, size: torch.Tensor | None, nearest: int, generator: torch.Generator) -> dict[Unit, Unit]:
        """A random set: any of the others, or for each unit, in random order, one of the next in size that are left."""
        if size is None:
            order = torch.randperm(len(self.free), generator=generator)[: len(self.units)].tolist()
            return self.replacement([self.free[number] for number in order])
        numbers, result = size.tolist(), {}
        ranks = sorted((numbers[index], index) for index in self.free)  # those that are left, by size
        for number in torch.randperm(len(self.units), generator=generator).tolist():
            unit = self.units[number]
            own, place = numbers[unit.index], bisect_left(ranks, (numbers[unit.index], -1))
            near = range(max(0, place - nearest), min(len(ranks), place + nearest))  # the nearest are among these
            next_in_size = sorted(near, key=lambda rank: abs(ranks[rank][0] - own))[:nearest]
            choice = next_in_size[int(torch.randint(len(next_in_size), (1,), generator=generator))]
            result[unit] = replace(unit, index=ranks.pop(choice)[1])
        return result


def _distinct(
    blocks: Sequence[_Block],
    sizes: Mapping[str, torch.Tensor],
    nearest: int,
    draws: int,
    generator: torch.Generator,
) -> tuple[list[dict[Unit, Unit]], bool]:
    """Different sets, each unit's stand-in by unit; and whether there are no more."""
    if not sizes and (total := prod(comb(len(block.free), len(block.units)) for block in blocks)) <= draws:
        every = [_merge(choice) for choice in product(*(block.all_sets() for block in blocks))]
        return [every[number] for number in torch.randperm(total, generator=generator).tolist()], True
    results: dict[frozenset[Unit], dict[Unit, Unit]] = {}
    for _ in range(_ATTEMPTS * draws):
        draw = _merge([block.draw(sizes.get(block.units[0].hook), nearest, generator) for block in blocks])
        results.setdefault(frozenset(draw.values()), draw)
        if len(results) == draws:
            return list(results.values()), False
    return list(results.values()), True


def _merge(parts: Iterable[Mapping[Unit, Unit]]) -> dict[Unit, Unit]:
    return {unit: other for part in parts for unit, other in part.items()}
