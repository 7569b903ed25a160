"""The rules that keep the states of what is generated, and those of the prompt at some positions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Int

from mmlens.analysis.samples import Sample
from mmlens.analysis.store.prompt_rows import sample_rows
from mmlens.analysis.store.rules import CollectedBatch, picked
from mmlens.core.errors import InputError
from mmlens.core.units import Positions
from mmlens.hooks.nodes import Node, Selection
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

#: Which of the generated steps are meant.
Generated = Literal["generated", "generated_mean"]


@dataclass(frozen=True)
class AtGenerated:
    """The states that predict what the model generates, up to its end token: each of them, or their mean.

    Attributes:
        which: every step, or the mean of all.
        max_new_tokens: of the generation.
    """

    which: Generated
    max_new_tokens: int

    def __str__(self) -> str:
        return "every generated token" if self.which == "generated" else "the mean over the generated tokens"

    def check(self, model: HookedMultimodal, nodes: Selection) -> None:
        """Nothing beyond what generation checks itself."""

    def take(
        self, model: HookedMultimodal, nodes: Selection, samples: Sequence[Sample], batch: MultimodalBatch
    ) -> CollectedBatch:
        """Generate, and keep the states of the tokens before the end token."""
        trace = model.trace_generation(batch, names=nodes, max_new_tokens=self.max_new_tokens)
        ended = [
            int(row[n - 1]) in model.stop_tokens for row, n in zip(trace.tokens, trace.lengths.tolist(), strict=True)
        ]
        lengths = [n - end for n, end in zip(trace.lengths.tolist(), ended, strict=True)]
        none: list[str | None] = [None] * len(samples)
        if self.which == "generated":
            rows = [(number, step) for number, n in enumerate(lengths) for step in range(n)]
            tokens = [int(trace.tokens[row]) for row in rows]
            return CollectedBatch(
                picked(trace, nodes, rows), lengths, [step for _, step in rows], tokens, trace.text, none
            )
        spoke = [number for number, n in enumerate(lengths) if n]
        means = {
            node.name: torch.stack([trace[node.name][number, : lengths[number]].float().mean(0) for number in spoke])
            if spoke
            else trace[node.name][:0, 0]
            for node in nodes
        }
        counts = [int(n > 0) for n in lengths]
        return CollectedBatch(means, counts, [-1] * len(spoke), [-1] * len(spoke), trace.text, none)


@dataclass(frozen=True)
class AtPositions:
    """The states of the prompt at some positions, from one forward pass.

    Attributes:
        positions: as in run methods; numbers count within a sample's own tokens, so that padding does not matter.
    """

    positions: Positions = field(repr=False)

    def __str__(self) -> str:
        said = self.positions.tolist() if isinstance(self.positions, torch.Tensor) else self.positions
        return f"positions {said}"

    def check(self, model: HookedMultimodal, nodes: Selection) -> None:
        """Refuse tensors that hold positions per sample, and words that are not known."""
        if isinstance(self.positions, torch.Tensor) and self.positions.ndim > 1:
            raise InputError(
                f"positions must be the same for all samples of a dataset, found a tensor {list(self.positions.shape)}; give "
                "a word ('image', 'text', 'last', 'all'), indices or a slice."
            )
        if isinstance(self.positions, str) and self.positions not in ("all", "image", "text", "last"):
            raise InputError(
                f"positions={self.positions!r} is unknown; of the prompt there are 'all', 'image', 'text' and 'last' "
                "(generate=False), of what is generated 'generated' and 'generated_mean'."
            )

    def take(
        self, model: HookedMultimodal, nodes: Selection, samples: Sequence[Sample], batch: MultimodalBatch
    ) -> CollectedBatch:
        """Run once, and keep the rows."""
        states: dict[str, torch.Tensor] = {}
        rows_of: dict[str, list[Int[torch.Tensor, "row 2"]]] = {}
        by_name: dict[str, Node] = {node.name: node for node in nodes}
        for node in nodes:
            # its length is known, so what cannot be is refused before the run
            if node.sequence == "language" and node.sequence not in rows_of:
                rows_of[node.sequence] = sample_rows(batch.layout, self.positions, node, batch["input_ids"].shape)

        @reads_only
        def keep(activation: torch.Tensor, hook: Any) -> None:
            node = by_name[hook.name]
            if node.sequence not in rows_of:
                rows_of[node.sequence] = sample_rows(batch.layout, self.positions, node, activation.shape)
            index = torch.cat(rows_of[node.sequence]).to(activation.device)
            held = activation.detach()
            if "batch" not in node.axes.split():
                states[node.name] = held[index[:, 1]]
            else:
                states[node.name] = held[index[:, 0], index[:, 1]]

        with torch.no_grad(), model.hooks([(nodes.names, keep)]):
            model(batch)
        first, *others = sorted(rows_of.items(), key=lambda rows: rows[0] != "language")
        counts = [len(rows) for rows in first[1]]
        for sequence, rows in others:
            if [len(some) for some in rows] != counts:
                raise InputError(
                    f"positions={self.positions!r} mean {counts} rows on the {first[0]} sequence but {[len(r) for r in rows]} on "
                    f"the {sequence} sequence; collect points of the two in separate stores."
                )
        index = torch.cat(first[1])
        on_prompt = first[0] == "language" and index.numel()
        tokens = batch["input_ids"].cpu()[index[:, 0], index[:, 1]] if on_prompt else torch.full((len(index),), -1)
        steps = [position for rows in first[1] for position in self._within(batch, first[0], rows)]
        none: list[str | None] = [None] * len(samples)
        return CollectedBatch(states, counts, steps, tokens.tolist(), [""] * len(samples), none)

    def _within(self, batch: MultimodalBatch, sequence: str, rows: torch.Tensor) -> list[int]:
        """Rows counted within the sample's own tokens, padding left out."""
        if sequence != "language" or not len(rows):
            return rows[:, 1].tolist()
        before = (~batch.layout.is_token).int().cumsum(1)
        return (rows[:, 1] - before[rows[:, 0], rows[:, 1]]).tolist()
