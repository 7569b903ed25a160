"""Items as data sets bring them: what is known is read, what is not is refused."""

from typing import Any

import pytest

from mmlens.analysis.samples.items import read_item
from mmlens.analysis.samples.sample import as_samples
from mmlens.core.errors import InputError
from tests.tiny import picture


@pytest.mark.parametrize(
    ("item", "prompt", "answer", "name"),
    [
        ({"question": "what color is the moon"}, "what color is the moon", None, None),
        ({"prompt": "a", "answer": "b", "id": 3}, "a", "b", "3"),
        ({"text": "a", "question_id": 7}, "a", None, "7"),
        # as VQAv2 is on the hub
        (
            {
                "question": "is it red?",
                "question_type": "is it",
                "answers": [{"answer": "yes", "answer_id": 1}, {"answer": "no", "answer_id": 2}],
                "image_id": 12,
                "answer_type": "yes/no",
                "question_id": 5,
            },
            "is it red?",
            ("yes", "no"),
            "5",
        ),
        # as LLaVA's data are
        (
            {"conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]},
            "What is it?",
            "A dog.",
            None,
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]},
            "What?",
            None,
            None,
        ),
        ({"question": None, "caption": "a moon"}, "describe the image", None, None),
    ],
)
def test_names_that_data_sets_have(item: dict[str, Any], prompt: str, answer: Any, name: str | None) -> None:
    (sample,) = as_samples([{"image": picture(0), **item}])
    assert (sample.prompt, sample.answer, sample.name) == (prompt, answer, name)
    assert len(sample.pictures) == 1


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"image": 1, "quesiton": "what"},
            r"Sample 4 has keys that mean nothing here: 'quesiton' \(nearest: 'question'\)",
        ),
        ({"image": 1, "prompt": "a", "question": "b"}, "several keys for its prompt: 'prompt', 'question'; keep one"),
        ({"question": "a"}, "it needs 'image' .or 'images'., None for text alone"),
        (
            {"image": 1, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}] * 2},
            r"has the turns \['user', 'assistant', 'user', 'assistant'\]; a sample is one question",
        ),
    ],
)
def test_what_nobody_knows_is_refused(item: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_item(item, 4)


def test_what_is_known_beside_the_answer() -> None:
    people = [{"answer": "yes", "answer_id": 1}, {"answer": "yes", "answer_id": 2}, {"answer": "no", "answer_id": 3}]
    item = {
        "image": picture(0),
        "question": "is it red?",
        "question_type": "is it",
        "multiple_choice_answer": "yes",
        "answers": people,
        "answer_type": "yes/no",
        "image_id": 12,
        "question_id": 5,
    }
    (sample,) = as_samples([item])
    assert (sample.answer, sample.references) == ("yes", ("yes", "yes", "no"))
    assert sample.types == {"question_type": "is it", "answer_type": "yes/no"}
    assert (sample.name, sample.shown) == ("5", "12")
    (captioned,) = as_samples([{"image": picture(0), "caption": "a moon", "captions": ["a moon", "the moon"]}])
    assert (captioned.caption, captioned.references, captioned.answer) == ("a moon", ("a moon", "the moon"), None)


def test_text_alone_says_so() -> None:
    (sample,) = as_samples([{"image": None, "question": "who is there"}])
    assert (sample.images, sample.prompt) == ((), "who is there")
