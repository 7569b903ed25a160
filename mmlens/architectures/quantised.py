"""The numbers behind quantised weights: what a layer multiplies by, whatever codes and scales it keeps in their place."""

from collections.abc import Iterator
from copy import copy
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from mmlens.architectures.modules import in_features
from mmlens.architectures.tensor_parallel import is_part, whole
from mmlens.core.errors import UnsupportedModelError

#: What weights are kept in where they are not quantised. (Eight-bit floats are codes: a scale belongs to them.)
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Unit vectors that a layer is asked with at a time.
_TOGETHER = 1024
#: How long they are: a power of two, so that it takes nothing from a number's bits, and a large bias little.
_LENGTH = 256


def is_quantised(layer: nn.Module) -> bool:
    """Whether a layer multiplies by other numbers than those in a tensor that is its weight."""
    weight = _kept(layer)
    return not isinstance(weight, torch.Tensor) or _are_codes(weight)


def quantised_codes(layer: nn.Module) -> str:
    """What a quantised layer keeps in place of its weight, in words."""
    weight = _kept(layer)
    if not isinstance(weight, torch.Tensor):
        return f"codes of {type(layer).__name__}"
    kind = type(weight).__name__
    return (
        str(weight.dtype) if kind in ("Parameter", "Tensor") else f"{kind} of {type(weight).__module__.split('.')[0]}"
    )


@torch.no_grad()
def dequantised(layer: nn.Module, purpose: str) -> Float[torch.Tensor, "out in"]:
    """What a quantised layer multiplies by: codes times scales.

    Read by what torchao, quanto and bitsandbytes say of their codes; layers of other packages are asked with unit vectors.

    Args:
        layer: a linear, convolution or embedding whose weight is quantised.
        purpose: what it is, for the message.

    Raises:
        UnsupportedModelError: if the numbers cannot be had.
    """
    weight = _kept(layer)
    try:
        numbers: torch.Tensor
        if isinstance(weight, torch.Tensor) and is_traceable_wrapper_subclass(weight):
            numbers = cast(torch.Tensor, weight).dequantize()  # torchao, quanto
        elif (scales := _int8_scales(layer)) is not None:
            numbers = weight.data * (scales.to(weight.device)[:, None] / 127)
        elif (state := getattr(weight, "quant_state", None)) is not None and not _is_packed(state):
            from bitsandbytes.functional import dequantize_4bit

            numbers = dequantize_4bit(weight.data, state)
        else:
            numbers, _ = by_unit_vectors(layer)
        if _are_codes(numbers):
            raise TypeError(f"it gives a {type(numbers).__name__} of {numbers.dtype}")
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, ImportError) as error:
        raise UnsupportedModelError(
            f"{purpose} is quantised ({quantised_codes(layer)}) and cannot be read: {str(error).strip().splitlines()[0]}. "
            "Load the model in a floating dtype."
        ) from error
    return numbers


@torch.no_grad()
def by_unit_vectors(layer: nn.Module) -> tuple[Float[torch.Tensor, "out in"], Float[torch.Tensor, "out"]]:
    """What a linear map does, told from what it returns for nothing and for unit vectors: its matrix, and what it adds.

    Hooks on the layer are passed by.
    """
    tensors = [*layer.parameters(), *layer.buffers()]
    dtypes = [tensor.dtype for tensor in tensors if tensor.dtype in FLOATING]
    device = tensors[0].device if tensors else torch.device("cpu")
    count, dtype = in_features(layer), dtypes[0] if dtypes else torch.get_default_dtype()
    bias = layer.forward(torch.zeros(1, count, device=device, dtype=dtype))[0]
    columns = []
    for first in range(0, count, _TOGETHER):
        size = min(_TOGETHER, count - first)
        units = torch.zeros(size, count, device=device, dtype=dtype)
        units[:, first : first + size].fill_diagonal_(_LENGTH)
        columns.append((layer.forward(units) - bias) / _LENGTH)
    return torch.cat(columns).T, bias


def pieces(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A weight, or the tensors that a quantised one is made of, by name; of bitsandbytes' weights the codes alone."""
    if is_part(weight):
        weight = whole(weight)
    if is_traceable_wrapper_subclass(weight):
        for part in weight.__tensor_flatten__()[0]:
            yield from pieces(f"{name}.{part}", getattr(weight, part))
        return
    state: Any = getattr(weight, "quant_state", None)
    if _is_packed(state):
        from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse as unpacked

        state = copy(state)
        state.original_nested = False  # which the inverse would restore, and lose
        weight = unpacked(weight.data, state)[0]
    yield name, weight


def _is_packed(state: object) -> bool:
    """Whether bitsandbytes has laid four-bit codes out anew for the processor, as it does in the first pass."""
    return bool(getattr(state, "packing_format_for_cpu", False))


def _kept(layer: nn.Module) -> Any:
    """The tensor that a layer multiplies by or keeps its codes in; None if it has no one tensor for that."""
    codes = getattr(
        layer, "qweight", None
    )  # quanto, before weights are frozen: the plain weight is quantised in every pass
    if isinstance(codes, torch.Tensor) and is_traceable_wrapper_subclass(codes):
        return codes
    return getattr(layer, "weight", None)


def _are_codes(weight: torch.Tensor) -> bool:
    """Whether a tensor stands for other numbers than those in it."""
    return weight.dtype not in FLOATING or (is_traceable_wrapper_subclass(weight) and not is_part(weight))


def _int8_scales(layer: Any) -> torch.Tensor | None:
    """The scales of bitsandbytes' eight-bit codes, which move from the weight to the layer in the first pass."""
    weight: Any = getattr(layer, "weight", None)
    if type(weight).__name__ != "Int8Params":
        return None
    return layer.state.SCB if getattr(weight, "SCB", None) is None else weight.SCB
