"""Kinds of arguments that are tensors, or say where tensors live."""

from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float

from mmlens.core.kinds import Must


def _is_device(value: Any) -> bool:
    try:
        return torch.device(value) is not None
    except (RuntimeError, TypeError):
        return False


#: Where tensors live.
Device: TypeAlias = Annotated[
    torch.device | str, Must("a device, e.g. 'cpu' or 'cuda:0'", lambda value: _is_device(value), instead=True)
]
#: A direction in a residual stream.
Vector: TypeAlias = Annotated[Float[torch.Tensor, "d_model"], Must("not all zeros", lambda value: bool(value.any()))]
