"""What writers write: their outputs in a run, how they differ from another run's, and what a difference adds to a stream."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.branch_points import reach_of
from mmlens.analysis.circuits.graph import EdgeGraph, Reader
from mmlens.analysis.circuits.groups import group_masks
from mmlens.analysis.circuits.sources import Source
from mmlens.analysis.statistics.rounding import off_by_rounding
from mmlens.core.errors import InputError
from mmlens.execution.cells import piece_of
from mmlens.hooks.nodes import Node
from mmlens.hooks.views import Factored
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.decoder import attention_of
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class Writing:
    """The writers of a graph on a model and a batch.

    Attributes:
        model: the hooked model.
        batch: says which rows are whose.
        graph: the writers and readers.
        kept: by the point of a branch, the rows of it that the model adds to the stream, where it drops others.
    """

    model: HookedMultimodal
    batch: MultimodalBatch
    graph: EdgeGraph
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def sources(self) -> list[Source]:
        """The points that hold what is written, in execution order."""
        by_point: dict[tuple[str, str], list[int]] = {}
        for number, writer in enumerate(self.graph.writers):
            by_point.setdefault((writer.point, writer.stream), []).append(number)
        return [self._source(tuple(numbers)) for numbers in by_point.values()]

    def _source(self, numbers: tuple[int, ...]) -> Source:
        writers = [self.graph.writers[number] for number in numbers]
        first = writers[0]
        node = self.model.graph[first.point]
        mask = self.kept.get(first.branch)
        source = Source(node, node, numbers, first.stream, kept=mask)
        if first.index is not None and not self.graph.by_node:
            weights = attention_of(self.model, node.name.removesuffix(".hook_z")).W_O.detach()
            return replace(source, weights=weights * self._factor(first.branch))
        if first.group is not None:
            masks = group_masks(self.model, self.batch, self.graph.groups)
            return replace(source, masks=torch.stack([masks[str(writer.group)] for writer in writers]))
        if node.part == "projector" and first.stream != node.name:  # added to the stream at the picture's positions
            embed = next(writer.point for writer in self.graph.writers if writer.group is not None)
            return replace(source, rows=self.model.graph[embed], into=self.batch.layout.is_image)
        return source

    def _factor(self, branch: str) -> "torch.Tensor | float":
        """What a branch is multiplied by before it is added to the stream: a gate, a layer scale."""
        if not branch:  # a norm stands between
            return 1.0
        reach = reach_of(self.model.hook_dict[branch])
        factor = reach.factor() if isinstance(reach, Factored) else 1.0
        return factor.detach() if isinstance(factor, torch.Tensor) else factor

    @property
    def points(self) -> list[str]:
        """The hook names of all sources."""
        return [source.node.name for source in self.sources]

    def added(self, values: Mapping[str, torch.Tensor], mask: torch.Tensor, stream: str) -> torch.Tensor | None:
        """What chosen writers `[writer]` add to a stream, or how much of each; None for none.

        Raises:
            InputError: if the rows become others on the way, so that the stream is no sum.
        """
        total: torch.Tensor | None = None
        for source in self.sources:
            selection = mask[list(source.writers)]
            if source.stream == stream and selection.any():
                output = source.written(values[source.node.name], selection)
                if total is not None and output.shape != total.shape:
                    part = self.model.graph[stream].part
                    raise InputError(
                        f"The {part} stream of {self.model.family.name} changes its rows on the way, from {list(total.shape)} to "
                        f"{list(output.shape)} at {source.node.name}, so it is no sum of what was written. "
                        + (
                            "Begin at the language model: towers='language'."
                            if part == "vision"
                            else "Use mm.patching.path_patch."
                        )
                    )
                total = output if total is None else total + output.to(total.device)
        return total


def sums_of_samples(
    node: Node, batch: MultimodalBatch, rows: Float[torch.Tensor, "... writer"]
) -> Float[torch.Tensor, "writer sample"]:
    """Sums over the rows of each sample.

    Args:
        node: a point with these rows.
        batch: the batch.
        rows: one number per row and writer, `[... pos writer]`.
    """
    # a row of writers takes the place of the width, so the position axis stays where it is
    axis = 1 if rows.ndim == 3 else 0
    writers_of_samples = []
    for sample in range(batch.size):
        piece = piece_of(node, batch, sample, None, torch.Size(rows.shape))
        if piece.entries is None and piece.rows is not None:
            sample_rows = rows.index_select(axis, piece.rows.to(rows.device))
        else:
            sample_rows = rows if piece.entries is None else rows[piece.entries]
        writers_of_samples.append(sample_rows.reshape(-1, rows.shape[-1]).sum(0))
    return torch.stack(writers_of_samples, dim=-1)


def fitted(total: torch.Tensor, target: torch.Tensor, reader: Reader) -> torch.Tensor:
    """What is added to a stream, in the form in which a reader receives it.

    Raises:
        InputError: if it receives other rows.
    """
    if total.numel() != target.numel():
        raise InputError(
            f"{reader.name} receives {list(target.shape)} of a stream of {list(total.shape)} at {reader.at}: its rows are "
            "others, so that no edge into it can be patched. Begin at the language model: towers='language'."
        )
    return total.reshape(target.shape).to(target.device)


def dropped_rows(
    writing: Writing, values: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The rows of each branch that the model adds to its stream, for the branches of which it drops some.

    Cross-attending models add nothing at positions in front of the first picture, whatever a branch returns there.

    Args:
        writing: the writers.
        values: what they wrote.
        inputs: what readers received, by the name of their entrance.
    """
    rows: dict[str, torch.Tensor] = {}
    for stream in dict.fromkeys(reader.stream for reader in writing.graph.readers):
        places = {reader.reads: reader for reader in writing.graph.readers if reader.stream == stream}
        order = sorted(places)
        for before, after in pairwise(order):
            is_between = [w.stream == stream and before < w.joins <= after for w in writing.graph.writers]
            branches = {
                w.branch for w, lies_between in zip(writing.graph.writers, is_between, strict=True) if lies_between
            }
            old, new = (inputs[places[place].at] for place in (before, after))
            if len(branches) != 1 or "" in branches or old.shape != new.shape:
                continue
            new = new.to(old.device)
            still = (old == new).all(-1)
            total = writing.added(values, torch.tensor(is_between), stream) if still.any() else None
            if total is not None and total.shape == new.shape and (still & (total != 0).any(-1).to(still.device)).any():
                rows[branches.pop()] = ~still
    return rows


def require_sums(
    writing: Writing, values: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor], constants: bool
) -> None:
    """Check on a run that what each reader receives is the sum of its writers, so that edges mean what they say.

    Args:
        writing: the writers.
        values: what they wrote.
        inputs: what readers received, by the name of their entrance.
        constants: whether biases behind `W_O`, which no head writes, may be missing.

    Raises:
        InputError: if something else is added to the stream, or the heads' outputs pass through something before.
    """
    first = {reader.at: number for number, reader in reversed([*enumerate(writing.graph.readers)])}
    for entrance, number in first.items():
        reader, target = writing.graph.readers[number], inputs[entrance]
        total = writing.added(values, writing.graph.allowed[number], reader.stream)
        missing = target if total is None else target - fitted(total, target, reader)
        if constants:  # the same at every row
            missing = missing - missing.mean(tuple(range(missing.ndim - 1)), keepdim=True)
        share = float(missing.norm() / target.norm())
        if share > off_by_rounding(target.dtype):
            raise InputError(
                f"What {reader.name} reads ({entrance}) is not the sum of what its writers write: {share:.1%} of it comes from "
                f"elsewhere ({writing.model.family.name} adds something to the stream, or passes heads through a norm or gate). "
                + _instead(writing, reader)
            )


def _instead(writing: Writing, reader: Reader) -> str:
    """What to do where a reader's stream is no sum of writers."""
    if reader.part == "vision" and not reader.at.startswith("vision."):
        return "Begin at the language model: towers='language'."
    return "Try nodes='attention'." if writing.graph.nodes == "head" else "Use mm.patch or mm.patching.path_patch."
