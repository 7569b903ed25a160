"""The state that predicts a word: whole words, their right token, the first mention, and nothing of the prompt."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.store.at_word import AtWord, WordToken
from mmlens.core.errors import InputError
from mmlens.models.generation import GenerationTrace
from tests.analysis.nouns.test_caption_nouns import pieces_tokenizer


def speaker(*texts: str) -> SimpleNamespace:
    """A stand-in for a model that says these texts; the state of a step is the step's number."""
    tokenizer = pieces_tokenizer()
    ids = [tokenizer.encode(text) for text in texts]
    longest = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    states = torch.arange(longest).float()[None, :, None].expand(len(ids), -1, 1)
    lengths = torch.tensor([len(row) for row in ids])
    logits = torch.zeros(1)
    trace = GenerationTrace(tokens, lengths, {"here": states}, logits, logits, [[] for _ in texts], list(texts))
    return SimpleNamespace(tokenizer=tokenizer, trace_generation=lambda *_, **__: trace, trace=trace)


def taken(rule: AtWord, *texts: str, truths: tuple[str | None, ...] | None = None) -> tuple[Any, list[str]]:
    """What a rule takes of texts, and the tokens that the states it took predicted."""
    model = speaker(*texts)
    samples = [Sample((), caption=truth) for truth in truths or [None] * len(texts)]
    found = rule.take(model, [SimpleNamespace(name="here")], samples, None)  # type: ignore[arg-type]
    owners = [number for number, count in enumerate(found.counts) for _ in range(count)]
    said = [model.tokenizer.decode([int(model.trace.tokens[n, s])]) for n, s in zip(owners, found.steps, strict=True)]
    assert found.states["here"].flatten().tolist() == found.steps  # the state is that of the step
    return found, said


def rule(*words: str, word_token: WordToken = "last", in_truth: bool = False, every_word: bool = False) -> AtWord:
    return AtWord.of(words, word_token, in_truth, 9, None, every_word)


@pytest.mark.parametrize(("word_token", "piece"), [("last", "t"), ("first", " ca")])
def test_a_word_of_several_tokens_is_met_at_the_asked_one(word_token: WordToken, piece: str) -> None:
    found, said = taken(rule("cat", word_token=word_token), "a dog , a cat")
    assert (found.words, said) == ([("cat",)], [piece])


@pytest.mark.parametrize(
    ("word", "text"), [("red", "all covered up"), ("no", "a nose"), ("1", "10 dogs"), ("cat", "cats")]
)
def test_a_piece_of_another_word_is_not_the_word(word: str, text: str) -> None:
    found, _ = taken(rule(word), text)
    assert (found.counts, found.words) == ([0], [()])


def test_the_first_mention_counts_and_case_does_not() -> None:
    found, _ = taken(rule("DOG"), "A Dog sees a dog.")
    first, _ = taken(rule("dog", word_token="first"), "A Dog sees a dog.")
    assert (found.counts, found.words) == ([1], [("dog",)])
    assert first.steps[0] < found.steps[0] < len(pieces_tokenizer().encode("A Dog sees"))


def test_of_a_class_the_first_in_the_caption_is_taken_and_the_longest_at_one_place() -> None:
    found, _ = taken(rule("light", "traffic", "traffic light", "cat"), "a traffic light", "a cat by a light", "a hat")
    assert found.words == [("traffic light",), ("cat",), ()]
    assert found.counts == [1, 1, 0]


def test_every_word_gives_a_state_at_its_own_first_mention() -> None:
    texts = ("a cat by a dog , a cat", "a dog", "a hat")
    found, said = taken(rule("dog", "cat", "traffic light", every_word=True), *texts)
    assert found.words == [("cat", "dog"), ("dog",), ()]
    assert (found.counts, said) == ([2, 1, 0], ["t", "g", "g"])
    for word in ("cat", "dog"):  # each is what the word asked for alone gives
        alone, _ = taken(rule(word), *texts)
        pairs = zip(found.words, [found.steps[:2], found.steps[2:], []], strict=True)
        assert alone.steps == [step for words, steps in pairs for name, step in zip(words, steps) if name == word]
    truths = ("a dog", "a cat", "a hat")
    assert taken(rule("dog", "cat", in_truth=True, every_word=True), *texts, truths=truths)[0].words == [
        ("dog",), (), ()
    ]  # fmt: skip


def test_two_words_in_a_row_end_with_the_last_token_of_the_second() -> None:
    _, said = taken(rule("traffic light"), "a traffic light on")
    assert said == ["t"]


def test_the_true_caption_must_have_the_word_if_asked() -> None:
    found, _ = taken(rule("cat", "dog", in_truth=True), "a cat", "a cat", "a dog", truths=("the cat", "a scat", "dogs"))
    assert found.counts == [1, 0, 0]
    with pytest.raises(InputError, match=r"in_truth=True needs true captions, but the samples \w+ have none"):
        taken(rule("cat", in_truth=True), "a cat")


def test_what_is_no_word_is_refused() -> None:
    with pytest.raises(InputError, match=r"holds no word to look for in captions: '\?' is none"):
        rule("cat", "?")
    with pytest.raises(InputError, match="holds no word to look for in captions"):
        rule()
    with pytest.raises(InputError, match="word_token='middle' must be 'last' or 'first'"):
        rule("cat", word_token="middle")  # type: ignore[arg-type]
