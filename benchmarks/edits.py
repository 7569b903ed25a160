"""Edits of the lab model, judged on held-out scenes: `python -m benchmarks.edits`.

Colour to colour and shape to shape. An edit is taught from one kind of question about pictures ("what color is the star"),
on scenes of the training stream, with as many questions of the kind about other things as controls; "belief" also from the
questions whose answers agree with the edit, and from controls of every kind. All are judged on scenes that neither model nor
edit has seen, by `mm.lab.edit_questions`:

- targets: the same question about other scenes; the caption; question and caption with the scene in writing in the place of
  its picture: three prompts that no edit was taught;
- consistency: presence of the old and of the new, reverse look-ups, entailments;
- controls: answers that should stay, of every kind of question, those that name the source among them.

Beside each edit stands the same in random rows of the same layers, matched by how active they are. Methods side by side, then
the frontier over the penalty. Everything is kept in a folder, and a run that was stopped goes on where it was.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmlens as mm
from benchmarks.splits import fresh_scenes
from mmlens.analysis.samples.sample import Sample, batches
from mmlens.interventions.edits import Belief, Direct, Edit, Through
from mmlens.interventions.edits.methods import EditMethod
from mmlens.lab import Question, Scene

_TAUGHT, _BATCH, _ROWS, _RATE = 24, 12, 20, 0.02
_NAMED = {"color": mm.lab.COLORS, "shape": mm.lab.SHAPES}


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


TASKS = (Task("color", "red", "blue"), Task("shape", "circle", "square"))


@dataclass(frozen=True)
class Lessons:
    """What edits of one task are taught from: questions whose answer is the source, others, and the rows to change."""

    sources: list[mm.MultimodalBatch]
    controls: list[mm.MultimodalBatch]
    top: mm.Units
    specific: mm.Units
    consistency: list[tuple[mm.MultimodalBatch, list[str]]]
    every_kind: list[mm.MultimodalBatch]


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
    asked = mm.lab.edit_questions(
        mm.lab.scenes(400, seed=901 + seed, split="train"), source=task.source, target=task.target, seed=seed
    )

    def of(samples: list[Sample]) -> list[tuple[mm.MultimodalBatch, list[str]]]:
        parts = batches(model, samples[:_TAUGHT], batch_size=_BATCH, progress=False)
        return [(batch, [str(sample.answer) for sample in part]) for part, batch in parts]

    consistency = [pair for samples in asked.consistency.values() for pair in of(samples)]
    kinds = [samples for name, samples in asked.controls.items() if not name.startswith("captions")]
    every_kind = [batch for samples in kinds for batch, _ in of(samples)]
    return Lessons(sources, prepared(controls), top, specific, consistency, every_kind)


def methods(
    model: mm.HookedMultimodal, task: Task, taught: Lessons, belief_steps: int
) -> dict[str, Callable[[], Edit]]:
    """The edits to compare, by name."""
    words = {"source": task.source, "target": task.target}

    def replace_token(neurons: mm.Units, method: EditMethod, **more: Any) -> Callable[[], Edit]:
        return lambda: mm.edits.replace_token(
            model, taught.sources, **words, neurons=neurons, method=method, max_new_tokens=4, progress=False, **more
        )

    def rank_one(layer: int) -> Callable[[], Edit]:
        return lambda: mm.edits.rank_one(
            model,
            taught.sources,
            **words,
            layer=layer,
            samples=taught.controls,
            controls=taught.controls,
            max_new_tokens=4,
        )

    through, belief = Through(learning_rate=_RATE), Belief(learning_rate=_RATE, n_steps=belief_steps)
    return {
        "through": replace_token(taught.top, through, controls=taught.controls),
        "through, every kind kept": replace_token(taught.top, through, controls=taught.every_kind),
        "belief": replace_token(taught.top, belief, controls=taught.every_kind, consistency=taught.consistency),
        "through, specific rows": replace_token(taught.specific, through, controls=taught.controls),
        "through, no controls": replace_token(taught.top, through),
        "direct": replace_token(taught.top, Direct()),
        "rank one, layer 2": rank_one(2),
    }


#: The methods that are taught to matched rows too, and the share of the draws: belief takes long.
MATCHED = {"through": 1.0, "belief": 0.25}


def frontier(model: mm.HookedMultimodal, task: Task, taught: Lessons) -> dict[str, Callable[[], Edit]]:
    """The two main methods over their penalties."""

    replace_token = partial(
        mm.edits.replace_token, model, taught.sources, source=task.source, target=task.target, neurons=taught.top,
        max_new_tokens=4,
    )  # fmt: skip
    methods = {f"{p:g}": Through(learning_rate=_RATE, penalty=p, stop_at=1.0) for p in (0.1, 0.5, 1.0, 2.0)}
    closed = {f"b {b:g}": Direct(beta=b) for b in (0.5, 1.0, 2.0, 4.0)}
    return {
        **{name: partial(replace_token, controls=taught.controls, method=method) for name, method in methods.items()},
        **{name: partial(replace_token, method=method) for name, method in closed.items()},
    }


def measured(
    model: mm.HookedMultimodal,
    task: Task,
    name: str,
    made: Mapping[str, Callable[[], Edit]],
    settings: argparse.Namespace,
    scenes: int,
) -> dict[str, mm.edits.EditReport]:
    """The report on each edit; reports are kept, and not made again."""
    drawn = fresh_scenes(scenes, settings.test_seed)
    asked = mm.lab.edit_questions(drawn, source=task.source, target=task.target)
    reports = {}
    for number, (label, make) in enumerate(made.items()):
        if label not in (settings.method or made):
            continue
        kept = settings.out / f"{task.source}_{task.target}_{name}_{number}.json"
        if not kept.exists():
            path, draws = kept.with_suffix(".safetensors"), round(settings.draws * MATCHED.get(label, 0))
            edit = Edit.load(path) if path.exists() and not draws else make()  # a file does not know how it was taught
            edit.save(path)
            report = mm.edits.edit_report(
                model,
                {label: edit},
                targets=asked.targets,
                consistency=asked.consistency,
                controls=asked.controls,
                matched=draws,
                seed=settings.seed,
                batch_size=32,
                checkpoint=kept.with_suffix(".cases"),
                progress=False,
            )
            report.save(kept)
        reports[label] = mm.edits.EditReport.load(kept)
        print(f"{kept} is there", file=sys.stderr, flush=True)
    return reports


def lines(reports: Mapping[str, mm.edits.EditReport]) -> list[str]:
    """The reports as three tables: success on each set of targets, agreement, and changed answers of each set of controls."""
    found: list[str] = []
    first = next(iter(reports.values()))
    for role, head in (
        ("target", "says the target"),
        ("consistency", "agrees, before -> after"),
        ("control", "answers changed"),
    ):
        groups = first.groups(role)
        heads = [f"edit: {head}", "size", *groups]
        found += ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
        for report in reports.values():
            for fact in report.edits:
                cells = [_value(report, fact.name, role, group) for group in groups]
                found.append("| " + " | ".join([f"{fact.label}, {fact.rows} rows", f"{fact.size:.1f}", *cells]) + " |")
        found.append("")
    return found


def _value(report: mm.edits.EditReport, edit: str, role: str, group: str) -> str:
    if role == "control":
        return str(report.changed(edit, group))
    after = report.success(edit, group)
    before = (
        ""
        if role == "target"
        else f"{report.interval(edit, group, lambda case: case.right and case.right[0]).mean:.2f} -> "
    )
    place = ""
    if report.control(edit) is not None:
        standing = report.standing(edit, group, lambda case: case.success)
        place = f"; {standing.at_least} of {standing.draws.count} draws as good"
    return f"{before}{after}{place}"


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
    parser.add_argument("--scenes", type=int, default=100, help="held-out scenes to judge on; half for the frontier")
    parser.add_argument("--test-seed", type=int, help="of the scenes to judge on (the commit's)")
    parser.add_argument("--draws", type=int, default=20, help="of matched rows")
    parser.add_argument("--task", choices=[task.source for task in TASKS], action="append", help="one task (all)")
    parser.add_argument(
        "--method", action="append", help="one method by its name in the table; repeat for several (all)"
    )
    parser.add_argument("--belief-steps", type=int, default=120)
    parser.add_argument("--part", choices=["methods", "frontier"], action="append", help="one part (both)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("edits_measured"), help="folder for edits, reports and figures"
    )
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = mm.lab.load()
    print(coming_and_going(model), flush=True)
    for name, scenes in (("methods", chosen.scenes), ("frontier", chosen.scenes // 2)):
        for task in TASKS:
            if name not in (chosen.part or [name]) or task.source not in (chosen.task or [task.source]):
                continue
            taught = lessons(model, task, chosen.seed)
            steps = chosen.belief_steps
            made = methods(model, task, taught, steps) if name == "methods" else frontier(model, task, taught)
            reports = measured(model, task, name, made, chosen, scenes)
            print(f"\n## {task.source} -> {task.target}: {name}, {scenes} held-out scenes\n")
            print("\n".join(lines(reports)), flush=True)


if __name__ == "__main__":
    main()
