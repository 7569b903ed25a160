"""Identities: equal values have one, in every process; whatever decides a result makes another one; the rest is refused."""

import enum
import functools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmlens.analysis import metrics
from mmlens.core.identity import UnknownIdentityError, identity_of

FACTOR = 2.0
STREAM = open(__file__)  # noqa: SIM115  (something that no other run has)


def scaled(logits: torch.Tensor) -> torch.Tensor:
    return FACTOR * logits[:, 0]


def outer(logits: torch.Tensor) -> torch.Tensor:
    return scaled(logits) + 1


@dataclass(frozen=True)
class Settings:
    at: str
    values: torch.Tensor = field(compare=False, repr=False)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Reads:
    """A metric that is an object."""

    def __init__(self, token: int):
        self.token = token

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, self.token]


def closing(token: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda logits: logits[:, token]


ONE = torch.arange(6.0)
DIFFERENT: dict[str, list[Any]] = {
    "numbers": [0, 1, -1, 0.0, 1.0, float("nan"), True, False, None, "1", b"1", 1j, 2**80],
    "tensors": [ONE, ONE.double(), ONE.reshape(2, 3), ONE.reshape(3, 2), ONE + 1e-6, ONE.numpy(), torch.zeros(0)],
    "containers": [[1, 2], (1, 2), [2, 1], [[1], 2], [], {}, {1: 2}, {2: 1}, {1, 2}, {1}, [1, [2]], [[1, 2]]],
    "lambdas": [
        lambda x: x[:, 5],
        lambda x: x[:, 9],
        lambda x: x[:, 5] + 1,
        lambda x: x[:, 5] - 1,
        lambda x: x[:, 5].mean(),
        lambda x: x[:, 5].sum(),
        lambda x, y=1: x[:, 5],
        lambda x, y=2: x[:, 5],
        lambda x: [row[5] for row in x],
        lambda x: [row[9] for row in x],
    ],
    "closures": [closing(5), closing(6), closing("5"), closing(torch.tensor(5)), closing([5]), closing(Reads(5))],
    "partials": [functools.partial(max, 1), functools.partial(max, 2), functools.partial(min, 1), max, min, torch.add],
    "objects": [Reads(1), Reads(2), Reads, Settings("a", ONE), Settings("b", ONE), Settings("a", ONE + 1)],
    "methods": [Reads(1).__call__, Reads(2).__call__, "a".upper, "b".upper, [1].append, [2].append],
    "choices": [Color.RED, Color.BLUE, torch.float32, torch.float16, Path("a"), Path("b"), slice(1), slice(2)],
    "metrics": [
        metrics.logit_difference("red", "blue"),
        metrics.logit_difference("red", "green"),
        metrics.log_probability("red"),
        metrics.probability("red"),
        metrics.kl_divergence(),
    ],
    "modules": [nn.ReLU(), nn.GELU(), nn.Dropout(0.1), nn.Dropout(0.2)],
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different_values_have_different_identities(kind: str) -> None:
    values = DIFFERENT[kind]
    found = [identity_of(value) for value in values]
    assert len(set(found)) == len(values)
    assert found == [identity_of(value) for value in values]
    assert all(len(each) == 16 for each in found)


def test_equal_values_have_one() -> None:
    for one, other in (
        ({"a": 1, "b": [ONE]}, {"b": [ONE.clone()], "a": 1}),
        ({3, 1, 2}, {2, 3, 1}),
        (np.float64(0.5), 0.5),
        (np.int32(4), 4),
        (ONE.reshape(2, 3).T, ONE.reshape(2, 3).T.contiguous()),
        (lambda x: x[:, 5], lambda logits: logits[:, 5]),
        (closing(5), closing(5)),
        (closing(ONE), closing(ONE.clone())),
        (Reads(3), Reads(3)),
        (metrics.log_odds("red"), metrics.log_odds("red")),
        (nn.ReLU(), nn.ReLU()),
    ):
        assert identity_of(one) == identity_of(other)


def test_what_a_function_reads_from_its_module_and_calls_there_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity_of(outer)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert identity_of(outer) != before
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert identity_of(outer) == before
    monkeypatch.setitem(globals(), "scaled", lambda logits: FACTOR * logits[:, 1])
    assert identity_of(outer) != before


def test_a_weight_of_a_module_that_a_metric_closes_over_counts() -> None:
    probe = nn.Linear(3, 1)
    metric = closing(probe)
    before = identity_of(metric)
    with torch.no_grad():
        probe.weight[0, 1] += 1
    assert identity_of(metric) != before


def test_values_that_hold_themselves_have_one() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    other: list[Any] = [1]
    other.append(other)
    assert identity_of(ring) == identity_of(other) != identity_of([1, [1]])


def test_other_processes_tell_the_same() -> None:
    """Whatever order sets have there, and whatever ids objects."""
    program = textwrap.dedent("""
        from mmlens.analysis import metrics
        from mmlens.core.identity import identity_of
        token = 5
        words = {"red", "blue", "green", "sand"}
        print(identity_of([lambda x: x[:, token], {"a": words}, metrics.logit_difference("red", "blue"), lambda x: x in words]))
    """)
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x: STREAM, r"'STREAM', which the metric \(<lambda>\) reads, is a _io\.TextIOWrapper"),
        (closing(STREAM), r"'token', which the metric \(<lambda>\) closes over, is a _io\.TextIOWrapper"),
        ([1, {"a": (n for n in [1])}], r"the metric\[1\]\['a'\] is a builtins\.generator"),
    ],
)
def test_what_cannot_be_told_is_named_with_what_to_do(value: Any, message: str) -> None:
    with pytest.raises(UnknownIdentityError, match=rf"{message}.*function\.identity = 'reads token 5, version 1'"):
        identity_of(value, "the metric")


def test_a_name_stands_for_a_function_whose_identity_cannot_be_told() -> None:
    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, len(STREAM.name)]

    metric.identity = "length of the name, 1"  # type: ignore[attr-defined]
    first = identity_of(metric)
    metric.identity = "length of the name, 2"  # type: ignore[attr-defined]
    assert identity_of(metric) != first
