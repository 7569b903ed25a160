"""Mergers whose features enter the language model above its first block, found by what the stream gains between blocks."""

import itertools

import torch
from torch import nn

from mmlens.declarations.projector import DeepStack
from mmlens.declarations.structure import Mlp
from mmlens.discover.mlps import mlp_in
from mmlens.discover.runs import ExampleRuns, Seen, matched
from mmlens.discover.search import Fixed
from mmlens.discover.trace import Call, same


def deepstack_of(runs: ExampleRuns, vision: Seen, language: Seen) -> DeepStack | None:
    """The list of mergers that read vision blocks and add to the stream between language blocks; None if there is none.

    Args:
        runs: of the model.
        vision: the last stack of the vision encoder.
        language: the stack of the language model.
    """
    gains = _gains(language)
    if not gains:
        return None
    stacks = [stack.path for stack in runs.stacks]
    for path, module in runs.model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(f"{path}.".startswith(f"{stack}.") for stack in stacks):
            continue
        calls = [runs.own.of(f"{path}.{name}") for name, _ in module.named_children()]
        if calls and all(len(merger_calls) == 1 for merger_calls in calls):
            deepstack = _mergers(runs, path, [merger_calls[0] for merger_calls in calls], vision, gains)
            if deepstack is not None:
                return deepstack
    return None


def _gains(language: Seen) -> dict[int, torch.Tensor]:
    """What is added to the stream in front of a block, `[row d_model]`, for the blocks where something is."""
    gains: dict[int, torch.Tensor] = {}
    for number, (before, after) in enumerate(itertools.pairwise(language.blocks), start=1):
        if before.returned is None or after.stream is None or before.returned.shape != after.stream.shape:
            continue
        gain = (after.stream - before.returned).flatten(0, -2)
        if bool(gain.any()):
            gains[number] = gain[gain.any(-1)]
    return gains


def _mergers(
    runs: ExampleRuns, path: str, calls: list[Call], vision: Seen, gains: dict[int, torch.Tensor]
) -> DeepStack | None:
    """The declaration of a list, if each entry reads a vision block and returns what the stream gains somewhere."""
    reads: list[int] = []
    into: list[int] = []
    for call in calls:
        inputs = next(iter(call.received.values()), None)
        outputs = None if call.returned is None else call.returned.flatten(0, -2)
        read = [number for number, block in enumerate(vision.blocks) if same(block.returned, inputs)]
        target = [number for number, gain in gains.items() if matched(gain, outputs) > 0.9]
        if not read or not target:
            return None
        reads.append(read[-1])
        into.append(target[0])
    first = calls[0]
    mlp = mlp_in(runs.own, runs.own.within(first), first, first.path)
    if mlp is None:
        return None
    argument = next(iter(first.received))
    return DeepStack(path, Mlp(**mlp), argument, Fixed(reads, str(reads)), Fixed(into, str(into)))
