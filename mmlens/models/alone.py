"""The law that a sample alone is the truth, tried on a model: what is read of a sample does not depend on what it runs with.

Two samples of different length are read alone, in a batch padded on either side and in another order, with tokens behind the
prompt, and while such tokens are written with and without a cache. Every reading is compared with that of the sample alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from mmlens.hooks.cache import ActivationCache
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.generation import GenerationTrace, trace_generation
from mmlens.models.protocol import HookedModel
from mmlens.models.rounding import ROUNDING_FACTOR, rounding

#: How a sample is read: in a batch, or step by step as it is written.
Variant = Literal["left", "right", "shuffled", "extended", "cached", "uncached"]

#: Tokens that are written behind the prompts.
_STEPS = 3


@dataclass(frozen=True)
class AloneCheck:
    """How far what is read of a sample depends on what it runs with.

    Attributes:
        differences: by variant, the largest difference from the sample alone, of logits and of states in the language model,
            in units of the model's own rounding.
        points: by variant, where that is.
        rounding: the largest difference of a logit that rounding makes on these samples.
        refused: variants that the family refuses, with the reason.
    """

    differences: Mapping[Variant, float]
    points: Mapping[Variant, str]
    rounding: float
    refused: Mapping[Variant, str]

    @property
    def failed(self) -> list[Variant]:
        """The variants in which a sample is not read as it is alone."""
        return [variant for variant, difference in self.differences.items() if not difference <= ROUNDING_FACTOR]

    def __repr__(self) -> str:
        cells = [f"{variant} {difference:.2g}" for variant, difference in self.differences.items()]
        cells += [f"{variant} refused" for variant in self.refused]
        return f"difference from a sample alone, in roundings of {self.rounding:.1e}: {', '.join(cells)}"


@torch.no_grad()
def check_alone(model: HookedModel, prepare: Callable[..., MultimodalBatch], size: int = 2) -> AloneCheck:
    """Try the law on a model.

    Args:
        model: the hooked model.
        prepare: makes the batch of samples whose numbers it is given, with `padding_side=`.
        size: how many samples there are; they should differ in length.
    """
    return _Readings(model, prepare, size).check()


class _Readings:
    """What is read of samples alone, and in other ways.

    Args:
        model, prepare, size: as for `check_alone`.
    """

    def __init__(self, model: HookedModel, prepare: Callable[..., MultimodalBatch], size: int):
        self.model, self.prepare, self.samples = model, prepare, list(range(size))
        self.graph = model.graph
        self.decodes = self.graph["hook_logits"].sequence == "decoder"
        self.names = [
            node.name
            for node in self.graph
            if node.sequence in ("language", "decoder") and not node.on_request and node.dead is None
        ]
        self.traced = self.graph.select("blocks.*.hook_resid_post").names
        self.differences: dict[Variant, float] = {}
        self.points: dict[Variant, str] = {}
        self.refused: dict[Variant, str] = {}

    def check(self) -> AloneCheck:
        """Read in all ways and compare."""
        fault = self.model.family.left_padding
        pair = self.prepare(self.samples)
        alone = [self.prepare([sample]) for sample in self.samples]
        can_follow = self.decodes or bool(pair.layout.is_token[:, -1].all())
        for variant in ("cached", "uncached"):
            if not can_follow:
                self.refused[variant] = self.refused["extended"] = fault or "padded on the right"
        traces = [self._trace(batch, use_cache=True) for batch in ([pair] if can_follow else alone)]
        steps = min(trace.tokens.shape[1] for trace in traces)
        tokens = torch.cat([trace.tokens[:, :steps] for trace in traces])
        self.unit = max(rounding(self.model, batch) for batch in alone)
        self.alone = [
            self._read(self.model.extend(batch, tokens[sample : sample + 1])) for sample, batch in enumerate(alone)
        ]
        self.scale = max(float(logits.abs().max()) for _, logits, _ in self.alone)
        if can_follow:
            self._compare_steps("cached", traces[0], tokens, alone)
            self._compare_steps("uncached", self._trace(pair, use_cache=False), tokens, alone)
            self._compare("extended", self._read(self.model.extend(pair, tokens)), self.samples)
        for side in ("left", "right"):
            if side == "left" and fault is not None:
                self.refused["left"] = fault
                continue
            self._compare(side, self._read(self.prepare(self.samples, padding_side=side)), self.samples)
        self._compare("shuffled", self._read(self.prepare(self.samples[::-1])), self.samples[::-1])
        return AloneCheck(self.differences, self.points, self.unit, self.refused)

    def _trace(self, batch: MultimodalBatch, *, use_cache: bool) -> GenerationTrace:
        return trace_generation(self.model, batch, names=self.traced, max_new_tokens=_STEPS, use_cache=use_cache)

    def _read(self, batch: MultimodalBatch) -> tuple[MultimodalBatch, torch.Tensor, ActivationCache]:
        logits, cache = self.model.run_with_cache(batch, names=self.names)
        return batch, logits, cache

    def _compare(
        self, variant: Variant, reading: tuple[MultimodalBatch, torch.Tensor, ActivationCache], samples: list[int]
    ) -> None:
        """Compare what was read in a batch, position by position of each sample."""
        batch, _, cache = reading
        for row, sample in enumerate(samples):
            is_token = batch.layout.is_token[row]
            for name, states in cache.items():
                node = self.graph[name]
                rows = states[row].movedim(node.position_axis - 1, 0)
                expected = self.alone[sample][2][name][0].movedim(node.position_axis - 1, 0)
                rows = rows[is_token.to(rows.device)] if node.sequence == "language" else rows
                self._note(variant, name, rows, expected[: len(rows)])

    def _compare_steps(
        self, variant: Variant, trace: GenerationTrace, tokens: torch.Tensor, alone: list[MultimodalBatch]
    ) -> None:
        """Compare what was read as tokens were written, as long as they are the same ones."""
        for sample, batch in enumerate(alone):
            first = batch["decoder_input_ids" if self.decodes else "input_ids"].shape[1] - 1
            length = min(trace.tokens.shape[1], tokens.shape[1])
            prefix = (trace.tokens[sample, :length] == tokens[sample, :length]).long().cumprod(0).sum()
            steps = min(int(prefix) + 1, int(trace.lengths[sample]), length)
            _, logits, cache = self.alone[sample]
            rows = slice(first, first + steps)
            self._note(variant, "hook_logits", trace.logits[sample, :steps], logits[0, rows])
            for name in self.traced:
                self._note(variant, name, trace[name][sample, :steps], cache[name][0, rows])

    def _note(self, variant: Variant, name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
        """Keep a difference if it is the largest of its variant, in units of rounding at the size of what is compared."""
        if not expected.numel():
            return
        size = max(float(expected.abs().max()), self.scale)
        gap = (found.to(expected) - expected).abs().max()
        difference = float("inf") if gap.isnan() else float(gap) / size / (self.unit / self.scale)
        if difference >= self.differences.get(variant, 0.0):
            self.differences[variant], self.points[variant] = difference, name
