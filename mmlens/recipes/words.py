"""The words that the studies ask about, of photographs and of the lab's scenes."""

from collections.abc import Mapping
from dataclasses import dataclass

from mmlens import lab
from mmlens.analysis.scores.class_words import COLORS, PLACES, SENTIMENTS


@dataclass(frozen=True)
class StudyWords:
    """Words of a data set.

    Attributes:
        nouns: that captions are searched for; None for all English nouns.
        tokens: whose concepts are extracted.
        changes: answers, and what they are steered to.
        classes: words that a style of captions is made of, by its name.
        gendered, neutral: words of people.
    """

    nouns: tuple[str, ...] | None
    tokens: tuple[str, ...]
    changes: tuple[tuple[str, str], ...]
    classes: Mapping[str, tuple[str, ...]]
    gendered: tuple[str, ...]
    neutral: tuple[str, ...]


PHOTOGRAPHS = StudyWords(
    None,
    ("dog", "bus", "train", "cat", "bear", "baby", "car", "cake"),
    (("yes", "no"), ("1", "3"), ("white", "black")),
    {"place": PLACES, "color": COLORS, "sentiment": SENTIMENTS},
    (
        *("man", "men", "woman", "women", "boy", "boys", "girl", "girls", "guy", "guys", "lady", "ladies", "gentleman"),
        *("male", "female", "he", "she", "him", "her", "his", "hers", "himself", "herself"),
    ),
    ("person", "persons", "people", "child", "children", "someone", "individual", "adult", "they", "their", "them"),
)
SCENES = StudyWords(
    lab.NOUNS,
    lab.NOUNS,
    (("yes", "no"), ("one", "three"), ("white", "black")),
    {"place": lab.PLACES, "color": tuple(lab.COLORS), "mood": lab.MOODS},
    ("man", "woman"),
    ("person",),
)
