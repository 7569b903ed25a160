"""The world of the first lab model: what `mmlens.lab.scenes` draws; nothing in it is usual, rare or known without looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmlens.core.errors import InputError
from mmlens.lab import composing
from mmlens.lab.language import CAPTION_PROMPT, article
from mmlens.lab.phenomena.world import LabQuestion, LabScene, PairedCases
from mmlens.lab.scenery import Scene
from mmlens.lab.world import COLORS, NOUNS, SIGNS


class SceneWorld:
    """See `mmlens.lab.phenomena.world.LabWorld`."""

    nouns: tuple[str, ...] = NOUNS
    colors: tuple[str, ...] = tuple(COLORS)
    caption_request = CAPTION_PROMPT
    separator = " "
    trained_in: Mapping[str, str] = {
        "answers": "every kind is asked in training, of all combinations of nouns and colours",
        "lens": "the tower was trained on nouns and colours at every patch",
        "neurons": "a quarter of the training rows have the scene in words",
    }

    def scenes(self, n: int, seed: int) -> Sequence[LabScene]:
        """Scenes of the test stream."""
        return composing.scenes(n, seed=seed)

    def nouns_together(self, n: int, seed: int) -> Sequence[Sequence[str]]:
        """The nouns of scenes of the training stream."""
        scene_list = composing.scenes(n, seed=seed, split="train")
        return [[thing.shape for thing in scene.placed] for scene in scene_list]

    def questions(self, scene: LabScene) -> Sequence[LabQuestion]:
        """The scene's questions."""
        if not isinstance(scene, Scene):
            raise InputError(
                f"{type(scene).__name__} is no scene of the captioner's world; draw it with `mmlens.lab.scenes`."
            )
        nouns = {thing.shape for thing in scene.placed}
        questions = []
        for question in scene.questions:
            words = [word for word in question.text.split() if word in NOUNS]
            if question.kind == "shape":
                words = [question.answer]
            noun = words[0] if question.kind in ("color", "shape", "position", "presence") and words else None
            kind = "pair" if question.kind == "presence" and set(COLORS) & set(question.text.split()) else question.kind
            questions.append(LabQuestion(question.text, question.answer, kind, noun if noun in nouns else None))
        return questions

    def spellings(self, noun: str) -> tuple[str, ...]:
        """The noun."""
        return (noun,)

    def presence(self, noun: str) -> str:
        """The question whether there is one."""
        name = f"{noun} sign" if noun in SIGNS else noun
        return f"is there {article(name)} {name}"

    def pair(self, noun: str, color: str) -> str:
        """The question whether there is one of a colour."""
        return f"is there {article(color)} {color} {noun}"

    def two_hops(self, scene: LabScene) -> Sequence[LabQuestion]:
        """None: the world has no facts beside what is seen."""
        return ()

    def facts(self) -> Sequence[LabQuestion]:
        """None."""
        return ()

    def conflicts(self, n: int, seed: int) -> Mapping[str, PairedCases]:
        """None: nothing is usual in a place."""
        return {}

    def held_out(self, n: int, seed: int) -> Mapping[str, PairedCases]:
        """None: every combination is trained, in one phrasing."""
        return {}
