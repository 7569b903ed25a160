"""Pairs of positions in every pass of a generation, pair by pair: what is cut, and what a cut would leave nothing to see."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.hooks.nodes import Node
from mmlens.inputs.positions import resolve
from mmlens.interventions.attention_pairs import AttentionPairs, cut_scores, mask_decides
from tests.inputs.layouts import TOKENS, batch_of

SCORES = Node(
    "blocks.0.attn.hook_attn_scores", "language", 0, "attn.attn_scores", "batch head query key", None, "language"
)
DECODER = Node(
    "blocks.0.cross_attn.hook_attn_scores", "language", 0, "cross_attn.attn_scores", SCORES.axes, None, "decoder"
)
BATCH = batch_of()
#: Positions that a rule means, by sample and position: the samples' own tokens begin at 2, 0 and 0, and have 4, 6 and 5.
START, LENGTH = (2, 0, 0), (4, 6, 5)
RULES: dict[str, tuple[Any, Any]] = {
    "last and new": (positions.last | "generated", lambda s, p: p == START[s] + LENGTH[s] - 1 or p >= 6),
    "new": (positions.generated, lambda s, p: p >= 6),
    "prompt": (positions.prompt, lambda s, p: START[s] <= p < START[s] + LENGTH[s]),
    "some": (
        positions.index(slice(1, None, 2)),
        lambda s, p: (
            (START[s] < p < START[s] + LENGTH[s] and (p - START[s]) % 2 == 1)
            or (p >= 6 and (LENGTH[s] + p - 6) % 2 == 1)
        ),
    ),
    "first": (positions.index(0), lambda s, p: p == START[s]),
}


def pairs_of(queries: Any, keys: Any, node: Node = SCORES, looked_at: Node = SCORES) -> AttentionPairs:
    """What rules mean, where a token sees those before it and itself."""
    query_rows = resolve(queries, BATCH, node, steps=None, required=False)
    key_rows = resolve(keys, BATCH, looked_at, steps=None, required=False)
    seen = torch.ones(3, query_rows.mask.shape[1], 6, dtype=torch.bool)
    seen = (seen.tril() if node is SCORES else seen) & TOKENS[:, None, :]
    return AttentionPairs(query_rows, key_rows, seen)


@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        ("last and new", "some"),
        ("new", "prompt"),
        ("some", "first"),
        ("some", "prompt"),
        ("prompt", "first"),
        ("new", "some"),
    ],
)
def test_pairs_of_every_pass(queries: str, keys: str) -> None:
    """The prompt at once, in two pieces, steps with a cache, all anew without one, and a window of the last keys."""
    pairs = pairs_of(RULES[queries][0], RULES[keys][0])
    for first, n_query, n_key in (
        *((0, 6, 6), (0, 3, 3), (3, 3, 6), (3, 3, 4), (6, 1, 7), (8, 1, 9), (8, 1, 3), (0, 9, 9), (4, 4, 8), (7, 2, 5)),
        (6, 1, 6),
    ):
        found = pairs.of_pass(first, n_query, n_key, may_blind=True)
        assert found.shape == (3, n_query, n_key)
        for sample in range(3):
            for i in range(n_query):
                for j in range(n_key):
                    query, key = first + i, first + n_query - n_key + j
                    expected = RULES[queries][1](sample, query) and RULES[keys][1](sample, key)
                    if query < 6 or key < 6:
                        expected = expected and (key <= query or query >= 6)
                    elif key > query:
                        continue  # the model's own mask hides it
                    assert bool(found[sample, i, j]) == bool(expected), (first, n_query, n_key, sample, query, key)


def test_new_tokens_look_at_keys_that_do_not_grow() -> None:
    """A decoder's queries at the prompt that an encoder read: new ones cut as the rule means, the keys the same."""
    pairs = pairs_of(positions.generated, positions.index(0), DECODER)
    keys = torch.zeros(3, 6, dtype=torch.bool)
    keys[[0, 1, 2], [2, 0, 0]] = True
    assert not pairs.of_pass(0, 1, 6).any()
    for first, n_query, new in ((1, 1, [True]), (0, 3, [False, True, True])):
        expected = torch.tensor(new)[None, :, None] & keys[:, None]
        assert torch.equal(pairs.of_pass(first, n_query, 6), expected)
    last = pairs_of("last", positions.index(0), DECODER)
    assert torch.equal(last.of_pass(0, 1, 6), keys[:, None])
    assert not last.of_pass(1, 1, 6).any()


def test_new_tokens_that_would_see_nothing_are_refused() -> None:
    for keys, blind in (
        ("all", True),
        (positions.prompt, False),
        (positions.prompt | "generated", True),
        ("generated", False),
    ):
        pairs = pairs_of("generated", keys)
        assert pairs.of_pass(6, 1, 7, may_blind=True).any()
        if blind:
            with pytest.raises(InputError, match="New tokens would have no key left to look at"):
                pairs.of_pass(7, 1, 8)
        else:
            assert pairs.of_pass(7, 1, 8).any()
    # one that means no new token leaves them what they see
    assert not pairs_of("last", "all").of_pass(6, 1, 7).any()


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        (0, -1, r"see none of keys=positions.index\(-1\) in samples \[0, 1, 2\] anyway"),
        (
            torch.tensor([[3], [0], [4]]),
            torch.tensor([[0], [1], [0]]),
            r"in samples \[1\] anyway: a position sees itself",
        ),
        # no sample has both
        ("last", "generated", r"in samples \[\] anyway"),
        ([0, 1], 0, r"^Position 2 of sample 0 would have no key left to look at"),
        (
            torch.tensor([[3], [3], [0]]),
            torch.tensor([[0], [1], [0]]),
            "^Position 0 of sample 2 would have no key left",
        ),
        # the new token of number 64 comes too late to be counted on
        (positions.index(slice(70, 71)), 0, "see none of keys"),
    ],
    ids=str,
)
def test_cuts_of_nothing_and_of_everything_are_refused(queries: Any, keys: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pairs_of(queries, keys).require()


def test_cuts_that_can_be() -> None:
    for queries, keys in (
        ("last", "last"),  # they see the others
        ("last", 0),
        ("generated", -1),
        (positions.index(0) | "generated", -1),
        (positions.index(slice(69, 70)), -1),
        (positions.index(0) | positions.index(-1), -1),
    ):
        pairs_of(queries, keys).require()
    # pairs of which there are some, though a query loses all that it sees
    pairs_of(0, 0).require_some()
    with pytest.raises(InputError, match="would have no key left"):
        pairs_of(0, 0).require()
    with pytest.raises(AttributeError):
        pairs_of(0, 0).seen = None  # type: ignore[misc, assignment]


@pytest.mark.parametrize("ahead", [True, False])
def test_only_the_mask_says_what_is_seen_across_sequences_and_ahead(ahead: bool) -> None:
    language = SimpleNamespace(looks_ahead=ahead)
    logits = SimpleNamespace(sequence="language")
    model: Any = SimpleNamespace(graph={"hook_logits": logits}, family=SimpleNamespace(language=language))
    vision = replace(SCORES, part="vision", sequence="vision")
    encoder = replace(SCORES, sequence="encoder")
    assert [mask_decides(model, node) for node in (SCORES, vision, encoder, DECODER)] == [ahead, False, False, True]


def test_scores_that_the_model_hides_leave_nothing_to_see() -> None:
    scores = torch.zeros(1, 1, 3, 3)
    hidden = torch.full((3, 3), torch.finfo(torch.float32).min).triu(1)
    pairs = torch.eye(3, dtype=torch.bool)[None, None]
    cut = cut_scores(scores + hidden, pairs[:, :, :, [1, 2, 0]], SCORES, by_mask=True)
    assert cut[0, 0, 2].tolist() == [0, float("-inf"), 0]
    assert torch.equal(
        cut_scores(scores + hidden, pairs, SCORES, by_mask=False)[0, 0].diagonal(), torch.full((3,), -torch.inf)
    )
    with pytest.raises(InputError, match=r"^Query 0 at blocks.0.attn.hook_attn_scores would have no key left"):
        cut_scores(scores + hidden, pairs, SCORES, by_mask=True)
