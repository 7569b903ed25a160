"""Three runs of a model, and which lists of its modules ran like stacks of blocks."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmlens.discover.branches import is_norm
from mmlens.discover.pieces import NotFound
from mmlens.discover.trace import Call, Trace, is_linear, noisy, same, traced


@dataclass(eq=False)
class Seen:
    """A list of modules that runs like a stack of blocks.

    Attributes:
        path: of the list.
        blocks: the calls of its entries.
        role: what it was found to be.
    """

    path: str
    blocks: list[Call]
    role: str = "a stack whose part was not found"

    @property
    def last(self) -> Call:
        """The call of the last block."""
        return self.blocks[-1]

    @property
    def width(self) -> int:
        """Width of the stream."""
        return int(self.last.output.shape[-1])

    def __str__(self) -> str:
        return f"{self.path}: {len(self.blocks)} x {type(self.last.module).__name__}, width {self.width} ({self.role})"


@dataclass
class ExampleRuns:
    """A model, and three runs of it: on the example, on other pixels, on another last token.

    Attributes:
        model: the bare model.
        inputs: the example.
        own, pixels, text: the traces.
        stacks: the lists that run like stacks, in the order in which they end.
    """

    model: nn.Module
    inputs: Mapping[str, Any]
    own: Trace
    pixels: Trace
    text: Trace
    stacks: list[Seen] = field(default_factory=list)
    _moved: dict[int, torch.Tensor | None] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, inputs: Mapping[str, Any]) -> "ExampleRuns":
        """Run a model three times.

        Raises:
            NotFound: if the example holds no token ids, or nothing that could be pixels.
        """
        ids = inputs.get("input_ids")
        if not isinstance(ids, torch.Tensor) or ids.ndim != 2:
            raise NotFound("the example holds no input_ids [batch pos]")
        floats = {k: noisy(v) for k, v in inputs.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
        if not floats:
            raise NotFound("the example holds no pixels (no floating-point tensor)")
        first_trace = traced(model, inputs)
        stacks = _stacks(model, first_trace)
        blocks = {call.path for stack in stacks for call in stack.blocks}
        other = ids.clone()
        choices = ids[0, :-1]
        other[:, -1] = choices[choices != ids[0, -1]][-1]
        text = traced(model, {**inputs, "input_ids": other}, only=blocks.__contains__)
        return cls(model, inputs, first_trace, traced(model, {**inputs, **floats}), text, stacks)

    def change(self, call: Call) -> torch.Tensor | None:
        """How what a call returns differs when the pixels do, `[row width]`; None if that cannot be said."""
        if id(call) not in self._moved:
            twin = self.twin(self.pixels, call)
            self._moved[id(call)] = None if twin is None else _difference(call.returned, twin.returned)
        return self._moved[id(call)]

    def change_in(self, call: Call, argument: str) -> torch.Tensor | None:
        """The same for what a call receives."""
        twin = self.twin(self.pixels, call)
        return None if twin is None else _difference(call.received[argument], twin.received.get(argument))

    def sees_pixels(self, tensor: str, call: Call) -> bool:
        """Whether a block's stream (`"in"`) or output (`"out"`) depends on the pixels."""
        return self._differs(self.pixels, tensor, call)

    def sees_text(self, call: Call) -> bool:
        """Whether a block's output depends on the last token."""
        return self._differs(self.text, "out", call)

    def _differs(self, other: Trace, tensor: str, call: Call) -> bool:
        twin = self.twin(other, call)
        if twin is None:
            return False
        pair = (call.stream, twin.stream) if tensor == "in" else (call.returned, twin.returned)
        return not same(*pair)

    def twin(self, other: Trace, call: Call) -> Call | None:
        """The same call in another run."""
        calls, twin_calls = self.own.of(call.path), other.of(call.path)
        return twin_calls[calls.index(call)] if len(calls) == len(twin_calls) else None


def _difference(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    if a is None or b is None or a.shape != b.shape or not a.is_floating_point() or a.ndim < 2:
        return None
    return (b.float() - a.float()).flatten(0, -2)


def likeness(rows: torch.Tensor, others: torch.Tensor | None) -> torch.Tensor:
    """For each of some rows, the cosine with the nearest of others; rows of zeros do not count."""
    if others is None or rows.shape[-1] != others.shape[-1]:
        return torch.zeros(1)
    rows, others = rows[rows.norm(dim=-1) > 0], others[others.norm(dim=-1) > 0]
    if not len(rows) or not len(others):
        return torch.zeros(1)
    rows, others = (nn.functional.normalize(vectors.double(), dim=-1) for vectors in (rows, others))
    return (rows @ others.T).max(dim=1).values


def matched(rows: torch.Tensor, others: torch.Tensor | None) -> float:
    """Which share of some rows is found among others, up to a common factor."""
    return float((likeness(rows, others) > 1 - 1e-4).float().mean())


def _stacks(model: nn.Module, trace: Trace) -> list[Seen]:
    """The outermost lists whose entries all ran once, in their order, on a stream that keeps its shape."""
    stacks: list[Seen] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or not len(module):
            continue
        if any(path.startswith(f"{stack.path}.") for stack in stacks):
            continue
        calls = [trace.of(f"{path}.{name}") for name, _ in module.named_children()]
        if any(len(module_calls) != 1 for module_calls in calls):
            continue
        blocks = [module_calls[0] for module_calls in calls]
        pairs = [(call.stream, call.returned) for call in blocks]
        shapes = {None if x is None else x.shape for pair in pairs for x in pair}
        if len(shapes) != 1 or None in shapes:
            continue
        orderly = all(a.exit < b.enter for a, b in itertools.pairwise(blocks))
        if orderly and any(trace.within(call) for call in blocks) and not all(map(_is_plain, blocks)):
            stacks.append(Seen(path, blocks))
    return sorted(stacks, key=lambda stack: stack.last.exit)


def _is_plain(call: Call) -> bool:
    """Whether a module maps rows one by one without a branch: part of an MLP that is written as a list."""
    return is_linear(call.module) or is_norm(call.module)
