"""Where branches receive their streams, found on a run: behind a norm that branches share, and in cross-attention.

The norm in front of a cross-attention is the module whose result the attention module receives, and its memory the argument that
holds what the memory's hook point holds: both are looked up in a run of the model, so that no family has to declare them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmlens.analysis.circuits.branch_points import reach_of
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.streams import has_norms
from mmlens.analysis.circuits.unnormed_inputs import bare_sites
from mmlens.core.errors import InputError
from mmlens.core.names import into_product
from mmlens.hooks.attachment import AtSite
from mmlens.hooks.attention import kernel_of
from mmlens.hooks.behind_norm import BehindNorm
from mmlens.hooks.branch_inputs import entrances
from mmlens.hooks.cache import record_activations
from mmlens.hooks.indirect import NormScale
from mmlens.hooks.point import Point
from mmlens.hooks.session import attached
from mmlens.hooks.site import Site
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.claims import claimed
from mmlens.models.decoder import blocks_by_name
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class Wiring:
    """How the readers of a graph are reached.

    Attributes:
        points: the model's points, its entrances, and those of branches behind a shared norm and of cross-attention.
        norms: the norm in front of each cross-attention, by what its hook points begin with; an identity where there is none.
        memory: the argument of each cross-attention that keys and values are made of.
    """

    points: dict[str, Point]
    norms: dict[str, nn.Module] = field(default_factory=dict)
    memory: dict[str, str] = field(default_factory=dict)


def wiring_of(model: HookedMultimodal, batch: MultimodalBatch, graph: EdgeGraph) -> Wiring:
    """Find where every reader of a graph receives its stream.

    Args:
        model: the hooked model.
        batch: run once, if there is cross-attention.
        graph: the writers and readers.

    Raises:
        InputError: if a branch cannot be given a stream of its own.
    """
    model_points = model.hook_dict
    wiring = Wiring({**model_points, **entrances(model_points)})
    unknown = [at for at in dict.fromkeys(reader.at for reader in graph.readers) if at not in wiring.points]
    cross_attentions = [at.removesuffix(".hook_memory") for at in unknown if at.endswith(".hook_memory")]
    if cross_attentions:
        _trace(model, batch, cross_attentions, wiring)
    for at in unknown:
        out = at.removesuffix(".hook_in")
        reach = reach_of(model_points[out]) if out in model_points and model.graph[out].role == "writes" else None
        if isinstance(reach, Site):  # the norm behind an attention's heads
            wiring.points[at] = Point(at, AtSite(Site(reach.module, "in")))
    unknown = [at for at in unknown if at not in wiring.points]
    bare = [at for at in unknown if not at.endswith(".hook_memory") and not _has_norms(model, at)]
    if bare:
        for at, site in bare_sites(model, batch, model_points, bare).items():
            wiring.points[at] = Point(at, AtSite(site))
            wiring.norms[at.removesuffix(".hook_in")] = nn.Identity()
    blocks = blocks_by_name(model)
    for at in unknown:
        if at in wiring.points:
            continue
        branch = at.rpartition(".")[0]
        if at.endswith(".hook_memory"):
            site = Site(_kernel(wiring, branch), "in", wiring.memory[branch])
            wiring.points[at] = Point(at, AtSite(site))
        else:
            norm = wiring.norms.get(branch) or _first_norm(wiring, branch)
            receivers = _receivers(wiring, blocks[branch.rpartition(".")[0]], branch, norm)
            wiring.points[at] = Point(at, BehindNorm(norm, receivers))
    return wiring


def _has_norms(model: HookedMultimodal, at: str) -> bool:
    """Whether the block that an entrance belongs to has norms in front of its branches."""
    return has_norms(model.graph, at.removesuffix(".hook_in").rpartition(".")[0])


def _kernel(wiring: Wiring, attn: str) -> nn.Module:
    """The module that computes an attention."""
    kernel = kernel_of(wiring.points, attn)
    if kernel is None:
        raise InputError(
            f"{attn} shares a norm with another branch, or looks at another sequence, and is computed in code of its own, so "
            "that it cannot be given a stream of its own. Patch its points with mm.patch or mm.patching.path_patch."
        )
    return kernel


def _first_norm(wiring: Wiring, branch: str) -> nn.Module:
    """The norm that the branches of a block share."""
    attachment = wiring.points[f"{branch.rpartition('.')[0]}.ln1.hook_scale"].attachment
    if not isinstance(attachment, NormScale):
        raise InputError(
            f"{branch} has no norm in front of it. Patch its points with mm.patch or mm.patching.path_patch."
        )
    return attachment.module


def _receivers(wiring: Wiring, block: nn.Module, branch: str, norm: nn.Module) -> Sequence[nn.Module]:
    """The modules that receive what the norm returns for a branch: the attention itself, or all that are no part of it."""
    if not branch.endswith(".mlp"):
        return [_kernel(wiring, branch)]
    kernel = _kernel(wiring, f"{branch.removesuffix('mlp')}attn")
    attention = set(kernel.modules())
    return [m for m in block.modules() if m not in attention and m is not norm and kernel not in set(m.modules())]


@torch.no_grad()
def _trace(model: HookedMultimodal, batch: MultimodalBatch, cross_attentions: Sequence[str], wiring: Wiring) -> None:
    """Run once, and see what every cross-attention receives.

    Raises:
        InputError: if one receives something else than what a norm returns, or its memory in no argument of its own.
    """
    blocks, store = blocks_by_name(model), dict[str, torch.Tensor]()
    keys = {name: into_product(wiring.points, name, "k") for name in cross_attentions}
    before = {name: next(iter(model.graph.digraph.predecessors(at))) for name, at in keys.items()}
    with claimed(model, "A circuit"), ExitStack() as stack:
        stack.enter_context(
            attached(wiring.points, [(list(dict.fromkeys(before.values())), record_activations(store, None, None))])
        )
        for name in cross_attentions:
            for handle in _watch(
                name, blocks[name.rpartition(".")[0]], _kernel(wiring, name), store, before[name], wiring
            ):
                stack.callback(handle.remove)
        model(batch)
    missing = [name for name in cross_attentions if name not in wiring.norms or name not in wiring.memory]
    if missing:
        raise InputError(
            f"{missing[0]} of {model.family.name} receives no norm of its stream, or what it looks at in no argument of its own, "
            "so that it cannot be given a stream of its own. Patch its points with mm.patch or mm.patching.path_patch."
        )


def _watch(
    name: str, block: nn.Module, kernel: nn.Module, store: dict[str, torch.Tensor], memory: str, wiring: Wiring
) -> Iterator[Any]:
    """Hooks that find the norm in front of an attention, and the argument in which it receives its memory."""
    outputs: list[tuple[nn.Module, torch.Tensor]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, torch.Tensor):
            outputs.append((module, output))

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = kwargs.get("hidden_states", args[0] if args else None)
        for maker, output in outputs:
            if output is stream:  # the first: a dropout behind it hands on the same tensor
                wiring.norms.setdefault(name, maker)
        memory_states = store[memory]
        for key, value in kwargs.items():
            may_be_memory = (
                isinstance(value, torch.Tensor) and value is not stream and value.numel() == memory_states.numel()
            )
            if may_be_memory and torch.equal(value.reshape(memory_states.shape), memory_states):
                wiring.memory[name] = key
        outputs.clear()

    inside = set(kernel.modules())
    leaves = [module for module in block.modules() if module not in inside and not list(module.children())]
    for leaf in leaves:
        yield leaf.register_forward_hook(keep)
    yield kernel.register_forward_pre_hook(look, with_kwargs=True)
    yield block.register_forward_hook(lambda *_: outputs.clear())
