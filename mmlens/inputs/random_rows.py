"""Random rows of each sample's prompt, as many as a rule means."""

from collections.abc import Sequence

import torch
from jaxtyping import Int

from mmlens.core.rules import RandomRows
from mmlens.inputs.picture_positions import own_pictures
from mmlens.inputs.point_rows import PointRows


def random_rows(
    rule: RandomRows,
    point: PointRows,
    like: Sequence[Int[torch.Tensor, "row"]],
    before: Sequence[Int[torch.Tensor, "row"]] | None,
) -> list[Int[torch.Tensor, "row"]]:
    """Per sample, the rows that are drawn, in their order; see `RandomRows`.

    Args:
        rule: the rule.
        point: the rows of the point.
        like: per sample, the rows of the rule that they are as many as.
        before: per sample, the rows in front of which they lie; None for anywhere.
    """
    result = []
    pictures = own_pictures(point.batch) if point.node.sequence == "language" else None
    for sample, (count, numbers) in enumerate(zip(point.counts, like, strict=True)):
        is_other = torch.ones(count, dtype=torch.bool)
        is_other[numbers] = False
        if before is not None and len(before[sample]):
            is_other[int(before[sample].min()) :] = False
        if pictures is not None and len(kinds := pictures[sample][numbers].unique()) == 1:
            alike = is_other & (pictures[sample] == kinds)
            is_other = alike if alike.sum() >= len(numbers) else is_other
        pool = is_other.nonzero().flatten()
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(rule.seed))
        result.append(pool[order[: len(numbers)]].sort().values)
    return result
