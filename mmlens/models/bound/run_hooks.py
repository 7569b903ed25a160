"""Hook functions of a bound model's runs: what TransformerLens's options of a run do at a point."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.hooks.cache import ActivationCache
from mmlens.hooks.point import reads_only
from mmlens.hooks.session import HookFunction


class Stopped(Exception):
    """The run has reached the block in front of which it stops."""


def add_gradients(cache: ActivationCache, output: torch.Tensor, shown: Mapping[str, torch.Tensor], device: Any) -> None:
    """Put gradients beside the activations; those of weights are left alone."""
    if output.ndim or not output.requires_grad:
        raise InputError(
            "incl_bwd=True needs one number that depends on something with a gradient: leave loss_per_token out, and have some "
            "weights (or the inputs) require one."
        )
    names = [name for name, tensor in shown.items() if tensor.requires_grad]
    gradients = torch.autograd.grad(output, [shown[name] for name in names], allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            cache.cache_dict[f"{name}_grad"] = gradient if device is None else gradient.to(device)
            cache.axes[f"{name}_grad"] = cache.axes[name]


def keeping(store: dict[str, torch.Tensor]) -> HookFunction:
    """A hook that keeps what passes, by the name of the point."""

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        store[hook.name] = activation

    return keep


def replaced_by(stream: torch.Tensor) -> HookFunction:
    """A hook that puts a stream in the place of what passes."""

    def put(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return stream.to(activation)

    return put


def stopping(reached: list[torch.Tensor]) -> HookFunction:
    """A hook that keeps what passes, and ends the run."""

    @reads_only
    def stop(activation: torch.Tensor, hook: Any) -> None:
        reached.append(activation)
        raise Stopped

    return stop


def without_batch(function: HookFunction) -> Callable[..., torch.Tensor | None]:
    """A hook function that is shown activations without their batch axis, where that has length 1."""

    def put(activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
        if activation.shape[0] != 1:
            return function(activation, hook)
        new = function(activation[0], hook)
        return new if new is None else new[None]

    return put
