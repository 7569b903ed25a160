"""Whether two models have the same weights, told from a sample of them."""

import hashlib
from collections.abc import Iterator

import torch
from jaxtyping import Int

from mmlens.architectures.loading import base_of
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
    parameters = sorted(_acting_parameters(model, adapters), key=lambda named: named[0])
    digest = hashlib.sha256("|".join(f"{name}{list(parameter.shape)}" for name, parameter in parameters).encode())
    held: dict[torch.device, list[torch.Tensor]] = {}
    for _, parameter in parameters:
        if not parameter.is_meta:
            flat = parameter.detach().reshape(-1)
            values = flat[_spread(flat.numel()).to(flat.device)].double()
            held.setdefault(flat.device, []).append(values)
    # one transfer per device; where the parameters lie must not matter, so they are hashed in the order of their names
    fetched = {device: iter(torch.cat(some).cpu().split([len(v) for v in some])) for device, some in held.items()}
    for _, parameter in parameters:
        if not parameter.is_meta:
            digest.update(next(fetched[parameter.device]).numpy().tobytes())
    return digest.hexdigest()[:16]


def _acting_parameters(model: HookedModel, adapters: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The base model's parameters under their own names, and those of the adapters that act."""
    asleep = set(model.adapters) - (set(model.active_adapters) if adapters else set())
    for name, parameter in base_of(model.hf_model).named_parameters():
        if not asleep.intersection(name.split(".")):
            yield name.replace(".base_layer.", "."), parameter


def _spread(count: int) -> Int[torch.Tensor, "value"]:
    """Indices spread over `count` entries by the golden ratio: even steps could all fall into one column of a matrix."""
    if count <= _VALUES:
        return torch.arange(count)
    return ((torch.arange(_VALUES, dtype=torch.float64) * _GOLDEN).frac() * count).long()
