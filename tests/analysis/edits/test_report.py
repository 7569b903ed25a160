"""What an edit is said to have done, against what it did: on a model whose only answers are known."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.controls.random_units import random_units
from mmlens.analysis.edits.controls import presence_questions
from mmlens.analysis.edits.outcome import EditReport
from mmlens.analysis.edits.report import edit_report
from mmlens.analysis.samples.sample import Sample
from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.interventions.edits import Direct, Edit, Through, noise_neurons, replace_token
from tests.analysis.conftest import Wrapped


@pytest.fixture(scope="module")
def edits(planted_neuron: Wrapped) -> dict[str, Any]:
    """An edit of the planted row, the same of two other sizes, and random rows'."""
    model, truth = planted_neuron.model, planted_neuron.truth
    neuron = Neuron(truth.layer, truth.neuron or 0)

    def made(beta: float | None) -> Edit:
        return replace_token(
            model,
            planted_neuron.batch(),
            source=truth.word,
            target="blue",
            neurons=[neuron],
            method=Direct(beta=beta),
            max_new_tokens=3,
        )

    noise = [noise_neurons(model, units, sigma=0.01, seed=0) for units in random_units(model, neuron, draws=3)]
    return {"good": made(None), "weak": made(1000.0), "random": noise}


def samples(wrapped: Wrapped, present: bool, answer: str, seeds: range) -> list[Sample]:
    pictures = [wrapped.planted.image(present, seed=seed) for seed in seeds]
    return [Sample((picture,), wrapped.planted.prompt, answer=answer) for picture in pictures]


@pytest.fixture(scope="module")
def report(planted_neuron: Wrapped, edits: dict[str, Any]) -> EditReport:
    return edit_report(
        planted_neuron.model,
        edits,
        targets={
            "new pictures": samples(planted_neuron, True, "yes", range(5, 9)),
            "half without": samples(planted_neuron, True, "yes", range(2))
            + samples(planted_neuron, False, "no", range(2)),
        },
        controls={"absent": samples(planted_neuron, False, "no", range(3))},
        matched=0,
        max_new_tokens=3,
        batch_size=3,
        progress=False,
    )


def test_success_and_locality_are_what_the_model_does(planted_neuron: Wrapped, report: EditReport) -> None:
    assert (report.source, report.target) == ("yes", "blue")
    assert [fact.name for fact in report.edits] == ["good", "weak", "random"]
    assert [report.success(name, "new pictures").mean for name in ("good", "weak", "random")] == [1, 0, 0]
    assert report.success("good", "half without").count == 2  # the others never said the source
    assert [case.said_before for case in report.cases if case.edit == "good" and case.group == "half without"] == [
        *[True] * 2,
        *[False] * 2,
    ]
    assert report.changed("good", "absent").mean == report.changed("good").mean == 0
    assert report.changed("good", "new pictures").mean == 1
    assert report.groups("target") == ["new pictures", "half without"]
    case = report.cases[0]
    assert (case.before, case.after, case.wanted, case.exact) == ("yes", "blue", "blue", True)
    assert case.right == (True, False)
    assert len({case.picture for case in report.cases if case.group == "new pictures"}) == 4


def test_probabilities_and_divergence_against_the_model(
    planted_neuron: Wrapped, edits: dict[str, Any], report: EditReport
) -> None:
    """One case worked out with plain forward passes, in float64."""
    model = planted_neuron.model
    batch = planted_neuron.batch(seed=5)
    trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=3)
    forced = model.extend(batch, trace.tokens[:, :-1])
    steps = trace.tokens.shape[1]
    with torch.no_grad():
        old = model(forced)[0, -steps:].double().log_softmax(-1)
        with model.edited(edits["good"]):
            new = model(forced)[0, -steps:].double().log_softmax(-1)
    length = int(trace.lengths[0])
    case = next(c for c in report.cases if (c.edit, c.group) == ("good", "new pictures"))
    assert case.kl == pytest.approx(float((old.exp() * (old - new)).sum(-1)[:length].mean()), rel=1e-4, abs=1e-6)
    for word, pair in (("yes", case.p_source), ("blue", case.p_target)):
        token = model.to_single_token(word)
        assert pair == pytest.approx((float(old[0, token].exp()), float(new[0, token].exp())), rel=1e-4)
    weak = [c for c in report.cases if (c.edit, c.group) == ("weak", "new pictures")]
    assert all(abs(c.kl) < case.kl / 10 for c in weak)


def test_edits_of_random_rows_stand_as_the_distribution_of_their_draws(report: EditReport) -> None:
    kl = [
        [case.kl for case in report.cases if (case.edit, case.group, case.draw) == ("random", "new pictures", draw)]
        for draw in range(3)
    ]
    assert [len(draw) for draw in kl] == [4, 4, 4]
    means = [sum(draw) / 4 for draw in kl]
    found = report.interval("random", "new pictures", lambda case: case.kl)
    assert (found.mean, found.count) == (pytest.approx(sum(means) / 3), 3)
    low, middle, high = sorted(means)
    assert (found.low, found.high) == pytest.approx((low + 0.05 * (middle - low), high - 0.05 * (high - middle)))
    assert found.high < report.interval("good", "new pictures", lambda case: case.kl).low / 10
    assert report.changed_pictures("random", "absent").mean == report.changed("random").mean == 0
    assert next(fact for fact in report.edits if fact.name == "random").draws == 3


def test_the_same_edit_of_matched_rows_stands_beside_it(planted_neuron: Wrapped, planted_patch: Wrapped) -> None:
    """One neuron writes the word in one model; in the other none does, and any rows will do as well as those that were edited."""
    learn = Through(learning_rate=10.0, n_steps=40, penalty=0.0)
    places = []
    for wrapped, rows in ((planted_neuron, [Neuron(1, 5)]), (planted_patch, [Neuron(1, index) for index in range(5)])):
        word = wrapped.truth.word
        about: dict[str, Any] = {
            "source": word,
            "target": "blue",
            "neurons": rows,
            "max_new_tokens": 3,
            "progress": False,
        }
        edit = replace_token(wrapped.model, wrapped.batch(), method=learn, **about)
        found = edit_report(
            wrapped.model,
            edit,
            targets=samples(wrapped, True, word, range(5, 8)),
            controls=samples(wrapped, False, wrapped.truth.default_word, range(2)),
            matched=4,
            seed=1,
            max_new_tokens=3,
            progress=False,
        )
        _, matched = found.edits
        assert (matched.name, matched.control_of, matched.draws) == ("edit, matched rows", "edit", 4)
        assert matched.matched_by == "mean size of the activation"
        assert found.control("edit") == matched.name
        assert found.standing("edit", "targets", lambda case: case.success).value == 1
        places.append(found.standing("edit", "targets", lambda case: case.success))
        assert found.summary("target").iloc[0]["matched rows as good"] == f"{places[-1].at_least} of 4 draws"
        assert f"EditReport({word!r} -> 'blue': 1 edits" in repr(found)
    planted, unplanted = places
    assert planted.beyond
    assert planted.at_least == 0
    assert not unplanted.beyond
    assert unplanted.at_least >= 2


def test_consistency_is_what_the_model_answers_before_and_after(planted_neuron: Wrapped, edits: dict[str, Any]) -> None:
    """The edited row writes "blue" for "yes": prompts whose agreeing answer is "blue" agree, those that want "red" do not."""
    pictures = samples(planted_neuron, True, "blue", range(3))
    found = edit_report(
        planted_neuron.model,
        edits["good"],
        targets=pictures,
        controls=samples(planted_neuron, False, "no", range(2)),
        consistency={"agrees": pictures, "does not": [replace(sample, answer=("red", "Red.")) for sample in pictures]},
        matched=0,
        max_new_tokens=3,
        progress=False,
    )
    assert found.groups("consistency") == ["agrees", "does not"]
    assert [found.success("edit", group).mean for group in ("agrees", "does not")] == [1, 0]
    table = found.summary("consistency")
    assert table["agree, before"].tolist() == ["0.000 [0.000, 0.561]"] * 2
    assert table["agree, after"].tolist() == ["1.000 [0.439, 1.000]", "0.000 [0.000, 0.561]"]
    assert {case.wanted for case in found.cases if case.role == "consistency"} == {"blue", "red"}
    assert found.changed("edit").count == 2  # consistency is no locality


def test_what_has_no_matched_rows_says_why(planted_neuron: Wrapped, edits: dict[str, Any], tmp_path: Path) -> None:
    some = samples(planted_neuron, True, "yes", range(1))
    loaded = Edit.load(edits["good"].save(tmp_path / "edit.safetensors"))
    found = edit_report(
        planted_neuron.model,
        loaded,
        targets=some,
        controls=samples(planted_neuron, False, "no", range(1)),
        progress=False,
    )
    assert "No matched rows beside 'edit': it is not known how it was taught (read from a file" in repr(found)
    with pytest.raises(
        InputError, match=r"^There are no matched rows beside 'edit': it is not known how it was taught"
    ):
        found.standing("edit", "targets", lambda case: case.success)
    with pytest.raises(InputError, match=r"It is not known how Edit.* was taught: it was read from a file"):
        loaded.retaught("L1.u2")
    with pytest.raises(InputError, match="It is not known how"):
        (edits["good"] * 0.5).retaught("L1.u2")


def test_presence_is_asked_for_in_the_style_of_the_prompts() -> None:
    model = mm.lab.load()
    scenes = mm.lab.scenes(3, seed=2)
    targets = {"a": [Sample((scene.image,), "where is this", name=str(scene.seed)) for scene in scenes]}
    sets, reason = presence_questions(model, targets, "circle", "arrow")
    assert reason == ""
    assert {name: (some[0].prompt, some[0].answer, len(some)) for name, some in sets.items()} == {
        "presence of the old": ("is there a circle", "no", 3),
        "presence of the new": ("is there an arrow", "yes", 3),
    }
    capital = {"a": [replace(targets["a"][0], prompt="Where is this?")]}
    assert (
        presence_questions(model, capital, "circle", "arrow")[0]["presence of the old"][0].prompt
        == "Is there a circle?"
    )
    assert presence_questions(model, {"a": [Sample((), "where is this")]}, "circle", "arrow")[1] == (
        "No presence was asked for: the target prompts have no pictures."
    )


def test_words_that_are_only_removed(planted_neuron: Wrapped, edits: dict[str, Any]) -> None:
    model = planted_neuron.model
    found = edit_report(
        model,
        edits["good"],
        source="yes",
        target=None,
        targets=samples(planted_neuron, True, "yes", range(2)),
        controls=samples(planted_neuron, False, "no", range(2)),
        matched=0,
        max_new_tokens=3,
        progress=False,
    )
    assert found.target is None
    assert found.success("edit", "targets").mean == 1  # gone is enough
    assert found.cases[0].wanted is None
    assert found.cases[0].p_target is None
    assert "exact" not in found.summary().columns


def test_table_frame_and_file(report: EditReport, tmp_path: Path) -> None:
    table = report.summary()
    assert list(table["edit"]) == [name for name in ("good", "weak", "random (3 draws)") for _ in range(3)]
    good = table.iloc[0]
    assert good["said before"] == "4 of 4"
    assert good["success"] == "1.000 [0.510, 1.000]"
    assert good["right"] == "1.000 -> 0.000"
    assert good["right, change"] == "-1.000 [-1.000, -1.000]"
    control = table.iloc[2]
    assert (control["prompts"], control["answers changed"]) == ("absent", "0.000 [0.000, 0.561]")
    assert control["right"] == "1.000 -> 1.000"
    assert repr(report).startswith("EditReport('yes' -> 'blue': 3 edits, 55 answers)\n")
    assert "the tokenizer does not know all words of 'is there a yes'; pass consistency=." in repr(report)
    assert list(report.summary("control").columns) == [
        *("edit", "size", "role", "prompts", "answers changed", "pictures changed", "KL", "right", "right, change")
    ]
    assert len(report.summary("control")) == 3
    frame = report.to_frame()
    assert len(frame) == 55
    assert frame["changed"].tolist() == [case.before != case.after for case in report.cases]
    assert frame.iloc[0]["p_target_after"] == report.cases[0].p_target[1]  # type: ignore[index]
    loaded = EditReport.load(report.save(tmp_path / "report.json"))
    assert loaded == report
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(InputError, match=r"other\.json is no edit report, or a damaged one: "):
        EditReport.load(tmp_path / "other.json")
    (tmp_path / "other.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match="or a damaged one: "):
        EditReport.load(tmp_path / "other.json")


def test_intervals_draw_whole_pictures(report: EditReport) -> None:
    """Four questions about two pictures are two draws, not four."""
    cases = [case for case in report.cases if (case.edit, case.group) == ("good", "absent")][:2]
    spread = [replace(cases[n % 2], after="blue" if n % 2 else cases[0].before, picture=str(n % 2)) for n in range(8)]
    found = EditReport("yes", "blue", report.edits[:1], tuple(spread))
    pairs, apart = found.changed("good", "absent"), [replace(case, picture=str(n)) for n, case in enumerate(spread)]
    alone = EditReport("yes", "blue", report.edits[:1], tuple(apart)).changed("good", "absent")
    assert (pairs.mean, alone.mean) == (0.5, 0.5)
    assert pairs.low < 0.01 < 0.2 < alone.low < alone.high < 0.8 < 0.99 < pairs.high
    assert found.changed_pictures("good", "absent").count == 2
    one = EditReport("yes", "blue", report.edits[:1], tuple(replace(case, picture="a") for case in spread))
    assert one.changed_pictures("good", "absent").mean == 1.0
    assert math.isnan(found.success("good", "absent").mean)


def test_what_cannot_be_reported(planted_neuron: Wrapped, edits: dict[str, Any]) -> None:
    model = planted_neuron.model
    some = samples(planted_neuron, True, "yes", range(1))
    other = replace_token(
        model,
        planted_neuron.batch(),
        source="yes",
        target="red",
        neurons=[Neuron(1, 5)],
        method=Direct(beta=1.0),
        max_new_tokens=3,
    )
    for wrong, message in (
        ({"edits": {}}, r"^No edits were given to report on\.$"),
        (
            {"edits": {"a": edits["good"], "b": other}},
            r"^The edits are about .*; one report is about one pair: pass source=",
        ),
        ({"edits": edits["random"]}, r"^The edits are about no words; one report is about one pair"),
        ({"targets": []}, r"^targets holds no samples\.$"),
        (
            {"consistency": [replace(some[0], answer=None)]},
            r"^The consistency sets \['consistency'\] hold prompts without an answer",
        ),
        (
            {"targets": {"x": some}, "controls": {"x": some}},
            r"^A set of prompts has the same name in two of targets, consistency and controls",
        ),
    ):
        about = {"edits": edits["good"], "targets": some, "controls": some, **wrong}
        with pytest.raises(InputError, match=message):
            edit_report(model, progress=False, **about)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="was made for other weights"):
        edit_report(planted_neuron.twin, edits["good"], targets=some, controls=some, progress=False)
    assert model.edits == ()


def test_the_frontier_shows_every_edit(report: EditReport, tmp_path: Path) -> None:
    figure = report.plot()
    assert [axes.get_title() for axes in figure.axes] == ["new pictures", "half without"]
    panel = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["direct (a reconstruction)", "random"]
    drawn = {
        tuple(point) for line in panel.lines for point in line.get_xydata().tolist() if len(line.get_xydata()) <= 2
    }
    assert {(0.0, 1.0), (0.0, 0.0)} <= drawn
    assert [text.get_text() for text in panel.texts] == [
        "weak",
        "good",
    ]  # an edit of its own has its name in the legend
    direct = next(c for c in panel.containers if c.get_label() == "direct (a reconstruction)")
    assert direct.lines[0].get_xydata().tolist() == [[0.0, 0.0], [0.0, 1.0]]  # the stronger penalty first
