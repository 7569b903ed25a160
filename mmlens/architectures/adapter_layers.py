"""Layers that peft puts around a model's modules: which adapters act in one, and the layer as it acts."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeGuard, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from mmlens.core.errors import InputError, UnsupportedModelError


class AdapterLayer(nn.Module):
    """The attributes of a layer that peft can switch, for annotations: nothing is made of this class or those below."""

    active_adapters: list[str]
    disable_adapters: bool
    merged_adapters: list[str]
    _get_available_adapters: Callable[[], set[str]]


class TunerLayer(AdapterLayer):
    """A layer that changes what another one computes, and can be merged into its weights."""

    base_layer: nn.Module
    get_base_layer: Callable[[], nn.Module]
    merge: Callable[..., None]
    unmerge: Callable[[], None]


class CopyWrapper(AdapterLayer):
    """A layer in which each adapter has a copy of a whole module (`modules_to_save`)."""

    original_module: nn.Module
    modules_to_save: nn.ModuleDict


class TokenWrapper(AdapterLayer):
    """A layer in which each adapter has the rows of some tokens, put in by a tuner layer of its own."""

    token_adapter: nn.Module


def adapter_layers(model: nn.Module) -> Iterator[AdapterLayer]:
    """Every layer of a model that peft can switch."""
    return (module for module in model.modules() if is_adapter_layer(module))


def is_adapter_layer(module: object) -> TypeGuard[AdapterLayer]:
    """Whether a module is a layer that peft can switch. (Models have methods of these names; layers have properties.)"""
    return isinstance(getattr(type(module), "disable_adapters", None), property)


def is_tuner(layer: object) -> TypeGuard[TunerLayer]:
    """Whether a layer of peft changes what another one computes, rather than stand in for it."""
    return hasattr(layer, "base_layer")


def copies_module(layer: object) -> TypeGuard[CopyWrapper]:
    """Whether a layer of peft stands in for a whole module."""
    return hasattr(layer, "modules_to_save")


def copies_tokens(layer: object) -> TypeGuard[TokenWrapper]:
    """Whether a layer of peft stands in for the rows of some tokens."""
    return hasattr(layer, "token_adapter")


def acting_adapters(layer: AdapterLayer) -> list[str]:
    """Names of the adapters that act in a layer: those merged into its weights, or those chosen that it has."""
    if layer.disable_adapters:
        return []
    available = layer._get_available_adapters()
    return [name for name in layer.merged_adapters or layer.active_adapters if name in available]


def acting_copy(wrapper: CopyWrapper) -> nn.Module:
    """The copy of a module that acts in a wrapper of `modules_to_save`: an adapter's own, or the original."""
    names = acting_adapters(wrapper)
    # as in peft's forward: a chosen adapter that has no copy stands for the original
    is_sole = names and len(names) == len(wrapper.active_adapters)
    return wrapper.modules_to_save[names[0]] if is_sole else wrapper.original_module


def base_layer(module: nn.Module) -> nn.Module:
    """The module beneath the layers that peft has put around it: of copies, the one that acts."""
    module = _unwrapped(module)
    return base_layer(module.base_layer) if is_adapter_layer(module) and is_tuner(module) else module


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module, or the tuner layer around it, that acts in wrappers of copies."""
    while is_adapter_layer(module) and not is_tuner(module):
        module = acting_copy(module) if copies_module(module) else cast(TokenWrapper, module).token_adapter
    return module


def adapters_add(module: nn.Module) -> bool:
    """Whether adapters of a layer act in its pass, and are not merged into its weight."""
    return any(acting_adapters(tuner) and not tuner.merged_adapters for tuner in _tuners(_unwrapped(module)))


@torch.no_grad()
def acting_layer(module: nn.Module, purpose: str) -> nn.Module:
    """A module with its weights as they act: what peft's own merge makes of a copy; the module itself without adapters.

    Args:
        module: a module of the model, or the layer that peft has put around it.
        purpose: what it is, for the message.

    Raises:
        UnsupportedModelError: if peft cannot merge the adapters that act, which then no weight could stand for.
    """
    module = _unwrapped(module)
    tuners = _tuners(module)
    changes = [tuner for tuner in tuners if acting_adapters(tuner) or tuner.merged_adapters]
    if all(tuner.merged_adapters and not tuner.disable_adapters for tuner in changes):
        return base_layer(module)
    twin = _copied(module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft tells that it merges or unmerges
            for tuner in reversed(_tuners(twin)):
                if tuner.disable_adapters and tuner.merged_adapters:
                    tuner.unmerge()
                elif acting_adapters(tuner) and not tuner.merged_adapters:
                    tuner.merge()
    except (NotImplementedError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"{purpose} is changed by {_named(tuners)}, which peft cannot merge into a weight ({error}), so there is no weight "
            "that says what it does. Read it without: with model.adapter(None)."
        ) from error
    return base_layer(twin)


@torch.no_grad()
def require_sum(module: nn.Module, purpose: str, occasion: str) -> None:
    """Refuse a module whose adapters do not add to its weight: what is added to the weight itself acts otherwise then.

    Args:
        module: a linear, or the layer that peft has put around it.
        purpose: what it is, for the message.
        occasion: when it matters, for the message.

    Raises:
        InputError: if so.
    """
    module = _unwrapped(module)
    layer_now = acting_layer(module, purpose)
    if layer_now is base_layer(module) or _adds(module, layer_now):
        return
    raise InputError(
        f"{purpose} is changed by {_named(_tuners(module))}, which does not add to the weight but scales or turns it, so that "
        f"{occasion} other things would be written than the edit says. Merge it first (peft's merge_adapter), or leave it off: "
        "with model.adapter(None)."
    )


#: What was found of layers, with the adapters and their weights of which it was found.
_SUMS: "WeakKeyDictionary[nn.Module, tuple[object, bool]]" = WeakKeyDictionary()


def _adds(module: nn.Module, acting: nn.Module) -> bool:
    """Whether what is added to one column of a module's own weight is added to the weight as it acts, and nothing else is."""
    base_ids = {id(tensor) for tensor in _tensors(base_layer(module))}
    state = [(id(t), t._version, t.data_ptr()) for t in _tensors(module) if id(t) not in base_ids]
    key = ([acting_adapters(tuner) for tuner in _tuners(module)], state)
    if module not in _SUMS or _SUMS[module][0] != key:
        twin = _copied(module)
        weight = _weight(base_layer(twin))
        difference = torch.zeros_like(weight)
        difference[:, 0] = weight.flatten(1).norm(dim=1).max()  # as large as a row, so that scaling by its norm shows
        weight.data = weight + difference
        change = _weight(acting_layer(twin, "A weight")) - _weight(acting)
        error = float((change - difference).abs().max() / difference.max())
        _SUMS[module] = (key, error <= 8 * torch.finfo(weight.dtype).eps)
    return _SUMS[module][1]


def _tuners(module: nn.Module) -> list[TunerLayer]:
    """A tuner layer and those that lie inside it around the same module, outermost first; none for a plain module."""
    tuners: list[TunerLayer] = []
    while is_adapter_layer(module) and is_tuner(module):
        tuners.append(module)
        module = module.base_layer
    return tuners


def _named(tuners: Sequence[TunerLayer]) -> str:
    """The adapters that act in layers, and the kinds of the layers."""
    names = dict.fromkeys(name for tuner in tuners for name in acting_adapters(tuner))
    kinds = dict.fromkeys(f"{type(tuner).__module__.split('.')[-2]}.{type(tuner).__name__}" for tuner in tuners)
    return f"the adapter {', '.join(names)} ({', '.join(kinds)})"


def _copied(layer: nn.Module) -> nn.Module:
    """A copy whose base weights are its own; hooks are left out, and what belongs to the adapters is shared."""
    base = {id(tensor) for tensor in _tensors(base_layer(layer))}
    memo: dict[int, object] = {id(tensor): tensor for tensor in _tensors(layer) if id(tensor) not in base}
    for module in layer.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            memo[id(hooks)] = type(hooks)()
    return copy.deepcopy(layer, memo)


def _tensors(module: nn.Module) -> Sequence[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _weight(module: nn.Module) -> torch.Tensor:
    return cast(torch.Tensor, module.weight)
