"""Edits: whether rows that write a colour can be taught another, and whether other answers come to agree.

Beside both stands the same edit of other rows of the same layers that are as active: only what these do not do speaks for the
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice

import mmlens as mm
from mmlens.analysis.samples.sample import Sample
from mmlens.core.answer_text import is_answer
from mmlens.interventions.edits.edit import Edit
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, TargetRange, absent
from mmlens.lab.phenomena.subject import Subject
from mmlens.lab.phenomena.world import Case, LabQuestion
from mmlens.lab.world import SHAPES

_SOURCE, _WORD = "red", "blue"
_SUCCESS = TargetRange(0.8)
_ROWS, _BATCH = 20, 8
#: Steps of each edit, and in how many sets of matched rows it is made again; a belief takes long.
_STEPS, _MATCHED = {"word": 20, "belief": 40}, {"word": 3, "belief": 1}


def edits(subject: Subject, sizes: Sizes) -> Measured:
    """Measure an edit of "red" to "blue", of the word alone and of the belief, on scenes that it was not taught from."""
    cases = _color_cases(subject, sizes)
    # an edit is taught where the model says the source, and judged where it does
    color_cases = [case for case in cases if case[1].answer == _SOURCE]
    texts = subject.replies([subject.sample(*case) for case in color_cases], tokens=6)
    red = [case for case, text in zip(color_cases, texts, strict=True) if is_answer(text, _SOURCE)]
    others = [case for case in cases if case[1].answer not in (_SOURCE, _WORD)]
    half, few = len(red) // 2, sizes.share(0.06, least=_BATCH)
    lessons, fresh_cases = red[:half][: 2 * few], red[half:][:few]
    if half < 2:
        return Measured([absent("edits", f"{len(red)} of {len(color_cases)} questions are answered {_SOURCE!r}")])
    unseen = [subject.sample(*case, name=f"other {n}") for n, case in enumerate(others[len(lessons) :][: 2 * few])]
    edits_by_name = _teach(subject, lessons, others[: len(lessons)], few)
    presence = _presence(subject, fresh_cases)
    findings = []
    for name, edit in edits_by_name.items():
        report = mm.edits.edit_report(
            subject.model,
            {name: edit},
            targets={"colour": [subject.sample(*case, name=f"red {n}") for n, case in enumerate(fresh_cases)]},
            controls={"other colours": unseen},
            consistency={
                word: [sample for sample in presence if sample.answer == answer]
                for word, answer in (("old", "no"), ("new", "yes"))
            },
            matched=_MATCHED[name],
            seed=sizes.seed,
            max_new_tokens=6,
            progress=False,
        )
        findings += _findings(report, name)
    return Measured(findings)


def _teach(subject: Subject, cases: Sequence[Case], rest: Sequence[Case], few: int) -> dict[str, Edit]:
    """The edit of the word alone and that of the belief, taught from some cases, while answers of the rest are to stay."""
    lessons, others = _prepared(subject, cases), _prepared(subject, rest)
    consistency = [
        (batch, [str(sample.answer) for sample in part])
        for part, batch in subject.batches(_presence(subject, cases)[: 4 * few], _BATCH)
    ]
    # so that "is there" is not taught to be answered one way, other things' presence is to stay
    controls = [*others, *(batch for _, batch in subject.batches(_kept_presence(subject, rest), _BATCH))]
    scores = mm.find_neurons(subject.model, lessons[0], token=_SOURCE)
    teach = partial(
        mm.edits.replace_token, subject.model, lessons, source=_SOURCE, target=_WORD, neurons=scores.top(_ROWS),
        max_new_tokens=6, progress=False,
    )  # fmt: skip
    word = mm.edits.Through(learning_rate=0.02, n_steps=_STEPS["word"])
    belief = mm.edits.Belief(learning_rate=0.02, n_steps=_STEPS["belief"])
    return {
        "word": teach(controls=others, method=word),
        "belief": teach(controls=controls, consistency=consistency, method=belief),
    }


def _findings(report: mm.edits.EditReport, name: str) -> list[Finding]:
    """What an edit did, beside the same of matched rows."""
    beside = report.control(name)

    def control(group: str) -> tuple[Control, ...]:
        if beside is None:
            return ()
        is_changed = group in report.groups("control")
        value = report.changed(beside, group) if is_changed else report.success(beside, group)
        return (Control("the same edit of rows as active", value),)

    agreement = _SUCCESS if name == "belief" else None
    unit = "share of answers"
    return [
        Finding(f"{name}: {_SOURCE} becomes {_WORD}", report.success(name, "colour"), unit, control("colour"), _SUCCESS),
        Finding(f"{name}: no {_SOURCE} one is there any more", report.success(name, "old"), unit, control("old"), agreement),
        Finding(f"{name}: a {_WORD} one is there now", report.success(name, "new"), unit, control("new"), agreement),
        Finding(
            f"{name}: answers about other colours changed", report.changed(name, "other colours"), unit,
            control("other colours"), TargetRange(high=0.1),
        ),
    ]  # fmt: skip


def _color_cases(subject: Subject, sizes: Sizes) -> list[Case]:
    """Questions for colours of shapes, one a scene, of the source where the scene has one."""
    cases = []
    for scene in subject.world.scenes(max(sizes.scenes, 60), sizes.stream(6)):
        options = [q for q in subject.world.questions(scene) if q.kind == "color" and q.noun in SHAPES]
        options.sort(key=lambda question: question.answer != _SOURCE)
        cases += [(scene, question) for question in islice(options, 1)]
    return cases


def _prepared(subject: Subject, cases: Sequence[Case]) -> list[mm.MultimodalBatch]:
    return [batch for _, batch in subject.batches([subject.sample(*case) for case in cases], _BATCH)]


def _presence(subject: Subject, cases: Sequence[Case]) -> list[Sample]:
    """Of each thing whether there is one in the old colour ("no", if the edit is believed), and in the new one ("yes")."""
    samples = []
    for number, (scene, question) in enumerate(cases):
        for color, answer in ((_SOURCE, "no"), (_WORD, "yes")):
            text = subject.world.pair(str(question.noun), color)
            samples.append(subject.sample(scene, LabQuestion(text, answer, "pair"), name=f"red {number}"))
    return samples


def _kept_presence(subject: Subject, cases: Sequence[Case]) -> list[Sample]:
    """Of things of other colours whether there is one in its own, and in the old one."""
    return [
        subject.sample(scene, LabQuestion(subject.world.pair(str(question.noun), color), answer, "pair"))
        for scene, question in cases
        for color, answer in ((question.answer, "yes"), (_SOURCE, "no"))
    ]
