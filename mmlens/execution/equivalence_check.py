"""Evidence that a short way gives what whole forward passes give, on this model and this batch.

Whether a family's layers may be served from a clean run is not only declared but tried: noise is put into the stream of every
sample, in the middle of the picture and near the end, and both ways must agree to rounding while the noise itself shows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from mmlens.execution.cells import Cell, Change
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

#: Roundings by which two ways may differ, in units of the type's resolution at the size of the logits.
_ROUNDINGS = 120
#: Share of the noise's own effect that a difference must stay below.
_SHARE = 0.05

#: Logits `[cell vocab]` of cells of different samples.
Way = Callable[[Sequence[Cell]], torch.Tensor]


@dataclass(frozen=True)
class Evidence:
    """What a trial found.

    Attributes:
        difference: largest difference of a logit between both ways.
        effect: largest change of a logit by the noise.
        allowed: largest difference that rounding explains.
    """

    difference: float
    effect: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the way can be taken."""
        return self.difference <= self.allowed and (self.difference == 0 or self.difference < _SHARE * self.effect)

    def __str__(self) -> str:
        return (
            f"differs by {self.difference:.2g} from whole forward passes, where the trial's noise moves logits by "
            f"{self.effect:.2g}"
        )


def language_trials(model: HookedMultimodal, batch: MultimodalBatch) -> list[list[Cell]]:
    """Noise in front of the first block in the middle of the picture, and in front of a middle one near the end."""
    # from the graph: some configurations have no one number of heads, which the part's view asks for
    depth = 1 + max(node.layer for node in model.graph.select("blocks.*.hook_resid_pre") if node.layer is not None)
    names = [(f"blocks.{layer}.hook_resid_pre", spot) for layer, spot in ((0, 0.5), (depth // 2, 0.9))]
    names += [("encoder.hook_embed", 0.5)] if "encoder.hook_embed" in model.graph else []
    trials = []
    for name, spot in names:
        cells = []
        for sample in range(batch.size):
            tokens = batch.layout.is_token[sample].nonzero().flatten()
            row = tokens[min(int(spot * len(tokens)), len(tokens) - 1)]
            rows = row[None] if model.graph[name].sequence == "language" else None
            cells.append(Cell(sample, (Change(name, rows, _Noise(len(names))),)))
        trials.append(cells)
    return trials


def front_trials(
    model: HookedMultimodal, batch: MultimodalBatch, serves: Callable[[str], bool] = lambda name: True
) -> list[list[Cell]]:
    """Noise in a vision block in the middle of those that are read, or as near to it as a way serves.

    Args:
        model: the hooked model.
        batch: the batch.
        serves: whether a way takes changes at a point.
    """
    alive = [node.name for node in model.graph.select("vision.**.hook_resid_post") if node.dead is None]
    names = [name for name in [*alive[len(alive) // 2 :], "projector.hook_out"] if serves(name)]
    return [[Cell(sample, (Change(names[0], None, _Noise(1)),)) for sample in range(batch.size)]] if names else []


@dataclass(frozen=True)
class _Noise:
    """Adds noise of the activation's own spread."""

    seed: int

    def __call__(self, activation: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(activation.shape, generator=generator).to(activation)
        return activation + noise * activation.float().std().to(activation)


def evidence(trials: Sequence[Sequence[Cell]], way: Way, reference: Way, clean: torch.Tensor) -> Evidence:
    """Run trials both ways.

    Args:
        trials: cells of different samples, that share a forward pass.
        way: the short way.
        reference: whole forward passes.
        clean: logits of the unchanged run, `[sample vocab]`.
    """
    difference = effect = scale = 0.0
    for cells in trials:
        fast, expected = way(cells).double(), reference(cells).double()
        before = clean[[cell.sample for cell in cells]].to(expected)
        gap = (fast - expected).abs().max()
        difference = float("inf") if gap.isnan() else max(difference, float(gap))
        effect = max(effect, float((expected - before).abs().max()))
        scale = max(scale, float(expected.abs().max()))
    resolution = torch.finfo(clean.dtype).eps
    return Evidence(difference, effect, _ROUNDINGS * resolution * max(scale, 1.0))


@dataclass(frozen=True)
class RecomputedRows:
    """Rows that were computed again, and as they were recorded.

    Attributes:
        again, recorded: `[... width]`.
        before: what the recorded rows were made of by adding to it, of the same shape; None where they were not.
    """

    again: torch.Tensor
    recorded: torch.Tensor
    before: torch.Tensor | None = None

    def evidence(self) -> Evidence:
        """That of the row that agrees least."""
        again, before = self.again.to(self.recorded.device).float(), self.recorded.float()
        branch = before if self.before is None else before - self.before.to(before)
        resolution = torch.finfo(self.recorded.dtype).eps
        # a sum is rounded at its own size, which may be far above what was added
        gap = ((again - before).abs() - 2 * resolution * before.abs()).clamp(min=0).amax(-1).flatten()
        gap = gap.nan_to_num(nan=torch.inf)
        effect, bound = branch.abs().amax(-1).flatten(), _ROUNDINGS * resolution * before.abs().amax(-1).flatten()
        worst = int((gap / torch.minimum(bound, _SHARE * effect).clamp(min=torch.finfo(torch.float32).tiny)).argmax())
        return Evidence(float(gap[worst]), float(effect[worst]), float(bound[worst]))


def weakest_evidence(pairs: Iterable[RecomputedRows]) -> Evidence:
    """The first evidence that does not hold, or else that of the largest difference."""
    largest = Evidence(0.0, 0.0, 0.0)
    for pair in pairs:
        evidence = pair.evidence()
        if not evidence.holds:
            return evidence
        largest = max(largest, evidence, key=lambda each: each.difference)
    return largest
