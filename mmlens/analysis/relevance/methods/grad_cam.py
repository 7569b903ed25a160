"""Grad-CAM: coordinates of a tower's rows, weighted by their mean gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.attention.shares import Looking
from mmlens.analysis.relevance.method import RELEVANCE_METHODS, RelevanceMethod
from mmlens.core.errors import InputError
from mmlens.hooks.nodes import Node
from mmlens.models.hooked import HookedMultimodal


@RELEVANCE_METHODS.register("grad_cam")
@dataclass(frozen=True)
class GradCam(RelevanceMethod):
    """Each row's coordinates, weighted by the mean gradient of the answer's logit over the rows.

        map_j = relu( sum_d w_d x_jd ),    w_d = mean over rows of dy/dx_jd,    x = vision.blocks.{i}.hook_resid_post

    Of several layers the last that the answer's logit depends on is taken: some towers are read before their end.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017
    (https://arxiv.org/abs/1610.02391), equations 1 and 2. *Departs:* rows of a transformer stand in the place of a
    convolution's cells; a class row has no part in the mean.
    *Limits:* one weight per coordinate for all rows, so that what speaks for the answer here and against it there cancels.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    between_rows: ClassVar[bool] = False

    def points(self, model: HookedMultimodal, part: Looking, layers: Sequence[int] | None) -> list[Node]:
        found = {
            node.layer: node
            for node in model.graph
            if (node.part, node.kind, node.stack) == (part, "resid_post", "blocks")
        }
        numbers = list(found) if layers is None else list(layers)
        missing = [layer for layer in numbers if layer not in found]
        if missing or not numbers:
            raise InputError(
                f"layers={numbers} must name some of the {part} layers {', '.join(map(str, found)) or 'none'}."
            )
        return [found[layer] for layer in numbers]

    def relevance(
        self, values: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
    ) -> Float[torch.Tensor, "*entry pos"]:
        name = next((n for n in reversed(list(values)) if gradients[n].any()), list(values)[-1])
        weights = gradients[name].float().mean(-2, keepdim=True)
        return (weights * values[name].float()).sum(-1).clamp(min=0)
