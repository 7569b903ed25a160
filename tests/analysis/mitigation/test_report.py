"""The report on a planted prior: what mends it, and that random changes as strong, and the twin, do not."""

from pathlib import Path

import pytest

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.lab.weight_built import Planted
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import SHORT, Subject
from tests.interventions.passes import never_entered
from tests.tiny import picture

COLORS = ("red", "blue", "white")
METHODS = {
    "boost": mm.mitigation.Boosted(alpha=2.0, first=1, contrast=0.0),
    "contrast": mm.mitigation.Contrasted(mm.decoding.PAI(alpha=1.0, beta=0.0)),
    "steer": mm.mitigation.VisuallySteered(alpha=1.0, scale="absolute", first=1, positions="last"),
}


def questions(planted: Planted) -> list[mm.Sample]:
    """What colour the patch has: the usual one in a quarter of the pictures."""
    return [
        mm.Sample(
            (planted.image(color=color, seed=seed),), planted.prompt, references=(color,) * 3, name=f"{color} {seed}",
            types={"answer_type": "usual" if color == planted.truth.default_word else "against the usual"},
        )
        for color in (*COLORS, "green")
        for seed in range(4)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def report() -> mm.mitigation.MitigationReport:
    planted = mm.lab.planted("prior")
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    usual = {"usual colour": lambda sample, text: float(text.strip() == "green")}
    return mm.mitigation_report(
        model, {"questions": questions(planted)}, methods=METHODS, seeds=range(6), scorers=usual, progress=False
    )


def test_the_planted_prior_hallucinates(report: mm.mitigation.MitigationReport) -> None:
    scores = report.plain["questions"]
    assert scores["accuracy, against the usual"].value == 0.0
    assert scores["accuracy, usual"].value == 1.0
    assert scores["usual colour"].value == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_each_method_mends_it_and_random_changes_as_strong_do_not(
    report: mm.mitigation.MitigationReport, method: str
) -> None:
    change = report.against_plain(method, "questions", "accuracy, against the usual")
    assert change.value.mean == 1.0
    control = report.control(method, "questions", "accuracy, against the usual")
    assert control is not None
    # one head carries the colour, and a random sign of its boost is the right one in half of the draws
    most = 0.7 if method == "boost" else 0.5
    assert control.value < most
    assert report.against_controls(method, "questions", "accuracy, against the usual").value.mean > 1 - most
    assert report.methods[method]["questions"]["accuracy, usual"].value == 1.0


def test_the_frame_has_intervals_paired_tests_and_cost(report: mm.mitigation.MitigationReport) -> None:
    frame = report.to_frame().set_index(["method", "score"])
    row = frame.loc[("boost", "accuracy, against the usual")]
    assert (row["plain"], row["value"], row["difference"]) == (0.0, 1.0, 1.0)
    assert row["low"] > 0.7
    assert row["p"] < 0.01
    assert 0 < row["cost"] < 50
    assert frame.loc[("contrast", "words")]["difference"] == 0


def test_on_the_twin_nothing_can_be_mended() -> None:
    planted = mm.lab.planted("prior")
    twin = HookedMultimodal.from_hf(planted.twin, planted.processor)
    found = mm.mitigation_report(twin, {"questions": questions(planted)}, methods=METHODS, seeds=[], progress=False)
    for method in METHODS:
        assert found.methods[method]["questions"]["accuracy, against the usual"].value == 0.0
    assert found.controls == {}
    assert found.against_controls("boost", "questions", "accuracy") is None


def test_it_comes_back_from_its_file_and_is_drawn(report: mm.mitigation.MitigationReport, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    again = mm.mitigation.MitigationReport.load(tmp_path / "report.json")
    assert again.to_frame().equals(report.to_frame())
    assert len(again.plot().axes) == len(report.plain["questions"])
    assert "boost 1.000" not in repr(report).splitlines()[0]
    assert "questions, accuracy: plain 0.250, boost 1.000" in repr(again)


def test_every_task_by_hand(subject: Subject) -> None:
    """Scores are those of the scorers on the model's answers with the method in force, sample by sample alone."""
    model = subject.model
    samples = [
        mm.Sample((picture(seed),), SHORT, name=str(seed), answer="yes", references=("red",), image_id=str(seed))
        for seed in range(3)
    ]
    vector = mm.steering.SteeringVector(model.W_U[:, 5], "blocks.1.hook_resid_post")
    methods = {"steer": mm.mitigation.Intervened((mm.Steer(vector, 9.0),))}
    tasks = {"pope": samples, "captions": samples, "questions": samples, "attacks": samples, "harmless": samples}
    found = mm.mitigation_report(
        model, tasks, methods=methods, seeds=[3], max_new_tokens=dict.fromkeys(tasks, 3), batch_size=2, progress=False,
        judge=lambda sample, text: len(text) > 3, words=mm.scorers.ObjectWords({"red": []}),
    )  # fmt: skip
    texts = []
    with model.intervene(*methods["steer"].interventions):
        for sample in samples:
            batch = model.prepare([sample.prompt], images=[list(sample.pictures)])
            texts += model.trace_generation(batch, names="hook_logits", max_new_tokens=3).text
    run = found.methods["steer"]
    assert run["pope"]["F1"].value == mm.scorers.pope(samples, texts)["F1"].value
    chair = mm.scorers.chair(samples, texts, words=mm.scorers.ObjectWords({"red": []}))
    assert run["captions"]["CHAIR-s"].value == chair["CHAIR-s"].value
    assert run["attacks"]["attack success"].value == sum(len(text) > 3 for text in texts) / 3
    alone = [model.prepare([s.prompt], images=[list(s.pictures)]) for s in samples]
    plain = [model.trace_generation(batch, names="hook_logits", max_new_tokens=3).text[0] for batch in alone]
    assert run["harmless"]["answers kept"].value == sum(a.strip() == b.strip() for a, b in zip(texts, plain)) / 3
    assert texts != plain
    assert list(found.controls) == ["steer"]
    assert found.tokens["plain"][0] <= 5 * 3 * 3


def test_what_cannot_be_scored_is_refused_before_anything_runs(llava: Subject) -> None:
    model, plain = llava.model, mm.Sample((picture(0),), SHORT)
    for data, message in (
        ({"pope": [plain]}, "answer yes or no"),
        ({"captions": [plain]}, "objects"),
        ({"questions": []}, "holds no samples"),
        ({"jokes": [plain]}, "some of the tasks"),
    ):
        with pytest.raises(InputError, match=message):
            mm.mitigation_report(model, data, methods={"a": "contrasted"}, progress=False)
    asked = {"pope": [mm.Sample((picture(0),), SHORT, answer="yes")]}
    with pytest.raises(InputError, match="cannot be called 'plain'"):
        mm.mitigation_report(model, asked, methods={"plain": "contrasted"}, progress=False)
    with pytest.raises(InputError, match="leaves none"):
        mm.mitigation_report(model, asked, methods={"a": mm.mitigation.Boosted(first=9)}, progress=False)


def test_a_method_without_other_rows_has_no_control_and_steps_that_are_not_written_are_refused(llava: Subject) -> None:
    """Nothing is found out half way: before any run."""
    model = llava.model
    asked = {"pope": [mm.Sample((picture(0),), SHORT, answer="yes")]}
    everything = mm.KnockOut("last", slice(0, -1))  # all that the last position sees but itself
    methods = {
        "cut": mm.mitigation.Intervened((everything,)),
        "steer": mm.mitigation.Intervened((mm.Scale("blocks.1.hook_resid_post", 0.5),)),
    }
    report = mm.mitigation_report(model, asked, methods=methods, seeds=[0], progress=False)
    assert list(report.controls) == ["steer"]
    late = {"late": mm.mitigation.Intervened((mm.Scale("blocks.1.hook_resid_post", 0.5, positions="generated"),))}
    with pytest.raises(InputError, match="names nothing"), never_entered(model):
        mm.mitigation_report(model, asked, methods=late, max_new_tokens={"pope": 1}, progress=False)


def test_what_is_no_intervention_is_refused_by_its_settings() -> None:
    with pytest.raises(InputError, match="must be non-empty"):
        mm.mitigation.Intervened(())
    with pytest.raises(InputError, match=r"'L2\.h1' must be an Intervention"):
        mm.mitigation.Intervened(("L2.h1",))
