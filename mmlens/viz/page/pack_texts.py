"""What results in words show: answers before and after an edit, generated tokens, and where a vector comes from."""

from typing import get_args

from PIL import Image

from mmlens.analysis.edits.cases import Role
from mmlens.analysis.edits.outcome import EditReport
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.generation import GenerationTrace
from mmlens.viz.page.pack import Pack, PackTable
from mmlens.viz.page.pack_frames import table_of
from mmlens.viz.words import counted, shown

_ANSWERS, _STEPS, _LETTERS = 40, 60, 80


def report_pack(report: EditReport, picture: Image.Image | None, run: bool = False) -> Pack:
    """The figures of each kind of prompt, and answers without the edit, with it, and with that of matched rows."""
    edits = [fact for fact in report.edits if fact.control_of is None]
    words = f"{report.source!r} removed" if report.target is None else f"{report.source!r} to {report.target!r}"
    said = [
        f"{fact.name}: success {report.success(fact.name, group)} on {group}"
        for fact in edits[:1]
        for group in report.groups("target")[:1]
    ]
    harm = [
        f"{report.changed(fact.name)} of the other answers change" for fact in edits[:1] if report.groups("control")
    ]
    tables = [
        table_of(report.summary(role).drop(columns="role"), title)[0]
        for role, title in zip(
            get_args(Role), ("What is to change", "What is to agree", "What is to stay"), strict=True
        )
        if report.groups(role)
    ]
    answers = [_answers(report, fact.name) for fact in edits]
    return Pack(
        "; ".join([f"Edit of {words}, {counted(len(edits), 'edit')} on {len(report.cases)} answers", *said, *harm])
        + ".",
        "Means with 95% intervals; the control is the same edit of matched rows.",
        tables=(*tables, *answers),
        notes=report.notes,
    )


def _answers(report: EditReport, edit: str) -> PackTable:
    """Answers that an edit is about or changes, beside those of the same edit in matched rows."""
    control = report.control(edit)
    others = {
        (case.group, case.picture, case.prompt): case.after
        for case in report.cases
        if case.edit == control and case.draw == 0
    }
    cases = [
        case
        for case in report.cases
        if case.edit == edit and case.draw == 0 and (case.role == "target" or case.changed)
    ]
    rows = [
        (case.group, case.prompt, case.before, case.after)
        + ((others.get((case.group, case.picture, case.prompt), ""),) if control else ())
        for case in cases[:_ANSWERS]
    ]
    columns = ("prompts", "prompt", "clean", "edited", *(("matched rows, first draw",) if control else ()))
    count = f"{len(rows)} of {len(cases)} answers" if len(cases) > len(rows) else counted(len(cases), "answer")
    texts = tuple(tuple(shown(str(cell), _LETTERS) for cell in row) for row in rows)
    return PackTable(f"{edit}: {count} that it is about or changes", columns, texts)


def trace_pack(trace: GenerationTrace, picture: Image.Image | None, run: bool = False) -> Pack:
    """The texts, and the tokens with their probabilities."""
    probabilities = trace.logits.float().softmax(-1).gather(-1, trace.tokens[..., None].to(trace.logits.device))[..., 0]
    rows = [
        (sample, step, shown(word), float(probabilities[sample, step]))
        for sample, words in enumerate(trace.words)
        for step, word in enumerate(words)
    ]
    beside = f" {trace.beside[0].upper()}{trace.beside[1:]} was run beside it." if trace.beside else ""
    return Pack(
        "; ".join(repr(shown(text, _LETTERS)) for text in trace.text[:3]) + f" ({counted(len(trace.words), 'sample')})",
        f"Generated, with the states that predicted each token, of {counted(len(trace.states), 'point')}.{beside}",
        tables=(
            PackTable("Tokens", ("sample", "step", "token", "probability by the model's logits"), tuple(rows[:_STEPS])),
            PackTable("Points", ("name",), tuple((name,) for name in list(trace.states)[:_STEPS])),
        ),
        notes=(f"{len(rows) - _STEPS} more tokens.",) if len(rows) > _STEPS else (),
    )


def vector_pack(vector: SteeringVector, picture: Image.Image | None, run: bool = False) -> Pack:
    """What it is and where it comes from; what it does takes a model."""
    made = [(name, shown(str(value), _LETTERS)) for name, value in vector.provenance.items()]
    strongest = vector.direction.abs().topk(min(5, vector.width))
    entries = ", ".join(f"{int(entry)}: {float(vector.direction[entry]):.3g}" for entry in strongest.indices)
    share = float(strongest.values.square().sum() / vector.direction.square().sum())
    return Pack(
        f"Steering vector at {vector.at}: norm {vector.norm:.3g} in {vector.width} entries.",
        f"Its {len(strongest.indices)} largest entries hold {share:.0%} of its square: {entries}.",
        tables=(PackTable("How it was made", ("what", "value"), tuple(made)),) if made else (),
        notes=("What it does by strength, in the band of random vectors: mm.steering.dose_curve(model, vector, ...).",),
    )
