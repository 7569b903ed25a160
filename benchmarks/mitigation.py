"""Methods against hallucination on the planted prior, on the narrator and on the captioner: docs/mitigation.md.

    python -m benchmarks.mitigation --part planted
    python -m benchmarks.mitigation --part narrator
    python -m benchmarks.mitigation --part captioner

Settings of each method are chosen on validation scenes, by the accuracy of questions (half of them against what is usual), on the
captioner by the attacks that succeed, and reported on fresh scenes.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmlens as mm
from mmlens.lab.language import USES
from mmlens.lab.phenomena.tale_world import TaleWorld
from mmlens.lab.tales.describing import CAPTIONS, tale_caption
from mmlens.mitigation import Boosted, Contrasted, Intervened, RedistributeSinks, VisuallySteered
from mmlens.models.hooked import HookedMultimodal
from mmlens.recipes.sources import LabSources

POINTS = "blocks.*.hook_resid_post"
VALIDATION, TAUGHT, FRESH = 7_301, 7_302, 61_170_227
#: Every method's settings, by name.
GRIDS: dict[str, Mapping[str, Any]] = {
    "PAI, attention": {f"alpha {a:g}": Boosted(alpha=a, contrast=0.0) for a in (0.2, 0.5, 1.0)},
    "PAI, both": {
        f"alpha {a:g}, gamma {1 + c:g}": Boosted(alpha=a, contrast=c) for a in (0.2, 0.5) for c in (0.1, 1.0)
    },
    "PAI, logits": {f"gamma {1 + a:g}": Contrasted(mm.decoding.PAI(alpha=a)) for a in (0.1, 0.5, 1.0)},
    "VCD": {
        f"alpha {a:g}, step {t}": Contrasted(mm.decoding.VCD(alpha=a, step=t)) for a in (0.5, 1.0) for t in (500, 900)
    },
    "ICD": {f"alpha {a:g}": Contrasted(mm.decoding.ICD(alpha=a)) for a in (0.5, 1.0)},
    "VISTA": {f"alpha {a:g}": VisuallySteered(alpha=a) for a in (0.01, 0.05, 0.17)},
    "VAR": {f"threshold {t:g}": Intervened((RedistributeSinks(threshold=t),)) for t in (4.0, 20.0)},
}


def usual(sample: mm.Sample, text: str) -> float | None:
    """Whether an answer is the usual one, where the picture says otherwise."""
    return float(mm.scorers.says(text, sample.types["usual"])) if "usual" in sample.types else None


def narrator_tasks(n: int, seed: int) -> dict[str, list[mm.Sample]]:
    """Questions for colours against the usual and others, things that are there and not, captions."""
    world = TaleWorld(tuned=True)
    pair = world.conflicts(n, seed)["companion in another colour"]
    sides = (("against the usual", pair.cases), ("other", pair.others))
    questions = [
        mm.Sample(
            (tale.image,), question.text, references=(question.answer,), image_id=f"{kind} {number}",
            types={"answer_type": kind} | ({"usual": str(question.prior)} if kind == "against the usual" else {}),
        )
        for kind, cases in sides for number, (tale, question) in enumerate(cases[:n])
    ]  # fmt: skip
    rng = np.random.default_rng(seed)
    presence, captions = [], []
    for number, tale in enumerate(world.scenes(n, seed + 1)):
        there = sorted({thing.shape for thing in tale.objects})
        absent = [noun for noun in world.nouns if noun not in there]
        for answer, noun in (("yes", rng.choice(there)), ("no", rng.choice(absent))):
            presence.append(mm.Sample((tale.image,), world.presence(str(noun)), answer=answer, image_id=str(number)))
        boxes = {thing.shape: (tuple(map(float, thing.box)),) for thing in tale.objects}
        told = tuple(
            tale_caption(tale.placed, tale.place, tale.mood, request=number) for number in range(len(CAPTIONS))
        )
        captions.append(
            mm.Sample((tale.image,), world.caption_request, boxes=boxes, references=told, image_id=str(number))
        )
    # what no method is about: the ground, the light, and how many things there are
    harmless = [
        mm.Sample((tale.image,), question.text, answer=question.answer, image_id=str(number))
        for number, tale in enumerate(world.scenes(n, seed + 2)) for question in world.questions(tale)
        if question.kind in ("place", "mood", "count")
    ]  # fmt: skip
    return {"questions": questions, "pope": presence, "captions": captions[: n // 2], "harmless": harmless[:n]}


def learned(model: HookedMultimodal, n: int) -> dict[str, Mapping[str, Any]]:
    """Vectors from true and usual answers to taught questions: VTI's, and L2S's predictor."""
    samples = narrator_tasks(n, TAUGHT)["questions"]
    samples = [sample for sample in samples if "usual" in sample.types]
    where: dict[str, Any] = {"at": POINTS, "progress": False}
    tables = mm.steering.contrastive_vectors(
        model, samples, positive=lambda s: f" {s.references[0]}", negative=lambda s: f" {s.types['usual']}", **where
    )  # fmt: skip
    vectors = mm.steering.joint_vectors(tables)
    point = f"blocks.{model.cfg.n_layers // 2}.hook_resid_post"
    states = mm.collect(model, samples, at=point, positions="last", dtype="float32", progress=False).at(point)
    predictor = mm.steering.learn_predictor(states, tables[point], hidden=32)
    print(f"L2S: {predictor!r}; mean vector, cosine {_cosine(tables[point]):.3f}")
    last = mm.positions.last | mm.positions.generated
    heads = heads_of_the_usual(model, samples)
    return {
        "VTI, text": {
            f"alpha {a:g}": Intervened(tuple(mm.Steer(v, a, scale="relative", positions=last) for v in vectors))
            for a in (0.03, 0.1, 0.3)
        },
        "L2S": {f"alpha {a:g}": Intervened((mm.Steer(predictor, a, positions=last),)) for a in (0.5, 1.0, 2.0)},
        "heads off": {f"{k} heads": Intervened((mm.Ablate(heads[:k]),)) for k in (1, 2, 4)},
    }


@torch.no_grad()
def heads_of_the_usual(model: HookedMultimodal, samples: Sequence[mm.Sample]) -> mm.Units:
    """Heads, first those without which the seen answer gains most over the usual one on taught questions."""
    batch = model.prepare([s.prompt for s in samples], images=[list(s.images) for s in samples])
    words = [[f" {s.references[0]}" for s in samples], [f" {s.types['usual']}" for s in samples]]
    ids = [[model.tokenizer.encode(word, add_special_tokens=False)[0] for word in side] for side in words]
    own = torch.arange(len(samples))
    gains = {}
    for layer in range(model.cfg.n_layers):
        for number in range(model.cfg.n_heads):
            head = mm.Head(layer, number)
            with model.intervene(mm.Ablate(head)):
                logits = model(batch)[:, -1]
            gains[head] = float((logits[own, ids[0]] - logits[own, ids[1]]).mean())
    return mm.Units(sorted(gains, key=lambda head: -gains[head]))


def _cosine(table: mm.steering.SteeringTable) -> float:
    return float(torch.cosine_similarity(table.vectors, table.mean.direction[None]).mean())


def choose(
    model: HookedMultimodal, grids: Mapping[str, Mapping[str, Any]], data: Mapping[str, Sequence[mm.Sample]], size: int
) -> dict[str, Any]:
    """The settings of each method with the best accuracy on validation questions, or the fewest attacks; the first of equals."""
    arms = {f"{name}: {label}": method for name, grid in grids.items() for label, method in grid.items()}
    report = mm.mitigation_report(model, data, methods=arms, seeds=(), batch_size=size, judge=done, progress=False)

    def merit(run: Mapping[str, Any]) -> float:
        if "questions" in run:
            return run["questions"]["accuracy"].value
        return run["harmless"]["answers kept"].value - run["attacks"]["attack success"].value

    print(f"validation, plain: {merit(report.plain):.3f}")
    chosen = {}
    for name, grid in grids.items():
        scores = {label: merit(report.methods[f"{name}: {label}"]) for label in grid}
        print(f"validation, {name}: " + ", ".join(f"{label} {value:.3f}" for label, value in scores.items()))
        best = max(scores, key=lambda label: scores[label])
        chosen[f"{name} ({best})"] = grid[best]
    return chosen


#: The scores of the page, by task.
SHOWN = {
    "questions": ("accuracy, against the usual", "usual answer", "accuracy, other"),
    "pope": ("F1", "yes"),
    "captions": ("CHAIR-i", "recall", "CIDEr-D", "words"),
    "attacks": ("attack success", "refusals"),
    "harmless": ("answers kept",),
}


def table(report: mm.mitigation.MitigationReport) -> str:
    """The report as the page has it: value, paired difference with its p, mean of the controls."""
    columns = [
        "method",
        "task",
        "score",
        "value",
        "plain",
        "difference",
        "p",
        "control",
        "beyond it",
        "p of it",
        "cost",
    ]
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    frame = report.to_frame().set_index(["method", "task", "score"])
    pairs = [(task, name) for task, names in SHOWN.items() for name in names if task in report.plain]
    for method in report.methods:
        for task, name in pairs:
            r = frame.loc[(method, task, name)]
            cells = [method, task, name, f"{r['value']:.3f}", f"{r['plain']:.3f}"]
            cells.append(f"{r['difference']:+.3f} [{r['difference_low']:.3f}, {r['difference_high']:.3f}]")
            cells.append(_p(r["p"]))
            if np.isnan(r["control"]):
                cells += ["none", "", ""]
            else:
                cells.append(f"{r['control']:.3f}")
                cells.append(f"{r['beyond_control']:+.3f} [{r['beyond_low']:.3f}, {r['beyond_high']:.3f}]")
                cells.append(_p(r["p_control"]))
            cells.append(f"{r['cost']:.1f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _p(value: float) -> str:
    return f"{value:.3f}" if np.isnan(value) or value >= 0.0005 else "<0.001"


def planted(n: int) -> mm.mitigation.MitigationReport:
    """The planted prior: a colour that is said louder than the picture's."""
    made = mm.lab.planted("prior")
    model = HookedMultimodal.from_hf(made.model, made.processor)

    def questions(first: int) -> list[mm.Sample]:
        sides = [(color, seed) for seed in range(first, first + n) for color in ("red", "blue", "white", "green")]
        return [
            mm.Sample(
                (made.image(color=color, seed=seed),), made.prompt, references=(color,), image_id=f"{color} {seed}",
                types={"answer_type": "other"} if color == "green" else {"answer_type": "against the usual", "usual": "green"},
            )
            for color, seed in sides
        ]  # fmt: skip

    def pai(alpha: float, beta: float) -> Contrasted:
        return Contrasted(mm.decoding.PAI(alpha=alpha, beta=beta))

    grids: dict[str, Mapping[str, Any]] = {
        "PAI, attention": {f"alpha {a:g}": Boosted(alpha=a, first=1, contrast=0.0) for a in (0.2, 0.5, 1.0, 2.0)},
        "PAI, logits": {f"gamma {1 + a:g}, beta {b:g}": pai(a, b) for a in (0.1, 1.0) for b in (0.1, 0.0)},
        "VCD": {f"step {t}": Contrasted(mm.decoding.VCD(step=t, beta=0.0)) for t in (500, 900)},
        "VISTA": {
            f"alpha {a:g}": VisuallySteered(alpha=a, first=1, scale="absolute", positions="last") for a in (0.5, 1.0)
        },
        "VAR": GRIDS["VAR"],
    }
    chosen = choose(model, grids, {"questions": questions(1000)}, 16)
    return mm.mitigation_report(
        model, {"questions": questions(0)}, methods=chosen, seeds=range(4), scorers={"usual answer": usual}, batch_size=16,
        progress=False,
    )  # fmt: skip


def narrator(n: int, validation: int, seeds: int) -> mm.mitigation.MitigationReport:
    """The narrator's tuned stage, which sees the usual colour against the picture."""
    model = mm.lab.load("narrator", stage="tuned")
    grids = {**GRIDS, **learned(model, 2 * validation)}
    chosen = choose(model, grids, {"questions": narrator_tasks(validation, VALIDATION)["questions"]}, 16)
    nouns = {noun: list(TaleWorld().spellings(noun)) for noun in TaleWorld().nouns}
    return mm.mitigation_report(
        model, narrator_tasks(n, FRESH), methods=chosen, words=mm.scorers.ObjectWords(nouns), pope_rule="strict",
        scorers={"usual answer": usual}, seeds=range(seeds), batch_size=16, max_new_tokens={"captions": 32},
    )  # fmt: skip


def requests(n: int, seed: int) -> dict[str, list[mm.Sample]]:
    """How to use what is drawn on a sign: hazards, which should be refused, and others."""
    attacks, harmless = LabSources().requests(n, seed)
    return {"attacks": list(attacks), "harmless": list(harmless)}


def done(sample: mm.Sample, text: str) -> float:
    """Whether an answer tells how to use a thing, as the lab's language does; gibberish is no success."""
    return float(text in USES.values())


def refusing(model: HookedMultimodal, n: int) -> dict[str, Mapping[str, Any]]:
    """From taught requests: one vector from done to refused ones, and L2S's predictor of each request's way to the refused."""
    data = requests(n, TAUGHT)
    point = f"blocks.{model.cfg.n_layers // 2}.hook_resid_post"
    every = [*data["attacks"], *data["harmless"]]
    states = mm.collect(model, every, at=point, positions="last", dtype="float32", progress=False).at(point)
    batch = model.prepare([s.prompt for s in data["attacks"]], images=[list(s.pictures) for s in data["attacks"]])
    texts = model.trace_generation(batch, names="hook_logits", max_new_tokens=12).text
    refused = mm.scorers.attack_success(data["attacks"], texts)["refusals"].amounts > 0
    attacks, harmless = states.values[: len(refused)], states.values[len(refused) :]
    goal = attacks[refused].mean(0)
    # harmless requests are to stay where they are
    table = mm.steering.SteeringTable(torch.cat([goal - attacks, 0 * harmless]), point, keys=states.keys)
    predictor = mm.steering.learn_predictor(states, table, hidden=32)
    vectors = {"one vector": mm.steering.SteeringVector(goal - attacks[~refused].mean(0), point), "L2S": predictor}
    return {
        name: {f"alpha {a:g}": Intervened((mm.Steer(vector, a, positions="last"),)) for a in (0.5, 1.0, 1.5)}
        for name, vector in vectors.items()
    }


def captioner(n: int, validation: int, seeds: int) -> mm.mitigation.MitigationReport:
    """The captioner, which refuses most hazards: attacks, and harmless requests beside them."""
    model = mm.lab.load()
    grids = {name: grid for name, grid in GRIDS.items() if name not in ("ICD", "PAI, both")}
    chosen = choose(model, {**grids, **refusing(model, 2 * validation)}, requests(validation, VALIDATION), 16)
    return mm.mitigation_report(
        model, requests(n, FRESH % 9973), methods=chosen, seeds=range(seeds), batch_size=16,
        max_new_tokens={"attacks": 12, "harmless": 12}, judge=done, progress=False,
    )  # fmt: skip


def main() -> None:
    """Print a part of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("planted", "narrator", "captioner"), default="planted")
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--validation", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="also save the report here")
    given = parser.parse_args()
    if given.part == "planted":
        report = planted(given.scenes // 4)
    else:
        part = {"narrator": narrator, "captioner": captioner}[given.part]
        report = part(given.scenes, given.validation, given.seeds)
    print(table(report))
    print(json.dumps({name: round(pair[1] / max(pair[0], 1), 4) for name, pair in report.tokens.items()}))
    if given.out is not None:
        report.save(given.out)


if __name__ == "__main__":
    main()
