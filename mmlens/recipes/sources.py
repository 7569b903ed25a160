"""Where a study's samples come from: the files of published data sets in a folder, or the lab's scenes."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from mmlens import lab
from mmlens.analysis.readers.coco import coco_captions
from mmlens.analysis.readers.karpathy import karpathy
from mmlens.analysis.readers.mm_safety_bench import mm_safety_bench
from mmlens.analysis.readers.picture_folder import few
from mmlens.analysis.readers.sample_set import SampleSet
from mmlens.analysis.readers.sbu import sbu_captions
from mmlens.analysis.readers.visual_genome import visual_genome
from mmlens.analysis.readers.vqa import vqa_v2
from mmlens.analysis.samples.sample import Sample, as_samples
from mmlens.core.answer_text import says
from mmlens.core.errors import InputError
from mmlens.lab.checkpoints import STYLES
from mmlens.lab.tuned import styled_samples
from mmlens.lab.world import Question
from mmlens.recipes.stage import UnanswerableError
from mmlens.recipes.words import PHOTOGRAPHS, SCENES, StudyWords

Samples = Sequence[Sample]

#: The identity of data that are not there.
ABSENT = "absent"


class Sources(Protocol):
    """What studies ask a data set for; `UnanswerableError` where it has no such thing."""

    @property
    def title(self) -> str:
        """What they are, in words."""

    @property
    def words(self) -> StudyWords:
        """What is asked about."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What each kind of samples is read from; `ABSENT` where there is nothing."""

    def captions(self, n: int, prompt: str | None, seed: int) -> Samples:
        """Pictures with their true captions."""

    def questions(self, n: int, seed: int) -> Samples:
        """Questions with people's answers, of several types of answer."""

    def requests(self, n: int, seed: int) -> tuple[Samples, Samples]:
        """What should be refused, and what should not."""

    def tunes(self, n: int, prompt: str | None, seed: int) -> dict[str, Samples]:
        """Samples whose captions are about one thing, by its name."""


@dataclass(frozen=True)
class LabSources:
    """The lab's scenes."""

    title: str = "the lab's scenes"
    words: StudyWords = SCENES

    @property
    def identity(self) -> Mapping[str, str]:
        """See `Sources`."""
        return {"data": self.title}

    def captions(self, n: int, prompt: str | None, seed: int) -> Samples:
        """See `Sources`."""
        shown = lab.scenes(n, seed=seed)
        return [
            replace(sample, prompt=prompt or lab.CAPTION_PROMPT, references=(sample.caption or "",))
            for sample in map(_sample_of, shown)
        ]

    def questions(self, n: int, seed: int) -> Samples:
        """See `Sources`."""
        posed: list[Sample] = []
        start = 1_000 * (seed + 1)
        while len(posed) < n:
            for scene in lab.scenes(max(n // 4, 8), seed=start):
                kinds = {question.kind: question for question in scene.questions[::-1] if question.kind != "use"}
                presence = [question for question in scene.questions if question.kind == "presence"]
                # as many yes as no, and a question of each other kind
                several = [next((q for q in presence if q.answer == word), None) for word in ("yes", "no")]
                several += [question for kind, question in kinds.items() if kind != "presence"]
                posed += [_question(scene, question) for question in several if question is not None]
            start += 1
        return posed[:n]

    def requests(self, n: int, seed: int) -> tuple[Samples, Samples]:
        """See `Sources`: how to use what is drawn on a sign; the model refuses most hazards, and should refuse all."""
        harmful: list[Sample] = []
        harmless: list[Sample] = []
        start = 2_000 * (seed + 1)
        while min(len(harmful), len(harmless)) < n:
            for scene in lab.scenes(64, seed=start):
                for question in scene.questions:
                    if question.kind == "use":
                        signs = {thing.shape for thing in scene.objects} & set(lab.SIGNS)
                        group = harmful if signs & set(lab.HAZARD_SIGNS) else harmless
                        group.append(_question(scene, question))
            start += 1
        return harmful[:n], harmless[:n]

    def tunes(self, n: int, prompt: str | None, seed: int) -> dict[str, Samples]:
        """See `Sources`."""
        shown = lab.scenes(n, seed=seed, split="train")
        return {style: styled_samples(shown, style) for style in STYLES}


def _sample_of(scene: lab.Scene) -> Sample:
    (sample,) = as_samples([scene])
    return replace(sample, name=f"scene {scene.seed}", image_id=f"scene {scene.seed}")


def _question(scene: lab.Scene, question: Question) -> Sample:
    kind = "yes/no" if question.kind == "presence" else "number" if question.kind == "count" else "other"
    return Sample(
        (scene.image,),
        question.text,
        answer=question.answer,
        references=(question.answer,) * 10,
        types={"answer_type": kind},
        name=f"scene {scene.seed}, {question.text}",
        image_id=f"scene {scene.seed}",
    )


#: The names under which each kind of data is published, the first that is there.
_FILES: Mapping[str, tuple[str, ...]] = {
    "captions": (
        *("dataset_coco.json", "captions_val*.json", "captions_train*.json", "sbu-captions-all.json"),
        "dataset_flickr*.json",
    ),
    "questions": ("v2_*_val*_questions.json", "v2_*_train*_questions.json"),
    "answers": ("v2_*_annotations.json",),
    "requests": ("processed_questions/*.json",),
    "regions": ("region_descriptions.json",),
}
_PACKED = (".zip", ".gz", ".tar", ".tgz")
_ENDINGS = (".json", *_PACKED)


def _sizes(files: Sequence[Path]) -> str:
    return hashlib.sha256(repr([(path.name, path.stat().st_size) for path in files]).encode()).hexdigest()[:16]


class FileSources:
    """The files of published data sets in a folder and the folders in it, found by the names that they are published under.

    Args:
        folder: where they are.

    Raises:
        InputError: if there is no folder.
    """

    def __init__(self, folder: str | Path, *, progress: bool = True):
        self.folder = Path(folder)
        self.words, self._progress = PHOTOGRAPHS, progress
        if not self.folder.is_dir():
            raise InputError(f"data={str(folder)!r} is no folder; pass the one that holds the files of the data sets.")
        self.title = f"the files in {self.folder.name}"

    @property
    def identity(self) -> Mapping[str, str]:
        """See `Sources`: names and sizes of files."""
        files = {kind: self._files(kind) for kind in _FILES}
        files["regions"] = files["regions"] or files["captions"]  # as fine-tunes read them
        return {f"{kind} of the data": _sizes(several) if several else ABSENT for kind, several in files.items()}

    @cached_property
    def _annotations(self) -> list[Path]:
        """All files that may be annotations, also behind links to folders."""
        walk = os.walk(self.folder, followlinks=True)
        return sorted(Path(folder, name) for folder, _, names in walk for name in names if name.endswith(_ENDINGS))

    def _files(self, kind: str) -> list[Path]:
        """The files of the first of the names under which a kind of data is published."""
        matches = ([path for path in self._annotations if path.match(pattern)] for pattern in _FILES[kind])
        return next((several for several in matches if several), [])

    def _require(self, kind: str, what: str) -> Path:
        files = self._files(kind)
        if not files:
            packed = [path.name for path in self._annotations if path.suffix in _PACKED]
            hint = f" Unpack {few(packed)}." if packed else ""
            raise UnanswerableError(f"There are no {what} in {self.folder}: no file {' or '.join(_FILES[kind])}.{hint}")
        return files[0]

    @cached_property
    def _captions(self) -> SampleSet:
        path = self._require("captions", "captions")
        if path.name.startswith("dataset_"):
            return karpathy(path, self.folder, missing="skip", progress=self._progress)
        read = sbu_captions if path.name.startswith("sbu") else coco_captions
        return read(path, self.folder, missing="skip", progress=self._progress)

    @cached_property
    def _questions(self) -> SampleSet:
        questions = self._require("questions", "questions of VQAv2")
        answers = questions.name.replace("OpenEnded_", "").replace("questions", "annotations")
        annotations = next((path for path in self._files("answers") if path.name == answers), None)
        if annotations is None:
            raise UnanswerableError(f"There are no answers to {questions.name} in {self.folder}: no file {answers}.")
        prompt = "{question} Answer the question using a single word or phrase."
        return vqa_v2(
            questions, annotations, images=self.folder, prompt=prompt, missing="skip", progress=self._progress
        )

    def captions(self, n: int, prompt: str | None, seed: int) -> Samples:
        """See `Sources`: SBU's for Pan et al. if they are the only ones, else COCO's."""
        return _prompted(_drawn(self._captions, n, seed), prompt)

    def questions(self, n: int, seed: int) -> Samples:
        """See `Sources`."""
        return _drawn(self._questions, n, seed)

    def requests(self, n: int, seed: int) -> tuple[Samples, Samples]:
        """See `Sources`: MM-SafetyBench's, and questions of VQAv2."""
        folder = self._require("requests", "requests of MM-SafetyBench").parent
        data = mm_safety_bench(folder, folder.parent / "imgs", missing="skip", progress=self._progress)
        return _drawn(data, n, seed), self.questions(n, seed)

    def tunes(self, n: int, prompt: str | None, seed: int) -> dict[str, Samples]:
        """See `Sources`: Visual Genome's phrases with a word of the class, else COCO's captions with one."""
        if regions := self._files("regions"):
            data = visual_genome(regions[0], self.folder, missing="skip", progress=self._progress)
        else:
            data = self._captions
        classes = {name: _with_word(data, words, n) for name, words in self.words.classes.items()}
        return {name: _prompted(samples, prompt) for name, samples in classes.items()}


def _drawn(data: SampleSet, n: int, seed: int) -> SampleSet:
    return data if n >= len(data) else data.draw(n, seed)


class _Mapped(Sequence[Sample]):
    """Samples that are changed when they are posed for."""

    def __init__(self, samples: Samples, change: Callable[[Sample], Sample]):
        self._samples, self._change = samples, change

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        if isinstance(index, slice):
            return _Mapped(self._samples[index], self._change)
        return self._change(self._samples[index])


def _prompted(samples: Samples, prompt: str | None) -> Samples:
    return samples if prompt is None else _Mapped(samples, partial(replace, prompt=prompt))


def _with_word(data: SampleSet, words: Sequence[str], n: int) -> list[Sample]:
    """The first samples that something with one of the words is said of; that becomes their caption."""
    selection: list[Sample] = []
    for sample in data:
        text = next((text for text in (*sample.references, *sample.boxes) if says(text, words)), None)
        if text is not None:
            selection.append(replace(sample, caption=text, boxes={}))
            if len(selection) == n:
                break
    return selection


def halves(samples: Samples) -> tuple[list[int], list[int]]:
    """The numbers of the samples in two halves that share no picture."""
    numbers: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        numbers.setdefault(sample.image_id or sample.name or sample.key, []).append(number)
    sides: tuple[list[int], list[int]] = ([], [])
    for place, several in enumerate(numbers.values()):
        sides[place % 2].extend(several)
    return sides


def rows(samples: Samples, numbers: Sequence[int]) -> Samples:
    """Some of the samples, made when they are posed for."""
    return [samples[number] for number in numbers]
