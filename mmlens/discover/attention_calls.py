"""Who attends to what while a bare model runs, whether through transformers' registered function or in code of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mmlens.architectures.attention_interface import looks_kernel_up

RECORDER = "mmlens_discovery"


@dataclass(eq=False)
class AttentionCall:
    """One call of transformers' registered attention function, or of softmax attention in code of a module's own.

    Attributes:
        module: the calling module; the innermost module that was running, for code of its own.
        when: the clock.
        registered: whether it went through the registered function.
        heads: number of query heads.
        query, key, value: what the function received, `[batch head pos d_head]`; None where only a softmax was seen.
        output: what the registered function returned, `[batch pos head d_head]`.
    """

    module: nn.Module | None
    when: int
    registered: bool
    heads: int
    query: torch.Tensor | None = None
    key: torch.Tensor | None = None
    value: torch.Tensor | None = None
    output: torch.Tensor | None = None

    @property
    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value, where it is known that they were seen."""
        return cast(tuple[torch.Tensor, torch.Tensor, torch.Tensor], (self.query, self.key, self.value))


#: Who is told of calls of the registered function; None while it runs, as what it does inside is no attention of its own.
_ACTIVE: list[Callable[[AttentionCall], None] | None] = []


def _record_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Torch's own attention, with a note of who called it."""
    options.pop("softcap", None)  # torch's function has none; the structure is the same without
    _ACTIVE.append(None)
    try:
        output, weights = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)
    finally:
        _ACTIVE.pop()
    note = _ACTIVE[-1] if _ACTIVE else None
    if note is not None:
        note(AttentionCall(module, 0, True, query.shape[1], query, key, value, output))
    return output, weights


AttentionInterface.register(RECORDER, _record_attention)
AttentionMaskInterface.register(RECORDER, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


class _OwnAttention(TorchFunctionMode):
    """Notes attention in code of a module's own: torch's fused function, or a softmax over pairs of positions."""

    def __init__(self, note: Callable[[AttentionCall], None]):
        super().__init__()
        self.note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; note it if it is attention."""
        result = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            arguments = {**dict(zip(("query", "key", "value"), args, strict=False)), **(kwargs or {})}
            query, key, value = (arguments[name] for name in ("query", "key", "value"))
            if query.ndim == 4:
                self.note(AttentionCall(None, 0, False, query.shape[1], query, key, value))
        elif func in (torch.softmax, F.softmax, torch.Tensor.softmax) and result.ndim == 4:
            self.note(AttentionCall(None, 0, False, result.shape[1]))
        return result


@contextmanager
def recording_attention(model: nn.Module) -> Iterator[None]:
    """Have every tower that finds its attention function by name use the recording one inside the `with`.

    Attention in code of a module's own keeps the kind of mask that its configuration asks for.
    """
    callers = [module for module in model.modules() if hasattr(getattr(module, "config", None), "_attn_implementation")]
    configs: dict[int, Any] = {id(module.config): module.config for module in callers if looks_kernel_up(module)}
    originals = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            # the internal attribute: the property would hand the name on to sub-configurations, which are other towers
            config._attn_implementation_internal = RECORDER
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = originals[key]


@contextmanager
def told_of_attention(model: nn.Module, note: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Be told of every attention call inside the `with`; of those in code of a module's own, without the module.

    Args:
        model: the bare model.
        note: who is told.
    """

    def note_own(call: AttentionCall) -> None:
        if _ACTIVE[-1] is not None:  # else it is the inside of the registered function
            note(call)

    _ACTIVE.append(note)
    try:
        with recording_attention(model), _OwnAttention(note_own):
            yield
    finally:
        _ACTIVE.pop()
