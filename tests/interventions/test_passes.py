"""Which positions the passes of a run hold, pass by pass: the prompt whole or in pieces, with a cache and without, taken back."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.interventions.passes import Follower, Passes, refuse_known_positions, run_of
from mmlens.models.run import Window
from tests.inputs.layouts import batch_of, node

LANGUAGE, VISION = node("language", "language"), node("vision", "vision")
LOGITS = SimpleNamespace(name="hook_logits", sequence="language", position_axis=1)


def run(kind: str, window: Window | None = None, **options: Any) -> Any:
    """A run of six positions."""
    memory: dict[Any, Any] = {}

    def remember(key: Any, make: Any) -> Any:
        if key not in memory:
            memory[key] = make()
        return memory[key]

    model = SimpleNamespace(graph={"hook_logits": LOGITS})
    return SimpleNamespace(kind=kind, window=window, model=model, options=options, batch=batch_of(), remember=remember)


@pytest.mark.parametrize(
    ("kind", "at", "counts", "firsts"),
    [
        ("forward", LANGUAGE, [6, 6], [0, 0]),  # a tower may be called anew
        ("generate", LANGUAGE, [6, 1, 1, 2], [0, 6, 7, 8]),
        ("generate", LANGUAGE, [6, 7, 8], [0, 0, 0]),  # without a cache
        ("generate", LANGUAGE, [4, 2, 1], [0, 4, 6]),  # a prompt in pieces
        ("generate", LOGITS, [1, 1, 1], [5, 6, 7]),  # those of the end alone
        ("generate", LOGITS, [6, 1, 8], [0, 6, 0]),
        ("forward", LOGITS, [2], [4]),
        ("forward", LOGITS, [6], [0]),
        ("generate", VISION, [6, 6], [0, 0]),
    ],
)
def test_the_first_position_of_every_pass(kind: str, at: Any, counts: list[int], firsts: list[int]) -> None:
    passes = Passes.of(run(kind), at, 6)
    assert [passes.next(at, count) for count in counts] == firsts
    assert passes.seen == firsts[-1] + counts[-1]
    # one for each point, followed by itself
    follow = Follower(SimpleNamespace(current_run=run(kind)), at)  # type: ignore[arg-type]
    for count, first in zip(counts, firsts, strict=True):
        assert follow(torch.zeros(3, count, 2))[1:] == (6, first)


@pytest.mark.parametrize(
    ("kind", "at", "counts"),
    [
        ("forward", LANGUAGE, [5]),
        ("forward", LANGUAGE, [7]),
        ("forward", LANGUAGE, [6, 1]),
        ("generate", LANGUAGE, [7]),
        ("forward", LOGITS, [7]),
        ("generate", VISION, [6, 1]),
        ("generate", VISION, [5]),
    ],
)
def test_rows_that_are_no_positions_of_the_batch_are_refused(kind: str, at: Any, counts: list[int]) -> None:
    passes = Passes.of(run(kind), at, 6)
    for count in counts[:-1]:
        passes.next(at, count)
    message = rf"{at.name} holds {counts[-1]} positions in this run, and the batch has 6 on the {at.sequence} sequence"
    with pytest.raises(InputError, match=message):
        passes.next(at, counts[-1])


def test_passes_that_may_be_taken_back_say_what_they_hold() -> None:
    window = Window(4, 3)
    passes = Passes.of(run("generate", window), LANGUAGE, 6)
    assert [passes.next(LANGUAGE, 3), passes.next(LANGUAGE, 1)] == [4, 6]
    window.first = 2
    assert passes.next(LANGUAGE, 3) == 2
    # another sequence is not written
    assert Passes.of(run("generate", window), VISION, 6).window is None
    assert Passes.of(run("generate", window), node("language", "decoder"), 1).window is None
    assert Passes.of(run("generate"), LANGUAGE, 6).window is None


def test_rows_of_towers_are_as_many_as_come_first() -> None:
    follow = Follower(SimpleNamespace(current_run=run("generate")), VISION)  # type: ignore[arg-type]
    assert follow(torch.zeros(2, 9, 4))[1:] == (9, 0)
    decoder = Follower(SimpleNamespace(current_run=run("generate")), node("language", "decoder"))  # type: ignore[arg-type]
    assert [decoder(torch.zeros(3, 1, 4))[1:] for _ in range(3)] == [(1, 0), (1, 1), (1, 2)]


def test_a_run_of_the_bare_model_has_no_positions() -> None:
    with pytest.raises(
        InputError, match=r"^Positions at language.point are those of the batch that a hooked model runs"
    ):
        run_of(SimpleNamespace(current_run=None), LANGUAGE)  # type: ignore[arg-type]


def test_a_run_that_goes_on_from_another_is_refused() -> None:
    cache = SimpleNamespace(get_seq_length=lambda: 0)
    for options in ({}, {"past_key_values": None}, {"past_key_values": cache}):
        refuse_known_positions(run("forward", **options))
    for past in (SimpleNamespace(get_seq_length=lambda: 3), ((1, 2),)):
        with pytest.raises(InputError, match="The run goes on from past_key_values of an earlier one"):
            refuse_known_positions(run("forward", past_key_values=past))
