"""Entries of a batch axis: whose they are, in one pass and with the beams of a generation."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.hooks.nodes import Node
from mmlens.interventions.positioned import PositionedIntervention, RowMask, new_tokens_read, once_per_prompt, per_entry
from tests.conftest import Subject

NODE = Node("vision.hook_embed", "vision", None, "embed", "batch pos d_model", 4, "vision")
MARKS = torch.tensor([[True, False], [False, True]])


def run(kind: str) -> Any:
    return SimpleNamespace(kind=kind)


def test_the_last_new_token_is_written_and_not_read() -> None:
    def of(kind: str, **options: int) -> int | None:
        return new_tokens_read(SimpleNamespace(kind=kind, options=options))  # type: ignore[arg-type]

    assert [of("forward"), of("forward", max_new_tokens=9)] == [0, 0]
    assert [of("generate", max_new_tokens=count) for count in (1, 2, 9, 0)] == [0, 1, 8, 0]
    assert of("generate") is None


def test_rows_that_are_meant_are_put_in_the_precision_of_the_others() -> None:
    old, new = torch.zeros(2, 2, dtype=torch.bfloat16), torch.ones(2, 2)
    assert RowMask(True, 0).put(old, new).tolist() == [[1, 1], [1, 1]]
    assert RowMask(False, 0).put(old, new).tolist() == [[0, 0], [0, 0]]
    mixed = RowMask(torch.tensor([[True], [False]]), 0).put(old, new)
    assert (mixed.tolist(), mixed.dtype) == ([[1, 1], [0, 0]], torch.bfloat16)


def test_beams_of_a_prompt_have_its_marks() -> None:
    for kind in ("forward", "generate"):
        assert torch.equal(per_entry(MARKS, 2, NODE, run(kind)), MARKS)
    assert per_entry(MARKS, 6, NODE, run("generate")).tolist() == [[True, False]] * 3 + [[False, True]] * 3


@pytest.mark.parametrize(("entries", "kind"), [(4, "forward"), (3, "forward"), (3, "generate")])
def test_entries_that_are_not_known_are_refused(entries: int, kind: str) -> None:
    """In one pass four entries of two marks may be tiles: nobody says whose."""
    with pytest.raises(
        InputError, match=rf"has {entries} entries along its batch axis in this run, and the batch has 2"
    ):
        per_entry(MARKS, entries, NODE, run(kind))


@pytest.mark.parametrize(
    ("kind", "count", "expected"),
    [
        ("generate", 2, 2),
        ("generate", 6, 2),
        ("generate", 5, 5),
        ("generate", 1, 1),
        ("forward", 6, 6),
        ("forward", 2, 2),
    ],
)
def test_a_generation_holds_each_prompt_once_for_every_beam(
    llava: Subject, kind: str, count: int, expected: int
) -> None:
    node, batch = llava.model.graph["vision.hook_embed"], llava.batches["left"]
    shape = (count, *(3, 4))
    assert once_per_prompt(shape, node, SimpleNamespace(kind=kind, batch=batch)) == (expected, 3, 4)  # type: ignore[arg-type]


def test_an_intervention_must_say_where_it_acts_and_what_it_does() -> None:
    assert PositionedIntervention.__abstractmethods__ >= {"points"}
    with pytest.raises(TypeError, match="abstract"):
        PositionedIntervention()  # type: ignore[abstract]
