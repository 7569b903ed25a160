"""Models whose weights are split over processes (transformers' tensor parallelism): which tensors are, and weights as a whole."""

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmlens.architectures.adapter_layers import base_layer
from mmlens.architectures.modules import in_features, out_features
from mmlens.core.errors import UnsupportedModelError
from mmlens.hooks.split import Split

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

#: Styles of linears whose output is split, and of those whose input is.
_RETURNED, _RECEIVED = ("colwise", "packed_colwise"), ("rowwise",)
#: Styles of modules that receive and return whole tensors.
_WHOLE = (
    "all_reduce",
    "colwise_gather_output",
    "colwise_rep",
    "embedding_colwise",
    "embedding_rowwise",
    "local_params",
    "mla_kv_a_proj",
    "moe_tp_experts",
    "replicate",
    "replicated_with_grad_allreduce",  # norms of single heads, which no hook point reads
    "rowwise_rep",
    "rowwise_split_input",
)


def is_split(model: nn.Module) -> bool:
    """Whether a model's weights are split over processes."""
    return (getattr(model, "_tp_size", None) or 1) > 1


@dataclass(frozen=True)
class SplitModules:
    """The modules of a model whose tensors are split.

    Attributes:
        received, returned: how, by the module's id.
    """

    received: dict[int, Split] = field(default_factory=dict)
    returned: dict[int, Split] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> "SplitModules":
        """Those of a model by its plan; none where it is whole.

        Raises:
            UnsupportedModelError: for a style that is not known; says which module has it, and what to do.
        """
        result = cls()
        if not is_split(model):
            return result
        plan: dict[str, str] = getattr(model, "_tp_plan", None) or {}
        for name, module in model.named_modules():
            style = plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))  # plans have stars for the numbers of layers
            if style in _RETURNED:
                result.returned[id(module)] = Split(partial(_mesh, module, name), out_features(module))
            elif style in _RECEIVED:
                result.received[id(module)] = Split(partial(_mesh, module, name), in_features(module))
            elif style is not None and style not in _WHOLE:
                plans = ", ".join(sorted((*_RETURNED, *_RECEIVED, *_WHOLE)))
                raise UnsupportedModelError(
                    f"{name} of {type(model).__name__} is split over processes in the style {style!r}, of whose tensors it is "
                    f"not known how they become whole. Known are {plans}. Load the model with a plan that gives the module one "
                    "of these, from_pretrained(..., distributed_config=DistributedConfig(tp_plan={...})), or without tensor "
                    "parallelism."
                )
        return result


def _mesh(module: nn.Module, name: str) -> "DeviceMesh":
    """The processes that hold the parts of a module's weight.

    Raises:
        UnsupportedModelError: if its weight is no part of one.
    """
    weight: Any = base_layer(module).weight
    if not hasattr(weight, "device_mesh"):
        raise UnsupportedModelError(
            f"{name} is to be split over processes by the model's plan, but its weight is a {type(weight).__name__}, of which it "
            "is not known which processes hold the rest; load the model without quantisation, or without tensor parallelism."
        )
    return weight.device_mesh


def is_part(weight: object) -> bool:
    """Whether a tensor is one process's part of a weight."""
    return hasattr(weight, "device_mesh") and hasattr(weight, "full_tensor")


def whole(weight: Any) -> torch.Tensor:
    """A weight as a whole, gathered from all processes if it is split; all of them must ask for it."""
    return weight.full_tensor() if is_part(weight) else weight


def own_part(weight: Any) -> torch.Tensor:
    """The tensor that this process holds of a weight: all of it, unless it is split."""
    return weight.to_local() if is_part(weight) else weight


@torch.no_grad()
def put_columns(weight: Any, columns: torch.Tensor, values: torch.Tensor) -> None:
    """Write columns of a weight `[out in]`, each process its own part.

    Args:
        weight: the weight, which is written to.
        columns: which.
        values: `[out column]`.
    """
    if not is_part(weight):
        weight.index_copy_(1, columns, values)
        return
    from torch.distributed.tensor import distribute_tensor

    full = weight.full_tensor().index_copy_(1, columns, values)
    part = distribute_tensor(full, weight.device_mesh, weight.placements, src_data_rank=None)
    own_part(weight).copy_(own_part(part))
