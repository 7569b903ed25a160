"""Points that hold what writers of a graph write, and what each of several writers at one point adds to the stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float

from mmlens.core.errors import InputError
from mmlens.hooks.nodes import Node

#: From so many readers on, what heads write is made for all of them; so many heads at a time.
_MANY, _HEADS = 4, 4


@dataclass(frozen=True)
class Source:
    """A hook point that holds the output of one writer, or of several: heads side by side, embeddings group by group.

    Attributes:
        node: the point.
        rows: a point whose rows are those of the stream: the point itself, or the embedding where the point's rows are added at
            some positions of the stream alone.
        writers: their numbers in the graph.
        stream: the stream that they write into.
        weights: `W_O` of the heads, times what their branch is multiplied by; None where the point holds what is added.
        masks: the positions of each group; None where all positions are one writer's.
        into: the positions of the stream that the point's rows are added at, in order; None for the same rows.
        kept: the rows that the model adds to the stream, where it drops others.
    """

    node: Node
    rows: Node
    writers: tuple[int, ...]
    stream: str
    weights: Float[torch.Tensor, "head d_head d_model"] | None = None
    masks: Bool[torch.Tensor, "group batch pos"] | None = None
    into: Bool[torch.Tensor, "batch pos"] | None = None
    kept: Bool[torch.Tensor, "*rows"] | None = None

    def placed(self, values: torch.Tensor) -> torch.Tensor:
        """The point's values (or a difference of them) at the rows of the stream, without those that are dropped.

        Raises:
            InputError: if they do not fit.
        """
        if self.into is not None:
            rows = values.reshape(-1, values.shape[-1])
            if len(rows) != int(self.into.sum()):
                raise InputError(
                    f"{self.node.name} holds {len(rows)} rows, and {int(self.into.sum())} positions of the stream are picture, "
                    "so that it is not known where they are added. Patch its points with mm.patch or mm.patching.path_patch."
                )
            result = values.new_zeros(*self.into.shape, values.shape[-1])
            result[self.into.to(values.device)] = rows
            values = result
        if self.kept is None:
            return values
        mask = self.kept.to(values.device)
        return values * mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))

    def written(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What some of its writers add to the stream, given the point's values (or a difference of them).

        Args:
            values: of the point's shape.
            mask: which of `writers`, bool; or how much of each.
        """
        values = self.placed(values)
        if mask.is_floating_point():
            amounts = mask.to(values)
            if self.weights is not None:
                return torch.einsum("...hk,hkd,h->...d", values, self.weights.to(values), amounts)
            if self.masks is None:
                return values * amounts
            return values * torch.einsum("gbp,g->bp", self.masks.to(values), amounts)[..., None]
        if self.weights is not None:
            heads = mask.nonzero().flatten().to(values.device)
            return torch.einsum(
                "...hk,hkd->...d", values.index_select(-2, heads), self.weights.index_select(0, heads).to(values)
            )
        if self.masks is not None:
            rows = self.masks[mask].any(0).to(values.device)
            return values * rows[..., None]
        return values

    def along(self, values: torch.Tensor, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """How far each writer's part of `values` goes along gradients of the stream, per row: `[... pos writer]` of each."""
        values = self.placed(values)
        rows = values.shape[:-1] if self.weights is None else values.shape[:-2]
        # of a stream that is read on another device, maybe; modules may hold the rows in another form
        gradients = [gradient.to(values.device).reshape(*rows, -1) for gradient in gradients]
        if self.weights is None:
            products = [(values * gradient).sum(-1, keepdim=True) for gradient in gradients]
            return products if self.masks is None else [p * self.masks.movedim(0, -1).to(p) for p in products]
        weights = self.weights.to(gradients[0])
        if len(gradients) < _MANY:
            return [(torch.einsum("...d,hkd->...hk", gradient, weights) * values).sum(-1) for gradient in gradients]
        # what heads write is made once for many readers, some heads at a time for the sake of memory
        matrix, parts = torch.stack(gradients, -1), []
        for start in range(0, len(weights), _HEADS):
            heads = slice(start, start + _HEADS)
            outputs = torch.einsum("...hk,hkd->...hd", values[..., heads, :], weights[heads])
            parts.append(outputs.to(matrix) @ matrix)
        return list(torch.cat(parts, -2).unbind(-1))
