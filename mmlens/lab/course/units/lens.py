"""Unit 6, the logit lens and its control: what a state says when it is read as if it were the last."""

from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.corruptions.multi_level import shuffle
from mmlens.lab.course.answers import Choice, Number
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.course.setting import clean, corrupted, moon_rows, patched, picture_rows
from mmlens.models.hooked import HookedMultimodal

GROUPS = ("moon", "rest of the picture", "words", "last")


def _read(
    model: HookedMultimodal, batch: MultimodalBatch, layer: int, rows: list[int], word: str, *, norm: bool = True
) -> float:
    """Mean probability of a word at some rows behind a block, by the bare norm and unembedding."""
    _, cache = model.run_with_cache(batch, names=f"blocks.{layer}.hook_resid_post")
    states = cache["resid_post", layer][0, rows]
    states = model.ln_final(states) if norm else states
    return float((states @ model.W_U).softmax(-1)[:, model.to_single_token(word)].mean())


def _on_moon(model: HookedMultimodal, *, mixed: bool = False) -> float:
    batch = shuffle(model, clean(model), seed=0) if mixed else clean(model)
    return _read(model, batch, 3, moon_rows(model), "moon")


def _holding(model: HookedMultimodal) -> str:
    """The group of rows whose clean states in front of layer 2 bring the colour back the most."""
    batch, moon = clean(model), moon_rows(model)
    picture = picture_rows(model, batch).tolist()
    last = batch["input_ids"].shape[1] - 1
    words = sorted({*range(last)} - {*picture})
    rows = dict(zip(GROUPS, (moon, sorted({*picture} - {*moon}), words, [last]), strict=True))
    effects = {
        name: patched(model, batch, corrupted(model), {"blocks.2.hook_resid_pre": at}) for name, at in rows.items()
    }
    return max(effects, key=effects.__getitem__)


EXERCISES = (
    Exercise(
        "lens.1",
        'the probability of "red" that the logit lens reads at the last position behind block 0',
        Number("probability", relative=0.01),
        lambda model: _read(model, clean(model), 0, [-1], "red"),
        "the state goes through the final norm and the unembedding, then softmax.",
        (
            Slip(
                lambda model: _read(model, clean(model), 0, [-1], "red", norm=False),
                "the lens reads a state as the last one would be read: the final norm comes first.",
            ),
            Slip(
                lambda model: _read(model, clean(model), model.cfg.n_layers - 1, [-1], "red"),
                "that is behind the last block.",
            ),
        ),
        lambda model: 0.01,
    ),
    Exercise(
        "lens.2",
        'the mean probability of "moon" at the moon\'s rows behind block 3',
        Number("probability"),
        _on_moon,
        'mm.logit_lens(model, batch, positions=..., words=["moon"]), or by hand as before, on batch.layout.patches(moon.box).',
        (
            Slip(
                lambda model: _read(model, clean(model), 3, picture_rows(model, clean(model)).tolist(), "moon"),
                "that is the mean over the whole picture.",
            ),
            Slip(lambda model: _read(model, clean(model), 3, moon_rows(model), "red"), 'that is "red".'),
        ),
        lambda model: 0.01,
    ),
    Exercise(
        "lens.3",
        "by how much it is above the same at the same rows of the picture with its patches shuffled (mm.corrupt.shuffle, seed 0)",
        Number("probability", relative=0.03),
        lambda model: _on_moon(model) - _on_moon(model, mixed=True),
        "the same reading of both batches, and the difference: the lens always says something.",
        (
            Slip(_on_moon, "that is the reading itself, without the control."),
            Slip(lambda model: _on_moon(model, mixed=True), "that is the control; the question is the difference."),
        ),
        lambda model: 0.0,
    ),
    Exercise(
        "lens.4",
        "the group of rows in which the colour of the moon stands in front of layer 2, by patching",
        Choice(GROUPS),
        _holding,
        "what the lens does not say may be there all the same: patch each group into the run about the blue moon.",
        (
            Slip(
                lambda model: "last",
                'there the lens reads "red" behind block 2: in front of it the colour has not come yet.',
            ),
        ),
        lambda model: "words",
    ),
)
