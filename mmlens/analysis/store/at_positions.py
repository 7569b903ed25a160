"""The rules that keep the states of what is generated, and those of the prompt at some positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.store.rules import CollectedBatch, contrasted, picked
from mmlens.core.errors import InputError
from mmlens.core.rules import Rule as PositionRule
from mmlens.hooks.nodes import Selection
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.row_reader import RowReader
from mmlens.models.contrast.method import ContrastMethod
from mmlens.models.hooked import HookedMultimodal

#: Which of the generated steps are meant.
Generated = Literal["generated", "generated_mean"]


@dataclass(frozen=True)
class AtGenerated:
    """The states that predict what the model generates, up to its end token: each of them, or their mean.

    Attributes:
        which: every step, or the mean of all.
        max_new_tokens: of the generation.
        contrast: contrastive decoding of it; None for none.
    """

    which: Generated
    max_new_tokens: int
    contrast: ContrastMethod | None = None

    def __str__(self) -> str:
        what = "every generated token" if self.which == "generated" else "the mean over the generated tokens"
        return what + contrasted(self.contrast)

    def check(self, model: HookedMultimodal, nodes: Selection) -> None:
        """Nothing beyond what generation checks itself."""

    def take(
        self, model: HookedMultimodal, nodes: Selection, samples: Sequence[Sample], batch: MultimodalBatch
    ) -> CollectedBatch:
        """Generate, and keep the states of the tokens before the end token."""
        trace = model.trace_generation(batch, names=nodes, max_new_tokens=self.max_new_tokens, contrast=self.contrast)
        ends = [
            int(row[n - 1]) in model.stop_tokens for row, n in zip(trace.tokens, trace.lengths.tolist(), strict=True)
        ]
        lengths = [n - end for n, end in zip(trace.lengths.tolist(), ends, strict=True)]
        words: list[tuple[str, ...]] = [()] * len(samples)
        if self.which == "generated":
            rows = [(number, step) for number, n in enumerate(lengths) for step in range(n)]
            tokens = [int(trace.tokens[row]) for row in rows]
            return CollectedBatch(
                picked(trace, nodes, rows), lengths, [step for _, step in rows], tokens, trace.text, words
            )
        spoke = [number for number, n in enumerate(lengths) if n]
        means = {
            node.name: torch.stack([trace[node.name][number, : lengths[number]].float().mean(0) for number in spoke])
            if spoke
            else trace[node.name][:0, 0]
            for node in nodes
        }
        counts = [int(n > 0) for n in lengths]
        return CollectedBatch(means, counts, [-1] * len(spoke), [-1] * len(spoke), trace.text, words)


@dataclass(frozen=True)
class AtPositions:
    """The states of the prompt at some positions, from one forward pass.

    Attributes:
        rule: which positions.
    """

    rule: PositionRule

    def __str__(self) -> str:
        return f"positions {self.rule}"

    def check(self, model: HookedMultimodal, nodes: Selection) -> None:
        """Refuse rules that name something of each sample of one batch, where a dataset has many."""
        if getattr(self.rule, "per_sample", False):
            raise InputError(
                f"positions={self.rule!r} are of the samples of one batch; for a dataset give a rule that holds for all: "
                "'image', a word, indices."
            )

    def take(
        self, model: HookedMultimodal, nodes: Selection, samples: Sequence[Sample], batch: MultimodalBatch
    ) -> CollectedBatch:
        """Run once, and keep the rows."""
        with torch.no_grad():
            reader = RowReader(self.rule, batch, nodes, required=False)
            states: dict[str, torch.Tensor] = {}

            @reads_only
            def keep(activation: torch.Tensor, hook: Any) -> None:
                node = model.graph[hook.name]
                states[node.name] = reader.flat(node, activation.detach())

            with model.hooks([(nodes.names, keep)]):
                model(batch)
        first = min(nodes, key=lambda node: node.sequence != "language")
        counts = reader.counts[first.name]
        other = next((node for node in nodes if reader.counts[node.name] != counts), None)
        if other is not None:
            raise InputError(
                f"positions={self.rule!r} mean {counts} rows on the {first.sequence} sequence but {reader.counts[other.name]} on "
                f"the {other.sequence} sequence; collect points of the two in separate stores."
            )
        resolution = reader.resolved[first.name]
        index = torch.cat(resolution.rows)
        on_prompt = first.sequence == "language" and len(index) > 0
        tokens = batch["input_ids"].cpu()[index[:, 0], index[:, 1]] if on_prompt else torch.full((len(index),), -1)
        steps = torch.cat(resolution.numbers).tolist()
        words: list[tuple[str, ...]] = [()] * len(samples)
        return CollectedBatch(states, counts, steps, tokens.tolist(), [""] * len(samples), words)
