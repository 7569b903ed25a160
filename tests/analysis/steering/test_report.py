"""A steering report's figures, by hand on a planted model; its answers are those of plain steered generation."""

import dataclasses
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image

import mmlens as mm
from mmlens import lab
from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.scores.vqa import vqa_score
from mmlens.analysis.steering.controls import StateDraws, token_weights, unembedding_difference, word_direction
from mmlens.analysis.steering.diversity import diversity
from mmlens.analysis.steering.outcome import SteeringReport
from mmlens.analysis.steering.report import steering_report
from mmlens.core import positions
from mmlens.core.answer_text import says
from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.inputs.images import load_image
from mmlens.interventions.ablation import Ablate
from mmlens.interventions.steering import ProjectOut, Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject
from tests.tiny import picture


@dataclasses.dataclass(frozen=True)
class Known:
    """The planted direction and its report: 3 pictures with the cause, 5 without."""

    model: HookedMultimodal
    steer: Steer
    word: str
    default: str
    samples: dict[str, list[Sample]]
    report: SteeringReport


@pytest.fixture(scope="module")
def known() -> Known:
    planted = lab.planted("direction")
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    truth = planted.truth
    assert truth.direction is not None
    steer = Steer(
        SteeringVector(6 * truth.direction, f"blocks.{truth.layer}.hook_resid_post"),
        positions=positions.last | positions.generated,
    )

    def shown(present: bool, count: int) -> list[Sample]:
        answer = truth.word if present else truth.default_word
        return [Sample((planted.image(present, seed=n),), planted.prompt, answer=answer) for n in range(count)]

    samples = {"with the cause": shown(True, 3), "without": shown(False, 5)}
    report = steering_report(
        model, {"to yes": steer}, samples, seeds=(0, 1), max_new_tokens=1, batch_size=2, progress=False
    )
    return Known(model, steer, truth.word, truth.default_word, samples, report)


def test_figures_by_hand(known: Known) -> None:
    report, word, default = known.report, known.word, known.default
    names = ["words", "covariance 0", "covariance 1", "isotropic 0", "isotropic 1"]
    assert [fact.name for fact in report.interventions] == ["to yes", *(f"to yes, {name}" for name in names)]
    assert report.became("to yes", default, word).mean == 1
    assert report.became("to yes", default, word).count == 5
    assert report.became("to yes, isotropic 0", default, word).mean == 0
    assert report.changed("to yes", "with the cause").mean == 0
    assert report.changed("to yes").mean == pytest.approx(5 / 8)
    before, after = report.said("to yes", word)
    assert (before.mean, after.mean) == (3 / 8, 1.0)
    assert report.score_change("to yes", "without").mean == -1
    assert report.score_change("to yes", "with the cause").mean == 0
    assert report.beyond_control("to yes", lambda case: case.changed).mean == pytest.approx(5 / 8)
    counts = report.counts("to yes").set_index("answer")
    assert counts.loc[word].tolist() == [3, 8, 5]
    assert counts.loc[default].tolist() == [5, 0, -5]
    assert report.interventions[0].touched == 8  # the last position of each prompt


def test_summary_frame_file_and_figure(known: Known, tmp_path: Path) -> None:
    report = known.report
    line = report.summary().set_index(["intervention", "prompts"]).loc[("to yes", "without")]
    assert line["score"] == "1.000 -> 0.000"
    assert line["answers"] == 5
    assert line["score, change"] == "-1.000 [-1.000, -1.000]"
    frame = report.to_frame()
    assert len(frame) == 6 * 8
    assert frame.query("intervention == 'to yes'")["changed"].sum() == 5
    assert SteeringReport.load(report.save(tmp_path / "report.json")) == report
    drawn = report.plot()
    drawn.savefig(tmp_path / "report.png")
    (mark,) = drawn.axes[0].containers
    assert mark.lines[0].get_xdata().tolist() == [0, 1]
    controls = [each.get_offsets()[:, 0].tolist() for each in drawn.axes[0].collections if len(each.get_offsets()) == 2]
    assert (controls[0], controls[3:]) == ([0, 1], [[0, 0]] * 2)  # the unembedding difference, and isotropic directions
    assert "1 interventions, 5 controls, 48 answers" in repr(report)
    assert line["beyond words"] == "0.000 [0.000, 0.000]"
    assert line["beyond isotropic"] == "1.000 [1.000, 1.000]"
    assert line["beyond covariance"] == "0.500 [0.500, 0.500]"  # one of the two draws leads to yes
    assert line["verdict"] == "no more than the words"


def test_people_as_references(known: Known) -> None:
    people = {
        sample.shown: [known.word] * 2 + [known.default] * 8 for some in known.samples.values() for sample in some
    }
    report = steering_report(
        known.model,
        known.steer,
        known.samples["without"],
        score=lambda sample, text: vqa_score(text, people[sample.shown], rule="corrected"),
        controls=(),
        max_new_tokens=1,
        progress=False,
    )
    # two of ten agree: leaving one out, 8 of 10 times 2/3, 2 of 10 times 1/3
    assert report.mean("steered", lambda case: case.score and case.score[1]).mean == pytest.approx(0.6)
    assert report.mean("steered", lambda case: case.score and case.score[0]).mean == 1.0


@pytest.mark.parametrize("name", ["llava", "qwen", "blip"])
def test_answers_are_those_of_plain_generation(name: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(name)
    model = subject.model
    at = "blocks.1.hook_resid_post"
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    vector = SteeringVector(8 * direction, at)
    both = [Steer(vector, positions="text"), ProjectOut(-vector, at="blocks.0.hook_resid_post")]
    samples = [Sample((picture(n),), prompt) for n, prompt in enumerate((SHORT, LONG))]
    report = steering_report(model, {"both": both}, samples, seeds=[3], max_new_tokens=4, progress=False)
    for case, sample in zip(report.of("both"), samples, strict=True):
        batch = model.prepare(sample.prompt, images=list(sample.images))
        assert case.before == model.trace_generation(batch, names="hook_logits", max_new_tokens=4).text[0]
        with model.intervene(*both):
            assert case.after == model.trace_generation(batch, names="hook_logits", max_new_tokens=4).text[0]
        assert case.score is None
        assert case.truth is None
    random = [dataclasses.replace(each, vector=each.vector.random(seed=3)) for each in both]
    batch = model.prepare(samples[1].prompt, images=list(samples[1].images))
    with model.intervene(*random):
        expected = model.trace_generation(batch, names="hook_logits", max_new_tokens=4).text[0]
    assert report.of("both, isotropic 3")[1].after == expected
    # the words by hand: what the answers gained and lost, written through the final norm's gain
    weights = token_weights(
        model, *([getattr(case, when) for case in report.of("both")] for when in ("before", "after"))
    )
    if bool(weights.any()):
        direction = word_direction(model, weights)
        words = [dataclasses.replace(each, vector=each.vector.with_direction(direction, "words")) for each in both]
        with model.intervene(*words):
            expected = model.trace_generation(batch, names="hook_logits", max_new_tokens=4).text[0]
        assert report.of("both, words")[1].after == expected


def test_a_vector_that_only_writes_words_is_no_more_than_they_are(known: Known) -> None:
    """The planted direction is what "yes" and "no" are read from; steering the picture's colour instead is no word writing."""
    words = {"source": known.default, "target": known.word}
    control = unembedding_difference(known.model, at=known.steer.vector.at, **words)
    assert torch.cosine_similarity(control.direction, known.steer.vector.direction, dim=0) > 0.9
    planted = lab.planted("neuron")
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    prompts = [Sample((planted.image(False, seed=n),), planted.prompt) for n in range(6)]
    absent, present = (model.prepare(planted.prompt, images=planted.image(there)) for there in (False, True))
    at, where = "blocks.0.hook_resid_pre", positions.box(planted.truth.box)
    states = [model.run_with_cache(batch, names=at, positions=where)[1][at][0, 0] for batch in (absent, present)]
    steers = {
        "colour": Steer(SteeringVector(2 * (states[1] - states[0]), at), positions=where),
        "word": Steer(
            unembedding_difference(model, source="no", target="yes", at="blocks.2.hook_resid_post"), positions="last"
        ),
        "nothing": Steer(SteeringVector(1e-3 * torch.ones(32), "blocks.2.hook_resid_post"), positions="last"),
    }
    report = steering_report(
        model, steers, prompts, words=("no", "yes"), seeds=(0, 1, 2), max_new_tokens=1, progress=False
    )
    assert [report.became(name, "no", "yes").mean for name in steers] == [1, 1, 0]
    assert [report.verdict(name) for name in steers] == ["more than the words", *["no more than the words"] * 2]
    assert report.beyond_control("colour", report.effect("colour"), control="words").mean == 1
    assert report.beyond_control("word", report.effect("word"), control="words").mean == 0
    unknown = steering_report(model, {"nothing": steers["nothing"]}, prompts, max_new_tokens=1, progress=False)
    assert unknown.verdict("nothing") == "no words to compare with"


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "qwen", "blip"])
def test_word_directions_raise_their_words(name: str, request: pytest.FixtureRequest) -> None:
    """The direction is the one along which the logit difference rises, for norms of any kind: by the model's own readout."""
    subject: Subject = request.getfixturevalue(name)
    model = subject.model
    weights = torch.zeros(model.W_U.shape[1])
    weights[7], weights[11] = 1.0, -1.0
    direction = word_direction(model, weights).double()
    states = torch.randn(64, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    parameter = next(model.unembed.parameters())
    with torch.enable_grad():
        leaf = states.to(parameter).requires_grad_()
        logits = model.unembed(model.ln_final(leaf[None])[0])
        (gradient,) = torch.autograd.grad((logits[:, 7] - logits[:, 11]).sum(), leaf)
    mean = gradient.double().mean(0)
    assert torch.cosine_similarity(mean, direction, dim=0) > 0.98


def test_draws_have_the_covariance_of_the_states(llava: Subject) -> None:
    """Summed up batch by batch, 4,000 draws have the covariance of the states at the last position, and no other dimension."""
    model, batch = llava.model, llava.batches["left"]
    at = "blocks.1.hook_resid_post"
    seeds = list(range(4000))
    draws = StateDraws(model, [at], seeds)
    for _ in range(2):
        model.run_with_hooks(batch, fwd_hooks=draws.hooks(batch))
    _, cache = model.run_with_cache(batch, names=at, positions="last")
    rows = cache[at][:, 0].double()
    centred = torch.cat([rows, rows]) - rows.mean(0)
    expected = centred.T @ centred
    drawn = torch.stack([draws.direction(at, seed) for seed in seeds]).double()  # type: ignore[arg-type]
    found = drawn.T @ drawn / len(seeds)
    assert (found - expected).norm() < 0.1 * expected.norm()
    assert torch.linalg.matrix_rank(drawn, rtol=1e-4) == len(rows) - 1


def test_an_intervention_without_a_vector_has_no_control(known: Known) -> None:
    ablate = Ablate([Neuron(0, 1)])
    report = steering_report(known.model, ablate, known.samples["without"], max_new_tokens=1, progress=False)
    assert [(fact.name, fact.touched) for fact in report.interventions] == [("steered", None)]
    with pytest.raises(InputError, match="has no isotropic control in this report; it has none"):
        report.beyond_control("steered", lambda case: case.changed)
    assert report.verdict("steered") == "no words to compare with"


def test_diversity_and_words_by_hand() -> None:
    found = diversity(["a b a b", "c c", ""])
    assert (found.distinct_1, found.distinct_2) == (3 / 6, 3 / 4)  # a b c of six; ab ba cc of ab ba ab cc
    assert (found.repeated, found.length, found.empty) == (1 / 6, 2.0, 1 / 3)
    # in light in light in light: 4 threes, 2 of them said before; "in a red" has one
    assert diversity(["in light in light in light", "in a red"]).looped == 2 / 5
    assert says("No , it is not", "no")
    assert not says("a nose", "no")
    assert not says("10", "1")


def test_what_does_not_fit_is_refused(known: Known) -> None:
    with pytest.raises(InputError, match=r"The sets of prompts \['empty'\] are empty"):
        steering_report(known.model, known.steer, {"empty": []})
    with pytest.raises(InputError, match=r"No interventions were given to report on under \['none'\]"):
        steering_report(known.model, {"none": []}, known.samples)
    narrow = Steer(SteeringVector(torch.ones(2), known.steer.vector.at))
    with pytest.raises(InputError, match="has 2 entries"):
        steering_report(known.model, narrow, known.samples)
    with pytest.raises(InputError, match="has no 'to no'; it has to yes"):
        known.report.of("to no")
    with pytest.raises(InputError, match=r"words are given for \['to no'\], and the interventions are \['to yes'\]"):
        steering_report(known.model, {"to yes": known.steer}, known.samples, words={"to no": ("yes", "no")})
    with pytest.raises(InputError, match="begin with the same tokens"):
        unembedding_difference(known.model, source="yes", target=["yes"], at=known.steer.vector.at)
    with pytest.raises(InputError, match="is not in the language model's stream"):
        unembedding_difference(known.model, source="yes", target="no", at="vision.blocks.0.hook_resid_post")
    with pytest.raises(InputError, match="Diversity is that of one or more"):
        diversity([])


def test_answers_may_be_contrasted() -> None:
    """Every answer of the report is that of a contrasted generation; the steering acts on the prompt's own run."""
    model = mm.lab.load()
    scene = mm.lab.scene(seed=7)
    blue = mm.steering.SteeringVector(model.W_U[:, model.to_single_token("blue")], "ln_final.hook_out")
    steer = mm.Steer(blue, 12.0, positions="last")
    contrast = mm.decoding.PAI(alpha=3.0, beta=0.0)
    sample = mm.Sample((scene.image,), "what color is the moon")
    report = mm.steering.steering_report(
        model, steer, [sample], controls=["isotropic"], max_new_tokens=1, contrast=contrast, progress=False
    )
    case = next(case for case in report.cases if case.intervention == "steered")
    assert case.before == model.answer(scene.image, sample.prompt, max_new_tokens=1, contrast=contrast)
    with model.intervene(steer):
        assert case.after == model.answer(scene.image, sample.prompt, max_new_tokens=1, contrast=contrast)


def test_no_more_pictures_are_in_memory_than_a_batch_has(
    known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a data set on the disk, however many prompts, interventions and controls there are."""
    for number, sample in enumerate(known.samples["without"] * 4):
        sample.pictures[0].save(tmp_path / f"{number:02}.png")
    samples = [
        Sample((path,), known.samples["without"][0].prompt, answer=known.default)
        for path in sorted(tmp_path.glob("*.png"))
    ]
    live: list[weakref.ref[Image.Image]] = []
    peak = 0

    def read(picture: Image.Image) -> Image.Image:
        nonlocal peak
        image = load_image(picture)
        live.append(weakref.ref(image))
        peak = max(peak, sum(ref() is not None for ref in live))
        return image

    monkeypatch.setattr("mmlens.analysis.samples.sample.load_image", read)
    files = [tmp_path / "report.ck", None]
    reports = [
        steering_report(
            known.model, known.steer, samples, max_new_tokens=1, batch_size=2, progress=False, checkpoint=path
        )
        for path in files
    ]
    assert len(live) >= 2 * 20 * len(reports[0].interventions)
    assert peak <= 4  # of the batch that ran and of the one that is made ready
    assert reports[0] == reports[1]
    again = steering_report(
        known.model, known.steer, samples, max_new_tokens=1, batch_size=2, progress=False, checkpoint=files[0]
    )
    assert again == reports[0]
    once = steering_report(known.model, known.steer, iter(samples), max_new_tokens=1, batch_size=2, progress=False)
    assert once == reports[0]
