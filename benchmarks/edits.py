"""Edits of the lab model, judged on held-out scenes: `python -m benchmarks.edits`.

Colour to colour and shape to shape. An edit is taught from one kind of question about pictures ("what color is the star"),
on scenes of the training stream, with as many questions of the kind about other things as controls. It is judged on
scenes that neither model nor edit has seen:

- the same question about other scenes; the caption; question and caption with the scene in writing in the place of its
  picture: three prompts that it was not taught;
- answers about other objects of scenes with the source, about scenes without it, about its neighbours (things of the
  target's name), and captions of scenes without it: these should stay.

Methods side by side, then the frontier over the penalty. Everything is kept in a folder, and a run that was stopped goes
on where it was.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import mmlens as mm
from mmlens.analysis.samples import Sample
from mmlens.interventions.edits import Direct, Edit, Through
from mmlens.lab import Question, Scene

_TAUGHT, _BATCH, _ROWS, _RATE = 24, 12, 20, 0.02
_DRAWS = 5  # of random rows
_NAMED = {"color": mm.lab.COLORS, "shape": mm.lab.SHAPES}
_STAYING = ("color", "shape", "count", "place", "mood", "position", "who", "use")


@dataclass(frozen=True)
class Task:
    """What is to be edited.

    Attributes:
        kind: of question, `"color"` or `"shape"`.
        source, target: the words.
    """

    kind: str
    source: str
    target: str

    def holds(self, scene: Scene) -> bool:
        """Whether the scene has something of the source's name; a sign's plate has a colour that is never said."""
        things = (thing for thing in scene.objects if thing.kind != "sign" or self.kind == "shape")
        return any(getattr(thing, self.kind) == self.source for thing in things)

    def concerns(self, scene: Scene, question: Question) -> bool:
        """Whether a question names the source, asks for it, or asks after a thing that has it."""
        nouns = {thing.shape for thing in scene.objects if getattr(thing, self.kind) == self.source}
        colors = {thing.color for thing in scene.objects if getattr(thing, self.kind) == self.source}
        return bool({self.source, *nouns, *colors} & {*question.text.split(), *question.answer.split()})


TASKS = (Task("color", "red", "blue"), Task("shape", "circle", "square"))


def sample(scene: Scene, question: Question | None = None) -> Sample:
    """A question about a scene, or its caption."""
    prompt = mm.lab.CAPTION_PROMPT if question is None else question.text
    answer = scene.caption if question is None else question.answer
    return Sample((scene.image,), prompt, writing=scene.written(), name=str(scene.seed), answer=answer)


def prompts(task: Task, scenes: list[Scene], seed: int) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """Target and control prompts by name, of scenes; at most two control questions a scene."""
    rng = np.random.default_rng(seed)
    having = [scene for scene in scenes if task.holds(scene)]
    others = [scene for scene in scenes if not task.holds(scene)]

    def asked(some: Iterable[Scene], wanted: Callable[[Scene, Question], bool], most: int = 2) -> list[Sample]:
        found = []
        for scene in some:
            fitting = [question for question in scene.questions if wanted(scene, question)]
            found += [sample(scene, fitting[i]) for i in rng.permutation(len(fitting))[:most]]
        return found

    def stays(scene: Scene, question: Question) -> bool:
        return question.kind in _STAYING and not task.concerns(scene, question)

    same = asked(having, lambda _, question: (question.kind, question.answer) == (task.kind, task.source))
    captions = [sample(scene) for scene in having]
    targets = {
        "same question": same,
        "caption": captions,
        "question, in writing": [each.as_writing for each in same],
        "caption, in writing": [each.as_writing for each in captions],
    }
    controls = {
        "other objects": asked(having, stays),
        "scenes without": asked(others, stays, most=1),
        "neighbours": asked(
            others, lambda scene, question: (question.kind, question.answer) == (task.kind, task.target)
        ),
        "captions without": [sample(scene) for scene in others[: len(having)]],
    }
    return targets, controls


@dataclass(frozen=True)
class Lessons:
    """What edits of one task are taught from: questions whose answer is the source, others, and the rows to change."""

    sources: list[mm.MultimodalBatch]
    controls: list[mm.MultimodalBatch]
    top: mm.Units
    specific: mm.Units
    random: mm.controls.RandomUnits


def lessons(model: mm.HookedMultimodal, task: Task, seed: int) -> Lessons:
    """Questions from the training stream, one a scene."""
    found: dict[str, list[tuple[Scene, Question]]] = {}
    for scene in mm.lab.scenes(1500, seed=900 + seed, split="train"):
        fitting = [question for question in scene.questions if question.kind == task.kind]
        if fitting:
            found.setdefault(fitting[0].answer, []).append((scene, fitting[0]))

    def prepared(pairs: list[tuple[Scene, Question]]) -> list[mm.MultimodalBatch]:
        parts = [pairs[i : i + _BATCH] for i in range(0, len(pairs), _BATCH)]
        return [model.prepare([q.text for _, q in part], images=[[s.image] for s, _ in part]) for part in parts]

    sources = prepared(found[task.source][:_TAUGHT])
    words = [word for word in _NAMED[task.kind] if word != task.source and word in found]
    scores = mm.find_neurons(model, sources[0], token=task.source)
    rivals = [mm.find_neurons(model, prepared(found[word][:_BATCH])[0], token=word) for word in words]
    controls = [found[words[i % len(words)]][i // len(words)] for i in range(_TAUGHT)]
    top = scores.top(_ROWS)
    specific = mm.neurons.specific_neurons(scores, rivals, k=_ROWS)
    return Lessons(sources, prepared(controls), top, specific, mm.random_units(model, top, draws=_DRAWS, seed=seed))


def methods(
    model: mm.HookedMultimodal, task: Task, taught: Lessons
) -> dict[str, Callable[[], Edit] | list[Callable[[], Edit]]]:
    """The edits to compare, by name; of random rows several draws."""

    def through(neurons: mm.Units, *, controls: bool = True, penalty: float = 0.1) -> Callable[[], Edit]:
        return lambda: mm.edits.replace_token(
            model,
            taught.sources,
            source=task.source,
            target=task.target,
            neurons=neurons,
            controls=taught.controls if controls else (),
            method=Through(learning_rate=_RATE, penalty=penalty),
            max_new_tokens=4,
        )

    def direct(settings: Direct) -> Callable[[], Edit]:
        return lambda: mm.edits.replace_token(
            model,
            taught.sources,
            source=task.source,
            target=task.target,
            neurons=taught.top,
            method=settings,
            max_new_tokens=4,
        )

    def rank_one(layer: int) -> Callable[[], Edit]:
        return lambda: mm.edits.rank_one(
            model,
            taught.sources,
            source=task.source,
            target=task.target,
            layer=layer,
            samples=taught.controls,
            controls=taught.controls,
            max_new_tokens=4,
        )

    return {
        "through": through(taught.top),
        "through, specific rows": through(taught.specific),
        "through, no controls": through(taught.top, controls=False),
        "through, random rows": [through(units) for units in taught.random],
        "direct": direct(Direct()),
        "rank one, layer 2": rank_one(2),
    }


def frontier(model: mm.HookedMultimodal, task: Task, taught: Lessons) -> dict[str, Callable[[], Edit]]:
    """The two main methods over their penalties."""

    def through(penalty: float) -> Edit:
        return mm.edits.replace_token(
            model,
            taught.sources,
            source=task.source,
            target=task.target,
            neurons=taught.top,
            controls=taught.controls,
            method=Through(learning_rate=_RATE, penalty=penalty, stop_at=1.0),
            max_new_tokens=4,
        )

    def direct(beta: float) -> Edit:
        return mm.edits.replace_token(
            model,
            taught.sources,
            source=task.source,
            target=task.target,
            neurons=taught.top,
            method=Direct(beta=beta),
            max_new_tokens=4,
        )

    found: dict[str, Callable[[], Edit]] = {}
    found |= {f"{p:g}": lambda p=p: through(p) for p in (0.1, 0.5, 1.0, 2.0)}  # type: ignore[misc]
    found |= {f"b {b:g}": lambda b=b: direct(b) for b in (0.5, 1.0, 2.0, 4.0)}  # type: ignore[misc]
    return found


def measured(
    model: mm.HookedMultimodal,
    task: Task,
    name: str,
    made: Mapping[str, Callable[[], Edit] | list[Callable[[], Edit]]],
    scenes: int,
    folder: Path,
) -> mm.edits.EditReport:
    """The report on edits; edits and report are kept, and not made again."""
    stem = folder / f"{task.source}_{task.target}_{name}"
    kept = stem.with_suffix(".json")
    if kept.exists():
        return mm.edits.EditReport.load(kept)
    edits: dict[str, list[Edit]] = {}
    for number, (label, makers) in enumerate(made.items()):
        for draw, make in enumerate(makers if isinstance(makers, list) else [makers]):
            path = folder / f"{stem.name}_{number}_{draw}.safetensors"
            edit = Edit.load(path) if path.exists() else make()
            edit.save(path)
            edits.setdefault(label, []).append(edit)
    targets, controls = prompts(task, mm.lab.scenes(scenes, seed=41), seed=0)
    report = mm.edits.edit_report(model, edits, targets=targets, controls=controls, batch_size=_BATCH)
    report.save(kept)
    report.plot().savefig(stem.with_suffix(".png"), dpi=130)
    return report


def lines(report: mm.edits.EditReport) -> list[str]:
    """The report as a table: success on each set of targets, and changed answers of each set of controls."""
    targets, controls = report.groups("target"), report.groups("control")
    heads = ["edit", "size", *targets, "caption exact", *(f"changed: {name}" for name in controls)]
    heads += [f"scenes changed: {controls[0]}"]
    found = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for fact in report.edits:
        cells = [f"{fact.label} ({fact.rows} rows)", f"{fact.size:.1f}"]
        cells += [str(report.success(fact.name, group)) for group in targets]
        cells += [str(report.interval(fact.name, "caption", lambda case: case.exact))]
        cells += [str(report.changed(fact.name, group)) for group in controls]
        cells += [str(report.changed_pictures(fact.name, controls[0]))]
        found.append("| " + " | ".join(cells) + " |")
    return found


def coming_and_going(model: mm.HookedMultimodal, *, rows: int = 20, times: int = 1000) -> str:
    """How long an edit takes to be applied and reverted, and whether every weight has its bits back."""
    width = model.cfg.d_mlp
    numbers = torch.randperm(model.cfg.n_layers * width, generator=torch.Generator().manual_seed(0))[:rows].tolist()
    edit = mm.edits.noise_neurons(model, [mm.Neuron(*divmod(n, width)) for n in numbers], sigma=0.5, seed=0)
    before = [weight.detach().clone() for weight in model.hf_model.parameters()]
    seconds = []
    for _ in range(times):
        started = time.process_time()  # other programs on a busy machine do not count
        with model.edited(edit):
            pass
        seconds.append(time.process_time() - started)
    equal = all(torch.equal(weight, old) for weight, old in zip(model.hf_model.parameters(), before, strict=True))
    took = f"median {1e3 * np.median(seconds):.2f} ms of CPU"
    return f"{rows} rows applied and reverted {times} times: {took}, weights bit-equal: {equal}"


def main() -> None:
    """Make the edits, judge them, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scenes", type=int, default=200, help="held-out scenes to judge on; a quarter for the frontier"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("edits_measured"), help="folder for edits, reports and figures"
    )
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = mm.lab.load()
    print(coming_and_going(model), flush=True)
    for name, made, scenes in (("methods", methods, chosen.scenes), ("frontier", frontier, chosen.scenes // 4)):
        for task in TASKS:
            taught = lessons(model, task, chosen.seed)
            report = measured(model, task, name, made(model, task, taught), scenes, chosen.out)
            print(f"\n## {task.source} -> {task.target}: {name}, {scenes} held-out scenes\n")
            print("\n".join(lines(report)), flush=True)


if __name__ == "__main__":
    main()
