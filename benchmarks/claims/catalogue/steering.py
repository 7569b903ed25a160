"""Claims about steering the lab model."""

from benchmarks.claims import measures
from benchmarks.claims.claim import Claim, Printed, Setting
from benchmarks.claims.documents import Document
from benchmarks.claims.quotes import cell, numbers

_README, _PAGE = "README.md", "docs/steering.md"
_COMMAND, _WORDS = (
    "python -m benchmarks.steering",
    "python -m benchmarks.steering --part words --scenes 40 --layers 4 5 --each 48",
)
_CHOSEN = "layer, strength and positions, on 96 prompts of the training stream (seed 91)"
_HELD_OUT = "100 prompts of the test stream, seed 163; three in ten of their captions were in training"
_OTHER = "40 prompts of the test stream, seed 163"
_GATED = tuple(f"### {task}, under the same gates" for task in ("yes to no", "white to black"))
_SMALL = "python -m benchmarks.steering --part methods --scenes 40 --tried 24 --taught 48"
_FRESH = "40 prompts of the test stream, seed 92938447 (58a20cf), of scenes without captions of training"
_CONTROL = "isotropic random vectors of equal norm under the same gate"
_BESIDE = "the unembedding difference of the words; directions of the states' covariance; isotropic ones"
_FLIPPED, _LOST = "became what is wanted", "others: score lost"
_METHODS = ("coarse", "coarse, gated", "fine, gated")
#: README's rows, and the page's headings.
_TASKS = {
    "yes to no": "yes to no",
    "one to three": "one to three",
    "white to black": "white to black",
    "answers of other kinds to a colour": "answer type: colour",
    "answered hazards to refusals": "safety: hazards",
    '"a man", "a woman" to "a person"': "debiasing",
    "captions with the ground's texture": "style: place",
    "captions with the light": "style: mood",
}
_COMPARED = ("yes to no", "white to black", "one to three")


def _row(setting: Setting, task: str) -> dict[str, float]:
    """What flips and what is lost, by method."""
    found = {}
    for number, method in enumerate(_METHODS):
        row = {"method": method}
        found[f"flipped{number}"] = numbers(cell(_PAGE, f"## {task}", row, _FLIPPED, first="method"))[0]
        found[f"lost{number}"] = numbers(cell(_PAGE, f"## {task}", row, _LOST, first="method"))[0]
    return found


def _beside(setting: Setting) -> dict[str, float]:
    """The most that random vectors flip, and at how many layers and strengths the words do at least as much."""
    rows = [row for task in _COMPARED for row in Document(_PAGE).table(f"### {task}", first="layer")]
    behind = [row for row in rows if float(row["words"]) < float(row["vector"])]
    if behind:
        raise LookupError(f"The words flip less than the vector in {behind}.")
    isotropic = [
        numbers(cell(_PAGE, f"## {task}", {"method": method}, "random", first="method"))[0]
        for task in _COMPARED
        for method in _METHODS
    ]
    return {"isotropic": max(isotropic), "covariance": max(float(row["covariance"]) for row in rows)}


def _gated(setting: Setting) -> dict[str, float]:
    """What the words flip under the gates of the two vectors, which flip as many.

    Raises:
        LookupError: if the table says something else.
    """
    tables = [Document(_PAGE).table(heading, first="method") for heading in _GATED]
    rows = [row for table in tables for row in table if "gated" in row["method"]]
    less = [row for row in rows if float(row["words"]) < numbers(row[_FLIPPED])[0]]
    if less:
        raise LookupError(f"The words flip less under the gates of {less}.")
    return {"coarse": float(rows[0]["words"]), "fine": float(rows[1]["words"])}


def _page_row(setting: Setting, task: str) -> dict[str, float]:
    """The ends of what flips, in the tables of chosen vectors; and where the words do better at half strength."""
    flipped = [numbers(cell(_PAGE, f"## {task}", {"method": name}, _FLIPPED, first="method"))[0] for name in _METHODS]
    random = [numbers(cell(_PAGE, f"## {task}", {"method": name}, "random", first="method"))[0] for name in _METHODS]
    half = [row for row in Document(_PAGE).table(f"### {task}", first="layer") if row["alpha"] == "0.5"]
    return {
        "low": min(flipped),
        "high": max(flipped),
        "random": max(random),
        **{f"words{row['layer']}": float(row["words"]) for row in half},
        **{f"vector{row['layer']}": float(row["vector"]) for row in half},
    }


def _stands_out(setting: Setting) -> dict[str, float]:
    """The better of the two gated vectors, where it is asked for a word, a refusal, a person, a texture or the light."""
    rows = {task: _row(setting, task) for task in _TASKS.values()}
    best = [max(row["flipped1"], row["flipped2"]) for task, row in rows.items() if not task.startswith("answer type")]
    return {
        "least": min(best),
        "most": max(best),
        "color": rows["answer type: colour"]["flipped2"],
        "no": rows["yes to no"]["lost0"],
        "three": rows["one to three"]["lost0"],
        "person": rows["debiasing"]["lost0"],
    }


def _claim(name: str, document: str, text: str, values: object, *, compared: bool = False) -> Claim:
    command, judged, control = (_WORDS, _OTHER, _BESIDE) if compared else (_COMMAND, _HELD_OUT, _CONTROL)
    return Claim(name, document, text, command, "quoted", values, "" if compared else _CHOSEN, judged, control)


CLAIMS = (
    *(
        _claim(
            f"steering, {task}",
            _README,
            f"{said} | {{flipped0:.2f}} / {{lost0:.3f}} | {{flipped1:.2f}} / {{lost1:.3f}} | {{flipped2:.2f}} / "
            f"{{lost2:.3f}} |",
            lambda setting, task=task: _row(setting, task),
        )
        for said, task in _TASKS.items()
    ),
    Claim(
        "steering beside words",
        _README,
        "Isotropic random vectors of equal norm flip at most {isotropic:.2f}",
        _COMMAND,
        "quoted",
        _beside,
        _CHOSEN,
        _HELD_OUT,
        _BESIDE,
    ),
    Claim(
        "steering beside covariance",
        _README,
        "directions drawn from the states' covariance flip up to {covariance:.2f}",
        _WORDS,
        "quoted",
        _beside,
        "",
        _OTHER,
        _BESIDE,
    ),
    Claim(
        "steering, gates",
        _README,
        "under the same gates the words flip as many of white to black, and of yes to no ({coarse:.2f} at the "
        "coarse vector's, "
        "{fine:.2f} at the fine one's",
        _SMALL,
        "quoted",
        _gated,
        _CHOSEN.replace("96", "24"),
        _FRESH,
        _BESIDE,
    ),
    Claim(
        "steering beside covariance, fresh",
        _README,
        "({fresh:.2f} on 24 fresh prompts at the last layer)",
        "python -m benchmarks.claims --only 'steering beside covariance, fresh'",
        "cheap",
        measures.no_more_than_words,
        judged="24 prompts of the fresh seed, of scenes without captions of training",
        control=_BESIDE,
    ),
    _claim(
        "steering, page: yes to no",
        _PAGE,
        "steering yes to no flips {low:.2f} to {high:.2f}, random vectors {random:.2f} |",
        lambda setting: _page_row(setting, "yes to no"),
    ),
    _claim(
        "steering, page: white to black",
        _PAGE,
        "white to black | {low:.2f} to {high:.2f}, random {random:.2f} | the words do as well, at half strength better "
        "({words4:.2f} and {words5:.2f} against {vector4:.2f})",
        lambda setting: _page_row(setting, "white to black"),
        compared=True,
    ),
    _claim(
        "steering, page: one to three",
        _PAGE,
        "one to three | {low:.2f} to {high:.2f}, random {random:.2f} | the words do as well, at layer 5 and "
        "half strength better "
        "({words5:.2f} against {vector5:.2f})",
        lambda setting: _page_row(setting, "one to three"),
        compared=True,
    ),
    _claim(
        "steering, page: random vectors",
        _PAGE,
        "random vectors do nothing | isotropic ones: 0.00 | true of isotropic ones; directions drawn from the "
        "states' own covariance flip "
        "up to {covariance:.2f} of yes to no",
        _beside,
        compared=True,
    ),
    _claim(
        "steering, page: what stands out",
        _PAGE,
        "changes {least:.2f} to {most:.2f} of what is asked and loses nothing else, often in the middle layers "
        "already; turning an answer "
        "of any kind into a colour works in {color:.2f}",
        _stands_out,
    ),
    _claim(
        "steering, page: cost",
        _PAGE,
        'other prompts pay: {no:.2f} for "no" (a third of the places), {three:.2f} for "three" (two thirds of '
        "the other counts), "
        '{person:.2f} for "a person"',
        _stands_out,
    ),
    Claim(
        "steering, page: fine vectors",
        _PAGE,
        "by effect: {leading:d} of {all:d} lead to 'no'. Selection({chosen:d} of {same:d} interventions, over "
        "{answers:d} answers)",
        _COMMAND,
        "slow",
        chosen=_CHOSEN,
        judged="96 validation prompts",
    ),
    *(
        Claim(
            f"steering, page: words kept, {method}",
            _PAGE,
            f"{method}: all other words kept in {{mean:.3f}} [{{low:.3f}}, {{high:.3f}}] of the captions",
            _COMMAND,
            "slow",
            chosen=_CHOSEN,
            judged=_HELD_OUT,
        )
        for method in ("captions coarse, gated", "captions fine, gated")
    ),
    Claim(
        "steering, page: words kept, coarse",
        _PAGE,
        "validation scenes: coarse: all other words kept in {mean:.3f} [{low:.3f}, {high:.3f}] of the captions coarse",
        _COMMAND,
        "slow",
        chosen=_CHOSEN,
        judged=_HELD_OUT,
    ),
)
PRINTED = (
    *(
        Printed(
            f"steering, gates: {heading.strip('# ')}",
            _PAGE,
            heading,
            _SMALL,
            "",
            _CHOSEN.replace("96", "24"),
            _FRESH,
            _BESIDE,
        )
        for heading in _GATED
    ),
    *(
        Printed(f"steering beside words, {task}", _PAGE, f"### {task}", _WORDS, "layer", "", _OTHER, _BESIDE)
        for task in _COMPARED
    ),
    *(
        Printed(f"steering, {task}, table", _PAGE, f"## {task}", _COMMAND, "", _CHOSEN, _HELD_OUT, _CONTROL)
        for task in (*_TASKS.values(), "style: colour of signs")
    ),
)
