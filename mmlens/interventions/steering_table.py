"""Steering vectors that differ: one per sample of a batch, or one per row of a tower."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float

from mmlens.core.axes import batch_axis
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Several
from mmlens.core.saved import Saved
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.point_rows import GROWING, PointRows
from mmlens.interventions.positioned import once_per_prompt, per_entry
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.run import Run

#: Whose the vectors of a table are: samples of a batch, or rows of each picture in a tower.
TableAxis: TypeAlias = Literal["sample", "row"]


@checked
@dataclass(frozen=True)
class SteeringTable(Saved):
    """Directions to add at a point, one per sample of the batch that runs, or one per row of each picture in a tower.

    Attributes:
        vectors: `[entry d_model]`, in the unit of the stream; a row of zeros leaves its sample or row alone.
        at: the hook point whose states they were made from.
        by: whose they are: `"sample"`, in the order of the batch, or `"row"`, in that of a tower's rows (its class row first).
        keys: per sample, the hash of its pixels and prompt (`mm.Sample.key`), by which `of` finds its row.
        provenance: how they were made.

    Example:
        >>> table = SteeringTable(torch.eye(192)[:2], "blocks.4.hook_resid_post", keys=("a", "b"))
        >>> table.of(["b"]).vectors.argmax().item(), table.mean.norm < 1
        (1, True)
    """

    vectors: Float[torch.Tensor, "entry d_model"]
    at: str
    by: TableAxis = "sample"
    keys: tuple[str, ...] = field(default=(), repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        vectors = self.vectors.detach().float().cpu()
        if vectors.ndim != 2 or not vectors.any() or not torch.isfinite(vectors).all():
            raise InputError(
                f"A steering table must be finite vectors [entry d_model], not all zero; found {list(vectors.shape)}."
            )
        if self.keys and (self.by != "sample" or len(self.keys) != len(vectors)):
            raise InputError(
                f"There are {len(self.keys)} keys for {len(vectors)} vectors by {self.by}; give one per sample."
            )
        object.__setattr__(self, "vectors", vectors)

    def __repr__(self) -> str:
        return f"SteeringTable({self.at}, {list(self.vectors.shape)} by {self.by})"

    @property
    def width(self) -> int:
        """How many entries each vector has."""
        return self.vectors.shape[1]

    @property
    def mean(self) -> SteeringVector:
        """Their mean: the baseline that a vector per sample has to beat."""
        return SteeringVector(self.vectors.mean(0), self.at, {**self.provenance, "method": f"mean over {self.by}s"})

    @checked
    def of(self, keys: Several[str]) -> "SteeringTable":
        """The vectors of some samples, in their order: those of the batch that is to run.

        Args:
            keys: of the samples: `[sample.key for sample in samples]`.

        Raises:
            InputError: for a sample that has none.
        """
        rows = {key: row for row, key in enumerate(self.keys)}
        missing = [key for key in keys if key not in rows]
        if missing:
            raise InputError(
                f"{self!r} has no vector for {len(missing)} of the samples ({missing[0]}, ...); make theirs too."
            )
        return replace(self, vectors=self.vectors[[rows[key] for key in keys]], keys=tuple(keys))

    def check(self, node: Node) -> None:
        """Refuse vectors by row where rows are tokens, of which every prompt has others.

        Raises:
            InputError: if so.
        """
        if self.by == "row" and node.sequence in GROWING:
            raise InputError(
                f"{self!r} has a vector per row of a picture, and {node.name} holds tokens, of which prompts have different "
                "numbers; steer in a tower, or pass one SteeringVector with positions=."
            )

    def require_samples(self, batch: MultimodalBatch) -> None:
        """Refuse a batch of another size.

        Raises:
            InputError: if it is one.
        """
        if self.by == "sample" and batch.size != len(self.vectors):
            raise InputError(
                f"{self!r} has vectors for {len(self.vectors)} samples, and the batch has {batch.size}; choose those of the "
                "batch: table.of([sample.key for sample in samples])."
            )

    def directions(self, run: Run, node: Node, activation: torch.Tensor) -> torch.Tensor:
        """The vectors where they act, broadcastable to an activation.

        Raises:
            InputError: if the point's rows are not those of the table.
        """
        if node.sequence in GROWING:
            return per_entry(self.vectors, len(activation), node, run)[:, None].to(activation.device)
        entry_rows = run.remember((id(self), node.name), lambda: self._entry_rows(run, node, activation))
        vectors = self.vectors[entry_rows]
        vectors = vectors[0] if batch_axis(node.axes) is None else per_entry(vectors, len(activation), node, run)
        return vectors.to(activation.device)

    def _entry_rows(self, run: Run, node: Node, activation: torch.Tensor) -> torch.Tensor:
        """Which vector each row of a tower's point has, `[entry row]`."""
        point = PointRows.of(run.batch, node, once_per_prompt(activation.shape, node, run))
        result = torch.zeros(point.entries or 1, point.length or 0, dtype=torch.long)
        for sample, pairs in enumerate(point.known):
            numbers = torch.full((len(pairs),), sample)
            if self.by == "row":
                starts = (
                    [len(pairs)]
                    if batch_axis(node.axes) is None
                    else pairs[:, 0].unique_consecutive(return_counts=True)[1]
                )
                numbers = torch.cat([torch.arange(int(count)) for count in starts]) if len(pairs) else numbers
                self._require_rows(node, starts)
                numbers = numbers % len(self.vectors)
            result[pairs[:, 0], pairs[:, 1]] = numbers
        return result

    def _require_rows(self, node: Node, counts: Iterable[Any]) -> None:
        wrong: Sequence[int] = [int(count) for count in counts if int(count) % len(self.vectors)]
        if wrong:
            raise InputError(
                f"{self!r} has {len(self.vectors)} rows, and a picture has {wrong[0]} rows at {node.name}; make the table from "
                "pictures of the same size."
            )
