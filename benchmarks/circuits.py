"""Circuits of three tasks of the lab by every method: CPR, CMD and what finding took, beside random circuits.

    python -m benchmarks.circuits            # prints the table
    python -m benchmarks.circuits --only "two hops" --nodes head --methods eap eap-ig

Circuits are found on scenes of the training stream, and judged on others of the test stream. What finding takes is counted:
forward and backward passes of the model, a batch.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import mmlens as mm
from mmlens.lab.tales import composing
from mmlens.lab.tales.facts import OWNERS
from mmlens.lab.tales.tale import Tale
from mmlens.lab.world import PLACES, SHAPES

#: Pairs that circuits are found on and judged on, and how many of them go together.
FOUND, JUDGED, BATCH = 4, 12, 6
METHODS: dict[str, Any] = {
    "exact": mm.circuits.Exact(),
    "eap": mm.circuits.EAP(),
    "clean-corrupted": mm.circuits.CleanCorrupted(),
    "eap-ig": mm.circuits.EAPIG(),
    "eap-ig, 5 steps": mm.circuits.EAPIG(steps=5),
    "eap-ig-activations": mm.circuits.EAPIGActivations(),
    "information-flow": mm.circuits.InformationFlow(),
    "acdc": mm.circuits.ACDC(),
    "edge-pruning": mm.circuits.EdgePruning(),
}


@dataclass(frozen=True)
class Example:
    """A question about a picture, its answer, and the same about a picture with another answer.

    Attributes:
        question: what is asked.
        image, other_image: the pictures.
        answer, other: the answers.
    """

    question: str
    image: Any
    other_image: Any
    answer: str
    other: str


def colors(train: bool) -> Iterator[Example]:
    """The colour of a thing that is named; the twin's is another one."""
    names = ["red", "blue", "green", "yellow"]
    for scene in mm.lab.scenes(120, seed=91 if train else 17, split="train" if train else "test"):
        for number, thing in enumerate(scene.objects):
            if thing.kind == "shape" and thing.color in names:
                color = names[(names.index(thing.color) + 1) % len(names)]
                twin = scene.twin(object=number, color=color)
                yield Example(f"what color is the {thing.shape}", scene.image, twin.image, thing.color, color)
                break


def places(train: bool) -> Iterator[Example]:
    """Where it is; the twin's ground is another one."""
    for scene in mm.lab.scenes(120, seed=92 if train else 18, split="train" if train else "test"):
        place = PLACES[(PLACES.index(scene.place) + 1) % len(PLACES)]
        yield Example("where is this", scene.image, scene.twin(place=place).image, scene.place, place)


def owners(train: bool) -> Iterator[Example]:
    """Who owns the thing of a colour, which the picture shows and text told of; in the twin it is another thing."""
    for tale in composing.scenes(300, seed=93 if train else 19, split="train" if train else "test"):
        for question in tale.questions:
            if question.kind != "owner by color" or question.noun not in SHAPES:
                continue
            number = next(n for n, thing in enumerate(tale.scene.placed) if thing.shape == question.noun)
            taken = {thing.shape for thing in tale.scene.placed}
            noun = next(n for n in SHAPES if n not in taken and OWNERS[n] != OWNERS[question.noun])
            twin = Tale(tale.scene.twin(object=number, shape=noun))
            yield Example(question.text, tale.image, twin.image, OWNERS[question.noun], OWNERS[noun])
            break


TASKS: dict[str, tuple[str, Callable[[bool], Iterator[Example]]]] = {
    "colour": ("captioner", colors),
    "place": ("captioner", places),
    "two hops": ("narrator-tuned", owners),
}


@cache
def model_of(name: str) -> mm.HookedMultimodal:
    """A lab model."""
    return mm.lab.load() if name == "captioner" else mm.lab.load("narrator", stage="tuned")


def dataset(task: str, count: int, *, train: bool) -> tuple[list[Any], mm.metrics.Metric]:
    """Pairs in batches, of what the model answers rightly both times, and the metric: the answer's logit minus the other's."""
    name, examples = TASKS[task]
    model, chosen, layouts = model_of(name), [], set()
    for example in examples(train):
        if len(chosen) == count:
            break
        prompts = example.question
        batches = [model.prepare(prompts, images=image) for image in (example.image, example.other_image)]
        metric = mm.metrics.logit_difference(example.answer, example.other)
        values = [float(mm.metrics.measure(model, batch, metric=metric)) for batch in batches]
        if values[0] > 0 > values[1]:
            chosen.append(example)
            layouts.add(batches[0].layout.is_token.shape[1])
    pairs = []
    for start in range(0, len(chosen), BATCH):
        part = chosen[start : start + BATCH]
        questions = [example.question for example in part]
        clean = model.prepare(questions, images=[[example.image] for example in part])
        pairs.append((clean, mm.corrupt.swap(model, clean, [[example.other_image] for example in part])))
    answers = [example.answer for example in chosen], [example.other for example in chosen]
    return pairs, mm.metrics.logit_difference(*answers)


def counted(model: mm.HookedMultimodal, find: Callable[[], Any]) -> tuple[Any, int, int]:
    """What finding gives, with the forward and backward passes that it took."""
    forward: list[int] = []
    backward: list[int] = []
    grad, plain = torch.autograd.grad, torch.autograd.backward

    def grad_counted(outputs: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        # gradients of the metric; those of single heads' projections begin at a tensor of the model
        backward.extend([1] * isinstance(inputs, list))
        return grad(outputs, inputs, *args, **options)

    def backward_counted(*args: Any, **options: Any) -> Any:
        backward.append(1)
        return plain(*args, **options)

    handle = model.hf_model.register_forward_pre_hook(lambda *_: forward.append(1))
    torch.autograd.grad, torch.autograd.backward = grad_counted, backward_counted
    try:
        found = find()
    finally:
        handle.remove()
        torch.autograd.grad, torch.autograd.backward = grad, plain
    return found, len(forward), len(backward)


def judged(task: str, names: Sequence[str], *, nodes: Any, draws: int, towers: Any = "all") -> Iterator[dict[str, Any]]:
    """A row for each method, and two for random circuits of the first one's sizes and scores."""
    model = model_of(TASKS[task][0])
    pairs, metric = dataset(task, FOUND, train=True)
    fresh, fresh_metric = dataset(task, JUDGED, train=False)
    for place, name in enumerate(names):
        asked: dict[str, Any] = {"metric": metric, "method": METHODS[name], "nodes": nodes, "towers": towers}
        found, forward, backward = counted(model, lambda: mm.find_circuit(model, pairs, progress=False, **asked))  # noqa: B023
        choice = "grown" if name == "information-flow" else "strongest"
        curve = mm.circuits.curve(
            model, found, fresh, metric=fresh_metric, n_random=0 if place else draws, choice=choice, progress=False
        )
        row = {"task": task, "nodes": nodes, "edges": curve.total, "method": name}
        row |= {"cpr": list(vars(curve.cpr()).values()), "cmd": list(vars(curve.cmd()).values())}
        row |= {"forward": forward / len(pairs), "backward": backward / len(pairs)}
        row |= {"f": [round(float(value), 3) for value in curve.faithfulness[0]], "samples": len(curve.whole)}
        yield row
        for control in ("random", "permuted") if draws and not place else ():
            areas = {area.lower(): list(vars(curve.band(control, area)).values()) for area in ("CPR", "CMD")}
            f = curve.ratios(getattr(curve, control)).mean(0)
            about = {"task": task, "nodes": nodes, "edges": curve.total, "method": control}
            yield about | areas | {"f": [round(float(value), 3) for value in f], "samples": len(curve.whole)}


def main(arguments: Sequence[str]) -> None:
    """Measure, and print a line of JSON for every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(TASKS))
    parser.add_argument("--nodes", default="attention")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--no-controls", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    for task in TASKS if options.only is None else [options.only]:
        for row in judged(task, options.methods, nodes=options.nodes, draws=0 if options.no_controls else 5):
            line = json.dumps(row)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            if options.out is not None:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
