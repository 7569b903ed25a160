"""Rows of a point that belong to each sample of a batch, padding left out, whatever tower the point is in."""

from collections.abc import Sequence

import torch
from jaxtyping import Int

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.core.units import Positions
from mmlens.hooks.nodes import Node
from mmlens.inputs.layout import TokenLayout


def sample_rows(
    layout: TokenLayout, positions: Positions, node: Node, shape: Sequence[int]
) -> list[Int[torch.Tensor, "row 2"]]:
    """Per sample, the (entry of the batch axis, row) pairs that a position rule means.

    Args:
        layout: of the batch.
        positions: a word, indices or a slice; indices count within a sample's own tokens.
        node: the point.
        shape: of its tensor.

    Raises:
        InputError: for a position that a sample does not have, or rows that cannot be told apart by sample.
    """
    count = len(layout.is_token)
    if node.sequence == "language":
        return [_numbered(sample, _prompt(layout, positions, sample)) for sample in range(count)]
    length = shape[node.position_axis]
    if isinstance(positions, str) and positions == "image" and node.part != "language":
        found = _of_pictures(layout, node, count)
        if found is not None:
            return found
    if "batch" in node.axes.split() and shape[0] == count:
        chosen = (
            torch.arange(length) if positions in ("all", "image") else _chosen(torch.arange(length), positions, node)
        )
        return [_numbered(sample, chosen) for sample in range(count)]
    raise InputError(
        f"{node.name} holds the rows of {count} samples in one tensor {list(shape)} [{node.axes}], so positions={positions!r} "
        "does not say whose rows are meant; use positions='image'."
    )


def _numbered(entry: int, rows: torch.Tensor) -> Int[torch.Tensor, "row 2"]:
    return torch.stack([torch.full_like(rows, entry), rows], dim=1)


def _prompt(layout: TokenLayout, positions: Positions, sample: int) -> Int[torch.Tensor, "row"]:
    is_token, is_image = layout.is_token[sample], layout.is_image[sample]
    if positions == "image":
        return is_image.nonzero().flatten()
    if positions == "text":
        return (is_token & ~is_image).nonzero().flatten()
    own = is_token.nonzero().flatten()
    if isinstance(positions, str):
        return own[-1:] if positions == "last" else own
    return _chosen(own, positions, None)


def _chosen(own: torch.Tensor, positions: Positions, node: Node | None) -> Int[torch.Tensor, "row"]:
    """Rows among a sample's own, by index or slice."""
    where = "tokens" if node is None else f"rows of {node.name}"
    if isinstance(positions, str):
        raise InputError(
            f"positions={positions!r} has no meaning for the {where}, which are no text; use 'all', 'image' or indices."
        )
    if isinstance(positions, slice):
        found = own[positions]
        if not len(found):
            raise InputError(f"positions={positions!r} name none of the {len(own)} {where} of a sample.")
        return found
    wanted = torch.as_tensor(positions).reshape(-1).long()
    wrong = wanted[(wanted < -len(own)) | (wanted >= len(own))]
    if len(wrong) or not len(wanted):
        raise InputError(f"positions={positions!r} name {wrong.tolist()}, outside the {len(own)} {where} of a sample.")
    return own[wanted]


def _of_pictures(layout: TokenLayout, node: Node, count: int) -> list[Int[torch.Tensor, "row 2"]] | None:
    """The rows of each sample's pictures in a tower, in the order of the pictures; None where they have no places."""
    part: Part = node.part
    if node.sequence != part or any(part in places.placeless for places in layout.places):
        return None
    found: list[list[torch.Tensor]] = [[] for _ in range(count)]
    for places in layout.places:
        for grid in places.views(part):
            entries = (
                grid.index if isinstance(grid.index, torch.Tensor) else torch.full_like(grid.rows, grid.index or 0)
            )
            found[places.sample].append(torch.stack([entries, grid.rows], dim=1))
    return [torch.cat(rows) if rows else torch.zeros(0, 2, dtype=torch.long) for rows in found]
