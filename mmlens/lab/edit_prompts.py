"""Questions that tell what an edit of a word did: whether it is said, whether other answers agree with it, what it left alone.

An edit of a colour (or of a shape's noun) is taken as a belief: where something of the source's name is, there is something of
the target's. What would then be true of a scene is what is true of its twin, in which every such thing is changed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmlens.analysis.samples.sample import Sample
from mmlens.core.errors import InputError
from mmlens.lab.language import CAPTION_PROMPT, article
from mmlens.lab.scenery import Scene
from mmlens.lab.world import COLORS, SHAPES, Placed, Question

#: Questions per scene and set, so that scenes with many things do not weigh most.
_PER_SCENE = 2


@dataclass(frozen=True)
class EditQuestions:
    """Prompts about scenes for `mm.edits.edit_report`, by set; every one with its answer.

    Attributes:
        targets: prompts whose answers say the source now and should say the target, about pictures and in writing.
        consistency: prompts with the answers that agree with the edit: presence of the old and of the new, reverse look-ups,
            entailments.
        controls: prompts whose answers should stay: of every kind of question, those that name the source among them.
    """

    targets: dict[str, list[Sample]] = field(repr=False)
    consistency: dict[str, list[Sample]] = field(repr=False)
    controls: dict[str, list[Sample]] = field(repr=False)

    def __repr__(self) -> str:
        sets = {**self.targets, **self.consistency, **self.controls}
        return f"EditQuestions({', '.join(f'{len(samples)} {name}' for name, samples in sets.items())})"


def questions_for(scenes: Sequence[Scene], *, source: str, target: str, seed: int = 0) -> EditQuestions:
    """See `mmlens.lab.edit_questions`."""
    names = next((names for names in (COLORS, SHAPES) if source in names and target in names), None)
    if names is None or source == target:
        raise InputError(
            f"source={source!r} and target={target!r} must be two colours ({', '.join(COLORS)}) or two shapes "
            f"({', '.join(SHAPES)})."
        )
    return _Asker("color" if names is COLORS else "shape", source, target, seed).questions(list(scenes))


class _Asker:
    """What is asked about scenes for one edit.

    Args:
        kind: of the words, `"color"` or `"shape"`: the attribute of things that changes.
        source, target: the words.
        seed: of the choice of questions.
    """

    def __init__(self, kind: str, source: str, target: str, seed: int):
        self.kind, self.source, self.target = kind, source, target
        self._rng = np.random.default_rng(seed)

    def questions(self, scenes: Sequence[Scene]) -> EditQuestions:
        """All sets."""
        sources = [scene for scene in scenes if self._changing(scene)]
        others = [scene for scene in scenes if not self._changing(scene)]
        if not sources:
            raise InputError(f"None of the {len(scenes)} scenes has a thing of the name {self.source!r}; draw more.")
        same = self._sample(
            (scene, [q for q in scene.questions if (q.kind, q.answer) == (self.kind, self.source)]) for scene in sources
        )
        captions = [_sample_of(scene, None) for scene in sources]
        pictures = {"same question": same, "caption": captions}
        writings = {
            f"{name}, in writing": [sample.as_writing for sample in samples] for name, samples in pictures.items()
        }
        return EditQuestions(
            _filled(pictures | writings), _filled(self._consistency(sources)), _filled(self._controls(sources, others))
        )

    def _changing(self, scene: Scene) -> list[Placed]:
        """The things that the edit is about; a sign's plate has a colour that is never said."""
        return [
            thing
            for thing in scene.placed
            if getattr(thing, self.kind) == self.source and (thing.kind != "sign" or self.kind == "shape")
        ]

    def _twin(self, scene: Scene) -> Scene:
        """The scene in which every such thing has the target's name."""
        things = self._changing(scene)
        for number, thing in enumerate(scene.placed):
            if thing in things:
                changes = {self.kind: self.target}
                scene = scene.twin(object=number, **changes)
        return scene

    def _consistency(self, scenes: Sequence[Scene]) -> dict[str, list[Sample]]:
        sets: dict[str, list[tuple[Scene, list[Question]]]] = {
            "presence of the old": [],
            "presence of the new": [],
            "reverse look-up": [],
            "entailments": [],
        }
        for scene in scenes:
            twin = self._twin(scene)
            things = [thing for thing in self._changing(scene) if thing.kind == "shape"]
            there = {(thing.color, thing.shape) for thing in scene.placed}
            old = [self._presence(thing.color, thing.shape, "no") for thing in things]
            new = [
                self._presence(*changed, "yes")
                for thing in things
                if (changed := (self.target, thing.shape) if self.kind == "color" else (thing.color, self.target))
                not in there
            ]
            texts = {question.text for question in scene.questions}
            reverse = "shape" if self.kind == "color" else "color"
            target_questions = [question for question in twin.questions if self.target in question.text.split()]
            sets["presence of the old"].append((scene, old))
            sets["presence of the new"].append((scene, new))
            look_ups = [q for q in target_questions if q.kind == reverse and q.text not in texts]
            sets["reverse look-up"].append((scene, look_ups))
            sets["entailments"].append((scene, self._entailments(scene, twin)))
        return {name: self._sample(pairs) for name, pairs in sets.items()}

    def _presence(self, color: str, shape: str, answer: str) -> Question:
        return Question(f"is there {article(color)} {color} {shape}", answer, "presence")

    def _entailments(self, scene: Scene, twin: Scene) -> list[Question]:
        """Questions about the changed things that name neither colour, or the new noun: the thing is where it was."""
        nouns = {thing.shape if self.kind == "color" else self.target for thing in self._changing(scene)}
        plain = [
            Question(f"is there {article(noun)} {noun}", "yes", "presence")
            for noun in nouns
            if self.kind == "shape" or noun in SHAPES
        ]
        return plain + [q for q in twin.questions if q.kind == "position" and nouns & set(q.text.split())]

    def _controls(self, holding: Sequence[Scene], others: Sequence[Scene]) -> dict[str, list[Sample]]:
        def about_others(scene: Scene) -> list[Question]:
            return [question for question in scene.questions if not self._concerns(scene, question)]

        def presence(scene: Scene) -> list[Question]:
            return [question for question in scene.questions if question.kind == "presence"]

        rest = others[: len(holding)]
        return {
            "other objects": self._sample((scene, about_others(scene)) for scene in holding),
            "scenes without": self._sample((scene, list(scene.questions)) for scene in others),
            "presence, without": self._sample((scene, presence(scene)) for scene in rest),
            "source named, absent": self._sample((scene, self._absent(scene)) for scene in [*holding, *rest]),
            "neighbours": self._sample((scene, self._neighbours(scene)) for scene in others),
            "captions without": [_sample_of(scene, None) for scene in rest],
        }

    def _concerns(self, scene: Scene, question: Question) -> bool:
        """Whether a question names the source, asks for it, or asks after a thing that has it."""
        things = self._changing(scene)
        words = {self.source, *(thing.shape for thing in things), *(thing.color for thing in things)}
        return bool(words & {*question.text.split(), *question.answer.split()})

    def _absent(self, scene: Scene) -> list[Question]:
        """Questions after the source where nothing has it."""
        names = (
            [(self.source, shape) for shape in SHAPES]
            if self.kind == "color"
            else [(color, self.source) for color in COLORS]
        )
        there = {(thing.color, thing.shape) for thing in scene.placed}
        twins = {(thing.color, thing.shape) for thing in self._twin(scene).placed}
        return [self._presence(*name, "no") for name in names if name not in there | twins]

    def _neighbours(self, scene: Scene) -> list[Question]:
        """Questions whose answer or object has the target's name already."""
        return [q for q in scene.questions if self.target in {*q.text.split(), *q.answer.split()}]

    def _sample(self, pairs: Iterable[tuple[Scene, list[Question]]]) -> list[Sample]:
        """A few questions of each scene."""
        return [
            _sample_of(scene, questions[number])
            for scene, questions in pairs
            for number in self._rng.permutation(len(questions))[:_PER_SCENE]
        ]


def _filled(sets: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    return {name: samples for name, samples in sets.items() if samples}


def _sample_of(scene: Scene, question: Question | None) -> Sample:
    """A question about a scene, or its caption."""
    prompt, answer = (CAPTION_PROMPT, scene.caption) if question is None else (question.text, question.answer)
    return Sample((scene.image,), prompt, writing=scene.written(), name=f"{scene.split} {scene.seed}", answer=answer)
