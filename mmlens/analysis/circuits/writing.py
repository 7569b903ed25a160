"""What writers write: their outputs in a run, how they differ from another run's, and what a difference adds to a stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.circuits.graph import EdgeGraph, Reader, group_masks, vision_end
from mmlens.core.errors import InputError
from mmlens.core.names import Part, part_prefix
from mmlens.execution.cells import piece_of
from mmlens.hooks.graph import Node
from mmlens.models.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

#: Largest share of a stream that may be missing from the sum of its writers, by norm.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Source:
    """A hook point that holds the output of one writer, or of several: heads side by side, embeddings group by group.

    Attributes:
        node: the point.
        writers: their numbers in the graph.
        weights: `W_O` of the heads; None where the point holds what is added to the stream.
        masks: the positions of each group; None where all positions are one writer's.
    """

    node: Node
    writers: tuple[int, ...]
    weights: Float[torch.Tensor, "head d_head d_model"] | None = None
    masks: Bool[torch.Tensor, "group batch pos"] | None = None

    def written(self, values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """What some of its writers add to the stream, given the point's values (or a difference of them).

        Args:
            values: of the point's shape.
            chosen: which of `writers`, bool.
        """
        if self.weights is not None:
            heads = chosen.nonzero().flatten().to(values.device)
            return torch.einsum(
                "...hk,hkd->...d", values.index_select(-2, heads), self.weights.index_select(0, heads).to(values)
            )
        if self.masks is not None:
            rows = self.masks[chosen].any(0).to(values.device)
            return values * rows[..., None]
        return values

    def along(self, values: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """How far each writer's part of `values` goes along a gradient of the stream, per row: `[... pos writer]`."""
        if self.weights is not None:
            pulled = torch.einsum("...d,hkd->...hk", gradient, self.weights.to(gradient))
            return (pulled * values).sum(-1)
        product = (values * gradient).sum(-1, keepdim=True)
        return product if self.masks is None else product * self.masks.movedim(0, -1).to(product)


@dataclass(frozen=True)
class Writing:
    """The writers of a graph on a model and a batch.

    Attributes:
        model: the hooked model.
        batch: says which rows are whose.
        graph: the writers and readers.
    """

    model: HookedMultimodal
    batch: MultimodalBatch
    graph: EdgeGraph

    @cached_property
    def sources(self) -> list[Source]:
        """The points that hold what is written, in execution order."""
        by_point: dict[str, list[int]] = {}
        for number, writer in enumerate(self.graph.writers):
            by_point.setdefault(writer.point, []).append(number)
        return [self._source(point, tuple(numbers)) for point, numbers in by_point.items()]

    def _source(self, point: str, numbers: tuple[int, ...]) -> Source:
        writers = [self.graph.writers[number] for number in numbers]
        node = self.model.graph[point]
        if writers[0].head is not None:
            attn = self.model.part(writers[0].part).blocks[writers[0].layer].attn
            return Source(node, numbers, weights=attn.W_O.detach())  # type: ignore[union-attr]
        if writers[0].group is not None:
            masks = group_masks(self.batch, self.graph.groups)
            return Source(node, numbers, masks=torch.stack([masks[str(writer.group)] for writer in writers]))
        return Source(node, numbers)

    @property
    def points(self) -> list[str]:
        """The hook names of all sources."""
        return [source.node.name for source in self.sources]

    def per_sample(self, source: Source, rows: torch.Tensor) -> Float[torch.Tensor, "writer sample"]:
        """Sums over the rows of each sample.

        Args:
            source: whose rows they are.
            rows: one number per row and writer, `[... pos writer]`.
        """
        # a row of writers takes the place of the width, so the position axis stays where it is
        axis = 1 if rows.ndim == 3 else 0
        node = source.node
        found = []
        for sample in range(self.batch.size):
            piece = piece_of(node, self.batch, sample, None, torch.Size(rows.shape))
            if piece.entries is None and piece.rows is not None:
                own = rows.index_select(axis, piece.rows.to(rows.device))
            else:
                own = rows if piece.entries is None else rows[piece.entries]
            found.append(own.reshape(-1, rows.shape[-1]).sum(0))
        return torch.stack(found, dim=-1)

    def added(
        self, values: Mapping[str, torch.Tensor], chosen: Bool[torch.Tensor, "writer"], part: Part
    ) -> torch.Tensor | None:
        """What chosen writers add to a tower's stream, given the values (or differences) at their points; None for none.

        Raises:
            InputError: if the tower's rows become others on the way, so that the stream is no sum.
        """
        total: torch.Tensor | None = None
        for source in self.sources:
            some = chosen[list(source.writers)]
            if source.node.part == part and some.any():
                written = source.written(values[source.node.name], some)
                if total is not None and written.shape != total.shape:
                    raise InputError(
                        f"The {part} stream of {self.model.family.name} changes its rows on the way, from {list(total.shape)} to "
                        f"{list(written.shape)} at {source.node.name}, so it is no sum of what was written. "
                        + (
                            "Begin at the language model: towers='language'."
                            if part == "vision"
                            else "Use mm.path_patch."
                        )
                    )
                total = written if total is None else total + written
        return total


def entrance_of(model: HookedMultimodal, reader: Reader) -> str:
    """Where a reader receives the stream: an entrance, or the stream that the projector reads."""
    if reader.kind == "logits":
        return "ln_final.hook_in"
    if reader.kind == "projector":
        return vision_end(model)
    branch = "mlp" if reader.kind == "mlp" else "attn"
    return f"{part_prefix(reader.part)}blocks.{reader.layer}.hook_{branch}_in"


def require_sums(
    writing: Writing, values: Mapping[str, torch.Tensor], received: Mapping[str, torch.Tensor], constants: bool
) -> None:
    """Check on a run that what each reader receives is the sum of its writers, so that edges mean what they say.

    Args:
        writing: the writers.
        values: what they wrote.
        received: what readers received, by the name of their entrance.
        constants: whether biases behind `W_O`, which no head writes, may be missing.

    Raises:
        InputError: if something else is added to the stream, or the heads' outputs pass through something before.
    """
    first = {
        entrance_of(writing.model, reader): number for number, reader in reversed([*enumerate(writing.graph.readers)])
    }
    for entrance, number in first.items():
        reader, whole = writing.graph.readers[number], received[entrance]
        total = writing.added(values, writing.graph.allowed[number], reader.part)
        missing = whole if total is None else whole - total
        if constants:  # the same at every row
            missing = missing - missing.mean(tuple(range(missing.ndim - 1)), keepdim=True)
        share = float(missing.norm() / whole.norm())
        if share > _TOLERANCE:
            raise InputError(
                f"What {reader.name} reads ({entrance}) is not the sum of what its writers write: {share:.1%} of it comes from "
                f"elsewhere ({writing.model.family.name} adds something to the stream, or passes heads through a norm or gate). "
                + ("Try nodes='attention'." if writing.graph.nodes == "head" else "Use mm.patch or mm.path_patch.")
            )
