"""A steering report's figures, by hand on a planted model; its answers are those of plain steered generation."""

import dataclasses
from pathlib import Path

import pytest
import torch

from mmlens import lab
from mmlens.analysis.samples import Sample
from mmlens.analysis.steering.outcome import SteeringReport, diversity
from mmlens.analysis.steering.report import steering_report
from mmlens.analysis.steering.vqa import vqa_accuracy
from mmlens.core import positions
from mmlens.core.answer_text import says
from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
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
    assert [fact.name for fact in report.interventions] == ["to yes", "to yes, random 0", "to yes, random 1"]
    assert report.became("to yes", default, word).mean == 1
    assert report.became("to yes", default, word).count == 5
    assert report.became("to yes, random 0", default, word).mean == 0
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
    assert len(frame) == 3 * 8
    assert frame.query("intervention == 'to yes'")["changed"].sum() == 5
    assert SteeringReport.load(report.save(tmp_path / "report.json")) == report
    drawn = report.plot()
    drawn.savefig(tmp_path / "report.png")
    (mark,) = drawn.axes[0].containers
    assert mark.lines[0].get_xdata().tolist() == [0, 1]
    controls = [each.get_offsets()[:, 0].tolist() for each in drawn.axes[0].collections if len(each.get_offsets()) == 2]
    assert controls == [[0, 0], [0, 0]]
    assert "1 interventions, 2 random controls, 24 answers" in repr(report)


def test_people_as_references(known: Known) -> None:
    people = {
        sample.shown: [known.word] * 2 + [known.default] * 8 for some in known.samples.values() for sample in some
    }
    report = steering_report(
        known.model,
        known.steer,
        known.samples["without"],
        score=lambda sample, text: float(vqa_accuracy([text], [people[sample.shown]])[0]),
        seeds=(),
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
    assert report.of("both, random 3")[1].after == expected


def test_an_intervention_without_a_vector_has_no_control(known: Known) -> None:
    ablate = Ablate([Neuron(0, 1)])
    report = steering_report(known.model, ablate, known.samples["without"], max_new_tokens=1, progress=False)
    assert [(fact.name, fact.touched) for fact in report.interventions] == [("steered", None)]
    with pytest.raises(InputError, match="has no random control"):
        report.beyond_control("steered", lambda case: case.changed)


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
        steering_report(known.model, {"none": []}, [])
    narrow = Steer(SteeringVector(torch.ones(2), known.steer.vector.at))
    with pytest.raises(InputError, match="has 2 entries"):
        steering_report(known.model, narrow, known.samples)
    with pytest.raises(InputError, match="has no 'to no'; it has to yes"):
        known.report.of("to no")
    with pytest.raises(InputError, match="Diversity is that of one or more"):
        diversity([])
