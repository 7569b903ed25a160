"""What a block adds to its stream: modules whose outputs sum up to the difference between what enters and what leaves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from mmlens.discover.trace import Call, Trace, is_linear, same


@dataclass(frozen=True)
class BlockFactor:
    """What a branch's output is multiplied by: a parameter or number of the block, by itself or through tanh.

    Attributes:
        name: the attribute of the block.
        through_tanh: whether it passes through tanh first.
    """

    name: str
    through_tanh: bool = False

    def __call__(self, block: nn.Module) -> "torch.Tensor | float":
        """The factor of a block."""
        value = getattr(block, self.name)
        return torch.tanh(value) if self.through_tanh else value

    def __str__(self) -> str:
        path = f"block.{self.name}"
        return f"lambda block: {f'torch.tanh({path})' if self.through_tanh else path}"


@dataclass(frozen=True, eq=False)
class Branch:
    """One summand.

    Attributes:
        call: of the module whose output is added.
        factor: what it is multiplied by, or None.
        start, end: the branch was computed between these times.
        reads: the stream that it was computed from.
    """

    call: Call
    factor: BlockFactor | None
    start: int
    end: int
    reads: torch.Tensor


@dataclass(frozen=True, eq=False)
class Residual:
    """How a block is made: `post == pre + first + second`, or with a norm after each sum.

    Attributes:
        first, second: its branches.
        middle: the norm that returns the stream between them, in post-norm blocks.
        parallel: both read the block's input.
    """

    first: Branch
    second: Branch
    middle: Call | None = None
    parallel: bool = False


#: A call whose output could be added to the stream, what it adds, and what that was multiplied by.
_Summand: TypeAlias = tuple[Call, torch.Tensor, BlockFactor | None]


def is_norm(module: nn.Module) -> bool:
    """Whether a module could be a norm: it has no matrix, and at most a gain and a bias."""
    return all(parameter.ndim <= 1 for parameter in module.parameters()) and not is_linear(module)


def residual_of(trace: Trace, block: Call) -> Residual | None:
    """How a block's output is made of its input; None if not of two branches."""
    pre, post = block.stream, block.returned
    if pre is None or post is None or pre.numel() != post.numel() or pre.shape[-1] != post.shape[-1]:
        return None
    inner = trace.within(block)
    pre = pre.reshape(post.shape)
    candidates = _candidates(trace, inner, pre)
    summands = [(call, value, factor) for call in candidates for factor, value in _scaled(block.module, call, post)]
    residual = _pre_norm(block, inner, summands, pre, post)
    return residual or _post_norm(trace, block, inner, summands, pre, post)


def _candidates(trace: Trace, inner: list[Call], pre: torch.Tensor) -> list[Call]:
    """Calls whose output could be added to the stream; of those that return the same, the last that has parameters."""
    candidates: list[Call] = []
    for call in inner:
        out = call.returned
        if out is None or out.numel() != pre.numel() or out.shape[-1] != pre.shape[-1] or same(out, pre):
            continue
        if trace.count(call.module) > 1:
            continue
        twin = next((n for n, other in enumerate(candidates) if same(other.returned, out)), None)
        if twin is None:
            candidates.append(call)
        elif any(True for _ in call.module.parameters()):
            candidates[twin] = call
    return sorted(candidates, key=lambda call: call.exit)


def _scaled(block: nn.Module, call: Call, like: torch.Tensor) -> Iterator[tuple[BlockFactor | None, torch.Tensor]]:
    """A call's output as it is, and times whatever the block holds that could scale it."""
    out = call.output.reshape(like.shape)
    yield None, out
    for name, parameter in block.named_parameters(recurse=False):
        if parameter.numel() in (1, like.shape[-1]):
            yield BlockFactor(name), out * parameter
            yield BlockFactor(name, through_tanh=True), out * torch.tanh(parameter)
    for name, value in vars(block).items():
        if isinstance(value, float) and value not in (0.0, 1.0):
            yield BlockFactor(name), out * value


def _is_sum(result: torch.Tensor, parts: tuple[torch.Tensor, ...], smallest: float) -> bool:
    """Whether parts add up to the whole: bit by bit, or up to far less than the smaller branch."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    if torch.equal(total, result):
        return True
    if result.dtype != torch.float32:
        return False
    return float((total - result).norm()) <= 1e-4 * smallest


def _pre_norm(
    block: Call, inner: list[Call], summands: list[_Summand], pre: torch.Tensor, post: torch.Tensor
) -> Residual | None:
    for first, a, fa in summands:
        middle = pre + a
        for second, b, fb in summands:
            if second.exit <= first.exit:
                continue
            size = min(float(a.norm()), float(b.norm()))
            orders = ((pre, a, b), (pre, b, a), (a, b, pre))
            if size == 0 or not any(_is_sum(post, order, size) for order in orders):
                continue
            between = any(_receives(call, middle) for call in inner if call.enter > first.exit)
            branches = (
                Branch(first, fa, block.enter, first.exit, pre),
                Branch(second, fb, first.exit, second.exit, middle if between else pre),
            )
            return Residual(*branches, parallel=not between)
    return None


def _receives(call: Call, tensor: torch.Tensor) -> bool:
    """Whether a call got a tensor, up to rounding."""
    for value in call.received.values():
        if value.numel() == tensor.numel() and value.shape[-1:] == tensor.shape[-1:] and value.is_floating_point():
            if torch.equal(value.reshape(tensor.shape), tensor):
                return True
            if tensor.dtype == torch.float32 and torch.allclose(value.reshape(tensor.shape), tensor, 1e-5, 1e-6):
                return True
    return False


def _post_norm(
    trace: Trace, block: Call, inner: list[Call], summands: list[_Summand], pre: torch.Tensor, post: torch.Tensor
) -> Residual | None:
    norms = [call for call in inner if is_norm(call.module) and trace.count(call.module) == 1]
    lasts = [call for call in norms if same(call.returned, post)]
    for last in lasts:
        for middle in norms:
            if middle.exit >= last.enter or not same(middle.returned, middle.returned) or middle.returned is None:
                continue
            if middle.returned.numel() != post.numel():
                continue
            stream = middle.returned.reshape(post.shape)
            firsts = [s for s in summands if s[0].exit < middle.enter and _receives(middle, pre + s[1])]
            seconds = [s for s in summands if middle.exit < s[0].exit < last.enter and _receives(last, stream + s[1])]
            if firsts and seconds:
                (first, _, fa), (second, _, fb) = firsts[-1], seconds[-1]
                return Residual(
                    Branch(first, fa, block.enter, first.exit, pre),
                    Branch(second, fb, middle.exit, second.exit, stream),
                    middle=middle,
                )
    return None
