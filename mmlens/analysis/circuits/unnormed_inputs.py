"""Inputs of branches without pre-norm, and of norms behind branches, looked up in a run."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from mmlens.core.errors import InputError
from mmlens.hooks.attention import kernel_of
from mmlens.hooks.cache import record_activations
from mmlens.hooks.point import Point
from mmlens.hooks.session import attached
from mmlens.hooks.site import Site
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.claims import claimed
from mmlens.models.decoder import blocks_by_name
from mmlens.models.hooked import HookedMultimodal


@torch.no_grad()
def bare_sites(
    model: HookedMultimodal, batch: MultimodalBatch, points: Mapping[str, Point], entrances: Sequence[str]
) -> dict[str, Site]:
    """What each module receives as its stream, by the entrance that stands for it.

    Args:
        model: the hooked model.
        batch: run once.
        points: the model's points.
        entrances: `blocks.0.attn.hook_in`, `blocks.0.mlp.hook_in`, and `blocks.0.hook_resid_mid.hook_in` for the norm
            that returns this point of the stream.

    Raises:
        InputError: if no module receives or returns what the stream holds, or several do for one branch.
    """
    branches = {at: at.removesuffix(".hook_in") for at in entrances}
    blocks = {name: _BlockCalls(block) for name, block in blocks_by_name(model).items()}
    blocks = {name: blocks[name] for name in dict.fromkeys(branch.rpartition(".")[0] for branch in branches.values())}
    store: dict[str, torch.Tensor] = {}
    stream = [f"{name}.hook_resid_{kind}" for name in blocks for kind in ("cross", "mid", "post")]
    sites: dict[str, Site] = {}

    def settle(name: str, calls: _BlockCalls, *_: object) -> None:
        """At the end of a block: look up what its modules received and returned."""
        for at, branch in branches.items():
            if branch.rpartition(".")[0] != name:
                continue
            if branch.endswith("attn"):
                site: Site | None = Site(_kernel(points, branch), "in")
            elif branch.endswith(".mlp"):
                attns = [f"{name}.{kind}" for kind in ("attn", "cross_attn") if f"{name}.hook_{kind}_out" in points]
                site = calls.receiver(store[f"{name}.hook_resid_mid"], [_kernel(points, attn) for attn in attns])
            else:
                site = calls.maker(store[branch])
            if site is not None:
                sites[at] = site
        calls.clear()

    with claimed(model, "A circuit"), ExitStack() as stack:
        for calls in blocks.values():
            for handle in calls.hooks():
                stack.callback(handle.remove)
        stack.enter_context(
            attached(
                dict(points), [([name for name in stream if name in points], record_activations(store, None, None))]
            )
        )
        for name, calls in blocks.items():
            # behind the hook that records the block's output
            stack.callback(calls.block.register_forward_hook(partial(settle, name, calls)).remove)
        model(batch)
    missing = [at for at in entrances if at not in sites]
    if missing:
        raise InputError(
            f"{branches[missing[0]]} of {model.family.name} has no norm in front of it, and no one module receives its stream, "
            "so that it cannot be given one of its own. Patch its points with mm.patch or mm.patching.path_patch."
        )
    return sites


def _kernel(points: Mapping[str, Point], attn: str) -> nn.Module:
    kernel = kernel_of(points, attn)
    if kernel is None:
        raise InputError(
            f"{attn} has no norm in front of it and is computed in code of its own, so that it cannot be given a stream of its "
            "own. Patch its points with mm.patch or mm.patching.path_patch."
        )
    return kernel


@dataclass
class _BlockCalls:
    """What the modules of a block received and returned in its last run, in the order of their calls.

    Attributes:
        block: the block.
    """

    block: nn.Module
    inputs: list[tuple[nn.Module, str, torch.Tensor]] = field(default_factory=list)
    outputs: list[tuple[nn.Module, torch.Tensor]] = field(default_factory=list)

    def hooks(self) -> Iterator[Any]:
        """Watch all modules inside of the block."""
        for module in self.block.modules():
            if module is not self.block:
                yield module.register_forward_pre_hook(self._receive, with_kwargs=True)
                yield module.register_forward_hook(self._return)

    def clear(self) -> None:
        """Forget the tensors."""
        self.inputs.clear()
        self.outputs.clear()

    def _receive(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = list(inspect.signature(module.forward).parameters)
        arguments = [*zip(names, args, strict=False), *kwargs.items()]
        name, value = next(((name, value) for name, value in arguments if isinstance(value, torch.Tensor)), ("", None))
        if value is not None:
            self.inputs.append((module, name, value))

    def _return(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, torch.Tensor):
            self.outputs.append((module, output))

    def receiver(self, stream: torch.Tensor, besides: Sequence[nn.Module]) -> Site | None:
        """The module that receives the stream, none of those given nor around or inside of them; None if there are several."""
        others = {inner for module in besides for inner in module.modules()}
        outer: list[tuple[nn.Module, str]] = []
        for module, name, value in self.inputs:
            apart = module in others or any(other in set(module.modules()) for other in besides)
            inside = any(module in set(other.modules()) for other, _ in outer)
            if not apart and not inside and value.shape == stream.shape and torch.equal(value, stream):
                outer.append((module, name))
        return Site(outer[0][0], "in", outer[0][1]) if len(outer) == 1 else None

    def maker(self, stream: torch.Tensor) -> Site | None:
        """The input of the innermost module that returns the stream."""
        for module, output in self.outputs:
            if output.shape == stream.shape and torch.equal(output, stream):
                return next(Site(module, "in", name) for other, name, _ in self.inputs if other is module)
        return None
