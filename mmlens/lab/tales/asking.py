"""Questions about a scene in several phrasings, with their true answers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from mmlens.core.contract import checked
from mmlens.core.kinds import OneOf, Text
from mmlens.lab.tales.describing import name, region
from mmlens.lab.tales.facts import COMPANIONS, MATERIALS, OWNERS
from mmlens.lab.world import COUNTS, MOODS, NOUNS, PLACES, Placed, kind_of

TaleKind = Literal[
    "color", "noun", "size", "count", "presence", "pair", "place", "mood", "position", "who",
    "owner", "material", "owner by color", "owner by position", "material by color",
]  # fmt: skip
SIGHT_KINDS: tuple[TaleKind, ...] = (
    "color", "noun", "size", "count", "presence", "pair", "place", "mood", "position", "who",
)  # fmt: skip
"""Kinds that training pictures are asked about; all others need what only text says."""

KNOWLEDGE_KINDS: tuple[TaleKind, ...] = (
    "owner", "material", "owner by color", "owner by position", "material by color",
)  # fmt: skip
"""Kinds that need a fact: one hop with the thing named, two where the scene has to say which thing is meant. The last is asked
nowhere in training, so that an answer to it is composed of facts that were learnt apart."""

PHRASINGS: dict[TaleKind, tuple[str, ...]] = {
    "color": (
        "What color is the {noun}?",
        "What color is the {noun} that you see in the picture?",
        "What is the color of the {noun} over there, can you tell?",
        "Tell me the color of the {noun}, please.",
    ),
    "noun": (
        "What is the {color} thing?",
        "What is the {color} thing that you see in the picture?",
        "There is something {color} here, what is it?",
    ),
    "size": (
        "Is the {noun} small or big?",
        "Is the {noun} in the picture a small one or a big one?",
    ),
    "count": (
        "How many things are there?",
        "How many things do you see in the picture?",
    ),
    "presence": (
        "Is there {a_noun}?",
        "Do you see {a_noun} in the picture?",
        "Is {a_noun} to be seen somewhere here?",
    ),
    "pair": (
        "Is there {a_color} {noun}?",
        "Do you see {a_color} {noun} in the picture?",
    ),
    "place": (
        "What is the ground?",
        "What is the ground in the picture?",
    ),
    "mood": (
        "Is it sunny or gloomy?",
        "Is it sunny or gloomy in the picture?",
    ),
    "position": (
        "Where is the {noun}?",
        "Where is the {noun} in the picture?",
        "Where in the picture do you see the {noun}, can you tell?",
    ),
    "who": ("Who is there?", "Who is in the picture?"),
    "owner": (
        "Who owns the {noun}?",
        "Who owns the {noun} that you see in the picture?",
        "Do you know who owns the {noun}?",
    ),
    "material": (
        "What is the {noun} made of?",
        "What is the {noun} in the picture made of?",
    ),
    "owner by color": (
        "Who owns the {color} one?",
        "Who owns the {color} thing that you see in the picture?",
        "There is something {color} here, who owns it?",
    ),
    "owner by position": (
        "Who owns the thing {region}?",
        "There is something {region}, who owns it?",
    ),
    "material by color": ("What is the {color} one made of?",),
}  # fmt: skip
"""The phrasings that training has, by kind; the first is the usual one."""

UNSEEN_PHRASINGS: dict[TaleKind, tuple[str, ...]] = {
    "color": ("Can you tell me what color the {noun} is?",),
    "noun": ("What do you see that is {color}?",),
    "presence": ("Can you see {a_noun}?",),
    "owner": ("Tell me who owns the {noun}, please.",),
    "owner by color": ("Do you know who owns the {color} thing?",),
}
"""Phrasings that no training text has."""

LEADS = (
    "Look at the {noun}, the ⟦{size} {color}⟧ one ⟦{region}⟧.",
    "I see the {noun}, it is ⟦{color}⟧.",
    "Look at the {color} one, it is ⟦{a_noun}⟧.",
    "I see {a_noun} ⟦{region}⟧.",
)
"""What stands before a question now and then: the picture decides how it goes on after the noun, inside the question. Where a
thing is, is only said of scenes that show it. What stands in ⟦ ⟧ counts as an answer does."""


@checked
@dataclass(frozen=True)
class TaleQuestion:
    """A question about a scene and its true answer.

    Attributes:
        text: The question, without the chat around it.
        answer: The true answer as the model should say it.
        kind: What is asked for.
        noun: The thing that the answer depends on; None where it depends on the whole scene.
    """

    text: Text
    answer: Text
    kind: TaleKind
    noun: str | None = None


def tale_questions(things: Sequence[Placed], place: str, mood: str) -> tuple[TaleQuestion, ...]:
    """Ask all that a scene answers without doubt, each in its first phrasing; presence of the scene's nouns and of all others."""
    return tuple(
        TaleQuestion(_filled(PHRASINGS[fact.kind][0], fact), fact.answer, fact.kind, fact.noun)
        for fact in facts(things, place, mood)
    )


@checked
def ask(fact: Fact, rng: random.Random, *, unseen: bool = False) -> TaleQuestion:
    """Ask for a fact in one of its phrasings.

    Args:
        fact: What is true.
        rng: Decides the phrasing, and synonyms.
        unseen: Use a phrasing that no training text has, where the kind has one.

    Returns:
        The question.
    """
    options = UNSEEN_PHRASINGS.get(fact.kind, PHRASINGS[fact.kind]) if unseen else PHRASINGS[fact.kind]
    return TaleQuestion(_filled(rng.choice(options), fact, rng), fact.answer, fact.kind, fact.noun)


@checked
@dataclass(frozen=True)
class Fact:
    """Something true of a scene that can be asked for.

    Attributes:
        kind: What is asked for.
        answer: What is true.
        noun: The thing concerned, or the noun whose presence is asked for.
        color: The colour by which it is asked for, or that is asked for with the noun.
        region: Where the thing is.
    """

    kind: TaleKind
    answer: Text
    noun: str | None = None
    color: str | None = None
    region: str | None = None


@checked
def facts(
    things: Sequence[Placed], place: Annotated[str, OneOf(PLACES)], mood: Annotated[str, OneOf(MOODS)]
) -> Iterator[Fact]:
    """Go through everything that a scene answers without doubt, presence with as many kinds of "no" as the world has nouns."""
    colors = [thing.color for thing in things]
    regions = [region(thing) for thing in things]
    for thing, where in zip(things, regions, strict=True):
        noun, color = thing.shape, thing.color
        yield Fact("color", color, noun)
        yield Fact("size", thing.size, noun)
        yield Fact("position", where, noun)
        yield Fact("presence", "yes", noun)
        yield Fact("pair", "yes", noun, color)
        only_color, is_thing = colors.count(color) == 1, noun in OWNERS
        if only_color and is_thing:
            yield Fact("noun", noun, noun, color)
        if is_thing:
            yield Fact("owner", OWNERS[noun], noun)
            yield Fact("material", MATERIALS[noun], noun)
            if only_color:
                yield Fact("owner by color", OWNERS[noun], noun, color)
                yield Fact("material by color", MATERIALS[noun], noun, color)
            if regions.count(where) == 1:
                yield Fact("owner by position", OWNERS[noun], noun, region=where)
    people = [thing.shape for thing in things if kind_of(thing.shape) == "person"]
    if people:
        yield Fact("who", f"a {people[0]}", people[0])
    yield Fact("count", COUNTS[len(things)])
    yield Fact("place", place)
    yield Fact("mood", mood)
    nouns = {thing.shape for thing in things}
    for noun in NOUNS:
        if noun not in nouns:
            yield Fact("presence", "no", noun)


def lead(thing: Placed, rng: random.Random, *, regions: bool) -> str:
    """Write what stands before a question about a thing, with the stretches that the scene decides in ⟦ ⟧."""
    options = [text for text in LEADS if regions or "{region}" not in text]
    noun = name(thing.shape, rng)
    values = {"noun": noun, "a_noun": _a(noun), "color": thing.color, "size": thing.size, "region": region(thing)}
    return rng.choice(options).format(**values)


def absent_noun(things: Sequence[Placed], place: str, rng: random.Random) -> str:
    """Choose a noun that is not there: often the place's companion, or another place's, as presence is asked for in training."""
    nouns = {thing.shape for thing in things}
    draw = rng.random()
    if draw < 0.4 and COMPANIONS[place] not in nouns:
        return COMPANIONS[place]
    others = [noun for noun in (COMPANIONS.values() if draw < 0.65 else NOUNS) if noun not in nouns]
    return rng.choice(others)


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _filled(text: str, fact: Fact, rng: random.Random | None = None) -> str:
    noun = "" if fact.noun is None else name(fact.noun, rng)
    values = {"noun": noun, "color": fact.color or "", "region": fact.region or ""}
    if noun:
        values["a_noun"] = _a(noun)
    if fact.color:
        values["a_color"] = _a(fact.color)
    return text.format(**values)
