"""What a lab model declares of its world, so that its phenomena can be measured: scenes, prompts, and what is true of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from mmlens.analysis.samples.sample import Sample
from mmlens.lab.world import SceneObject


class LabScene(Protocol):
    """A picture with what is true of it."""

    @property
    def image(self) -> Image.Image:
        """The picture."""

    @property
    def place(self) -> str:
        """The ground."""

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        """The things, with their masks."""

    @property
    def caption(self) -> str:
        """A true caption."""

    def written(self) -> str:
        """The scene in words that stand where the picture would."""


@dataclass(frozen=True)
class LabQuestion:
    """A question and its true answer.

    Attributes:
        text: The question.
        answer: The true answer.
        kind: What is asked for.
        noun: The thing that decides the answer; None where the whole scene does.
        prior: The answer that is usual where the scene is; None without one.
    """

    text: str
    answer: str
    kind: str
    noun: str | None = None
    prior: str | None = None


#: A question about a scene.
Case = tuple[LabScene, LabQuestion]


@dataclass(frozen=True)
class PairedCases:
    """Questions of a sort, and others to compare with.

    Attributes:
        cases: These.
        others: The others.
        control: What the others are.
    """

    cases: Sequence[Case]
    others: Sequence[Case]
    control: str


class LabWorld(Protocol):
    """The world of a lab model.

    Attributes:
        nouns: Every noun that names a thing.
        colors: The colours of things.
        caption_request: The prompt for a caption.
        trained_in: By phenomenon what training asked for outright, as the card has to say.
        separator: What stands between a scene in words and a question.
    """

    nouns: tuple[str, ...]
    colors: tuple[str, ...]
    caption_request: str
    trained_in: Mapping[str, str]
    separator: str

    def scenes(self, n: int, seed: int) -> Sequence[LabScene]:
        """Scenes that no training sees."""

    def nouns_together(self, n: int, seed: int) -> Sequence[Sequence[str]]:
        """The nouns of scenes as training draws them, without pictures."""

    def questions(self, scene: LabScene) -> Sequence[LabQuestion]:
        """Everything that training asks about pictures."""

    def spellings(self, noun: str) -> tuple[str, ...]:
        """All words for a noun, itself first."""

    def presence(self, noun: str) -> str:
        """The question whether there is one."""

    def pair(self, noun: str, color: str) -> str:
        """The question whether there is one of a colour."""

    def two_hops(self, scene: LabScene) -> Sequence[LabQuestion]:
        """Questions whose answer needs the picture and a fact; by kind, none where the world has no facts."""

    def facts(self) -> Sequence[LabQuestion]:
        """Questions that facts alone answer."""

    def conflicts(self, n: int, seed: int) -> Mapping[str, PairedCases]:
        """Questions in scenes that break a prior, by sort, with questions of scenes and things that have none."""

    def held_out(self, n: int, seed: int) -> Mapping[str, PairedCases]:
        """Questions about what training had seldom or never, by sort, with the same about what it had often."""


def sample_of(world: LabWorld, scene: LabScene, question: LabQuestion | None, *, name: str = "") -> Sample:
    """A question about a scene, or its caption, as analyses take it."""
    prompt, answer = (world.caption_request, scene.caption) if question is None else (question.text, question.answer)
    writing = scene.written() + world.separator.removesuffix(" ")
    return Sample((scene.image,), prompt, scene.caption, writing=writing, name=name or None, answer=answer)
