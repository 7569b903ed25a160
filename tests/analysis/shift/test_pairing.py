"""Samples are paired by hash and word; whatever has no partner is named."""

from dataclasses import replace

import pytest
import torch

from mmlens.analysis.shift.pairing import paired
from mmlens.analysis.store.states import States
from mmlens.core.errors import InputError

AT = "blocks.1.hook_resid_post"


def states(keys: str, *, at: str = AT, words: str | None = None) -> States:
    """A state per letter, whose value is the letter's number."""
    values = torch.tensor([[float(ord(key))] for key in keys])
    return States(values, at, keys=tuple(keys), tokens=tuple(words or "x" * len(keys)))


def test_rows_are_brought_into_one_order() -> None:
    base, tuned = paired(states("abcd"), states("dcab"), pairs="all")
    assert base.keys == tuned.keys == tuple("abcd")
    assert torch.equal(base.values, tuned.values)


def test_samples_without_a_partner_are_named() -> None:
    with pytest.raises(
        InputError,
        match=r"1 of 3 states of base_states have no partner in tuned_states: a \(x\)\. "
        r"2 of 4 states of tuned_states have no partner in base_states: d \(x\), e \(x\)\. "
        r"Pass pairs='common' to compare the 2 that both have",
    ):
        paired(states("abc"), states("bcde"), pairs="all")
    base, tuned = paired(states("abc"), states("dbec"), pairs="common")
    assert base.keys == tuned.keys == ("b", "c")


def test_the_same_sample_with_another_word_is_no_pair() -> None:
    one, other = states("ab", words="xy"), states("ab", words="xz")
    with pytest.raises(InputError, match=r"b \(y\)\. .* b \(z\)\."):
        paired(one, other, pairs="all")
    assert paired(one, other, pairs="common")[0].keys == ("a",)
    assert paired(replace(one, tokens=()), other, pairs="all")[1].keys == ("a", "b")


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(InputError, match=r"They have no sample in common: .* pass pairs='none'"):
        paired(states("ab"), states("cd"), pairs="common")
    with pytest.raises(InputError, match=r"tuned_states hold several states of one sample: a \(x\)"):
        paired(states("ab"), states("aab"), pairs="all")
    with pytest.raises(InputError, match=r"base_states do not know which samples"):
        paired(replace(states("ab"), keys=()), states("ab"), pairs="all")
    with pytest.raises(
        InputError, match=r"base_states are of blocks.1.hook_resid_post \[1\] and tuned_states of blocks.2"
    ):
        paired(states("ab"), states("ab", at="blocks.2.hook_resid_post"), pairs="none")
    with pytest.raises(InputError, match="pairs='some' must be 'all', 'common' or 'none'"):
        paired(states("ab"), states("ab"), pairs="some")  # type: ignore[arg-type]
    assert paired(states("ab"), states("cd"), pairs="none")[1].keys == ("c", "d")
