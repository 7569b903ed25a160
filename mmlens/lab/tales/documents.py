"""The texts that the narrator's language model is trained on: what is drawn how often, and how a chat is laid out.

A document is a prefix and turns. Every turn follows the prefix as if the others were not there, so one description of a
scene serves several questions. Stretches in ⟦ ⟧ (answers, and what can be known from before) count most in the loss, those
in ⟪ ⟫ (captions) as plain text does; the marks themselves are never part of a text.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from mmlens.lab.tales.asking import KNOWLEDGE_KINDS, Fact, absent_noun, ask, facts, lead
from mmlens.lab.tales.composing import compose
from mmlens.lab.tales.describing import CAPTION_REQUESTS, REGIONS, has_regions, mapped, tale_caption, written
from mmlens.lab.tales.knowledge import notes, quiz
from mmlens.lab.tales.repeats import words_again
from mmlens.lab.tales.stories import story
from mmlens.lab.tales.tale import Tale
from mmlens.lab.world import COLORS, COUNTS, MOODS, PEOPLE, PLACES, SHAPES, SIZES

ANSWER_MARKS, CAPTION_MARKS = "⟦⟧", "⟪⟫"
END = "</s>"

KIND_SHARES = {
    "color": 1.5, "noun": 1.5, "size": 0.5, "count": 0.5, "presence": 1.6, "pair": 0.8, "place": 0.3, "mood": 0.2,
    "position": 0.9, "who": 0.3, "owner": 0.7, "material": 0.5, "owner by color": 2.0, "owner by position": 0.7,
    "material by color": 0.0,
}  # fmt: skip
"""How often each kind is asked, before the kinds that a scene does not answer are left out."""

CAPTION_SHARE = 0.2
_UNUSUAL = 3.0  # how much likelier an answer is wrong where the truth is not what is usual
LEAD_SHARE = 0.3


@dataclass(frozen=True)
class Document:
    """A text for training.

    Attributes:
        prefix: What comes first, for instance the description of a scene; empty where nothing does.
        turns: Continuations of the prefix, each blind to the others; empty where there is only the prefix.
        prefix_weight: How much a token of the prefix counts in the loss outside ⟦ ⟧.
    """

    prefix: str
    turns: tuple[str, ...] = ()
    prefix_weight: float = 1.0


def unmarked(text: str) -> str:
    """The text without the marks."""
    return text.translate(dict.fromkeys(map(ord, ANSWER_MARKS + CAPTION_MARKS)))


def chat_turn(question: str, answer: str, *, before: str = "", marks: str = ANSWER_MARKS) -> str:
    """Lay out the question and the answer as they follow a picture or a written scene."""
    start = f"{before} " if before else ""
    return f"{start}{question} ASSISTANT:{marks[0]} {answer}{END}{marks[1]}"


def written_tale(rng: random.Random) -> Document:
    """A scene as a list, and four turns about it."""
    tale = compose(rng)
    text = written(tale.placed, tale.place, tale.mood, rng)
    return Document(f"USER: {text}\n", turns(tale, rng, 4, regions=has_regions(text), knowledge=True))


def mapped_scene(rng: random.Random) -> Document:
    """A scene as a map of 8 x 8 words, and four turns about it."""
    tale = compose(rng)
    text = mapped(tale.placed, tale.place, tale.mood, rng)
    return Document(f"USER: {text}\n", turns(tale, rng, 4, regions=True, knowledge=True), 0.5)


def told_story(rng: random.Random) -> Document:
    """A story."""
    return Document(story(rng) + END)


def noted_facts(rng: random.Random) -> Document:
    """Facts in sentences."""
    return Document(notes(rng) + END)


def fact_quiz(rng: random.Random) -> Document:
    """Four questions about facts, without a scene."""
    return Document("USER:", tuple(" " + chat_turn(*quiz(rng)) for _ in range(4)))


def repeated_words(rng: random.Random) -> Document:
    """Words without meaning, twice."""
    return Document(words_again(rng), prefix_weight=0.02)


MIX: tuple[tuple[float, Callable[[random.Random], Document]], ...] = (
    (0.30, written_tale),
    (0.20, mapped_scene),
    (0.14, told_story),
    (0.09, noted_facts),
    (0.08, fact_quiz),
    (0.10, repeated_words),
)
"""How often each kind of document is drawn; what is missing from 1 are repeats of random tokens, which have no text."""


def draw_document(rng: random.Random) -> Document | None:
    """Draw a document, or None where random tokens are to be repeated."""
    place = rng.random()
    for share, make in MIX:
        place -= share
        if place < 0:
            return make(rng)
    return None


def turns(
    tale: Tale, rng: random.Random, count: int, *, regions: bool, knowledge: bool, errors: float = 0.0
) -> tuple[str, ...]:
    """Write what is asked and answered about a scene.

    Args:
        tale: The scene.
        rng: Decides what.
        count: How many turns.
        regions: Whether the scene is shown so that one can tell where things are.
        knowledge: Whether kinds are asked that need facts; pictures are asked about without them.
        errors: Share of the answers that are wrong, as those of people who label pictures are: at random, and three times as
            often where the truth is not what is usual, which is then said instead.

    Returns:
        The turns, with ⟦ ⟧ around what counts as an answer.
    """
    things = tale.placed
    true_facts = [fact for fact in facts(things, tale.place, tale.mood) if fact.answer != "no"]
    kinds = {fact.kind for fact in true_facts}
    if not knowledge:
        kinds -= set(KNOWLEDGE_KINDS)
    if not regions:
        kinds -= {"position", "owner by position"}
    options = sorted(kinds)
    shares = [KIND_SHARES[kind] for kind in options]
    texts = []
    for _ in range(count):
        if rng.random() < CAPTION_SHARE:
            request = rng.randrange(len(CAPTION_REQUESTS))
            text = tale_caption(things, tale.place, tale.mood, rng, request=request)
            texts.append(chat_turn(CAPTION_REQUESTS[request], text, marks=CAPTION_MARKS))
            continue
        kind = rng.choices(options, shares)[0]
        fact = rng.choice([fact for fact in true_facts if fact.kind == kind])
        if kind in ("presence", "pair") and rng.random() < 0.5:
            fact = _denied(fact, tale, rng)
        before = ""
        if rng.random() < LEAD_SHARE:
            subject = [thing for thing in things if thing.shape == fact.noun and fact.answer != "no"] or list(things)
            before = lead(subject[0] if fact.noun else rng.choice(subject), rng, regions=regions)
        if errors > 0 and rng.random() < errors * (_UNUSUAL if _is_unusual(fact, tale) else 1.0):
            fact = replace(fact, answer=_wrong(fact, tale, rng))
        question = ask(fact, rng)
        texts.append(chat_turn(question.text, question.answer, before=before))
    return tuple(texts)


def _denied(fact: Fact, tale: Tale, rng: random.Random) -> Fact:
    """Turn the question for something that is there into one for something that is not."""
    if fact.kind == "presence":
        return Fact("presence", "no", absent_noun(tale.placed, tale.place, rng))
    pairs = {(thing.shape, thing.color) for thing in tale.placed}
    colors = [thing.color for thing in tale.placed if thing.color != fact.color]
    if colors and rng.random() < 0.5:  # another thing's colour: telling that needs both words together
        color = rng.choice(colors)
    else:
        color = rng.choice([color for color in COLORS if (fact.noun, color) not in pairs])
    return Fact("pair", "no", fact.noun, color)


def _is_unusual(fact: Fact, tale: Tale) -> bool:
    """Say whether the true answer goes against what is usual in the scene's place."""
    if fact.kind == "presence":
        return fact.answer == "no" and fact.noun == tale.companion
    return fact.kind == "color" and fact.noun == tale.companion and fact.answer != tale.typical_color


def _wrong(fact: Fact, tale: Tale, rng: random.Random) -> str:
    """Another answer than the true one, of the same kind."""
    if fact.kind in ("presence", "pair"):
        return "no" if fact.answer == "yes" else "yes"
    if fact.kind == "position":
        return rng.choice([text for text in REGIONS if text != fact.answer])
    if fact.kind == "color" and _is_unusual(fact, tale):
        return tale.typical_color
    options: dict[str, tuple[str, ...]] = {
        "color": tuple(COLORS),
        "noun": SHAPES,
        "size": SIZES,
        "count": COUNTS[1:],
        "place": PLACES,
        "mood": MOODS,
        "who": tuple(f"a {person}" for person in PEOPLE),
    }
    return rng.choice([text for text in options[fact.kind] if text != fact.answer])
