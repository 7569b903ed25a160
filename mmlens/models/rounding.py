"""How far rounding takes the logits of a model: what computing the same in another order changes, measured on the model at hand.

Absolute bounds fit one size of logits, one processor and one depth; these follow all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mmlens.declarations.structure import Config
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.dual_encoder import run_forward
from mmlens.models.forward_inputs import completed_inputs
from mmlens.models.protocol import HookedModel

#: Roundings of the largest logit that sums in another order make at least, in units of the type's resolution.
_LEAST = 8
#: How many times the measured rounding two ways of computing the same may differ.
ROUNDING_FACTOR = 6


def resolution_of(values: torch.Tensor) -> float:
    """The step between numbers of a tensor's type at the size of its largest one; 0 for an empty tensor."""
    return float(values.abs().max()) * torch.finfo(values.dtype).eps if values.numel() else 0.0


@torch.no_grad()
def rounding(model: HookedModel, batch: MultimodalBatch) -> float:
    """The largest difference that rounding makes of a logit, from the model and batch at hand.

    It is the difference between Hugging Face's own two ways to compute attention, fused and step by step, and at least that of
    a few sums in another order.

    Args:
        model: the hooked model; nothing is hooked meanwhile.
        batch: what to run on.
    """
    batch = batch.to(model.device)
    with completed_inputs(model, batch.inputs, written=batch.written):
        reference = _logits(model, batch)
        try:
            with _stepwise_attention(model.base):
                stepwise = _logits(model, batch)
        except (RuntimeError, TypeError, ValueError, AttributeError):
            stepwise = reference  # some classes of transformers run with fused attention alone
    real = torch.ones(reference.shape[:2], dtype=torch.bool, device=reference.device)
    if model.graph["hook_logits"].sequence == "language":
        real = batch.layout.is_token.to(reference.device)
    return max(float((reference - stepwise)[real].abs().max()), _LEAST * resolution_of(reference[real]))


def _logits(model: HookedModel, batch: MultimodalBatch) -> torch.Tensor:
    return run_forward(model.family, model.hf_model, batch.inputs)


@contextmanager
def _stepwise_attention(base: nn.Module) -> Iterator[None]:
    """Have the model compute attention step by step inside the `with`, where it does not do so anyway."""
    configs: dict[int, Config] = {
        id(module.config): module.config for module in base.modules() if hasattr(module, "config")
    }
    names = [(config, getattr(config, "_attn_implementation_internal", None)) for config in configs.values()]
    towers = [(config, name) for config, name in names if name not in (None, "eager")]
    try:
        for config, _ in towers:
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for config, name in towers:
            config._attn_implementation_internal = name
