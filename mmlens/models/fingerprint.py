"""Whether two models have the same weights, told from sums over the bits of every value."""

import hashlib
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import nn

from mmlens.architectures.adapter_layers import (
    acting_adapters,
    base_layer,
    copies_module,
    copies_tokens,
    is_adapter_layer,
    is_tuner,
)
from mmlens.architectures.quantised import pieces
from mmlens.architectures.tensor_parallel import own_part
from mmlens.models.protocol import HookedModel

#: Values that are looked at together; a multiple of `_ROW`.
_PIECE = 1 << 22
#: 64-bit words in a row.
_ROW = 1 << 10


@torch.no_grad()
def fingerprint(model: HookedModel, *, adapters: bool = True) -> str:
    """A hash of a model's parameters and saved buffers: names, shapes and all values, 16 hexadecimal digits.

    Values count, not how they are stored: a checkpoint has one fingerprint in every dtype that holds its numbers exactly
    (bfloat16 weights loaded as float32), and on every device. A single other value, or two that have changed places, make
    another one. Offloaded parameters count with their name and shape alone.

    Args:
        model: the hooked model. Of its adapters those count that act now; with none, it has the base model's fingerprint.
        adapters: whether adapters count at all.

    Example:
        >>> fingerprint(model) == fingerprint(model), len(fingerprint(model))
        (True, 16)
    """
    weights = sorted(_acting_weights(model.base, adapters), key=lambda named: named[0])
    digest = hashlib.sha256("|".join(f"{name}{list(weight.shape)}" for name, weight in weights).encode())
    sums: dict[torch.device, list[torch.Tensor]] = {}
    for _, weight in weights:
        if not weight.is_meta:
            sums.setdefault(weight.device, []).append(_sums(weight))
    # one transfer per device; where the weights lie must not matter, so they are hashed in the order of their names
    results = {device: iter(torch.stack(values).cpu()) for device, values in sums.items()}
    for _, weight in weights:
        if not weight.is_meta:
            digest.update(next(results[weight.device]).numpy().tobytes())
    return digest.hexdigest()[:16]


#: Per model the state in which its weights were last hashed, and the hash.
_RECENT: "WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], str]]" = WeakKeyDictionary()


def recent_fingerprint(model: HookedModel) -> str:
    """The fingerprint, worked out anew only where torch counts a change: writing to `.data` in place is none to it."""
    weights = [*model.base.parameters(), *model.base.buffers()]
    versions = [(id(weight), *memory_state(weight)) for weight in weights]
    state = (*versions, tuple(model.active_adapters))
    recent = _RECENT.get(model.base)
    if recent is None or recent[0] != state:
        recent = _RECENT[model.base] = (state, fingerprint(model))
    return recent[1]


def memory_state(weight: torch.Tensor) -> tuple[int, int]:
    """How often a weight was written to in place, and where it lies: `.to(dtype)` exchanges its memory and counts nothing."""
    part = own_part(weight)
    return (0 if part.is_inference() else part._version), part.data_ptr()


def _acting_weights(
    module: nn.Module, adapters: bool, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a module under the names that they have without adapters, and those of the adapters that act."""
    seen = set() if seen is None else seen
    if is_adapter_layer(module) and is_tuner(module):
        yield from _acting_weights(module.base_layer, adapters, prefix, seen)
        names = set(acting_adapters(module)) if adapters and not module.merged_adapters else set()
        for name, parameter in module.named_parameters():
            if not name.startswith("base_layer.") and names.intersection(name.split(".")) and id(parameter) not in seen:
                seen.add(id(parameter))
                yield from pieces(f"{prefix}{name}", parameter)
        return
    if is_adapter_layer(module):
        inner = base_layer(module)
        if not adapters and copies_module(module):
            inner = module.original_module
        elif adapters and copies_tokens(module):
            inner = module.token_adapter
        yield from _acting_weights(inner, adapters, prefix, seen)
        return
    saved = {name: buffer for name, buffer in module._buffers.items() if name not in module._non_persistent_buffers_set}
    for name, buffer in (*module._parameters.items(), *saved.items()):
        if buffer is not None and id(buffer) not in seen:  # tied weights count once
            seen.add(id(buffer))
            yield from pieces(f"{prefix}{name}", buffer)
    for name, child in module._modules.items():
        if child is not None:
            yield from _acting_weights(child, adapters, f"{prefix}{name}.", seen)


def _sums(weight: torch.Tensor) -> torch.Tensor:
    """Two sums over the bits of all values, in which every place has a weight of its own: by row and by column."""
    flat = weight.detach().reshape(-1)
    total = torch.zeros(2, dtype=torch.int64, device=flat.device)
    for start in range(0, flat.numel(), _PIECE):
        for half, words in enumerate(_words(flat[start : start + _PIECE])):
            rows = torch.nn.functional.pad(words, (0, -len(words) % _ROW)).reshape(-1, _ROW)
            # odd weights, so that no change of a single word can vanish modulo 2 ** 64
            first = 2 * (start // _ROW) + 1 + half
            down = torch.arange(first, first + 2 * len(rows), 2, device=flat.device)
            along = torch.arange(1, 2 * _ROW, 2, device=flat.device)
            total += torch.stack([(rows.sum(1) * down).sum(), (rows.sum(0) * along).sum() * first])
    return total


def _words(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """The values' bits as 64-bit words, the same for equal numbers in every dtype that holds them.

    Floating numbers are those of float32; what bfloat16 holds of them comes first, the rest only where there is any.
    """
    if values.dtype not in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        yield _packed(values.contiguous().view(torch.uint8), 8)
        return
    if values.dtype == torch.bfloat16:
        yield _packed(values.contiguous().view(torch.int16), 4)
        return
    single = values.float().contiguous()
    lower, upper = single.view(torch.int16).reshape(-1, 2).unbind(-1)
    yield _packed(upper.contiguous(), 4)
    if bool(lower.any()):
        yield _packed(lower.contiguous(), 4)
    if values.dtype == torch.float64 and not torch.equal(single.double(), values):
        yield (values - single.double()).view(torch.int64)


def _packed(bits: torch.Tensor, count: int) -> torch.Tensor:
    """So many of the numbers in each 64-bit word."""
    return torch.nn.functional.pad(bits, (0, -len(bits) % count)).view(torch.int64)
