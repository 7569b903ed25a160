"""Figures made again in seconds to a minute, on scenes of a seed that nobody chose."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import mmlens as mm
from benchmarks import findings, patching_cost
from benchmarks.claims.claim import Figure, Setting
from benchmarks.edits import TASKS, coming_and_going, lessons, methods
from benchmarks.measure import alternate, ratio
from benchmarks.splits import fresh_scenes
from benchmarks.steering import words_or_more
from benchmarks.steering_tasks import TASKS as STEERED
from mmlens.analysis.attribution.compare import agreement
from mmlens.analysis.circuits.evaluate import evaluate_circuit
from mmlens.analysis.heatmap import FIGURE_SIDE
from mmlens.analysis.method_table import method_tables
from mmlens.analysis.properties.cases import NeuronChoice
from mmlens.analysis.properties.causal import causal_effect
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.run import run
from mmlens.analysis.properties.sensitivity import Sensitivity
from mmlens.analysis.statistics.intervals import Interval, mean_interval
from mmlens.core.answer_text import is_answer

#: How each model is opened; another lab model is a line here, and `replace(claim, model=...)`.
MODELS: dict[str, Callable[[], mm.HookedMultimodal]] = {"lab": mm.lab.load}
_FEW, _PAIRS, _TIMES = 48, 6, 5
#: Scenes that a circuit is found on: of the training stream, behind those that training drew.
_VALIDATION = 91


@cache
def model_of(name: str) -> mm.HookedMultimodal:
    """A model by its name."""
    return MODELS[name]()


def of(interval: Interval) -> Figure:
    """An interval as a figure."""
    return Figure(interval.mean, interval.low, interval.high)


# -- the lab model ---------------------------------------------------------------------------------------------------


@cache
def accuracy(setting: Setting) -> Mapping[str, Figure]:
    """Shares of right answers, by kind of question, and of captions right to the last word."""
    model, scenes = model_of(setting.model), fresh_scenes(_FEW, setting.seed)
    right: dict[str, list[bool]] = {}
    told = model.answer([scene.image for scene in scenes], mm.lab.CAPTION_PROMPT)
    right["whole"] = [text == scene.caption for text, scene in zip(told, scenes, strict=True)]
    asked = [(scene, question) for scene in scenes for question in scene.questions]
    for start in range(0, len(asked), 64):
        part = asked[start : start + 64]
        answers = model.answer([scene.image for scene, _ in part], [question.text for _, question in part])
        for (_, question), answer in zip(part, answers, strict=True):
            right.setdefault(question.kind, []).append(is_answer(answer, question.answer))
    return {name: of(mean_interval(some)) for name, some in right.items()}


def presence(setting: Setting) -> Mapping[str, Figure]:
    """Shares of right answers to whether something is there."""
    return {"presence": accuracy(setting)["presence"]}


def loading(setting: Setting) -> Mapping[str, Figure]:
    """Seconds of CPU to open the model, imports done: the median, the least and the most."""
    seconds = []
    for _ in range(_TIMES):
        start = time.process_time()
        MODELS[setting.model]()
        seconds.append(time.process_time() - start)
    return {"seconds": _spread(seconds)}


def contrast(setting: Setting) -> Mapping[str, Figure]:
    """Times of contrastive decoding beside plain generation, and without a cache."""
    model = model_of(setting.model)
    scene = fresh_scenes(1, setting.seed)[0]
    batch = model.prepare(mm.lab.CAPTION_PROMPT, images=scene.image)
    length = {"max_new_tokens": 12, "min_new_tokens": 12}

    def run(method: str | None, **more: bool) -> Callable[[], object]:
        return lambda: model.generate(batch, contrast=method, **length, **more)

    runs = {"plain": run(None), **{name: run(name) for name in ("vcd", "icd", "pai")}}
    timings = alternate(
        runs | {"uncached": run("vcd", use_cache=False)}, repeats=_TIMES, lead_in=0, clock=time.process_time
    )
    ratios = {name: ratio(timing, timings["plain"]) for name, timing in timings.items()}
    low, *_, high = sorted((ratios[name] for name in ("vcd", "icd", "pai")), key=lambda found: found.median)
    return {
        "low": Figure(low.median, low.low, low.high),
        "high": Figure(high.median, high.low, high.high),
        "uncached": Figure(ratios["uncached"].median, ratios["uncached"].low, ratios["uncached"].high),
    }


# -- neurons ---------------------------------------------------------------------------------------------------------


@cache
def _controls(setting: Setting) -> mm.properties.Measurements:
    return findings.controls(model_of(setting.model), scenes=12, k=20, seed=setting.seed)


def beside_controls(setting: Setting) -> Mapping[str, Figure]:
    """What the words and the effect of the noun's neurons are beside active neurons and weights alone."""
    found, among, odds = _controls(setting), "noun among its words", "log odds of the noun, zeroed"
    return {
        "odds": of(found.interval(odds, "contribution")),
        "odds_matched": of(found.draws(odds, "contribution", control="matched")),
        "matched": of(found.draws(among, "contribution", control="matched")),
        "weights": of(found.interval(among, "weights alone")),
    }


def noun_among_words(setting: Setting) -> Mapping[str, Figure]:
    """Shares of neurons that write the noun, by method, on other scenes than the controls'."""
    found = run(
        model_of(setting.model),
        fresh_scenes(40, setting.seed)[12:],
        [Sensitivity()],
        NeuronChoice.of(findings.METHODS, 20, draws=5),
        settings=CaptionSettings(mm.lab.NOUNS, per_sample=1),  # as the table that is quoted
        progress=False,
    )
    names = {"contribution": "contribution", "gradient": "gradient_x_activation", "activation": "activation"}
    shares = {name: of(found.interval("noun among its words", method)) for name, method in names.items()}
    return shares | {"random": of(found.draws("noun among its words", "contribution"))}


def sure_words(setting: Setting) -> Mapping[str, Figure]:
    """What zeroing few and many neurons takes off the noun's log-probability."""
    found = causal_effect(
        model_of(setting.model),
        fresh_scenes(36, setting.seed)[12:],
        methods=("contribution",),
        k=(20, 200),
        ways=("zero",),
        nouns=mm.lab.NOUNS,
        progress=False,
    )
    quantity = "log p of the noun, zeroed"
    ends = {name: found.interval(quantity, "contribution", k=k) for name, k in (("few", 20), ("many", 200))}
    return {name: Figure(-end.mean, -end.high, -end.low) for name, end in ends.items()}


# -- edits and steering ----------------------------------------------------------------------------------------------


def applied(setting: Setting) -> Mapping[str, Figure]:
    """Milliseconds of CPU that 20 rows take to be applied and reverted."""
    said = coming_and_going(model_of(setting.model), times=200)
    if not said.endswith("weights bit-equal: True"):
        raise AssertionError(said)
    median = float(said.split("median ")[1].split(" ")[0])
    return {"milliseconds": Figure(median)}


@cache
def _edited(setting: Setting) -> mm.edits.EditReport:
    """Red to blue through 20 rows, judged on fresh scenes."""
    model, task = model_of(setting.model), TASKS[0]
    edit = methods(model, task, lessons(model, task, 0), 1)["through"]()
    asked = mm.lab.edit_questions(fresh_scenes(_FEW, setting.seed), source=task.source, target=task.target)
    return mm.edits.edit_report(
        model,
        {"through": edit},
        targets=asked.targets,
        consistency=asked.consistency,
        controls=asked.controls,
        matched=0,
        batch_size=32,
        progress=False,
    )


def edit_success(setting: Setting) -> Mapping[str, Figure]:
    """How often the target is said where the source was."""
    report = _edited(setting)
    return {"success": of(report.success("through", "same question"))}


def edit_presence(setting: Setting) -> Mapping[str, Figure]:
    """How often the question after the new word is answered by yes."""
    return {"new": of(_edited(setting).success("through", "presence of the new"))}


@cache
def _steered(setting: Setting) -> mm.steering.DoseCurve:
    return words_or_more(model_of(setting.model), STEERED[0], [5], scenes=24, each=32, seed=setting.seed)


def no_more_than_words(setting: Setting) -> Mapping[str, Figure]:
    """Yes to no at the last layer: the most that directions of the states' covariance flip."""
    frame = _steered(setting).to_frame()
    return {"fresh": Figure(float(frame["covariance"].max()))}


# -- patching --------------------------------------------------------------------------------------------------------


def _pairs(
    model: mm.HookedMultimodal, scenes: Sequence[mm.lab.Scene], count: int
) -> tuple[mm.MultimodalBatch, mm.MultimodalBatch]:
    """Questions of colour about red things, and the same about twins in which they are blue."""
    chosen = []
    for scene in scenes:
        red = [n for n, thing in enumerate(scene.objects) if thing.color == "red" and thing.kind == "shape"]
        if red:
            chosen.append((scene, scene.twin(object=red[0], color="blue"), scene.objects[red[0]].shape))
    chosen = chosen[:count]
    clean = model.prepare([f"what color is the {noun}" for *_, noun in chosen], images=[[a.image] for a, *_ in chosen])
    return clean, mm.corrupt.twin(model, clean, [b.image for _, b, _ in chosen])


def attribution(setting: Setting) -> Mapping[str, Figure]:
    """Correlations of attribution patching with exact patches of heads, over heads and pairs."""
    model = model_of(setting.model)
    clean, corrupted = _pairs(model, fresh_scenes(200, setting.seed), _PAIRS)
    metric = mm.metrics.logit_difference("red", "blue")
    found: dict[str, Figure] = {}
    for name, point, fix in (("heads", "hook_z", True), ("queries", "hook_q", False), ("fixed", "hook_q", True)):
        at = f"blocks.*.attn.{point}"
        exact = mm.patch(model, clean, corrupted, at=at, units="head", metric=metric, progress=False)
        near = mm.attribute(
            model,
            clean,
            corrupted,
            at=at,
            units="head",
            metric=metric,
            method=mm.patching.AtP(qk_fix=fix),
            progress=False,
        )
        found[name] = Figure(agreement(near, exact).pearson)
    return found


@cache
def _circuit(model_name: str) -> mm.circuits.Circuit:
    """Found on validation scenes."""
    model = model_of(model_name)
    scenes = mm.lab.scenes(100, seed=_VALIDATION, split="train")
    return mm.find_circuit(
        model, _pairs(model, scenes, 3), metric=mm.metrics.logit_difference("red", "blue"), progress=False
    )


def edges(setting: Setting) -> Mapping[str, Figure]:
    """How many edges there are between heads, MLPs, projector and embeddings."""
    return {"edges": Figure(float(_circuit(setting.model).graph.allowed.sum()))}


def circuit(setting: Setting) -> Mapping[str, Figure]:
    """How much of the gap 45 edges bring about alone on other scenes, and random ones."""
    model, found = model_of(setting.model), _circuit(setting.model)
    result = evaluate_circuit(
        model,
        found.strongest(45),
        _pairs(model, fresh_scenes(200, setting.seed), _PAIRS),
        metric=mm.metrics.logit_difference("red", "blue"),
        n_random=5,
        n_edges=0,
        progress=False,
    )
    return {"mean": of(result.interval("faithfulness")), "random": of(result.interval("random_faithfulness"))}


# -- pages -----------------------------------------------------------------------------------------------------------


def overlays(setting: Setting) -> Mapping[str, float]:
    """Pixels of the longest side of an overlay."""
    return {"pixels": float(FIGURE_SIDE)}


def patching_cost_tables() -> str:
    """The page of what sweeps cost."""
    return patching_cost.page()


def method_page_tables() -> str:
    """The page of methods."""
    return method_tables()


def _spread(values: Sequence[float]) -> Figure:
    """The median, between the least and the most."""
    ordered = sorted(values)
    return Figure(ordered[len(ordered) // 2], ordered[0], ordered[-1])
