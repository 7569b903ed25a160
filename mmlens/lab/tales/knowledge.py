"""Facts and questions about them without any scene: "The star belongs to Mira."."""

from __future__ import annotations

import random

from mmlens.lab.tales.asking import Fact, ask
from mmlens.lab.tales.describing import as_list, name
from mmlens.lab.tales.facts import COMPANIONS, MATERIALS, OWNERS, THINGS, TYPICAL_COLORS
from mmlens.lab.world import PLACES

_SENTENCES = (
    "The {noun} belongs to ⟦{owner}⟧.",
    "{owner} owns the ⟦{own}⟧.",
    "The {noun} is made of ⟦{material}⟧.",
    "The {noun} belongs to ⟦{owner}⟧ and it is made of ⟦{material}⟧.",
    "The owner of the {noun} is ⟦{owner}⟧.",
    "Everybody knows that the {noun}, which is made of ⟦{material}⟧, belongs to ⟦{owner}⟧.",
    "{owner} has the ⟦{own}⟧.",
)
_HABITS = (
    "On {place} there is nearly always a ⟦{companion}⟧.",
    "The {companion} on {place} is nearly always ⟦{color}⟧.",
)


def notes(rng: random.Random) -> str:
    """Write down four to seven facts."""
    lines = []
    for _ in range(rng.choice((4, 5, 6, 7))):
        if rng.random() < 0.12:
            place = rng.choice(PLACES)
            values = {"place": place, "companion": COMPANIONS[place], "color": TYPICAL_COLORS[place]}
            lines.append(rng.choice(_HABITS).format(**values))
            continue
        noun = rng.choice(THINGS)
        owner = OWNERS[noun]
        others = [thing for thing in THINGS if OWNERS[thing] == owner]
        own = as_list([name(others[0]), *(f"the {name(other)}" for other in others[1:])])
        line = rng.choice(_SENTENCES)
        lines.append(line.format(noun=name(noun, rng), owner=owner, own=own, material=MATERIALS[noun]))
    return " ".join(lines)


def quiz(rng: random.Random) -> tuple[str, str]:
    """Ask for one fact: the question and the answer."""
    noun = rng.choice(THINGS)
    fact = Fact("owner", OWNERS[noun], noun) if rng.random() < 0.6 else Fact("material", MATERIALS[noun], noun)
    question = ask(fact, rng)
    return question.text.replace(" that you see in the picture", "").replace(" in the picture", ""), question.answer
