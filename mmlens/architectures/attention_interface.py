"""mmlens's kernel in transformers' registry of attention functions, and the switch that puts a tower on it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mmlens.architectures.forward_code import codes_of
from mmlens.core.errors import UnsupportedModelError
from mmlens.hooks.attention import Kernel, Tower, causal_pairs, hooked_attention

KERNEL = "mmlens"
#: The name holds `flash`, so that packed towers hand over all rows at once with `cu_seq_lens`, as they do to flash
#: attention, instead of picture by picture: a hook point must present one activation per forward.
PACKED_KERNEL = "mmlens_flash_packed"

#: Towers now on our kernel: the name of their own by the identity of their configuration, which two wrappers may share.
_OWN: dict[int, tuple[Any, str, int]] = {}


def attention_tower(config: Any, *, is_packed: bool) -> Tower:
    """The switch of the tower that a configuration belongs to.

    Args:
        config: the configuration object that the tower's attention modules look their kernel up in.
        is_packed: whether the rows of all pictures lie in one sequence.
    """

    def switch(on: bool) -> None:
        keeper, original, users = _OWN.get(id(config), (config, config._attn_implementation, 0))
        users += 1 if on else -1
        if users:
            _OWN[id(config)] = (keeper, original, users)
        else:
            del _OWN[id(config)]
        name = (PACKED_KERNEL if is_packed else KERNEL) if users else original
        # the internal attribute: the property would hand the name on to sub-configurations, which are other towers
        config._attn_implementation_internal = name

    return Tower(switch)


def looks_kernel_up(module: nn.Module) -> bool:
    """Whether a module finds its attention kernel in transformers' registry, and not in code of its own.

    Putting mmlens's kernel into the configuration of a module with attention of its own would change nothing but the
    kind of mask that it is handed, which that code may add to its scores as it stands. Read off the code of `forward`
    and of the methods that it calls.
    """
    return any("ALL_ATTENTION_FUNCTIONS" in code.co_names for code in codes_of(module))


def _kernel_named(name: str | None, module: nn.Module) -> tuple[str, Kernel]:
    """The kernel that transformers would call for a module under a name."""
    if name in ("eager", None):
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if eager is None:
            raise UnsupportedModelError(
                f"{type(module).__name__} runs its own eager attention, which has no hook points; load the model with "
                "attn_implementation='sdpa'."
            )
        return "eager", eager
    if "flash" in name or "flex" in name:
        name = "sdpa"  # the mask was made for our kernel, and theirs differs
    return name, ALL_ATTENTION_FUNCTIONS[name]


def _explicit(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, options: dict[str, Any]
) -> torch.Tensor | None:
    """The additive mask that an eager kernel expects, from the one made for ours."""
    mask = causal_pairs(module, query, key, options.get("is_causal")) if mask is None else mask
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)


def _own(module: nn.Module, *tensors: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The tower's own kernel, called as it would have been."""
    return _called(_OWN[id(module.config)][1], module, *tensors, **options)


def _called(
    name: str | None,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The kernel of a name, called as it expects to be."""
    name, kernel = _kernel_named(name, module)
    lengths = options.pop("cu_seq_lens_q", None)
    if lengths is None:
        if name == "eager":
            mask = _explicit(module, query, key, mask, options)
        return kernel(module, query, key, value, mask, **options)
    for key_name in ("cu_seq_lens_k", "max_length_q", "max_length_k"):
        options.pop(key_name, None)
    sizes = (lengths[1:] - lengths[:-1]).tolist()
    chunks = zip(*(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat([kernel(module, q, k, v, None, **options)[0] for q, k, v in chunks], dim=1), None


#: Towers whose attention is lent out: the name of their own kernel and the one that runs instead, by the identity of their
#: configuration.
_LENT: dict[int, tuple[str, "TemporaryKernel"]] = {}
LENT_KERNEL = "mmlens_lent"

#: `(own, module, query, key, value, mask, options) -> output [batch query head d_head]`; `own` is what it stands in for.
TemporaryKernel: TypeAlias = Callable[..., torch.Tensor]


@contextmanager
def lent_attention(configs: Sequence[Any], kernel: TemporaryKernel) -> Iterator[None]:
    """Have another function compute the attention of towers inside the `with`.

    Hook points of these towers work inside, and hooks that were attached before do not fire.

    Args:
        configs: the configurations in which the towers' attention modules look their kernel up.
        kernel: called as `kernel(own, module, query, key, value, mask, options)`.
    """
    originals = [(config, config._attn_implementation) for config in configs]
    try:
        for config, name in originals:
            _LENT[id(config)] = (name, kernel)
            config._attn_implementation_internal = LENT_KERNEL
        yield
    finally:
        for config, name in originals:
            config._attn_implementation_internal = name
            _LENT.pop(id(config), None)


def _lent(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    name, kernel = _LENT[id(module.config)]
    return kernel(partial(_called, name), module, query, key, value, mask, options), None


AttentionInterface.register(LENT_KERNEL, _lent)
AttentionInterface.register(KERNEL, partial(hooked_attention, _own))
AttentionInterface.register(PACKED_KERNEL, partial(hooked_attention, _own, is_packed=True))
for _name in (KERNEL, PACKED_KERNEL, LENT_KERNEL):
    AttentionMaskInterface.register(_name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
