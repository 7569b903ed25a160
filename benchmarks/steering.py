"""Steering of the lab model, judged on test scenes: `python -m benchmarks.steering`.

Answers (yes to no, one to three, white to black), safety (answered hazards refused), debiasing ("a man" to "a person"),
and the style of captions (texture, mood, colours). Each with the coarse vector, the coarse vector where a concept of the source
is active, and fine vectors where theirs is, beside three controls of equal norm under the same gates: the unembedding difference
of the words, random directions with the states' covariance, and isotropic ones. Layer and strength are chosen on validation
scenes; the verdict is of the paired difference from the unembedding difference, on test scenes.

Everything is kept in a folder, and a run that was stopped goes on where it was.
"""

import argparse
import json
from pathlib import Path

import torch

import mmlens as mm
from benchmarks.steering_choice import Chosen, Means, became, choose
from benchmarks.steering_tasks import TASKS, Layer, Task, answered, judging, taught, validation
from mmlens.analysis.steering.cases import SteeringCase
from mmlens.analysis.steering.methods.effect import EffectSelection
from mmlens.core.files import whole_file

_DOSE = [
    "point",
    "alpha",
    "without",
    "vector",
    "words",
    "covariance",
    "isotropic",
    "beyond_words",
    "p_words",
    "verdict",
]
#: Tasks whose answers are one word of a pair.
ANSWERS = ("yes to no", "one to three", "white to black")
_RESEMBLING = ("man", "woman", "person")


def measured(
    model: mm.HookedMultimodal,
    task: Task,
    layers: dict[str, Layer],
    folder: Path,
    *,
    scenes: int,
    tried: int,
    seed: int | None,
) -> tuple[mm.steering.SteeringReport, dict[str, dict[str, object]]]:
    """The report on a task and what validation chose; both are kept, and not made again."""
    stem = folder / task.name.replace(":", "").replace(" ", "_")
    kept, about = stem.with_suffix(".json"), stem.with_name(f"{stem.name}_chosen.json")
    if kept.exists() and about.exists():
        return mm.steering.SteeringReport.load(kept), json.loads(about.read_text(encoding="utf-8"))
    chosen = choose(model, task, layers, count=tried)
    report = mm.steering.steering_report(
        model,
        {method: each.steers for method, each in chosen.items()},
        judging(task, scenes, seed),
        words=task.words,
        seeds=(0, 1, 2),
        max_new_tokens=20 if task.prompt is None else 9,
        batch_size=24,
    )
    facts = {method: _facts(each) for method, each in chosen.items()}
    with whole_file(about) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    report.save(kept)
    report.plot().savefig(stem.with_suffix(".png"), dpi=110)
    return report, facts


def _facts(chosen: Chosen) -> dict[str, object]:
    return {
        "at": chosen.at,
        "alpha": chosen.alpha,
        "positions": str(chosen.positions).replace("|", "+"),  # in a table
        "norms": [round(steer.vector.norm, 1) for steer in chosen.steers],
        "flipped in validation": chosen.flipped,
        "lost in validation": chosen.lost,
    }


def lines(task: Task, report: mm.steering.SteeringReport, chosen: dict[str, dict[str, object]]) -> list[str]:
    """A Markdown table: what became what, beside the controls; what other answers lost, and what the texts are like."""
    found = [
        "| method | layer, alpha, positions | became what is wanted | words | covariance | isotropic | minus words | verdict "
        "| others: score lost | words | worst type | looped words |",
        "|" + " --- |" * 12,
    ]
    for fact in (fact for fact in report.interventions if fact.control_of is None):
        controls = {
            kind: [other.name for other in report.interventions if (other.control_of, other.kind) == (fact.name, kind)]
            for kind in ("words", "covariance", "isotropic")
        }

        def flip(case: SteeringCase) -> float | None:
            return became(task, case)

        flips = report.mean(fact.name, flip, "to change")
        beside = [
            "".join(f"{_mean([report.mean(name, flip, 'to change').mean for name in names])}" if names else "none")
            for names in controls.values()
        ]
        beyond = report.beyond_control(fact.name, flip, "to change", control="words") if controls["words"] else None
        lost = [str(report.mean(name, _lost, None)) for name in (fact.name, *controls["words"])]
        kinds = {
            group: 0.0 - report.score_change(fact.name, group).mean for group in report.groups if group != "to change"
        }
        worst = max(kinds, key=lambda group: kinds[group])
        looped = report.diversity(fact.name, "to change")[1].looped
        about = chosen[fact.name]
        cells = [
            fact.name,
            f"{about['at']}, {about['alpha']}, {about['positions']}",
            f"{flips} of {flips.count}",
            *beside,
            str(beyond or ""),
            report.verdict(fact.name, flip, "to change"),
            *[*lost, ""][:2],
            f"{worst} {kinds[worst]:.3f}",
            f"{looped:.3f}",
        ]
        found.append(f"| {' | '.join(cells)} |")
    return found


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.3f}"


def _lost(case: SteeringCase) -> float | None:
    return None if case.group == "to change" or case.score is None else case.score[0] - case.score[1]


def by_effect(
    model: mm.HookedMultimodal, task: Task, layer: Layer, *, tried: int
) -> tuple[EffectSelection, list[tuple[int, int]]]:
    """The gap rule over all fine vectors from the source's concepts; and those whose main answer is what is wanted."""
    means = Means(task, layer)
    vectors = mm.steering.concept_steering_vectors(means.bank, sources=means.active)
    steers = {
        pair: mm.Steer(
            vector,
            positions=mm.positions.last | mm.positions.generated,
            gate=mm.steering.ActiveConcept(means.bank, pair[0]),
        )
        for pair, vector in vectors.items()
    }
    asked = validation(task, tried)["to change"]
    found = mm.steering.select_vectors(model, steers, asked, method=mm.steering.Effect(max_new_tokens=1), batch_size=24)
    return found, list(found.leading_to(*task.wanted))


def dose(
    model: mm.HookedMultimodal, task: Task, layers: dict[str, Layer], *, scenes: int, seed: int | None
) -> mm.steering.DoseCurve:
    """How the answer turns with the strength of the coarse vector, layer by layer, beside its controls."""
    vectors = [Means(task, layer).coarse for layer in layers.values()]
    asked = judging(task, scenes, seed)["to change"]
    metric = mm.metrics.accuracy(task.targets[0])
    return mm.steering.dose_curve(
        model, asked, vectors, alphas=[0.25, 0.5, 1.0, 2.0], metric=metric, seeds=[0, 1], batch_size=24
    )


def words_or_more(
    model: mm.HookedMultimodal, task: Task, layers: list[int], *, scenes: int, each: int, seed: int | None
) -> mm.steering.DoseCurve:
    """The coarse vector over strengths beside its controls, on test scenes; nothing is chosen.

    Vectors are from so many answers of each word, of scenes of the training stream.
    """
    points = [f"blocks.{layer}.hook_resid_post" for layer in layers]
    store = mm.collect(
        model,
        answered(task, each),
        at=points,
        positions="generated",
        max_new_tokens=1,
        dtype="float32",
        batch_size=24,
        progress=False,
    )
    states = {point: store.at(point) for point in points}
    vectors = [
        mm.steering_vector(some.with_token(task.sources), some.with_token(task.targets)) for some in states.values()
    ]
    return mm.steering.dose_curve(
        model,
        judging(task, scenes, seed)["to change"],
        vectors,
        alphas=[0.5, 1.0, 2.0],
        metric=mm.metrics.accuracy(task.targets[0]),
        batch_size=24,
        progress=False,
    )


def dose_table(curve: mm.steering.DoseCurve) -> str:
    """A Markdown table of a curve: means with the vector and each control, the difference from the words, the verdict."""
    lines = [
        "| layer | alpha | without | vector | words | covariance | isotropic | vector minus words | p | verdict |",
        "|" + " --- |" * 10,
    ]
    for row in curve.to_frame().to_dict("records"):
        beyond = curve.beyond_control(row["point"], row["alpha"], control="words")
        cells = [row["point"].split(".")[1], f"{row['alpha']:g}"]
        cells += [f"{row[name]:.3f}" for name in ("without", "vector", "words", "covariance", "isotropic")]
        lines.append("| " + " | ".join([*cells, str(beyond), f"{row['p_words']:.2g}", row["verdict"]]) + " |")
    return "\n".join(lines)


def facts_kept(report: mm.steering.SteeringReport, name: str) -> str:
    """Debiasing: share of captions in which all but the person's noun is as before."""

    def value(case: SteeringCase) -> float:
        return float(_without_people(case.before) == _without_people(case.after))

    return str(report.mean(name, value, "to change"))


def _without_people(text: str) -> list[str]:
    return ["someone" if word in _RESEMBLING else word for word in text.split()]


def main() -> None:
    """Run the experiments, print the tables."""
    parser = _parser()
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = mm.lab.load()
    if options.part == "words":
        for task in TASKS:
            if task.name in (options.task or ANSWERS):
                curve = words_or_more(
                    model, task, options.layers, scenes=options.scenes, each=options.each, seed=options.test_seed
                )
                print(f"\n## {task.name}: {len(curve.baseline)} test scenes\n\n{dose_table(curve)}", flush=True)
        return
    layers = taught(model, options.layers, options.out, each=options.taught)
    for task in TASKS:
        if options.task and task.name not in options.task:
            continue
        report, chosen = measured(
            model,
            task,
            layers.of(task),
            options.out,
            scenes=options.scenes,
            tried=options.tried,
            seed=options.test_seed,
        )
        print(f"\n## {task.name}\n\n" + "\n".join(lines(task, report, chosen)), flush=True)
        if task.name == "yes to no" and options.part != "methods":
            at = str(chosen["fine, gated"]["at"])
            selection, leading = by_effect(model, task, layers.of(task)[at], tried=options.tried)
            print(
                f"\nFine vectors at {at}, by effect: {len(leading)} of {len(selection.effects)} lead to 'no'. {selection}"
            )
            curve = dose(model, task, layers.of(task), scenes=options.scenes, seed=options.test_seed)
            curve.plot().savefig(options.out / "dose.png", dpi=110)
            print(
                f"\nDose of the coarse vector, no gate, test scenes:\n\n{curve.to_frame()[_DOSE].round(3).to_string(index=False)}"
            )
        if task.name == "debiasing":
            for method in chosen:
                print(f"{method}: all other words kept in {facts_kept(report, method)} of the captions", flush=True)


def _parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100, help="test prompts to be changed, per task")
    parser.add_argument("--tried", type=int, default=96, help="validation prompts to be changed, per task")
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 3, 4, 5])
    parser.add_argument(
        "--task", action="append", choices=[task.name for task in TASKS], help="one task; all by default"
    )
    parser.add_argument(
        "--part",
        choices=["words", "methods"],
        help="words: the coarse vectors alone, over strengths; methods: neither effects of all fine vectors nor doses",
    )
    parser.add_argument("--test-seed", type=int, help="of the test scenes (the commit's)")
    parser.add_argument("--taught", type=int, default=160, help="answers of each word that vectors and gates are from")
    parser.add_argument("--each", type=int, default=100, help="answers of each word that these vectors are from")
    parser.add_argument("--out", type=Path, default=Path("steering_measured"), help="folder for reports and figures")
    return parser


if __name__ == "__main__":
    main()
