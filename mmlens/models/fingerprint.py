"""Whether two models have the same weights, told from a sample of them."""

import hashlib
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import nn

from mmlens.architectures.adapter_layers import (
    acting_adapters,
    base_layer,
    copies_module,
    copies_tokens,
    is_adapter_layer,
    is_tuner,
)
from mmlens.models.protocol import HookedModel

#: Values read of each parameter; all of them where it has fewer.
_VALUES = 64
_GOLDEN = (5**0.5 - 1) / 2


def fingerprint(model: HookedModel, *, adapters: bool = True) -> str:
    """A hash of a model's parameters: names, shapes, and up to 64 values of each, 16 hexadecimal digits.

    Values count, not how they are stored: a checkpoint has one fingerprint in every dtype that holds its numbers exactly
    (bfloat16 weights loaded as float32), and on every device. Models that were trained apart differ; a change of single
    values may fall between those that are read. Offloaded parameters count with their name and shape alone.

    Args:
        model: the hooked model. Of its adapters those count that act now; with none, it has the base model's fingerprint.
        adapters: whether adapters count at all.

    Example:
        >>> fingerprint(model) == fingerprint(model), len(fingerprint(model))
        (True, 16)
    """
    parameters = sorted(_acting_parameters(model.base, adapters), key=lambda named: named[0])
    digest = hashlib.sha256("|".join(f"{name}{list(parameter.shape)}" for name, parameter in parameters).encode())
    values: dict[torch.device, list[torch.Tensor]] = {}
    for _, parameter in parameters:
        if not parameter.is_meta:
            flat = parameter.detach().reshape(-1)
            values.setdefault(flat.device, []).append(flat[_spread(flat.numel()).to(flat.device)].double())
    # one transfer per device; where the parameters lie must not matter, so they are hashed in the order of their names
    fetched = {device: iter(torch.cat(own).cpu().split([len(v) for v in own])) for device, own in values.items()}
    for _, parameter in parameters:
        if not parameter.is_meta:
            digest.update(next(fetched[parameter.device]).numpy().tobytes())
    return digest.hexdigest()[:16]


def _acting_parameters(
    module: nn.Module, adapters: bool, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a module under the names that they have without adapters, and those of the adapters that act."""
    seen = set() if seen is None else seen
    if is_adapter_layer(module) and is_tuner(module):
        yield from _acting_parameters(module.base_layer, adapters, prefix, seen)
        names = set(acting_adapters(module)) if adapters and not module.merged_adapters else set()
        for name, parameter in module.named_parameters():
            if not name.startswith("base_layer.") and names.intersection(name.split(".")) and id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{prefix}{name}", parameter
        return
    if is_adapter_layer(module):
        inner = base_layer(module)
        if not adapters and copies_module(module):
            inner = module.original_module
        elif adapters and copies_tokens(module):
            inner = module.token_adapter
        yield from _acting_parameters(inner, adapters, prefix, seen)
        return
    for name, own in module._parameters.items():
        if own is not None and id(own) not in seen:  # tied weights count once
            seen.add(id(own))
            yield f"{prefix}{name}", own
    for name, child in module._modules.items():
        if child is not None:
            yield from _acting_parameters(child, adapters, f"{prefix}{name}.", seen)


def _spread(count: int) -> Int[torch.Tensor, "value"]:
    """Indices spread over `count` entries by the golden ratio: even steps could all fall into one column of a matrix."""
    if count <= _VALUES:
        return torch.arange(count)
    return ((torch.arange(_VALUES, dtype=torch.float64) * _GOLDEN).frac() * count).long()
