"""Claims about edits of the lab model."""

from functools import partial

from benchmarks.claims import measures
from benchmarks.claims.claim import Claim, Printed, Setting
from benchmarks.claims.quotes import cell, numbers

_README, _PAGE = "README.md", "docs/edits.md"
_MATCHED = (
    "### red -> blue beside matched rows, 80 scenes, 22 of them with red things "
    "(`--scenes 80 --draws 20 --method through`)"
)
_BELIEF = "### red -> blue and belief, 90 scenes (`--scenes 90 --draws 0 --belief-steps 60 --test-seed 4242`)"
_METHODS = "## red -> blue: methods, 200 held-out scenes"
_SQUARE, _FRONTIER = "## circle -> square: methods, 200 held-out scenes", "## red -> blue: frontier, 50 held-out scenes"
_SAYS, _AGREES, _CHANGED = "edit: says the target", "edit: agrees, before -> after", "edit: answers changed"
_THROUGH, _OTHER, _BY_BELIEF = "through, 20 rows", "through, matched rows (20 draws), 20 rows", "belief, 20 rows"
_COMMAND = "python -m benchmarks.edits --task red --part methods --method through --scenes 80 --draws 20"
_BELIEVED = (
    "python -m benchmarks.edits --task red --part methods --method belief --draws 0 --scenes 90 --belief-steps 60"
)
_ALL = "python -m benchmarks.edits"
_CHOSEN = "rows, learning rate and steps, on questions of the training stream (seeds 900 and 901)"
_FRESH = "80 scenes of the test stream, seed 92938447 (58a20cf), without captions of training"
_OLD = "90 scenes of the test stream, seed 4242"
_HELD_OUT = "200 scenes of the test stream, seed 0; three in ten of their captions were in training"
_ROWS = "20 draws of rows as active in the same layers"


def _of(heading: str, row: str, column: str, first: str) -> list[float]:
    """The numbers of a cell."""
    return numbers(cell(_PAGE, heading, row, column, first=first))


def _beside(setting: Setting) -> dict[str, float]:
    """The edit of the noun's rows beside that of matched ones."""
    own = _of(_MATCHED, _THROUGH, "same question", _SAYS)
    other = _of(_MATCHED, _OTHER, "same question", _SAYS)
    new, old = (_of(_MATCHED, _THROUGH, f"presence of the {which}", _AGREES) for which in ("new", "old"))
    new_other, old_other = (_of(_MATCHED, _OTHER, f"presence of the {which}", _AGREES) for which in ("new", "old"))
    named = _of(_MATCHED, _THROUGH, "source named, absent", _CHANGED)
    before = _of(_BELIEF, _THROUGH, "source named, absent", _CHANGED)
    size, matched_size = (_of(_MATCHED, row, "size", _SAYS)[0] for row in (_THROUGH, _OTHER))
    return {
        "own": own[0],
        "good": own[3],
        "draws": own[4],
        "matched": other[0],
        "low": other[1],
        "high": other[2],
        "new": new[1],
        "new_low": new[2],
        "new_high": new[3],
        "as_high": new[4],
        "old": old[1],
        "new_matched": new_other[1],
        "old_matched": old_other[1],
        "named": named[0],
        "named_low": named[1],
        "named_high": named[2],
        "before": before[0],
        "before_low": before[1],
        "before_high": before[2],
        "times": matched_size / size,
        "size": size,
        "matched_size": matched_size,
    }


def _believed(setting: Setting) -> dict[str, float]:
    """What belief brings, and what it costs."""
    size, through = (_of(_BELIEF, row, "size", _SAYS)[0] for row in (_BY_BELIEF, _THROUGH))
    named = _of(_BELIEF, _BY_BELIEF, "source named, absent", _CHANGED)
    presence = _of(_BELIEF, _BY_BELIEF, "presence of the new", _AGREES)
    return {
        "agrees": presence[1],
        "before": presence[0],
        "times": size / through,
        "size": size,
        "through": through,
        "named": named[0],
        "low": named[1],
        "high": named[2],
        "named_through": _of(_BELIEF, _THROUGH, "source named, absent", _CHANGED)[0],
        "without": _of(_BELIEF, _BY_BELIEF, "scenes without", _CHANGED)[0],
    }


def _methods(setting: Setting) -> dict[str, float]:
    """The edits through the network side by side, and the closed form over its strength."""
    sets = ("same question", "caption", "question, in writing", "caption, in writing")
    through = [_of(page, "through (20 rows)", name, "edit")[0] for page in (_METHODS, _SQUARE) for name in sets]
    direct = [_of(page, "direct (20 rows)", name, "edit")[0] for page in (_METHODS, _SQUARE) for name in sets]
    if len(set(through)) > 1:
        raise LookupError(f"The edits through the network do not succeed alike: {through}.")
    return {
        "success": through[0],
        "exact": _of(_METHODS, "through (20 rows)", "caption exact", "edit")[0],
        "least": min(direct),
        "most": max(direct),
    }


def _random(setting: Setting) -> dict[str, float]:
    """One draw of random rows by layer alone."""
    found = [
        _of(page, "through, random rows (20 rows)", name, "edit")[0]
        for page in (_METHODS, _SQUARE)
        for name in ("same question", "caption", "caption, in writing")
    ]
    return {"least": min(found), "most": max(found)}


def _price(setting: Setting) -> dict[str, float]:
    """What the closed form costs other answers."""
    others = [
        _of(_FRONTIER, f"b {beta} (20 rows)", "changed: other objects", "edit")[0] for beta in ("0.5", "1", "2", "4")
    ]
    return {"least": min(others), "most": max(others)}


_quoted = partial(Claim, cost="quoted", chosen=_CHOSEN)
_of_methods = partial(_quoted, command=_ALL, values=_methods, judged=_HELD_OUT)
_of_matched = partial(_quoted, command=_COMMAND, values=_beside, judged=_FRESH, control=_ROWS)
_of_belief = partial(_quoted, command=_BELIEVED, values=_believed, judged=_OLD, control="the edit without belief")
CLAIMS = (
    Claim(
        "edits, success",
        _README,
        "red to blue and circle to square succeed in {success:.2f} of the same questions, of captions, and of "
        "both asked in writing; "
        "answers about other objects changed in none. Right to the last word are {exact:.2f} of the red-to-blue captions",
        _ALL,
        "quoted",
        _methods,
        _CHOSEN,
        _HELD_OUT,
        "matched rows; see the next",
        again=measures.edit_success,
    ),
    _of_matched(
        "edits beside matched rows",
        _README,
        "other rows of the same layers that are as active do as well ({matched:.2f}, {good:d} of {draws:d} "
        "draws as good), and after "
        'the edit "is there a blue star" is yes in {new:.2f} of the scenes',
        again=measures.edit_presence,
    ),
    _of_belief(
        "belief",
        _README,
        "brings both to {agrees:.2f} on held-out scenes with the same rows, a change {times:.1f} times as "
        "large, and {named:.2f} of "
        "the questions that name red where nothing is ({named_through:.2f} without)",
    ),
    _of_methods("edits, closed form", _README, "The closed form succeeds in {least:.2f} to {most:.2f}"),
    Claim(
        "edits, price of the closed form",
        _README,
        "at the price of {least:.2f} to {most:.2f} of other answers, by strength",
        _ALL,
        "quoted",
        _price,
        _CHOSEN,
        "50 scenes of the test stream, seed 0",
    ),
    _of_matched(
        "edits, page: rows",
        _PAGE,
        "succeeds in {matched:.3f} [{low:.3f}, {high:.3f}] of the same questions, {good:d} of {draws:d} draws "
        "as good (with a change "
        "{times:.1f} times as large, {matched_size:.1f} against {size:.1f})",
    ),
    _of_methods(
        "edits, page: rows, as it stood",
        _PAGE,
        'the rows that write "red" are the place to edit | their edit succeeds in {success:.2f}',
    ),
    Claim(
        "edits, page: one random draw",
        _PAGE,
        "one draw of random rows in {least:.2f} to {most:.2f} |",
        _ALL,
        "quoted",
        _random,
        _CHOSEN,
        _HELD_OUT,
    ),
    _of_methods("edits, page: word", _PAGE, '"blue" is said in {success:.2f} of look-ups and captions'),
    _of_matched(
        "edits, page: presence",
        _PAGE,
        '"is there a red X" is no in {old:.3f} of scenes, as before the edit, and "is there a blue X" yes in '
        "{new:.3f} [{new_low:.3f}, "
        "{new_high:.3f}] (matched rows: {old_matched:.3f} and {new_matched:.3f}; {as_high:d} of {draws:d} draws as high)",
    ),
    _of_matched(
        "edits, page: other answers",
        _PAGE,
        "no other answer changes | 0.000 in four sets | {named:.3f} [{named_low:.3f}, {named_high:.3f}] of the "
        "questions that name the "
        "source where there is none, {before:.3f} [{before_low:.3f}, {before_high:.3f}] on other scenes",
    ),
    _of_belief(
        "edits, page: belief",
        _PAGE,
        "presence of the old and of the new agree in {agrees:.2f} (from {before:.2f}) on held-out scenes; "
        "reverse look-ups stay where "
        "they were. It costs a change of {size:.1f} for {through:.1f}, 60 steps of three batches for at most 50 "
        "of two, {without:.3f} of "
        "the answers in scenes without, and {named:.2f} [{low:.2f}, {high:.2f}] of the questions that name the "
        "source where there is "
        "none for {named_through:.2f}",
    ),
    Claim(
        "edits, page: time",
        _PAGE,
        "applied and reverted 1000 times: median {milliseconds:.2f} ms of CPU",
        _ALL,
        "cheap",
        measures.applied,
    ),
)
PRINTED = (
    Printed("edits, matched rows", _PAGE, _MATCHED, _COMMAND, "", _CHOSEN, _FRESH, _ROWS),
    Printed("edits, belief", _PAGE, _BELIEF, _BELIEVED, "", _CHOSEN, _OLD, "the edit without belief"),
    Printed("edits, red to blue", _PAGE, _METHODS, _ALL, "", _CHOSEN, _HELD_OUT, "one draw of rows by layer alone"),
    Printed("edits, circle to square", _PAGE, _SQUARE, _ALL, "", _CHOSEN, _HELD_OUT, "one draw of rows by layer alone"),
    Printed("edits, frontier", _PAGE, _FRONTIER, _ALL, "", _CHOSEN, "50 scenes of the test stream, seed 0"),
)
