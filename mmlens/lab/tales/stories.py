"""Short stories: people of the world, and strangers whose names can only be repeated, who see things and go on."""

from __future__ import annotations

import random

from mmlens.lab.tales.composing import compose
from mmlens.lab.tales.describing import name, thing_phrase
from mmlens.lab.tales.facts import MATERIALS, OWNERS, SYLLABLES, WRITERS

_OPENINGS = (
    "{one} and {two} went to the {place}. It was {mood}.",
    "It was a {mood} day. {one} met {two} on the {place}.",
    "{one} walked over the {place} with {two}.",
    "On a {mood} morning {one} came to the {place}, and {two} came along.",
)
_SIGHTINGS = (
    "There {one} saw {phrase}.",
    "{two} found {phrase} and took it home.",
    '"Look, {phrase}!" said {one}.',
    "Near the {place} stood {phrase}.",
)
_TALK = (
    '"Who owns the {noun}?" asked {two}. "⟦{owner}⟧", said {one}.',
    "{one} knew that the {noun} belongs to ⟦{owner}⟧.",
    '"The {noun} is made of ⟦{material}⟧", said {two}.',
    "{two} looked at the {noun}. It was ⟦{color}⟧, and ⟦{one}⟧ liked it.",
    "{one} gave the ⟦{color} {noun}⟧ to ⟦{two}⟧.",
    '{two} said to ⟦{one}⟧: "I would like to have the {noun}."',
    "The {color} one was ⟦{a_noun}⟧, so {one} brought it to ⟦{owner}⟧.",
)
_ENDINGS = (
    "Then {one} and ⟦{two}⟧ went home.",
    "In the evening {two} told ⟦{one}⟧ about it, and they were happy.",
    "{one} thanked ⟦{two}⟧ and left the ⟦{place}⟧.",
    '"Goodbye, ⟦{one}⟧!" said {two}.',
)


def stranger(rng: random.Random) -> str:
    """Make up a name of three or four syllables."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((3, 4)))).capitalize()


def story(rng: random.Random) -> str:
    """Tell a story of five to eight sentences; what can be known from before stands in ⟦ ⟧."""
    tale = compose(rng)
    one, two = (stranger(rng) if rng.random() < 0.6 else writer for writer in rng.sample(WRITERS, 2))
    cast = {"one": one, "two": two, "place": tale.place, "mood": tale.mood}
    sentences = [rng.choice(_OPENINGS).format(**cast)]
    for thing in tale.placed:
        noun = name(thing.shape, rng)
        if thing.shape not in OWNERS:
            sentences.append(
                f"{thing_phrase(thing, rng).capitalize()} came by and spoke to ⟦{rng.choice((one, two))}⟧."
            )
            continue
        about = {
            "phrase": thing_phrase(thing, rng), "noun": noun, "color": thing.color, "owner": OWNERS[thing.shape],
            "material": MATERIALS[thing.shape], "a_noun": f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}",
        }  # fmt: skip
        sentences.append(rng.choice(_SIGHTINGS).format(**cast, **about))
        for line in rng.sample(_TALK, rng.choice((1, 2))):
            sentences.append(line.format(**cast, **about))
        if rng.random() < 0.5:
            cast["one"], cast["two"] = cast["two"], cast["one"]
    sentences.append(rng.choice(_ENDINGS).format(**cast))
    return " ".join(sentences)
