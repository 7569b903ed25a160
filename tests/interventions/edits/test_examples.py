"""What is taught: where the source is said, what is wanted there, and what has to stay; against a plain loop."""

import re

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.interventions.edits.examples import (
    EditExample,
    answered_examples,
    as_batches,
    as_token,
    edit_examples,
    form_said,
    in_form,
    replaced,
    starts_of,
)
from tests.conftest import Subject
from tests.tiny import picture


def test_ids_are_those_of_the_vocabulary(llava: Subject) -> None:
    size = llava.model.cfg.d_vocab
    assert [as_token(llava.model, token) for token in (0, size - 1)] == [0, size - 1]
    for token in (-1, size):
        with pytest.raises(InputError, match=rf"Token {token} is outside .*, whose ids go from 0 to {size - 1}\."):
            as_token(llava.model, token)


@torch.no_grad()
def test_examples_hold_the_answers_with_the_word_replaced(subject: Subject) -> None:
    """Every place of every answer is a place to change or to keep; sequences are worked out anew with the bare model."""
    model, batch = subject.model, subject.batches["left"]
    trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=4)
    source = int(trace.tokens[0, 0])
    target = next(token for token in range(10, 30) if token not in trace.tokens)
    (example,) = edit_examples(model, [batch], source=((source,),), target=((target,),), max_new_tokens=4)
    length, steps = batch["input_ids"].shape[1], trace.tokens.shape[1]
    wanted = [[target if token == source else token for token in row] for row in trace.tokens.tolist()]
    assert example.batch["input_ids"][:, length:].tolist() == [row[: steps - 1] for row in wanted]
    spots, kept, after = [], [], []
    for sample, row in enumerate(trace.tokens.tolist()):
        for step in range(int(trace.lengths[sample])):
            (spots if row[step] == source else kept).append([sample, length - 1 + step])
            if step and row[step - 1] == source:
                after.append([sample, length - 1 + step])
    assert example.source_places.tolist() == spots
    assert example.other_places.tolist() == kept
    assert example.follow_places.tolist() == after
    # the places to keep are held to what followed the model's own words, not the replaced ones
    own = subject.bare(**model.extend(batch, trace.tokens[:, :-1])).logits.log_softmax(-1)
    for places, found in ((kept, example.other_log_probabilities), (spots, example.source_log_probabilities)):
        for (sample, position), row in zip(places, found, strict=True):
            torch.testing.assert_close(row, own[sample, position], atol=2e-5, rtol=1e-5)
    (control,) = edit_examples(model, [batch], source=None, target=None, max_new_tokens=4)
    assert len(control.source_places) == len(control.follow_places) == 0
    assert len(control.other_places) == int(trace.lengths.sum())
    assert torch.equal(control.batch["input_ids"][:, length:], trace.tokens[:, :-1])


def test_answers_of_one_word(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    source = int(model(batch)[0, -1].argmax())
    (example,) = edit_examples(model, [batch], source=((source,),), target=((12,),), max_new_tokens=1)
    assert example.batch is batch
    assert [0, batch["input_ids"].shape[1] - 1] in example.source_places.tolist()
    assert not len(example.follow_places)
    unsaid = next(token for token in range(10, 30) if token not in example.batch["input_ids"] and token != source)
    with pytest.raises(
        InputError, match=r"^The model does not say .* to any prompt of a batch; it says '.*'\. Give prompts"
    ):
        edit_examples(model, [batch], source=((unsaid,),), target=((12,),), max_new_tokens=1)


@torch.no_grad()
@pytest.mark.parametrize(("old_length", "new_length"), [(2, 3), (2, 1), (1, 2), (3, 3)])
def test_words_of_several_tokens_are_replaced_whole(llava: Subject, old_length: int, new_length: int) -> None:
    model, batch = llava.model, llava.batches["left"]
    trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=6)
    said = [row[:length] for row, length in zip(trace.tokens.tolist(), trace.lengths.tolist(), strict=True)]
    old, new = tuple(said[0][1 : 1 + old_length]), tuple(range(20, 20 + new_length))
    (example,) = edit_examples(model, [batch], source=(old,), target=(new,), max_new_tokens=6)
    wanted, kept = [], []
    for sample, row in enumerate(said):  # a plain loop over every place
        out, at = [], 0
        while at < len(row):
            here = tuple(row[at : at + old_length]) == old
            kept += [] if here else [(sample, batch["input_ids"].shape[1] - 1 + at)]
            out += list(new) if here else [row[at]]
            at += old_length if here else 1
        wanted.append(out)
    ids, length = example.batch["input_ids"], batch["input_ids"].shape[1]
    for row, out in zip(ids.tolist(), wanted, strict=True):
        assert row[length : length + len(out)] == out[: ids.shape[1] - length]
    # every place predicts the token that stands behind it in the text that is wanted
    behind = {(sample, length - 1 + step): token for sample, row in enumerate(wanted) for step, token in enumerate(row)}
    places = [tuple(place) for place in example.source_places.tolist()]
    assert [behind[place] for place in places] == example.place_tokens.tolist()
    assert len(places) % new_length == 0
    rest = [tuple(place) for place in example.other_places.tolist()]
    assert sorted([*places, *rest]) == sorted(behind)
    assert len(example.other_log_probabilities) == len(rest)
    # the places to keep are held to what followed the model's own words
    own = llava.bare(**model.extend(batch, trace.tokens[:, :-1])).logits.log_softmax(-1)
    for (sample, position), found in zip(kept, example.other_log_probabilities, strict=True):
        torch.testing.assert_close(found, own[sample, position], atol=2e-5, rtol=1e-5)


def test_four_answers_are_shown_where_none_says_the_word(llava: Subject) -> None:
    model = llava.model
    batch = model.prepare(["the image"] * 5, images=[[picture(n)] for n in range(5)])
    said = model.trace_generation(batch, names="hook_logits", max_new_tokens=2).text
    unsaid = next(word for word in ("circle", "red", "blue", "grass") if not any(word in text for text in said))
    expected = (
        f"The model does not say {unsaid!r} to any prompt of a batch; it says {', '.join(map(repr, said[:4]))}. Give"
    )
    word = ((model.to_single_token(unsaid),), None, None, None)
    with pytest.raises(InputError, match=f"^{re.escape(expected)}"):
        edit_examples(model, [batch], source=word, target=((12,),), max_new_tokens=2)


def test_steps_of_a_word_at_each_of_its_places(llava: Subject) -> None:
    """Three places of a word of one token; of two tokens, one behind the other; none."""

    def example(places: int, words: int) -> EditExample:
        spots, vocab = torch.zeros(places, 2, dtype=torch.long), 5
        return EditExample(
            llava.batches["left"],
            spots,
            spots[:, 0],
            spots[:0],
            spots[:0],
            torch.zeros(words, vocab),
            torch.zeros(0, vocab),
        )

    assert example(3, 3).steps.tolist() == [0, 0, 0]
    assert example(4, 2).steps.tolist() == [0, 1, 0, 1]
    assert example(6, 2).steps.tolist() == [0, 1, 2, 0, 1, 2]
    assert example(0, 0).steps.tolist() == []
    assert repr(example(4, 2)) == "EditExample(2 samples, 4 places to change, 0 to keep)"


def test_answers_that_are_given_are_wanted_token_by_token(llava: Subject) -> None:
    """Answers of one and of two tokens: each place is that of the logits in front of its token."""
    model, batch = llava.model, llava.batches["left"]
    red, circle = model.to_single_token("red"), model.to_single_token("circle")
    length = batch["input_ids"].shape[1]
    for answers, tokens, places in (
        (["red", "circle"], [red, circle], [[0, length - 1], [1, length - 1]]),
        (["red circle", "red"], [red, circle, red], [[0, length - 1], [0, length], [1, length - 1]]),
    ):
        (example,) = answered_examples(model, [(batch, answers)])
        assert example.source_places.tolist() == places
        assert example.place_tokens.tolist() == tokens
        assert example.batch["input_ids"].shape[1] == length + (len(tokens) - 2)
        assert len(example.other_places) == len(example.follow_places) == 0
    for answers in (["red"], ["red", ""], ["red"] * 3):
        with pytest.raises(InputError, match="A batch of 2 samples needs as many answers, found"):
            answered_examples(model, [(batch, answers)])


def test_batches_are_taken_one_or_several(llava: Subject) -> None:
    batch = llava.batches["left"]
    assert as_batches(batch, "controls") == [batch]
    assert as_batches(iter([batch, batch]), "controls") == [batch, batch]
    assert as_batches([], "controls") == []
    with pytest.raises(InputError, match=r"^No batches were given to look\.$"):
        as_batches([], "batches", needed_for="to look")
    with pytest.raises(InputError, match=r"^batches must be batches from model.prepare\(...\), found int, str\.$"):
        as_batches([batch, "a", 3, 4], "batches")  # type: ignore[list-item]


def test_the_form_that_the_answers_have_is_found(llava: Subject) -> None:
    word = ((5, 6), None, (7,), (8, 9))
    assert form_said([[1, 5, 6, 2]], word) == 0
    assert form_said([[1, 2], [3, 8, 9]], word) == 3
    assert form_said([[5, 7], [6]], word) == 2
    assert form_said([[5], [6]], word) is None
    assert in_form(((10,), (11,), None, None), 3) == (10,)
    assert starts_of([4, 4, 4, 4, 4], (4, 4)) == [0, 2]
    assert replaced([1, 5, 6, 2, 5, 6], (5, 6), (9,)) == [1, 9, 2, 9]
