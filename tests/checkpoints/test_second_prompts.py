"""The second prompts of contrastive decoding, on every layout of a checkpoint: without the picture they are what the processor
makes of the text alone, and a role stands in front of the question, behind the picture."""

import re

from mmlens.core.errors import InputError
from mmlens.decoding import ICD, PAI
from mmlens.models.hooked import HookedMultimodal
from tests.checkpoints.layouts import Layout
from tests.tiny import picture

QUESTION = "What color is the dog?"
ROLE = "An image of a man."


def without_blanks(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_without_the_picture_the_prompt_is_that_of_the_text_alone(model: HookedMultimodal, layout: Layout) -> None:
    batch = model.prepare([QUESTION], images=[[picture(0, 300, 500)]])
    found = model.tokenizer.decode(PAI().second(model, batch)["input_ids"][0])
    try:
        expected = model.tokenizer.decode(model.prepare([QUESTION])["input_ids"][0])
    except (InputError, ValueError):  # the processor takes no text alone
        start = model.tokenizer.bos_token or ""
        expected = f"{start}{QUESTION}"
    assert without_blanks(found) == without_blanks(expected)


def test_the_role_is_part_of_the_users_turn(model: HookedMultimodal, layout: Layout) -> None:
    pictures = [[picture(0)], [picture(1)]]
    questions = [QUESTION, "Where is the moon?"]
    batch = model.prepare(questions, images=pictures)
    expected = model.prepare([f"{ROLE} {question}" for question in questions], images=pictures)
    assert ICD(ROLE).second(model, batch)["input_ids"].tolist() == expected["input_ids"].tolist()
