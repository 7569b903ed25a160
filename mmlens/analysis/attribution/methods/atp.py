"""Attribution patching."""

from dataclasses import dataclass
from typing import ClassVar

from mmlens.analysis.attribution.effects import EntryEffects, KeyEffects, PointEffects
from mmlens.analysis.attribution.gradients import gradients_at
from mmlens.analysis.attribution.method import ATTRIBUTION_METHODS, AttributionMethod, Estimate, PatchedRun
from mmlens.analysis.attribution.softmax import PatternEffect, inner_points, patched_scores


@ATTRIBUTION_METHODS.register("atp")
@dataclass(frozen=True)
class AtP(AttributionMethod):
    """Attribution patching: the difference of the two runs' activations times the gradient of the patched run.

        effect ~ sum over rows of (a' - a) . d metric / d a

    Two forward passes and one backward pass for all cells.

    Attributes:
        qk_fix: patches of queries and keys go through the softmax exactly, for one more forward pass each.

    Source: Nanda, "Attribution Patching: Activation Patching At Industrial Scale", 2023
    (https://www.neelnanda.io/mechanistic-interpretability/attribution-patching); Kramár et al., "AtP*", 2024
    (https://arxiv.org/abs/2403.00745), equations 3 and 4, section 3.1 (`qk_fix`).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    qk_fix: bool = True

    def estimate(self, run: PatchedRun, *, progress: bool) -> Estimate:
        endings = [f".hook_{kind}" for letter in "qk" for kind in (letter, f"rot_{letter}", f"{letter}_normed")]
        by_suffix = {
            suffix: [name for name in run.source if name.endswith(suffix)] for suffix in endings if self.qk_fix
        }
        inner = [name for points in by_suffix.values() for point in points for name in inner_points(point)]
        names = list(dict.fromkeys([*run.source, *inner]))
        activations, gradients, values = gradients_at(run.model, run.batch, names, run.reading)
        effects: dict[str, PointEffects] = {
            name: EntryEffects((source - activations[name]) * gradients[name]) for name, source in run.source.items()
        }
        for suffix, points in by_suffix.items():
            scores = patched_scores(run.model, run.batch, points, run.source, activations) if points else {}
            for name, patched in scores.items():
                before, after = inner_points(name)
                pattern = PatternEffect(activations[before], patched, activations[after], gradients[after])
                keys = "k" in suffix.removeprefix(".hook_").split("_")
                effects[name] = KeyEffects(pattern, run.source[name]) if keys else EntryEffects(pattern.of_queries())
        return Estimate(values, effects)
