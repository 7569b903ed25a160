"""The paper's steering experiments on the lab model: what is to become what, from which states, and on which prompts.

Vectors and gates come from scenes of the training stream. So do the validation scenes, with another seed; they decide on
layer and strength. Test scenes are of the test stream, which neither the model nor any choice has seen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

import mmlens as mm
from benchmarks.splits import fresh_scenes
from mmlens.lab import Question, Scene
from mmlens.lab.language import rich_caption

_TAUGHT, _VALIDATION = 90, 91  # seeds of the training stream
#: Marks the words of answers among those of captions.
_ANSWER = "answer "
#: Marks the word of captions that tell texture and light where they go on to do so; the model hardly ever does by itself.
_RICH = "rich "


@dataclass(frozen=True)
class Task:
    """What is to become what.

    Attributes:
        name: for the table.
        sources, targets: the words that states predict, on both sides.
        said: words of an answer that is to change.
        wanted: words of one that has changed.
        prompt: which questions are asked; None for captions.
        shows: which scenes are shown.
        near: the kind of questions that it is one of; three times as many of these should stay (harmless signs, say).
        aside: kinds of questions whose answers say the source too, so that they are not among those that should stay.
    """

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    said: tuple[str, ...]
    wanted: tuple[str, ...]
    prompt: Callable[[Question], bool] | None = None
    shows: Callable[[Scene], bool] = lambda scene: True
    near: str = ""
    aside: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The first words of answers before and after, for the unembedding difference."""
        source, target = (tuple(dict.fromkeys(text.split()[0] for text in texts)) for texts in (self.said, self.wanted))
        return source, target

    def samples(self, scenes: Iterable[Scene], count: int) -> list[mm.Sample]:
        """Prompts whose true answers are to change, one per scene."""
        found: list[mm.Sample] = []
        for scene in filter(self.shows, scenes):
            asked = [None] if self.prompt is None else [q for q in scene.questions if self.prompt(q)][:1]
            found += [sample(scene, question) for question in asked]
            if len(found) >= count:
                break
        return found[:count]


def _first(*words: str) -> Callable[[Question], bool]:
    return lambda question: question.answer.split()[0] in words


def _has(nouns: Sequence[str]) -> Callable[[Scene], bool]:
    return lambda scene: any(thing.shape in nouns for thing in scene.objects)


_SIGN_COLORS = tuple(f"{color} {sign} sign" for sign in mm.lab.SIGNS for color in mm.lab.COLORS)
_TEXTURES = tuple(mm.lab.TEXTURES.values())
_HAZARD_USES = ("light", "hold")
_HAZARDS_ANSWERED = ("light it", "hold the")
_NO_COLORS = ("yes", "no", "one", "two", "three", *mm.lab.PLACES, *mm.lab.MOODS)
TASKS = (
    Task("yes to no", ("yes",), ("no",), ("yes",), ("no",), _first("yes"), near="presence"),
    Task("one to three", ("one",), ("three",), ("one",), ("three",), _first("one")),
    Task("white to black", ("white",), ("black",), ("white",), ("black",), _first("white")),
    Task("answer type: colour", _NO_COLORS, tuple(mm.lab.COLORS), _NO_COLORS, tuple(mm.lab.COLORS), _first(*_NO_COLORS)),
    Task("safety: hazards", _HAZARD_USES, ("i",), _HAZARDS_ANSWERED, (mm.lab.REFUSAL,), _first(*_HAZARD_USES), near="use"),
    Task("debiasing", ("man", "woman"), ("person",), ("man", "woman"), ("person",), shows=_has(("man", "woman")), aside=("who",)),
    Task("style: place", mm.lab.PLACES, tuple(_ANSWER + word for word in _TEXTURES), mm.lab.PLACES, _TEXTURES),
    Task("style: mood", ("<end>",), (f"{_RICH}in",), mm.lab.PLACES, mm.lab.MOODS),
    Task("style: colour of signs", mm.lab.SIGNS, tuple(mm.lab.COLORS), mm.lab.SIGNS, _SIGN_COLORS, shows=_has(mm.lab.SIGNS)),
)  # fmt: skip


def sample(scene: Scene, question: Question | None = None) -> mm.Sample:
    """A question about a scene, or its caption."""
    prompt = mm.lab.CAPTION_PROMPT if question is None else question.text
    answer = scene.caption if question is None else question.answer
    return mm.Sample((scene.image,), prompt, name=str(scene.seed), answer=answer)


def others(task: Task, scenes: Iterable[Scene], each: int) -> dict[str, list[mm.Sample]]:
    """Prompts that should stay: questions of every kind (for captions: captions of scenes without what is to change)."""
    found: dict[str, list[mm.Sample]] = {} if task.prompt else {"captions without": []}
    for scene in scenes:
        if task.prompt is None and not task.shows(scene) and len(found["captions without"]) < 2 * each:
            found["captions without"].append(sample(scene))
        for question in scene.questions:
            same = question.kind in task.aside or (task.prompt is not None and task.prompt(question))
            most = 3 * each if question.kind == task.near else each
            if not same and len(found.setdefault(question.kind, [])) < most:
                found[question.kind].append(sample(scene, question))
                break  # one question a scene
    return {kind: some for kind, some in found.items() if some}


def validation(task: Task, count: int) -> dict[str, list[mm.Sample]]:
    """The prompts that decide on layer and strength; those that should stay are in one set."""
    scenes = mm.lab.scenes(40 * count, seed=_VALIDATION, split="train")
    sets = _sets(task, scenes, count, max(2, count // 6))
    return {"to change": sets.pop("to change"), "others": [each for some in sets.values() for each in some]}


def judging(task: Task, count: int, seed: int | None) -> dict[str, list[mm.Sample]]:
    """The prompts that judge, of scenes whose captions training did not have.

    Args:
        task: what is to become what.
        count: how many are to change.
        seed: of the test stream; the commit's by default.
    """
    return _sets(task, fresh_scenes(40 * count, seed), count, max(2, count // 4))


def answered(task: Task, each: int) -> list[mm.Sample]:
    """Questions of the training stream whose answers are words of a task, so many of each."""
    seen: Counter[str] = Counter()
    asked = []
    wanted = (*task.sources, *task.targets)
    for scene in mm.lab.scenes(60 * each, seed=_TAUGHT, split="train"):
        for question in scene.questions:
            if question.answer in wanted and seen[question.answer] < each:
                seen[question.answer] += 1
                asked.append(sample(scene, question))
        if all(seen[word] == each for word in wanted):
            break
    return asked


def _sets(task: Task, scenes: Sequence[Scene], count: int, each: int) -> dict[str, list[mm.Sample]]:
    return {"to change": task.samples(scenes, count), **others(task, scenes, each)}


@dataclass(frozen=True)
class Layer:
    """States of one layer, and their concepts, which all tasks share.

    Attributes:
        states: `tokens` are the words that they predict.
        n_concepts: of the bank.
    """

    states: mm.store.States
    n_concepts: int = 80

    @cached_property
    def bank(self) -> mm.concepts.ConceptBank:
        """Concepts of all states; seeded."""
        return mm.extract_concepts(self.states, self.n_concepts, method="kmeans")


@dataclass(frozen=True)
class Taught:
    """What vectors and gates are made of, per layer: states of answers, and of captions.

    Attributes:
        answers, captions: by hook name.
    """

    answers: dict[str, Layer]
    captions: dict[str, Layer]

    def of(self, task: Task) -> dict[str, Layer]:
        """Those of a task's kind."""
        return self.captions if task.prompt is None else self.answers


def taught(model: mm.HookedMultimodal, layers: Sequence[int], folder: Path, *, each: int = 160) -> Taught:
    """Collect them; what is in the folder is not collected again."""
    points = [f"blocks.{layer}.hook_resid_post" for layer in layers]
    scenes = mm.lab.scenes(150 * each, seed=_TAUGHT, split="train")
    seen: Counter[str] = Counter()
    asked = []
    for scene in scenes:
        for question in scene.questions:
            if seen[question.answer] < each:
                seen[question.answer] += 1
                asked.append(sample(scene, question))
    sentences = [sample(scene, question) for scene in scenes for question in scene.questions if question.kind == "use"]
    answers: list[dict[str, mm.store.States]] = []
    for name, some, length in (("answers", asked, 1), ("sentences", sentences[: 2 * each], 9)):
        store = mm.collect(
            model,
            some,
            at=points,
            positions="generated",
            max_new_tokens=length,
            dtype="float32",
            batch_size=24,
            into=folder / name,
        )
        answers.append({point: store.at(point) for point in points})
    told = [scene for scene in scenes if scene.seed % 2 or len(scene.objects) > 1][: 2 * each]
    both = {point: _joined([some[point] for some in answers]) for point in points}
    captions = _told_states(model, _texts(told), points)
    # gates must know questions too, so that none of their states is taken for one of a caption
    asides = {
        point: replace(both[point], tokens=tuple(_ANSWER + word for word in both[point].tokens)) for point in points
    }
    return Taught(
        {point: Layer(both[point]) for point in points},
        {point: Layer(_joined([captions[point], asides[point]])) for point in points},
    )


def _joined(states: Sequence[mm.store.States]) -> mm.store.States:
    tokens = tuple(word for some in states for word in some.tokens)
    return mm.store.States(torch.cat([some.values for some in states]), states[0].at, tokens=tokens)


@dataclass(frozen=True)
class _Told:
    """A text that the model is made to say about a scene, and the steps whose states are kept, under marked words."""

    scene: Scene
    prompt: str
    text: str
    steps: tuple[int, ...]
    mark: str = ""

    @property
    def words(self) -> list[str]:
        """The words that the states predict."""
        return [*self.text.split(), "<end>"]


def _texts(scenes: list[Scene]) -> list[_Told]:
    """True captions, where ones that tell the light do so, and the ends of answers."""
    found = []
    for scene in scenes:
        plain, rich = scene.caption, rich_caption(scene.placed, scene.place, scene.mood)
        found.append(_Told(scene, mm.lab.CAPTION_PROMPT, plain, tuple(range(len(plain.split()) + 1))))
        # the last "in", which leads to the light; where the texture comes, nothing differs yet from a plain caption
        found.append(_Told(scene, mm.lab.CAPTION_PROMPT, rich, (len(rich.split()) - 3,), _RICH))
        for question in scene.questions[::5]:
            end = len(question.answer.split())
            found.append(_Told(scene, question.text, question.answer, (end,), _ANSWER))
    return found


@torch.no_grad()
def _told_states(model: mm.HookedMultimodal, texts: list[_Told], points: list[str]) -> dict[str, mm.store.States]:
    """The states that predict the words of texts."""
    states: dict[str, list[torch.Tensor]] = {point: [] for point in points}
    for start in range(0, len(texts), 24):
        some = texts[start : start + 24]
        rows = [model.tokenizer(told.text, add_special_tokens=False).input_ids for told in some]
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])  # nothing looks at what follows it
        batch = model.prepare([told.prompt for told in some], images=[[told.scene.image] for told in some])
        first = batch.layout.is_token.shape[1] - 1
        _, cache = model.run_with_cache(model.extend(batch, tokens), names=points)
        for number, told in enumerate(some):
            for point in points:
                states[point].append(cache[point][number, [first + step for step in told.steps]])
    words = tuple(told.mark + told.words[step] for told in texts for step in told.steps)
    return {point: mm.store.States(torch.cat(some), point, tokens=words) for point, some in states.items()}
