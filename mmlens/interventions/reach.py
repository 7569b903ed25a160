"""Which rows of a point's activation an intervention reaches, in forward passes and in generation."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool

from mmlens.core.axes import batch_axis
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.core.places import Positions
from mmlens.hooks.graph import Node, Selection
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.interventions.sample_rows import RowRule, is_listed, listed_rows
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.layout import TokenLayout


@dataclass(frozen=True)
class Reach:
    """Rows along a point's position axis.

    Attributes:
        node: the point.
        rows: `[row]`, or `[batch row]` per sample; None for all.
        length: number of positions of the prompt, where it is known.
    """

    node: Node
    rows: torch.Tensor | None
    length: int | None

    def put(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`new` where the rows are, `old` elsewhere.

        Rows are positions of the prompt. The steps of a generation with a KV cache hold none of them and stay as they are.
        """
        new = new.to(old.dtype)
        if self.rows is None:
            return new
        axis = self.node.position_axis
        found = old.shape[axis]
        if found <= int(self.rows.max()):
            if found == 1:
                return old
            raise InputError(
                f"positions go up to {int(self.rows.max())}, but {self.node.name} has {found} positions in this run."
            )
        if self.length is not None and found < self.length:
            return old
        return torch.where(row_mask(old, axis, self.rows), new, old)


def reach(node: Node, positions: Positions, layout: TokenLayout | None) -> Reach:
    """Find the rows that a position rule means at a point.

    Args:
        node: the point.
        positions: as everywhere; words, slices and negative indices need a layout.
        layout: of the batch to come.

    Raises:
        InputError: for a rule that needs a layout where none is given, or that names no row.
    """
    if isinstance(positions, str) and positions == "all":
        return Reach(node, None, None)
    if layout is not None:
        length = layout.length(node.sequence)
        return Reach(node, _fitting(_rows(layout, positions, node.sequence, length), node), length)
    if isinstance(positions, str | slice):
        raise InputError(f"positions={positions!r} depends on the batch; pass layout=batch.layout beside it.")
    rows = torch.as_tensor(positions)
    rows = rows.reshape(1) if rows.ndim == 0 else rows
    if not rows.numel():
        raise InputError(f"positions={positions!r} name no position.")
    if int(rows.min()) < 0:
        raise InputError(
            f"positions={positions!r} count from the end of the batch; pass layout=batch.layout beside them."
        )
    return Reach(node, _fitting(rows, node), None)


def _rows(layout: TokenLayout, positions: Positions, sequence: str, length: int | None) -> torch.Tensor:
    """Rows `[row]` or `[batch row]`; a sample with fewer than others names its last one again, which changes nothing."""
    if sequence != "language" or not isinstance(positions, str) or positions not in ("image", "text"):
        return layout.rows(positions, sequence, length)
    found = layout.image if positions == "image" else layout.text
    empty = [sample for sample, rows in enumerate(found) if not len(rows)]
    if empty:
        raise InputError(f"positions={positions!r} names nothing in samples {empty}.")
    longest = torch.arange(max(map(len, found)))
    return torch.stack([rows[longest.clamp(max=len(rows) - 1)] for rows in found])


def _fitting(rows: torch.Tensor, node: Node) -> torch.Tensor:
    if rows.ndim == 2 and batch_axis(node.axes) is None:
        raise InputError(
            f"{node.name} has no batch axis (all pictures in one sequence); give positions [row] along that sequence."
        )
    return rows


def row_mask(activation: torch.Tensor, axis: int, rows: torch.Tensor) -> torch.Tensor:
    """True at the given rows, broadcastable to the activation.

    Args:
        activation: what is to be masked.
        axis: its position axis.
        rows: `[row]`, or `[batch row]` with the batch axis in front.
    """
    length = activation.shape[axis]
    per_sample = rows if rows.ndim == 2 else rows[None]
    mask = torch.zeros(len(per_sample), length, dtype=torch.bool, device=activation.device)
    mask.scatter_(1, per_sample.to(activation.device), True)
    shape = [1] * activation.ndim
    shape[axis] = length
    if rows.ndim == 2:
        shape[0] = len(rows)
    return mask.reshape(shape)


def marked(layout: TokenLayout, positions: RowRule, sequence: str, length: int) -> Bool[torch.Tensor, "batch pos"]:
    """True at the positions of a rule; samples may differ in how many they have.

    Args:
        layout: of the batch.
        positions: the rule, or one list of rows per sample; on the language sequence `"all"` leaves padding out.
        sequence: what positions run over.
        length: how many there are.

    Raises:
        InputError: if the rule names nothing.
    """
    words = {"image": layout.is_image, "text": layout.is_token & ~layout.is_image, "all": layout.is_token}
    if sequence == "language" and isinstance(positions, str) and positions in words:
        found = words[positions]
        if not found.any():
            raise InputError(f"positions={positions!r} names nothing: no sample has {positions} positions.")
        return found
    mask = torch.zeros(len(layout.is_token), length, dtype=torch.bool)
    if is_listed(positions):
        for sample, rows in enumerate(listed_rows(layout, positions, sequence, length)):  # type: ignore[arg-type]
            mask[sample, rows] = True
        return mask
    rows = layout.rows(positions, sequence, length)  # type: ignore[arg-type]
    return mask.scatter(1, rows.expand(len(mask), -1) if rows.ndim == 1 else rows, True)


@dataclass(frozen=True)
class AtPoints:
    """An intervention at some points and positions: says where; what happens there is its subclasses' part.

    Attributes:
        at: hook names.
        positions: which positions of the prompt; `"all"` means every position, and every step of a generation too.
        layout: of the batch to come, where positions are words, slices or count from the end.
    """

    at: Names | Selection
    positions: Positions = field(default="all", kw_only=True)
    layout: TokenLayout | None = field(default=None, kw_only=True, repr=False)

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per point.

        Raises:
            InputError: if a point does not exist, positions name no row, or what is put there does not fit.
        """
        nodes = model.graph.select(self.at)
        for node in nodes:
            self.check(node)
        return [(node.name, self._hook(reach(node, self.positions, self.layout))) for node in nodes]

    def check(self, node: Node) -> None:
        """Refuse, before any forward pass, what cannot be done at a point."""

    def change(self, activation: torch.Tensor, node: Node) -> torch.Tensor:
        """What stands in the place of the activation, at every position."""
        raise NotImplementedError

    def _hook(self, where: Reach) -> HookFunction:
        def act(activation: torch.Tensor, hook: object) -> torch.Tensor:
            return where.put(activation, self.change(activation, where.node))

        return act
