"""Kinds of arguments that are tensors, or say where tensors live."""

from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float

from mmlens.core.kinds import Must


def _is_device(value: Any) -> bool:
    try:
        return torch.empty(0, device=value) is not None
    except (
        RuntimeError,
        TypeError,
        AssertionError,
        NotImplementedError,
        ImportError,
    ):  # no such one here: each says it another way
        return False


#: Where tensors live.
Device: TypeAlias = Annotated[
    torch.device | str,
    Must("a device of this machine, e.g. 'cpu' or 'cuda:0'", lambda value: _is_device(value), instead=True),
]
#: A direction in a residual stream.
Vector: TypeAlias = Annotated[Float[torch.Tensor, "d_model"], Must("not all zeros", lambda value: bool(value.any()))]
