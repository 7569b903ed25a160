r"""The narrator's world: scenes of the lab with priors, facts and stories, and everything that can be said of them.

    from mmlens.lab import tales
    tale = tales.scene(seed=3)                                # or conflict="color", pair=("circle", "green")
    tale.image, tale.caption, tale.questions, tale.written(), tale.patches(0)
    tale.prompt("What color is the tree?")                    # "USER: <image>\nWhat color is the tree? ASSISTANT:"

The drawings are the lab's; what is true beside them stands in `tales.facts`: owners and materials (two-hop questions),
companions and typical colours of places (priors at 90%), rare pairs, pairs that no training picture shows, synonyms, names
in pieces. `asking` has the phrasings of questions, seen in training and not, `documents` the texts that training draws.
"""

from mmlens.lab.tales.asking import KNOWLEDGE_KINDS as KNOWLEDGE_KINDS
from mmlens.lab.tales.asking import SIGHT_KINDS as SIGHT_KINDS
from mmlens.lab.tales.asking import Fact as Fact
from mmlens.lab.tales.asking import TaleKind as TaleKind
from mmlens.lab.tales.asking import TaleQuestion as TaleQuestion
from mmlens.lab.tales.asking import ask as ask
from mmlens.lab.tales.asking import facts as facts_of
from mmlens.lab.tales.composing import Conflict as Conflict
from mmlens.lab.tales.composing import scene as scene
from mmlens.lab.tales.composing import scenes as scenes
from mmlens.lab.tales.tale import Tale as Tale

__all__ = [
    "KNOWLEDGE_KINDS",
    "SIGHT_KINDS",
    "Conflict",
    "Fact",
    "Tale",
    "TaleKind",
    "TaleQuestion",
    "ask",
    "facts_of",
    "scene",
    "scenes",
]
