"""Relevancy: attention weighted by its gradient, through all layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.relevance.method import RELEVANCE_METHODS, RelevanceMethod, require_square


@RELEVANCE_METHODS.register("relevancy")
@dataclass(frozen=True)
class Relevancy(RelevanceMethod):
    """Attention weighted by what the answer's logit gains by it, multiplied up through the layers.

        R = I,    for each layer:  Abar = mean over heads of relu(dy/dA * A),    R <- R + Abar R

    Source: Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers", ICCV 2021 (https://arxiv.org/abs/2103.15679), equations 1 to 6;
    github.com/hila-chefer/Transformer-MM-Explainability. *Departs:* self-attention alone, in which image tokens stand among the
    text; the published code falls back to another method (`use_lrp=True`) unless told otherwise.
    *Limits:* what MLPs and values do is left out; shuffled controls say what a map is worth (`mm.lenses.score_maps`).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def relevance(
        self, values: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
    ) -> Float[torch.Tensor, "*entry query key"]:
        result: torch.Tensor | None = None
        for name, pattern in values.items():
            require_square(pattern)
            weights = (gradients[name] * pattern).float().clamp(min=0).mean(-3)
            if result is None:
                result = torch.eye(pattern.shape[-1], device=pattern.device).expand_as(weights)
            result = result + weights @ result
        return result if result is not None else torch.zeros(0)
