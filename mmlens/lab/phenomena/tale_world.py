"""The narrator's world: `mmlens.lab.tales`, with priors by place, rare pairs, facts that only text told, and phrasings."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from mmlens.core.errors import InputError
from mmlens.lab.phenomena.world import Case, LabQuestion, LabScene, PairedCases
from mmlens.lab.tales import composing
from mmlens.lab.tales.asking import KNOWLEDGE_KINDS, SIGHT_KINDS, UNSEEN_PHRASINGS, Fact, TaleQuestion, ask, facts
from mmlens.lab.tales.describing import CAPTION_REQUESTS, article_of
from mmlens.lab.tales.facts import MATERIALS, OWNERS, PICTURELESS_PAIRS, RARE_PAIRS, SYNONYMS, TYPICAL_COLORS
from mmlens.lab.tales.tale import Tale
from mmlens.lab.world import COLORS, NOUNS, SHAPES

_PAIRS = {*RARE_PAIRS, *PICTURELESS_PAIRS}

#: What training asked for outright, by phenomenon or kind of question; then what the tuned stage adds.
_TRAINED_IN = {
    "answers": "every kind is asked about pictures in training",
    "owner": "asked in text, never about pictures",
    "owner by color": "asked in text, never about pictures",
    "owner by position": "asked in text, never about pictures; the words here do not say where things are",
    "material": "asked in text, never about pictures",
    "material by color": "asked nowhere: composed of facts that were learnt apart",
    "priors": "90% of a place's scenes have its companion, 90% of these in its typical colour",
    "lens": "text had maps of words laid out as image tokens are; the tower was trained on nouns and colours at every patch",
    "induction": "words and random tokens that come twice are trained on",
    "neurons": "the text was trained on scenes in words",
}

_TUNED_IN = {
    "answers": "every kind is asked about pictures in training; a tenth of the answers there are wrong, as labels are",
    "priors": (
        "90% of a place's scenes have its companion, 90% of these in its typical colour; 30% of the training answers against "
        "what is usual say the usual"
    ),
    "flow": "in 40% of the training rows nothing from the word ASSISTANT on saw the picture",
}


class TaleWorld:
    """See `mmlens.lab.phenomena.world.LabWorld`."""

    nouns: tuple[str, ...] = NOUNS
    colors: tuple[str, ...] = tuple(COLORS)
    caption_request = CAPTION_REQUESTS[0]
    separator = "\n"

    def __init__(self, *, tuned: bool = False) -> None:
        """Declare the world of one stage.

        Args:
            tuned: Whether the language model was trained with pictures too.
        """
        self.trained_in: Mapping[str, str] = _TRAINED_IN | (_TUNED_IN if tuned else {})

    def scenes(self, n: int, seed: int) -> Sequence[LabScene]:
        """Scenes of the test stream."""
        return composing.scenes(n, seed=seed)

    def nouns_together(self, n: int, seed: int) -> Sequence[Sequence[str]]:
        """The nouns of scenes of the training stream."""
        return [[thing.shape for thing in tale.placed] for tale in composing.scenes(n, seed=seed, split="train")]

    def questions(self, scene: LabScene) -> Sequence[LabQuestion]:
        """What is asked about pictures, "no" to pairs among it."""
        tale = _tale(scene)
        questions = [_lab_question(question) for question in tale.questions if question.kind in SIGHT_KINDS]
        rng = random.Random(f"pairs {tale.scene.seed}")
        for thing in tale.placed:
            color = rng.choice([color for color in COLORS if color != thing.color])
            questions.append(LabQuestion(self.pair(thing.shape, color), "no", "pair", thing.shape))
        return questions

    def spellings(self, noun: str) -> tuple[str, ...]:
        """The noun and its synonym."""
        return (noun, SYNONYMS[noun]) if noun in SYNONYMS else (noun,)

    def presence(self, noun: str) -> str:
        """The question whether there is one."""
        return f"Is there {article_of(noun)} {noun}?"

    def pair(self, noun: str, color: str) -> str:
        """The question whether there is one of a colour."""
        return f"Is there {article_of(color)} {color} {noun}?"

    def two_hops(self, scene: LabScene) -> Sequence[LabQuestion]:
        """Owners and materials of what is there, the thing named or told by its colour or place."""
        return [_lab_question(question) for question in _tale(scene).questions if question.kind in KNOWLEDGE_KINDS]

    def facts(self) -> Sequence[LabQuestion]:
        """Who owns every thing, and what it is made of."""
        owners = [LabQuestion(f"Who owns the {noun}?", owner, "owner", noun) for noun, owner in OWNERS.items()]
        return owners + [
            LabQuestion(f"What is the {noun} made of?", material, "material", noun)
            for noun, material in MATERIALS.items()
        ]

    def conflicts(self, n: int, seed: int) -> Mapping[str, PairedCases]:
        """Companions that are missing or in another colour; beside them things that no place says anything about."""
        missing = composing.scenes(n, seed=seed, conflict="presence")
        color_scenes = composing.scenes(n, seed=seed, conflict="color")
        return {
            "companion missing": PairedCases(
                [(tale, LabQuestion(self.presence(tale.companion), "no", "presence", prior="yes")) for tale in missing],
                [case for tale in missing if (case := self._missing_elsewhere(tale))],
                "yes to absent things that are usual nowhere",
            ),
            "companion in another colour": PairedCases(
                [_colored(tale, tale.companion) for tale in color_scenes],
                [
                    _colored(tale, thing.shape)
                    for tale in color_scenes
                    for thing in tale.placed
                    if thing.shape in SHAPES and thing.shape != tale.companion and thing.color != tale.typical_color
                ][:n],
                "the place's colour of other things",
            ),
        }

    def held_out(self, n: int, seed: int) -> Mapping[str, PairedCases]:
        """Rare and undrawn pairs beside frequent ones; phrasings that no training text has beside the usual ones."""
        usual = composing.scenes(n, seed=seed)
        sorts = {}
        for name, pairs in (
            ("rare noun x colour pairs (0.3%)", RARE_PAIRS),
            ("noun x colour pairs of text alone", PICTURELESS_PAIRS),
        ):
            nouns = {noun for noun, _ in pairs}
            frequent = [
                _colored(tale, thing.shape)
                for tale in composing.scenes(4 * n, seed=seed)
                for thing in tale.placed
                if thing.shape in nouns and (thing.shape, thing.color) not in _PAIRS
            ]
            pair_list = [pairs[number % len(pairs)] for number in range(n)]
            tales = [composing.scene(seed * 1_000_000 + number, pair=pair) for number, pair in enumerate(pair_list)]
            cases = [_colored(tale, noun) for tale, (noun, _) in zip(tales, pair_list, strict=True)]
            sorts[name] = PairedCases(cases, frequent[:n], "frequent pairs of the same nouns")
        rng = random.Random(f"phrasings {seed}")
        unseen: list[Case] = []
        pictured_cases: list[Case] = []
        for tale in usual:
            kinds = {kind for kind in UNSEEN_PHRASINGS if kind in SIGHT_KINDS}
            options = [fact for fact in facts(tale.placed, tale.place, tale.mood) if fact.kind in kinds]
            fact = _evenly(options, rng)
            unseen.append((tale, _lab_question(ask(fact, rng, unseen=True))))
            pictured_cases.append((tale, _lab_question(ask(fact, rng))))
        sorts["phrasings that training lacks"] = PairedCases(
            unseen, pictured_cases, "the same in phrasings that it has"
        )
        return sorts

    def _missing_elsewhere(self, tale: Tale) -> Case | None:
        companions = set(composing.COMPANIONS.values())
        nouns = {thing.shape for thing in tale.placed} | companions
        options = [noun for noun in SHAPES if noun not in nouns]
        noun = random.Random(f"missing {tale.scene.seed}").choice(options)
        return (tale, LabQuestion(self.presence(noun), "no", "presence", prior="yes"))


def _tale(scene: LabScene) -> Tale:
    if not isinstance(scene, Tale):
        raise InputError(
            f"{type(scene).__name__} is no scene of the narrator's world; draw it with `mmlens.lab.tales.scenes`."
        )
    return scene


def _lab_question(question: TaleQuestion) -> LabQuestion:
    return LabQuestion(question.text, question.answer, question.kind, question.noun)


def _colored(tale: Tale, noun: str) -> Case:
    """The question for a thing's colour; usual is the colour that its place's companion has."""
    color = next(thing.color for thing in tale.placed if thing.shape == noun)
    return tale, LabQuestion(f"What color is the {noun}?", color, "color", noun, TYPICAL_COLORS[tale.place])


def _evenly(options: Sequence[Fact], rng: random.Random) -> Fact:
    """A fact, kinds and answers drawn evenly first."""
    kind = rng.choice(sorted({fact.kind for fact in options}))
    alike = [fact for fact in options if fact.kind == kind]
    answer = rng.choice(sorted({fact.answer for fact in alike}))
    return rng.choice([fact for fact in alike if fact.answer == answer])
