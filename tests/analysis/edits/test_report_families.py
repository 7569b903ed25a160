"""Reports on edits in other families and with sub-word tokens: matched rows, consistency, and the objective belief."""

from dataclasses import replace

import pytest

from mmlens.analysis.edits.report import edit_report
from mmlens.analysis.samples.sample import Sample
from mmlens.core.unit_sets import Units
from mmlens.core.units import Neuron
from mmlens.interventions.edits import Belief, Through, replace_token
from mmlens.interventions.edits.examples import answered_examples, as_word
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import SHORT, Subject
from tests.tiny import picture

QUICK = Belief(
    learning_rate=0.05, penalty=0.0, keep=0.0, keep_controls=0.0, repetition=0.0, stop_at=0.5, stop_kl=1e9, n_steps=80
)


def _checked(model: HookedMultimodal, prompt: str, answers: tuple[str, str]) -> None:
    """An edit of what a model says, with another prompt's answer taught: both are said; matched rows stand beside it."""
    shown = Sample((picture(0),), prompt, name="0")
    said = model.trace_generation(model.prepare(prompt, images=picture(0)), names="hook_logits", max_new_tokens=1)
    source = said.text[0].strip()
    other = replace(shown, prompt=f"{prompt} {prompt}", answer=answers[1])
    batch, question = (model.prepare(sample.prompt, images=picture(0)) for sample in (shown, other))
    rows = Units([Neuron(layer, index) for layer in range(model.cfg.n_layers)[-2:] for index in range(20)])
    about = {"source": int(said.tokens[0, 0]), "target": answers[0], "max_new_tokens": 1, "progress": False}
    taught = [(question, [answers[1]])]
    edit = replace_token(model, batch, neurons=rows, method=QUICK, consistency=taught, **about)  # type: ignore[arg-type]
    assert (edit.provenance.method, edit.provenance.settings["consistency"]) == ("belief", 1)
    assert edit.provenance.settings["stopped"] == "reached"
    # a swap without the belief does not reach the other prompt's answer in as many steps, or at all: it is not asked for
    settings = {name: value for name, value in QUICK.settings.items() if name != "agreement"}
    swap = replace_token(model, batch, neurons=rows, method=Through(**settings), **about)  # type: ignore[arg-type]
    report = edit_report(
        model,
        {"belief": edit, "swap": swap},
        source=source,
        target=answers[0],
        targets=[shown],
        controls=[replace(shown, images=(picture(3),))],
        consistency={"other prompt": [other]},
        matched=2,
        max_new_tokens=len(model.to_word_tokens(answers[1])),
        progress=False,
    )
    assert report.success("belief", "other prompt").mean == 1
    (case,) = [case for case in report.cases if (case.edit, case.role) == ("belief", "consistency")]
    assert case.right == (False, True)
    names = [(fact.name, fact.draws, fact.control_of) for fact in report.edits]
    assert names == [
        ("belief", 1, None),
        ("belief, matched rows", 2, "belief"),
        ("swap", 1, None),
        ("swap, matched rows", 2, "swap"),
    ]
    place = report.standing("belief", "other prompt", lambda case: case.success)
    assert (place.value, place.draws.count) == (1, 2)


@pytest.mark.parametrize("name", ["llava", "qwen", "blip"])
def test_families(name: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(name)
    _checked(subject.model, SHORT, ("red", "blue"))


def test_sub_word_tokens(subword: HookedMultimodal) -> None:
    """All tokens of an answer are taught, each where the one before it has been said; its presence is asked for in words."""
    prompts = ["what is it", "is it a dog or what is it"]
    batch = subword.prepare(prompts, images=[[picture(0)], [picture(1)]])
    (example,) = answered_examples(subword, [(batch, ["yesterday", "circle"])])
    ids, end = example.batch["input_ids"], batch["input_ids"].shape[1] - 1
    for sample, word in enumerate(("yesterday", "circle")):
        places = example.source_places[example.source_places[:, 0] == sample, 1].tolist()
        tokens = example.place_tokens[example.source_places[:, 0] == sample].tolist()
        assert tuple(tokens) in as_word(subword, word)
        assert places == list(range(end, end + len(tokens)))
        assert ids[sample, end + 1 : end + len(tokens)].tolist() == tokens[:-1]
    shown = Sample((picture(0),), prompts[0], name="0")
    asked = subword.prepare(prompts[0], images=picture(0))
    said = subword.trace_generation(asked, names="hook_logits", max_new_tokens=1)
    edit = replace_token(
        subword,
        asked,
        source=int(said.tokens[0, 0]),
        target="circle",
        neurons=["L1.u3", "L1.u4"],
        method=Through(n_steps=2),
        max_new_tokens=1,
        progress=False,
    )
    controls = [replace(shown, images=(picture(3),))]
    report = edit_report(subword, edit, targets=[shown], controls=controls, matched=2, max_new_tokens=2, progress=False)
    assert report.groups("consistency") == ["presence of the old", "presence of the new"]
    assert {case.prompt for case in report.cases if case.group == "presence of the new"} == {"is there a circle"}
    assert report.standing("edit", "presence of the new", lambda case: case.success).draws.count == 2
