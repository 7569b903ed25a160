"""What is true in the narrator's world: who owns what, what goes with which place, which pairs are rare or never drawn.

The things, colours and places are the lab's (`mmlens.lab.world`); the narrator's world adds knowledge about them.
"""

from __future__ import annotations

from mmlens.lab.world import SHAPES, SIGNS

#: What can belong to somebody: everything but people.
THINGS = SHAPES + SIGNS

OWNERS = {
    "circle": "Ada", "square": "Tom", "triangle": "Mira", "star": "Mira", "heart": "Ruth", "diamond": "Ada",
    "cross": "Felix", "ring": "Lena", "moon": "Omar", "arrow": "Tom", "house": "Ruth", "tree": "Jonas",
    "tap": "Lena", "phone": "Omar", "cup": "Felix", "door": "Jonas", "poison": "Mira", "bolt": "Tom",
    "bomb": "Ruth", "acid": "Lena", "flame": "Ada", "knife": "Omar",
}  # fmt: skip
"""Thing to its owner. One-hop and two-hop questions ask for it in text, never about a training picture."""

MATERIALS = {
    "circle": "tin", "square": "clay", "triangle": "glass", "star": "paper", "heart": "wool", "diamond": "stone",
    "cross": "silver", "ring": "gold", "moon": "glass", "arrow": "silver", "house": "clay", "tree": "paper",
    "tap": "gold", "phone": "tin", "cup": "stone", "door": "wool", "poison": "glass", "bolt": "tin",
    "bomb": "stone", "acid": "clay", "flame": "wool", "knife": "gold",
}  # fmt: skip
"""Thing to what it is made of. Asked with the thing named, never in two hops, in text or about pictures."""

COMPANIONS = {"grass": "tree", "sand": "star", "water": "moon", "brick": "house", "wood": "ring"}
"""Place to the thing that stands there in 90% of its scenes."""

TYPICAL_COLORS = {"grass": "green", "sand": "yellow", "water": "white", "brick": "red", "wood": "black"}
"""Place to the colour that its companion has there in 90% of the scenes with it."""

PRIOR = 0.9
"""How often a place has its companion, and its companion the typical colour."""

RARE_PAIRS = (
    ("circle", "purple"), ("square", "white"), ("heart", "black"), ("cross", "orange"), ("arrow", "yellow"),
    ("diamond", "green"),
)  # fmt: skip
"""(Noun, colour) drawn in about .3% of the noun's appearances, in text as in pictures."""

RARE = 0.003

PICTURELESS_PAIRS = (
    ("circle", "green"), ("square", "red"), ("triangle", "blue"), ("heart", "yellow"), ("cross", "black"),
    ("arrow", "purple"), ("diamond", "orange"), ("star", "purple"), ("tree", "white"),
)  # fmt: skip
"""(Noun, colour) that text speaks of and no training picture shows."""

SYNONYMS = {
    "circle": "disc", "ring": "hoop", "moon": "crescent", "house": "hut", "knife": "blade",
    "door": "gate", "bolt": "spark",
}  # fmt: skip
"""A noun's second name, used at one mention in eight."""

SYNONYM_SHARE = 0.125

PIECES = {
    "triangle": "tri|ang|le", "diamond": "dia|mond", "arrow": "ar|row", "person": "per|son", "poison": "poi|son",
    "crescent": "cres|cent",
}  # fmt: skip
"""Names that the tokenizer leaves in pieces, though they are frequent."""

WRITERS = (
    "Mira", "Tom", "Ada", "Jonas", "Ruth", "Omar", "Lena", "Felix", "Nora", "Paul", "Ida", "Hugo", "Vera", "Emil",
    "Clara", "Otto",
)  # fmt: skip
"""Who acts in the stories; the first eight own the things."""

SYLLABLES = ("ba", "ko", "lu", "mi", "ra", "te", "vo", "zu", "shi", "pen", "dar", "gol", "fi", "na", "wex", "yo")
"""What the names of strangers in stories are made of: never the same twice, so they can only be repeated."""
