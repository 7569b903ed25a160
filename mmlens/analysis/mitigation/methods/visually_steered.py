"""What a picture brings to a prompt, given to every state."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch

from mmlens.analysis.mitigation.method import MITIGATION_METHODS, Force, MitigationMethod
from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.steering.per_sample import unseen, visual_vectors
from mmlens.core.errors import InputError
from mmlens.core.kinds import CountOrZero
from mmlens.core.rules import Positions
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.steering import Steer, SteeringScale
from mmlens.interventions.steering_table import SteeringTable
from mmlens.models.hooked import HookedMultimodal

#: The kinds of point of a block that are as wide as its stream.
Written: TypeAlias = Literal["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"]


@MITIGATION_METHODS.register("visually_steered")
@dataclass(frozen=True)
class VisuallySteered(MitigationMethod):
    """States steered along what the picture brings to the last one, in all layers, sample by sample (VISTA).

    Attributes:
        alpha: strength, in shares of a state's length; the paper has 0.17 for captions, 0.01 for questions.
        first: the first layer.
        point: where it is written, and measured: a kind of point of every block.
        scale: see `mm.Steer`.
        positions: which states.

    Source: Li et al., "The Hidden Life of Tokens: Reducing Hallucination of Large Vision-Language Models via Visual Information
    Steering", ICML 2025 (https://arxiv.org/abs/2502.03628), section 4.1. *Departs:* measured where it is written, in the residual
    stream; the published code measures it there and writes it to the MLP's output (`point="hook_mlp_out"` measures both there).
    *Limits:* it needs a prompt that the model reads without its picture.
    """

    alpha: float = 0.17
    first: CountOrZero = 0
    point: Written = "hook_resid_post"
    scale: SteeringScale = "adaptive"
    positions: Positions = field(default="all", hash=False)

    def force(self, model: HookedMultimodal, samples: Sequence[Sample], batch: MultimodalBatch) -> Force:
        names = self._points(model)
        tables = visual_vectors(model, list(samples), at=names, batch_size=len(samples), progress=False)
        return self._steered(tables.values())

    def _points(self, model: HookedMultimodal) -> list[str]:
        if self.first >= model.cfg.n_layers:
            raise InputError(f"first={self.first} leaves none of the model's {model.cfg.n_layers} layers to steer.")
        return [f"blocks.{layer}.{self.point}" for layer in range(self.first, model.cfg.n_layers)]

    def _steered(self, tables: Iterable[SteeringTable]) -> Force:
        return Force(tuple(Steer(t, self.alpha, scale=self.scale, positions=self.positions) for t in tables))

    def rehearsal(self, model: HookedMultimodal, samples: Sequence[Sample], batch: MultimodalBatch) -> Force:
        unseen(model, batch)
        ones = torch.ones(batch.size, model.cfg.d_model)
        keys = tuple(sample.key for sample in samples)
        return self._steered(SteeringTable(ones, name, keys=keys) for name in self._points(model))
