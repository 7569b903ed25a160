"""The MLP of a branch or a projector, or a mixture of experts."""

import itertools
from functools import partial
from typing import Any

import torch
from torch import nn

from mmlens.declarations.structure import Mlp
from mmlens.discover.branches import Branch
from mmlens.discover.pieces import inside_of, linears_of, relative
from mmlens.discover.trace import Call, Trace, is_linear, same


def mlp_branch(trace: Trace, block: Call, branch: Branch) -> Mlp:
    """The MLP of a branch, or the mixture of experts."""
    calls = inside_of(trace, branch.start, branch.end)
    path = relative(branch.call.path, block.path)
    mlp = mlp_in(trace, calls, branch.call, block.path)
    if mlp is None:
        router, item = _router(calls)
        return Mlp(
            branch=path,
            router=None if router is None else relative(router.path, block.path),
            router_item=item,
            shared=_shared(trace, calls, branch, block.path),
            scale=branch.factor,
        )
    return Mlp(branch=path, scale=branch.factor, **mlp)


def _shared(trace: Trace, calls: list[Call], branch: Branch, root: str) -> Mlp | None:
    """The expert of a mixture that all rows pass through: linears that run once, on every row."""
    rows = branch.reads.numel() // branch.reads.shape[-1]
    for call in reversed(linears_of(calls)):
        out = call.returned
        if trace.count(call.module) > 1 or out is None or out.shape[-1] != branch.reads.shape[-1]:
            continue
        expert = mlp_in(trace, calls, call, root) if out.numel() // out.shape[-1] == rows else None
        if expert is not None and {"up", "gate", "gate_up"} & set(expert):
            return Mlp(**expert)
    return None


def mlp_in(trace: Trace, calls: list[Call], last: Call, root: str) -> dict[str, Any] | None:
    """The hidden layer whose last linear gives what `last` returns; None if no linear does (mixtures of experts).

    Args:
        trace: of the run.
        calls: where to look.
        last: the call whose output the MLP computes, perhaps through a norm or a scale.
        root: the module that paths are relative to.
    """
    linears = [call for call in linears_of(calls) if trace.count(call.module) == 1]
    down = next((c for c in reversed(linears) if same(c.returned, last.returned) or feeds(trace, c, last)), None)
    if down is None or down.returned is None:
        return None
    width = down.linear.in_features
    rows = down.returned.numel() // down.returned.shape[-1]
    before = [call for call in linears if call.exit < down.enter and call.returned is not None]
    before = [call for call in before if call.output.numel() // call.output.shape[-1] == rows]
    names: dict[str, Any] = {"down": relative(down.path, root)}
    act = _activation(trace, calls, down, width)
    single_linears = [call for call in before if call.module.out_features == width]
    double_linears = [call for call in before if call.module.out_features == 2 * width]
    act_input = None if act is None else next(iter(act.received.values()))
    gate = next((call for call in single_linears[-2:] if same(call.returned, act_input)), None)
    if act is not None and (single_linears or double_linears):
        names["act"] = relative(act.path, root)
    if len(single_linears) >= 2 and gate is not None:
        other = next(call for call in single_linears[-2:] if call is not gate)
        if _is_product(down, act, other):
            return names | {"gate": relative(gate.path, root), "up": relative(other.path, root)}
    if double_linears and act_input is not None:
        for half, first in zip(double_linears[-1].output.chunk(2, -1), (False, True), strict=True):
            if same(half, act_input):
                fields = names | {"gate_up": relative(double_linears[-1].path, root)}
                return fields | {"up_first": True} if first else fields
    if act is None:
        return names | _by_function(down, single_linears, double_linears, root)
    if gate is not None:
        names["up"] = relative(gate.path, root)
    return names


#: Activation functions that models call without a module.
_FUNCTIONS = (
    nn.functional.silu,
    nn.functional.gelu,
    partial(nn.functional.gelu, approximate="tanh"),
    nn.functional.relu,
    torch.sigmoid,
)


def _by_function(down: Call, linears: list[Call], double_linears: list[Call], root: str) -> dict[str, Any]:
    """The linears of a hidden layer whose activation is no module: told by the function that gives what `down` receives."""
    inputs = next(iter(down.received.values()))

    def is_gated(gate: torch.Tensor, up: torch.Tensor) -> bool:
        products = (function(gate) * up for function in _FUNCTIONS)
        return any(torch.allclose(product.reshape(inputs.shape), inputs, 1e-2, 1e-4) for product in products)

    for gate, up in itertools.permutations(linears[-2:], 2):
        if is_gated(gate.output, up.output):
            return {"gate": relative(gate.path, root), "up": relative(up.path, root)}
    for call in double_linears[-1:]:
        first, second = call.output.chunk(2, -1)
        for halves, up_first in (((first, second), False), ((second, first), True)):
            if is_gated(*halves):
                return {"gate_up": relative(call.path, root), **({"up_first": True} if up_first else {})}
    return {"up": relative(linears[-1].path, root)} if len(linears) == 1 and not double_linears else {}


def _is_product(down: Call, act: Call | None, other: Call) -> bool:
    """Whether a gated MLP's last linear receives the activation times the other linear's output."""
    inputs = next(iter(down.received.values()))
    if act is None or act.returned is None or other.returned is None:
        return False
    product = act.returned * other.returned.reshape(act.returned.shape)
    return torch.allclose(product.reshape(inputs.shape), inputs, 1e-2, 1e-4)


def feeds(trace: Trace, linear: Call, last: Call) -> bool:
    """Whether what a linear returns is what the last module (a norm, a scale) turns into the branch."""
    inputs = next(iter(last.received.values()), None)
    if is_linear(last.module) or linear.exit > last.exit:
        return False
    if same(linear.returned, inputs):
        return True
    tail = [c for c in trace.within(last) if c.enter > linear.exit and same(c.returned, last.returned)]
    return any(same(linear.returned, next(iter(c.received.values()), None)) for c in tail)


def _activation(trace: Trace, calls: list[Call], down: Call, width: int) -> Call | None:
    """The module that applies the activation function to the hidden layer."""
    for call in reversed(calls):
        inputs = next(iter(call.received.values()), None)
        if inputs is None or call.returned is None or call.exit > down.enter or trace.count(call.module) > 1:
            continue
        plain = not any(True for _ in call.module.parameters()) and inputs.shape == call.returned.shape
        if plain and inputs.shape[-1] == width and not torch.equal(inputs, call.returned):
            return call
    return None


def _router(calls: list[Call]) -> tuple[Call | None, int | None]:
    """The module of a mixture that says by a matrix of its own how well each expert fits, and where it returns that."""
    experts = {len(p) for call in calls for p in call.module.parameters(recurse=False) if p.ndim == 3}
    experts |= {len(m) for call in calls for m in call.module.children() if isinstance(m, nn.ModuleList)}
    for call in calls:
        weight = getattr(call.module, "weight", None)
        inputs = next(iter(call.received.values()), None)
        if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or len(weight) not in experts or inputs is None:
            continue
        if inputs.shape[-1] != weight.shape[1]:
            continue
        logits = (inputs.to(weight.dtype) @ weight.T).flatten(0, -2)
        bias = getattr(call.module, "bias", None)
        logits = logits if not isinstance(bias, torch.Tensor) else logits + bias
        items = call.items or (call.returned,)
        for number, item in enumerate(items):
            if not isinstance(item, torch.Tensor) or item.shape[-1] != len(weight) or item.numel() != logits.numel():
                continue
            if torch.allclose(item.flatten(0, -2).float(), logits.float(), 1e-3, 1e-5):
                return call, number if call.items else None
    return None, None
