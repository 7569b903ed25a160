"""The weights of a branch under TransformerLens's names: views of the real parameters."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import nn

from mmlens.architectures.adapter_layers import acting_layer, adapters_add, base_layer
from mmlens.architectures.modules import find_module, in_features, out_features, submodule
from mmlens.architectures.quantised import by_unit_vectors, dequantised, is_quantised, quantised_codes
from mmlens.architectures.tensor_parallel import whole
from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.declarations.structure import Attention, Mlp


def plain_weight(linear: nn.Module, purpose: str) -> torch.Tensor:
    """A linear's own weight `[out in]`, the real parameter, which can be written to; under an adapter the base layer's.

    That of a convolution of one cell is seen as a linear's, which it is to every cell.

    Args:
        linear: the module.
        purpose: what it is, for the message.

    Raises:
        UnsupportedModelError: for quantised or offloaded weights.
    """
    layer = base_layer(linear)
    if is_quantised(layer):
        raise UnsupportedModelError(
            f"{purpose} is quantised ({quantised_codes(layer)}) and cannot be edited: what is added to a row would be rounded to "
            "its codes. Load the model in a floating dtype, or change what its neurons do while it runs (Scale, Ablate, Add)."
        )
    return _as_matrix(_in_memory(layer.weight, purpose, "edit"), layer)


def readable(linear: nn.Module, purpose: str) -> torch.Tensor:
    """A linear's weight `[out in]` as it acts, as numbers: the real parameter; of a quantised one, codes times scales.

    Under adapters, what peft's merge makes of it; with a quantised base, base and adapters together.

    Raises:
        UnsupportedModelError: for offloaded weights, codes that nobody can read, and adapters that no weight could stand for.
    """
    if adapters_add(linear) and is_quantised(base_layer(linear)):
        return by_unit_vectors(linear)[0]  # merging would round the adapter to the base's codes
    _in_memory(getattr(base_layer(linear), "weight", None), purpose, "read")
    layer = acting_layer(linear, purpose)
    return _as_matrix(dequantised(layer, purpose) if is_quantised(layer) else whole(layer.weight), layer)


def bias_of(linear: nn.Module, purpose: str) -> torch.Tensor | None:
    """A linear's bias as it acts, `[out]`; None if it has none."""
    if adapters_add(linear) and is_quantised(base_layer(linear)):
        return by_unit_vectors(linear)[1]
    bias = getattr(acting_layer(linear, purpose), "bias", None)
    return bias if bias is None else whole(cast(torch.Tensor, bias))


def _in_memory(weight: Any, purpose: str, task: Literal["read", "edit"]) -> Any:
    """The weight.

    Raises:
        UnsupportedModelError: if it is offloaded.
    """
    if getattr(weight, "is_meta", False):
        raise UnsupportedModelError(
            f"{purpose} is offloaded, so its numbers are not in memory between forwards; load the model without offloading to "
            f"{task} its weights."
        )
    return weight


def _as_matrix(weight: Any, layer: nn.Module) -> torch.Tensor:
    """The weight `[out in]`; a convolution's flattened."""
    return weight.flatten(1) if isinstance(layer, nn.Conv2d) else weight


@dataclass(frozen=True)
class AttentionWeights:
    """The weights of one attention branch; `head` counts grouped key and value heads for `W_K` and `W_V`.

    Attributes:
        module: the block.
        declared: where the linears are.
        heads: number of query heads.
    """

    module: nn.Module
    declared: Attention
    heads: int

    def _linear(self, path: str | None) -> nn.Module:
        if path is None:
            raise InputError(
                f"{type(self.module).__name__} has no one linear for these weights (Attention.q, k, v or qkv is not declared)."
            )
        if path in (self.declared.k, self.declared.v) and find_module(self.module, path) is None:
            raise InputError(
                f"This {type(self.module).__name__} has no {path}: "
                + (
                    "it takes over the keys and values of an earlier block; read the weights there."
                    if self._takes_over
                    else "its values are its keys; read W_K."
                )
            )
        return submodule(self.module, path, "attention")

    @property
    def _takes_over(self) -> bool:
        """Whether the block has no keys of its own: those of an earlier block serve it too."""
        return self.declared.k is not None and find_module(self.module, self.declared.k) is None

    @property
    def output(self) -> nn.Module:
        """The last linear, the real module: its weight is `W_O`."""
        return self._linear(self.declared.o)

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return in_features(self.output) // self.heads

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        if self.declared.k is None and self.declared.qkv is None:
            return self.heads
        if self._takes_over:
            kernel: Any = submodule(self.module, str(self.declared.kernel), "attention")
            return self.heads // int(kernel.num_key_value_groups)
        if self.declared.k is not None:
            return out_features(self._linear(self.declared.k)) // self.d_head
        return (out_features(self._linear(str(self.declared.qkv))) // self.d_head - self.heads) // 2

    def _part(self, number: int, path: str | None, bias: bool) -> torch.Tensor | None:
        """The weight `[out in]` (or bias `[out]`) of queries (0), keys (1) or values (2)."""
        linear = self._linear(path or self.declared.qkv)
        purpose = path or str(self.declared.qkv)
        tensor = bias_of(linear, purpose) if bias else readable(linear, purpose)
        if tensor is None or path is not None:
            return tensor
        queries = self.heads * self.d_head
        key_rows = (len(tensor) - queries) // 2
        return tensor.split([queries, key_rows, key_rows])[number]

    def _by_head(self, number: int, tensor: torch.Tensor) -> torch.Tensor:
        """One entry per head along the first axis; of queries that come with a gate each, the queries."""
        heads = tensor.unflatten(0, (-1, self.d_head))
        return heads[::2] if number == 0 and self.declared.gated else heads

    def _weight(self, number: int, path: str | None) -> Float[torch.Tensor, "head d_model d_head"]:
        weight = cast(torch.Tensor, self._part(number, path, bias=False))
        return self._by_head(number, weight).transpose(1, 2)

    def _bias(self, number: int, path: str | None) -> Float[torch.Tensor, "head d_head"]:
        bias = self._part(number, path, bias=True)
        if bias is None:
            weight = self._weight(number, path)
            return weight.new_zeros(weight.shape[0], weight.shape[2])
        return self._by_head(number, bias)

    @property
    def W_Q(self) -> Float[torch.Tensor, "head d_model d_head"]:
        """Query weights."""
        return self._weight(0, self.declared.q)

    @property
    def W_K(self) -> Float[torch.Tensor, "head d_model d_head"]:
        """Key weights."""
        return self._weight(1, self.declared.k)

    @property
    def W_V(self) -> Float[torch.Tensor, "head d_model d_head"]:
        """Value weights."""
        return self._weight(2, self.declared.v)

    @property
    def W_O(self) -> Float[torch.Tensor, "head d_head d_model"]:
        """Output weights."""
        weight = readable(self._linear(self.declared.o), self.declared.o)
        return weight.T.unflatten(0, (self.heads, self.d_head))

    @property
    def b_Q(self) -> Float[torch.Tensor, "head d_head"]:
        """Query biases, zero if the family has none."""
        return self._bias(0, self.declared.q)

    @property
    def b_K(self) -> Float[torch.Tensor, "head d_head"]:
        """Key biases, zero if the family has none."""
        return self._bias(1, self.declared.k)

    @property
    def b_V(self) -> Float[torch.Tensor, "head d_head"]:
        """Value biases, zero if the family has none."""
        return self._bias(2, self.declared.v)

    @property
    def b_O(self) -> Float[torch.Tensor, "d_model"]:
        """Output bias, zero if the family has none."""
        return _bias(self._linear(self.declared.o))


@dataclass(frozen=True)
class MlpWeights:
    """The weights of one MLP.

    Attributes:
        module: the block, or the model for a projector's MLP.
        declared: where the linears are.
    """

    module: nn.Module
    declared: Mlp

    def _linear(self, path: str) -> nn.Module:
        return submodule(self.module, path, "mlp")

    def _into(self, number: int, linear_path: str | None) -> Float[torch.Tensor, "d_model neuron"]:
        """The weights of the gate (0) or of the linear path in (1), which may be one linear."""
        path = linear_path or str(self.declared.gate_up)
        weight = readable(self._linear(path), path)
        return (weight if linear_path else weight.chunk(2)[self._half(number)]).T

    def _half(self, number: int) -> int:
        """Which half of a fused linear is the gate (0) or the linear path in (1)."""
        return 1 - number if self.declared.up_first else number

    @property
    def d_mlp(self) -> int:
        """Number of hidden neurons."""
        return in_features(self.down)

    @property
    def down(self) -> nn.Module:
        """The last linear, the real module: column i of its weight is what neuron i writes."""
        return self._linear(str(self.declared.down))

    @property
    def W_in(self) -> Float[torch.Tensor, "d_model neuron"]:
        """Weights of the linear path in."""
        return self._into(1, self.declared.up)

    @property
    def W_gate(self) -> Float[torch.Tensor, "d_model neuron"]:
        """Weights of the gate.

        Raises:
            InputError: if the MLP has no gate.
        """
        if self.declared.gate is None and self.declared.gate_up is None:
            raise InputError("This MLP has no gate; its input weights are W_in.")
        return self._into(0, self.declared.gate)

    @property
    def W_out(self) -> Float[torch.Tensor, "neuron d_model"]:
        """Output weights: row i is what neuron i writes per unit of `mlp.hook_post`."""
        return readable(self.down, str(self.declared.down)).T

    @property
    def b_in(self) -> Float[torch.Tensor, "neuron"]:
        """Input bias, zero if the family has none."""
        if self.declared.up is None:
            return _bias(self._linear(str(self.declared.gate_up))).chunk(2)[self._half(1)]
        return _bias(self._linear(self.declared.up))

    @property
    def b_out(self) -> Float[torch.Tensor, "d_model"]:
        """Output bias, zero if the family has none."""
        return _bias(self.down)


def _bias(linear: nn.Module) -> torch.Tensor:
    bias = bias_of(linear, "A bias")
    return readable(linear, "A weight").new_zeros(out_features(linear)) if bias is None else bias
