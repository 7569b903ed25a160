"""What a call gives on both sides, and how far the two lie apart."""

import ast
import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from tests.contracts.transformer_lens.call import TOLERANCE, Call
from tests.contracts.transformer_lens.scope import caches, scope, truths
from tests.contracts.transformer_lens.subjects import TEXT, Pair, pair


@dataclass(frozen=True)
class Outcome:
    """What came of a call on one model.

    Attributes:
        bound: its value on the bound model, or the exception.
        expected: the value that it is compared with, or the exception.
        gap: how far the two lie apart; 0 where values that are no numbers are equal, infinite where they are not.
    """

    bound: Any
    expected: Any
    gap: float

    @property
    def equal(self) -> bool:
        """Whether the two are one value, to rounding."""
        return self.gap <= TOLERANCE


def outcome(call: Call, sides: Pair) -> Outcome:
    """Run a call on both sides."""
    bound = bound_value(call.code, sides.name)
    expected = _run(call.truth, truths(sides), sides.bridge) if call.truth else _value(call.code, sides, sides.bridge)
    return Outcome(bound, expected, gap(bound, expected))


@cache
def bound_value(code: str, name: str) -> Any:
    """The value of a call on the bound model, worked out once."""
    sides = pair(name)
    return _value(code, sides, sides.hooked.bind(sides.batches[TEXT]))


def _value(code: str, sides: Pair, model: Any) -> Any:
    names = scope(sides, model) | (caches(sides, model) if "cache" in code else {})
    return _run(code, names, model)


def _run(code: str, names: dict[str, Any], model: Any) -> Any:
    """The value of the last expression of code, or the exception; the model is as it was afterwards."""
    tree = ast.parse(code)
    *statements, last = tree.body
    assert isinstance(last, ast.Expr), code
    torch.manual_seed(0)
    random.seed(0)
    try:
        with torch.enable_grad():  # some calls turn it off for good
            exec(compile(ast.Module(statements, []), "call", "exec"), names)
            return eval(compile(ast.Expression(last.value), "call", "eval"), names)
    except Exception as error:  # noqa: BLE001 - a call may fail in any way, and that is its outcome
        return error
    finally:
        model.reset_hooks(including_permanent=True)
        for flag in ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in"):
            setter = getattr(model, f"set_{flag}", None)
            if setter is not None and getattr(model.cfg, flag, False):
                setter(False)


def gap(first: Any, second: Any) -> float:
    """How far two values lie apart."""
    numbers = torch.Tensor | np.ndarray | float | torch.nn.Parameter
    if isinstance(first, numbers) and isinstance(second, numbers):
        one, two = torch.as_tensor(first).detach(), torch.as_tensor(second).detach()
        if one.shape != two.shape:
            return float("inf")
        one, two = one.to(torch.complex128), two.to(torch.complex128)
        same = (one == two) | (one.isnan() & two.isnan())
        return float((one - two).abs().masked_fill(same, 0).nan_to_num(torch.inf).max()) if one.numel() else 0.0
    if isinstance(first, dict) and isinstance(second, dict):
        if set(first) != set(second):
            return float("inf")
        return max((gap(first[key], second[key]) for key in first), default=0.0)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return float("inf")
        return max((gap(*both) for both in zip(first, second, strict=True)), default=0.0)
    if isinstance(first, Exception) or type(first) is not type(second):
        return float("inf")
    return 0.0 if first == second else float("inf")


def raw_gap(call: Call, sides: Pair) -> float:
    """How far the bridge's own value lies from the bound model's."""
    return outcome(replace(call, truth=""), sides).gap
