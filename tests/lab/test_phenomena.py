"""Phenomena of lab models: on models that answer as they are told, on planted routes, and against bare Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmlens as mm
from mmlens import lab
from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.statistics.intervals import Interval, mean_interval
from mmlens.core.errors import InputError
from mmlens.lab.phenomena import card as cards
from mmlens.lab.phenomena.answers import answer_findings
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, TargetRange, median_interval
from mmlens.lab.phenomena.flow import flow
from mmlens.lab.phenomena.hallucination import hallucination
from mmlens.lab.phenomena.held_out import held_out
from mmlens.lab.phenomena.induction import induction
from mmlens.lab.phenomena.lens import lens
from mmlens.lab.phenomena.patches import background, mask_shares, sources, things
from mmlens.lab.phenomena.priors import priors
from mmlens.lab.phenomena.questions import by_kind
from mmlens.lab.phenomena.scene_world import SceneWorld
from mmlens.lab.phenomena.sinks import sinks
from mmlens.lab.phenomena.subject import Subject, subject
from mmlens.lab.phenomena.tale_world import TaleWorld
from mmlens.lab.phenomena.two_hop import two_hop
from mmlens.lab.phenomena.world import LabQuestion
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal

FEW = Sizes(12, seed=3)


@pytest.fixture(scope="module")
def lab_subject() -> Subject:
    return subject("captioner")


class Oracle(Subject):
    """A subject that needs no model: it knows the answers, or what it is to say in their place."""

    #: What is said in the place of the true answer; None for the truth.
    lie: str | None = None

    def replies(self, samples: Sequence[Sample], *, tokens: int = 12) -> list[str]:
        return [str(sample.answer) if self.lie is None else self.lie for sample in samples]

    def log_p(self, samples: Sequence[Sample]) -> torch.Tensor:
        return torch.linspace(-2, 0, len(samples))


def oracle(world: Any, lie: str | None = None) -> Oracle:
    made = Oracle("oracle", world, None)  # type: ignore[arg-type]
    object.__setattr__(made, "lie", lie)
    return made


def figures(measured: Measured) -> dict[str, float]:
    return {
        finding.name: float("nan") if finding.value is None else finding.value.mean for finding in measured.findings
    }


@pytest.mark.parametrize("world", [SceneWorld(), TaleWorld()], ids=["captioner", "narrator"])
def test_a_subject_that_knows_is_always_right(world: Any) -> None:
    found = figures(answer_findings(oracle(world), FEW))
    accuracies = [value for name, value in found.items() if name.startswith("accuracy")]
    assert len(accuracies) > 8
    assert set(accuracies) == {1.0}
    assert found["median log p of the true answer"] == pytest.approx(-1.0, abs=0.2)
    always_yes = figures(answer_findings(oracle(world, "yes"), Sizes(60, seed=3)))
    assert always_yes["accuracy: color"] == 0.0
    # answers are drawn evenly, though far more things are absent than there
    assert 0.2 < always_yes["accuracy: presence"] < 0.8


def test_two_hops_priors_and_held_out_pairs_are_told_of_the_narrators_world() -> None:
    world = TaleWorld()
    hops = figures(two_hop(oracle(world), FEW))
    assert {"owner by color, about pictures", "material by color, about pictures"} < set(hops)
    assert set(hops.values()) == {1.0}
    assert set(figures(held_out(oracle(world), FEW)).values()) == {1.0}
    truth = figures(priors(oracle(world), FEW))
    assert [truth[name] for name in truth if name.startswith("usual")] == [0.0, 0.0]
    yes = priors(oracle(world, "yes"), FEW)
    missing = next(f for f in yes.findings if f.name.startswith("usual") and "missing" in f.name)
    assert missing.value is not None
    assert (missing.value.mean, missing.controls[0].value.mean) == (1.0, 1.0)
    assert missing.verdict == "not reached"


def test_cases_that_break_a_prior_break_it_and_others_do_not() -> None:
    world = TaleWorld()
    sorts = world.conflicts(20, 5)
    for scene, question in sorts["companion missing"].cases:
        nouns = {thing.shape for thing in scene.objects}
        assert not any(f" {noun}?" in question.text for noun in nouns)
        assert scene.companion in question.text  # type: ignore[attr-defined]
    for scene, question in sorts["companion missing"].others:
        assert scene.companion not in question.text  # type: ignore[attr-defined]
    for scene, question in sorts["companion in another colour"].cases:
        assert (question.noun, question.prior) == (scene.companion, scene.typical_color)  # type: ignore[attr-defined]
        assert question.answer != question.prior
    others = sorts["companion in another colour"].others
    assert others
    assert all(question.answer != question.prior for _, question in others)


def test_what_a_world_lacks_is_absent_with_its_reason() -> None:
    for phenomenon in (two_hop, priors, held_out):
        (finding,) = phenomenon(oracle(SceneWorld()), FEW).findings
        assert (finding.value, finding.verdict, finding.is_reached) == (None, "absent", finding.target and False)
        assert len(finding.note) > 20


def test_hallucinations_are_counted() -> None:
    world = SceneWorld()
    scenes = list(world.scenes(FEW.share(0.5), FEW.stream(8)))
    truth = figures(hallucination(oracle(world), FEW))
    assert truth["named things that are not there (CHAIR i)"] == 0.0
    assert truth["captions with one that is not there (CHAIR s)"] == 0.0
    assert truth["things that captions leave out"] == 0.0
    claim = figures(hallucination(oracle(world, "a moon and a tree"), FEW))
    there = [{thing.shape for thing in scene.objects} for scene in scenes]
    false = [noun not in here for here in there for noun in ("moon", "tree")]
    assert claim["named things that are not there (CHAIR i)"] == pytest.approx(np.mean(false))
    assert claim["captions with one that is not there (CHAIR s)"] == np.mean([not {"moon", "tree"} <= h for h in there])
    yes = hallucination(oracle(world, "Yes."), FEW).findings
    assert [f.value.mean for f in yes if f.name.startswith("yes to")] == [1.0] * 3  # type: ignore[union-attr]


def test_popular_and_adversarial_things_follow_the_worlds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    world, sizes = TaleWorld(), Sizes(60, seed=3)
    spy, posed = oracle(world, "no"), []

    def replies(self: Subject, samples: Sequence[Sample], *, tokens: int = 12) -> list[str]:
        posed.extend(sample.prompt for sample in samples)
        return ["no"] * len(samples)

    monkeypatch.setattr(Oracle, "replies", replies)
    hallucination(spy, sizes)
    scenes = world.scenes(30, sizes.stream(8))
    present, random, popular, adversarial = (posed[i * 30 : (i + 1) * 30] for i in range(4))
    assert len(set(random)) > len(set(popular))
    drawn = world.nouns_together(1_500, sizes.stream(8))
    for n, scene in enumerate(scenes):
        here = {thing.shape for thing in scene.objects}
        assert present[n] in {world.presence(noun) for noun in here}
        absent = [noun for noun in world.nouns if noun not in here]
        assert {random[n], popular[n], adversarial[n]} <= {world.presence(noun) for noun in absent}
        counts = {noun: sum(noun in nouns for nouns in drawn) for noun in absent}
        assert popular[n] == world.presence(max(absent, key=counts.__getitem__))
        together = {noun: sum(len(here & set(nouns)) for nouns in drawn if noun in nouns) for noun in absent}
        assert adversarial[n] == world.presence(max(absent, key=together.__getitem__))


def test_kinds_and_answers_are_drawn_evenly() -> None:
    world = TaleWorld()
    scenes = world.scenes(80, 4)
    cases = by_kind(scenes, [world.questions(scene) for scene in scenes], 50, seed=0)
    assert len(cases["presence"]) == len(cases["color"]) == 50
    assert len({id(scene) for scene, _ in cases["presence"]}) == 50
    yes = np.mean([question.answer == "yes" for _, question in cases["presence"]])
    assert 0.25 < yes < 0.75


def test_patches_are_those_of_the_mask(lab_subject: Subject) -> None:
    scenes = list(lab_subject.world.scenes(4, 77))
    batch = lab_subject.model.prepare(["describe the image"] * 4, images=[[scene.image] for scene in scenes])
    found = {(patch.sample, patch.noun): patch.rows for patch in things(batch, scenes)}
    empty = background(batch, scenes)
    for sample, scene in enumerate(scenes):
        every = np.zeros((96, 96), dtype=bool)
        for thing in scene.objects:
            by_hand = thing.mask.reshape(8, 12, 8, 12).mean((1, 3)).ravel()
            np.testing.assert_allclose(mask_shares(batch, sample, thing.mask), by_hand)
            every |= thing.mask
            if (by_hand >= 0.5).any():
                np.testing.assert_array_equal(found[sample, thing.shape], np.flatnonzero(by_hand >= 0.5))
        np.testing.assert_array_equal(
            empty[sample], np.flatnonzero(every.reshape(8, 12, 8, 12).mean((1, 3)).ravel() < 0.02)
        )


def test_shuffled_patches_are_traced_to_where_they_were(lab_subject: Subject) -> None:
    scenes = list(lab_subject.world.scenes(2, 78))
    batch = lab_subject.model.prepare(["describe the image"] * 2, images=[[scene.image] for scene in scenes])
    shuffled = mm.corrupt.shuffle(lab_subject.model, batch, at="pixels", seed=1)
    before, after = (np.asarray(run.images[1][0]) for run in (batch, shuffled))
    came = sources(batch, shuffled, 1)
    assert sorted(came) == list(range(64))
    assert (came != np.arange(64)).mean() > 0.9
    for row in (0, 9, 63):
        old, new = (divmod(int(number), 8) for number in (came[row], row))
        tiles = (pixels[12 * r : 12 * r + 12, 12 * c : 12 * c + 12] for pixels, (r, c) in ((before, old), (after, new)))
        np.testing.assert_array_equal(*tiles)


@dataclass(frozen=True)
class PlantedScene:
    """A picture of a planted model, whose one thing is the planted patch."""

    image: Any
    color: str
    box: tuple[int, int, int, int]
    place: str = "nowhere"
    caption: str = "what"

    @property
    def objects(self) -> tuple[lab.SceneObject, ...]:
        mask = np.zeros((24, 24), dtype=bool)
        left, top, right, bottom = self.box
        mask[top:bottom, left:right] = True
        return (lab.SceneObject("square", self.color, "small", "shape", self.box, mask, (12.0, 12.0)),)

    def written(self) -> str:
        return "what"


class PlantedWorld(SceneWorld):
    """Pictures of a planted model, asked for the colour of the planted patch."""

    def __init__(self, planted: Any) -> None:
        self.planted = planted

    def scenes(self, n: int, seed: int) -> Sequence[Any]:
        colors = ("red", "green", "blue", "yellow")
        return [
            PlantedScene(self.planted.image(color=colors[i % 4], seed=i), colors[i % 4], self.planted.truth.box)
            for i in range(n)
        ]

    def questions(self, scene: Any) -> Sequence[LabQuestion]:
        return [LabQuestion("what", scene.color, "color", "square")]


@pytest.mark.parametrize("kind", ["direct_flow", "question_flow"])
def test_flow_finds_the_route_that_was_planted(kind: Any) -> None:
    planted = lab.planted(kind)
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    measured = flow(Subject("planted", PlantedWorld(planted), model), Sizes(20))
    found = figures(measured)
    beside = {f.name: f.controls[0].value.mean for f in measured.findings if f.controls}
    route = {
        ("image", "last"): "image -> last",
        ("image", "what"): "image -> question",
        ("what", "last"): "question -> last",
    }
    legs = {route[hop.source, hop.target]: hop for hop in planted.truth.route}
    for leg in route.values():
        lost = found[f"{leg}, cut in every layer"]
        assert (lost > 0.5) if leg in legs else (abs(lost) < 0.02)
        assert abs(beside[f"{leg}, cut in every layer"]) < 0.02
    assert found["image -> question and last, cut in every layer"] > 0.5
    notes = {f.name: f.note for f in measured.findings}
    for leg, hop in legs.items():
        assert notes[f"{leg}, deepest window"] == f"layers {hop.layer}-{hop.layer}, window of 1"
        assert found[f"{leg}, deepest window"] > 0.5
    # by way of the question the published targets hold, directly they do not
    verdicts = {f.name: f.is_reached for f in measured.findings if f.target}
    assert all(verdicts.values()) == (kind == "question_flow")


@torch.no_grad()
def test_the_lens_reads_what_the_bare_model_would_say(lab_subject: Subject) -> None:
    sizes = Sizes(12, seed=1)
    measured = lens(lab_subject, sizes)
    scenes = list(lab_subject.world.scenes(sizes.share(0.5), sizes.stream(1)))
    model = lab_subject.model
    hits = []
    for scene in scenes:
        batch = model.prepare(["describe the image"], images=[[scene.image]])
        out = model.hf_model(**batch.inputs, output_hidden_states=True)
        middle = out.hidden_states[3][0, batch.layout.image[0]]
        top = model.hf_model.lm_head(model.hf_model.model.language_model.norm(middle)).argmax(-1)
        for thing in things(batch, [scene]):
            hits.append(float((top[thing.rows] == model.to_single_token(thing.noun)).float().mean()))
    curve = measured.details["top-1 by layer, from the input"]["thing"]
    assert len(curve) == 1 + model.cfg.n_layers
    assert curve[3] == pytest.approx(np.mean(hits), abs=1e-3)
    assert 0.02 < np.mean(hits) < 0.6


@torch.no_grad()
def test_sinks_are_what_the_bare_model_looks_at(lab_subject: Subject) -> None:
    measured = sinks(lab_subject, Sizes(4))
    model = lab_subject.model
    scenes = lab_subject.world.scenes(6, Sizes(4).stream(3))
    bare = model.hf_model
    kernel = bare.config._attn_implementation
    bare.set_attn_implementation("eager")
    try:
        first = []
        for scene in scenes:
            batch = model.prepare(["describe the image"], images=[[scene.image]])
            attentions = torch.stack(bare(**batch.inputs, output_attentions=True).attentions)[:, 0]
            first.append(attentions[..., int(batch.layout.image[0][0]) :, 0].mean(-1))
    finally:
        bare.set_attn_implementation(kernel)
    by_hand = torch.stack(first)
    assert figures(measured)["heads whose attention to the first token exceeds 0.3"] == pytest.approx(
        float((by_hand > 0.3).float().mean()), abs=0.01
    )
    curve = measured.details["attention to the first token by layer"]
    np.testing.assert_allclose(curve, by_hand.mean((0, 2)).numpy(), atol=1e-3)


@torch.no_grad()
def test_induction_compares_a_repeat_with_other_tokens(lab_subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    batch_of = type(lab_subject.model).batch

    def spy(self: Any, inputs: Any) -> Any:
        seen.append(inputs["input_ids"])
        return batch_of(self, inputs)

    monkeypatch.setattr(type(lab_subject.model), "batch", spy)
    measured = induction(lab_subject, Sizes(4))
    again, others = seen
    assert again.shape == others.shape == (8, 1 + 24 + 24)
    assert torch.equal(again[:, 1:25], again[:, 25:])
    assert torch.equal(again[:, 1:25], others[:, 1:25])
    assert not torch.equal(others[:, 1:25], others[:, 25:])
    log_p = lab_subject.model.hf_model(input_ids=again).logits[:, :-1].log_softmax(-1).gather(-1, again[:, 1:, None])
    once, twice = log_p[:, 1:24, 0].mean(), log_p[:, 25:48, 0].mean()
    found = figures(measured)
    assert found["nll of random tokens, the first time"] == pytest.approx(float(-once), abs=1e-3)
    assert found["nll, first minus second time"] == pytest.approx(float(twice - once), abs=1e-3)


def test_the_first_lab_model_is_saturated_and_answers_over_the_direct_way(lab_subject: Subject) -> None:
    sure = figures(answer_findings(lab_subject, Sizes(4)))
    assert sure["accuracy, all kinds"] > 0.9
    assert sure["median log p of the true answer"] > -0.02
    lost = figures(flow(lab_subject, Sizes(10)))
    assert lost["image -> last, cut in every layer"] > 0.6
    assert lost["image -> question, cut in every layer"] < 0.2


@pytest.fixture(scope="module")
def narrator() -> Subject:
    return subject("narrator")


def test_the_narrators_nouns_begin_with_tokens_of_their_own(narrator: Subject) -> None:
    first = {noun: narrator.first_tokens(noun) for noun in narrator.world.nouns}
    assert all(not first[a] & first[b] for a in first for b in first if a != b)
    assert any(len(narrator.model.to_word_tokens(noun)) > 1 for noun in first)


def test_the_narrator_repeats_and_its_image_tokens_can_be_read(narrator: Subject) -> None:
    """Far within what its card states."""
    repeats = figures(induction(narrator, Sizes(4)))
    assert repeats["nll, first minus second time"] > 2
    assert repeats["attention to what followed the first time, best head"] > 0.3
    read = figures(lens(narrator, Sizes(24)))
    assert read["noun top-1 at its patches, best layer"] > 0.15


def test_findings_are_judged_with_their_controls_and_read_back() -> None:
    value = mean_interval([0.4, 0.5, 0.6])
    low, high = (
        Control("low", mean_interval([0.0, 0.1]), TargetRange(high=0.1)),
        Control("high", value, TargetRange(high=0.1)),
    )
    assert Finding("a", value, controls=(low,), target=TargetRange(0.3)).verdict == "reached"
    assert Finding("a", value, controls=(low, high), target=TargetRange(0.3)).verdict == "not reached"
    assert Finding("a", value, target=TargetRange(0.6, 0.9)).verdict == "not reached"
    assert Finding("a", value).verdict == ""
    assert Finding("a", mean_interval([]), target=TargetRange(high=1.0)).verdict == "not reached"
    assert [str(TargetRange(0.3)), str(TargetRange(high=0.05)), str(TargetRange(0.1, 0.3, "us"))] == [
        ">= 0.3",
        "<= 0.05",
        "0.1 to 0.3 (us)",
    ]
    for finding in (
        Finding("a", value, "nats", (low, replace(low, target=None)), TargetRange(0.1, 0.3, "us"), "note"),
        Finding("b", None, note="why"),
    ):
        assert Finding.from_json(json.loads(json.dumps(finding.as_json()))) == finding
    alone = Finding.from_json(json.loads(json.dumps(Finding("c", mean_interval([0.7])).as_json()))).value
    assert alone is not None
    assert np.isnan(alone.low)


def test_a_median_is_as_sure_as_its_groups() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=200)
    found = median_interval(values, np.arange(200))
    assert found.mean == np.median(values)
    assert 0.2 < found.high - found.low < 0.6
    repeated = median_interval(np.repeat(values[:20], 10), np.repeat(np.arange(20), 10))
    assert repeated.high - repeated.low > 1.5 * (found.high - found.low)


def test_a_card_goes_on_where_it_was(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, lab_subject: Subject) -> None:
    counts: dict[str, int] = {}

    def phenomenon(name: str) -> Any:
        def measure(_: Subject, sizes: Sizes) -> Measured:
            counts[name] = counts.get(name, 0) + 1
            if name == "edits" and counts[name] == 1:
                raise KeyboardInterrupt
            return Measured(
                [Finding(name, Interval(0.5, 0.4, 0.6, 9), target=TargetRange(0.3), note=f"{sizes.scenes} scenes")]
            )

        return measure

    monkeypatch.setattr(cards, "PHENOMENA", {name: phenomenon(name) for name in ("lens", "edits", "flow")})
    out = tmp_path / "card.json"
    with pytest.raises(KeyboardInterrupt):
        cards.card(lab_subject, FEW, out=out, progress=False)
    content = cards.card(lab_subject, FEW, out=out, progress=False)
    assert counts == {"lens": 1, "edits": 2, "flow": 1}
    assert json.loads(out.read_text()) == content
    rows = out.with_suffix(".md").read_text().splitlines()
    assert rows[2] == "| lens | lens | >= 0.3 | 0.500 [0.400, 0.600] (12 scenes) |  | reached |"
    assert len(rows) == 5
    with pytest.raises(InputError, match="was measured with"):
        cards.card(lab_subject, replace(FEW, seed=4), out=out, progress=False)
    other = {"about": {"model": "narrator"}, "phenomena": {"lens": content["phenomena"]["lens"]}}
    beside = cards.findings_table(content, other).splitlines()
    assert beside[0].startswith(
        "| phenomenon | measured | target | captioner: figure | captioner: beside | captioner: verdict | narrator: figure"
    )
    assert beside[4].endswith("| reached |  |  |  |")
    with pytest.raises(InputError, match="does not exist; create it first"):
        cards.card(lab_subject, FEW, out=tmp_path / "nowhere" / "card.json", progress=False)
    for text in ("{", "[]", '{"about": 1}'):
        out.write_text(text)
        with pytest.raises(InputError, match=r"card\.json (cannot be read as a card|holds no card)"):
            cards.card(lab_subject, FEW, out=out, progress=False)
    for scenes, seed in ((0, 0), (-3, 0), (20, -1)):
        with pytest.raises(InputError, match=f"scenes={scenes} and seed={seed} must be"):
            Sizes(scenes, seed)
    with pytest.raises(InputError, match="no phenomena sink"):
        cards.card(lab_subject, FEW, only=["sink"], progress=False)


def test_the_page_shows_the_cards_of_the_models() -> None:
    root = Path(lab.__file__).parents[2]
    folders = {"weights": ("phenomena",), "narrator": ("phenomena", "tuned-phenomena")}
    kept = [
        cards.read_card(root / "mmlens" / "lab" / folder / f"{name}.json")
        for folder, names in folders.items()
        for name in names
    ]
    assert [card["about"]["model"] for card in kept] == ["captioner", "narrator", "narrator-tuned"]
    assert cards.findings_table(*kept) in (root / "docs" / "lab_models.md").read_text(encoding="utf-8")
    for card, name in zip(kept, ("captioner", "narrator", "narrator-tuned"), strict=True):
        assert card["about"]["fingerprint"] == fingerprint(subject(name).model)
        assert set(card["phenomena"]) == set(cards.PHENOMENA)


def test_an_unknown_model_says_which_there_are() -> None:
    with pytest.raises(InputError, match=r"no model 'narator'. Nearest: narrator"):
        subject("narator")


def test_a_writing_that_ends_in_a_new_line_gets_no_blank() -> None:
    assert mm.Sample((), "what", writing="a red star\n").as_writing.prompt == "a red star\nwhat"
    assert mm.Sample((), "what", writing="a red star").as_writing.prompt == "a red star what"
