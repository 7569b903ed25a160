"""Corruptions behind the pixels: values that a batch carries along and that stand at a point in every run of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from mmlens.core.errors import InputError
from mmlens.core.positions import mask
from mmlens.core.rules import Positions, as_rule
from mmlens.execution.cells import Cell, Change, activation_rows
from mmlens.execution.whole import hooks_for
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.positions import resolve
from mmlens.interventions.corruptions.pixels import Regions, region_mask, regions_per_sample
from mmlens.interventions.passes import Follower
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class Carried:
    """Values that stand at a point in the place of what the model computes there.

    Attributes:
        what: the corruption, in words.
        at: hook name.
        rows: per sample, which rows; None for all that the sample has.
        values: per sample, the values of these rows.
        batch: the batch that it was made for, without it.
        length: positions at the point when the prompt is read.
    """

    what: str
    at: str
    rows: tuple[torch.Tensor | None, ...]
    values: tuple[torch.Tensor, ...]
    batch: MultimodalBatch
    length: int

    def __repr__(self) -> str:
        return f"{self.what} at {self.at}"

    def changes(self, sample: int) -> tuple[Change, ...]:
        """What it does to one sample; nothing where it has no such rows."""
        rows = self.rows[sample]
        if rows is not None and not len(rows):
            return ()
        return (Change(self.at, self.rows[sample], partial(_instead, self.values[sample])),)

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """The one hook, for a run of the whole batch."""
        cells = [Cell(sample, self.changes(sample)) for sample in range(self.batch.size)]
        node = model.graph[self.at]
        return [(name, self._with_prompt(model, node, act)) for name, act in hooks_for(model, self.batch, cells)]

    def _with_prompt(self, model: HookedMultimodal, node: Node, act: HookFunction) -> HookFunction:
        follow, axis = Follower(model, node), node.position_axis

        def when_read(activation: torch.Tensor, hook: object) -> torch.Tensor | None:
            _, _, first = follow(activation)
            if first:
                return None  # a step of a generation holds none of the prompt's positions
            count = activation.shape[axis]
            if count < self.length:
                raise InputError(
                    f"The batch carries {self!r}, made for {self.length} positions there, and this run reads {count} of them "
                    "at a time; run the whole prompt in one pass."
                )
            # without a KV cache, and in an extended batch, what was written follows the prompt
            prompt = act(activation.narrow(axis, 0, self.length), hook)
            rest = activation.narrow(axis, self.length, count - self.length)
            return None if prompt is None else torch.cat([prompt, rest], dim=axis)

        return when_read


def _instead(values: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return values.to(old)


def require_level(model: HookedMultimodal, at: str) -> Node:
    """The point of a corruption: one vector per row.

    Raises:
        InputError: for points of another form.
    """
    node = model.graph[at]
    words = [word for word in node.axes.split() if word != "batch"]
    if len(words) != 2 or words[1] not in ("d_model", "d_vision"):
        raise InputError(
            f"at={at!r} is [{node.axes}]; corruptions stand at points with one vector per row: 'hook_embed', "
            "'projector.hook_out', 'vision.hook_embed' or a residual stream; or at='pixels'."
        )
    return node


def require_one_area(at: str, positions: Positions | None, region: Regions) -> None:
    """Refuse positions where pixels are corrupted, and positions beside a region: the one would be of no effect.

    Raises:
        InputError: if so; says which to use.
    """
    if positions is not None and at == "pixels":
        raise InputError(
            f"positions={positions!r} are rows of a point, and at='pixels' has none; name a part of the picture by region=(left, "
            "top, right, bottom) or a mask, or corrupt rows: at='hook_embed'."
        )
    if positions is not None and region is not None:
        raise InputError(
            f"positions={positions!r} and a region both say which rows; give one of them (a region of the picture is also "
            "positions=mm.positions.box(...))."
        )


def level(model: HookedMultimodal, at: str | None, positions: Positions | None, region: Regions) -> str:
    """Where a corruption acts: `at`; by default the language model's input, or the tower's if that alone has the picture.

    Raises:
        InputError: for positions where pixels are corrupted, and positions beside a region.
    """
    if at is None:
        of_picture = positions is None or as_rule(positions) == as_rule("image")
        is_merged = (
            "vision.hook_embed" not in model.graph or "hook_embed" in model.graph.downstream("vision.hook_embed").names
        )
        at = "vision.hook_embed" if of_picture and not is_merged else "hook_embed"
    require_one_area(at, positions, region)
    return at


def rows_of_area(
    batch: MultimodalBatch, node: Node, positions: Positions | None, region: Regions
) -> tuple[torch.Tensor | None, ...]:
    """Rows per sample: of a position rule, or of a region of the picture; of the whole picture by default.

    Raises:
        InputError: for rules and regions that name nothing, or rows without a place.
    """
    if region is None:
        rule = as_rule("image" if positions is None else positions)
    else:
        sizes = [batch.layout.place(sample).size for sample in range(batch.size)]
        regions = zip(regions_per_sample(region, batch.size), sizes, strict=True)
        rule = mask([region_mask(where, size[::-1]) for where, size in regions if where is not None])
    resolution = resolve(rule, batch, node)
    return tuple(resolution.rows_of(sample) for sample in range(batch.size))


@torch.no_grad()
def rows_at(
    model: HookedMultimodal, batch: MultimodalBatch, node: Node, rows: tuple[torch.Tensor | None, ...]
) -> tuple[list[torch.Tensor], int]:
    """Each sample's rows at a point, and how many positions the point has."""
    _, cache = model.run_with_cache(batch, names=node.name)
    activation = cache[node.name]
    pieces = [
        activation_rows(activation, node, batch, sample, sample_rows).clone() for sample, sample_rows in enumerate(rows)
    ]
    return pieces, activation.shape[node.position_axis]


def carry(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    at: str,
    positions: Positions | None,
    region: Regions,
    change: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    name: str,
) -> MultimodalBatch:
    """The batch with rows of a point changed, from one run of it.

    Args:
        model: the hooked model.
        batch: the batch.
        at: hook name.
        positions: which rows; the picture's by default.
        region: or those of a region of the picture.
        change: from each sample's rows `[row d_model]` to what stands in their place.
        name: the corruption, in words.

    Raises:
        InputError: for points, positions or regions that cannot be, and if a sample's rows stay as they are.
    """
    node = require_level(model, at)
    rows = rows_of_area(batch, node, positions, region)
    before, length = rows_at(model, batch, node, rows)
    values = tuple(new.to(old) for new, old in zip(change(before), before, strict=True))
    unchanged = [
        sample
        for sample, (new, old) in enumerate(zip(values, before, strict=True))
        if len(old) and torch.equal(new, old)
    ]
    if unchanged:
        raise InputError(
            f"{name} at {at} would leave the rows of samples {unchanged} as they are, so that there would be nothing to compare; "
            "choose other positions, or another corruption."
        )
    bare = replace(batch, carried=())
    return replace(batch, carried=(*batch.carried, Carried(name, node.name, rows, values, bare, length)))
