"""Claims about what fine-tuning does to the lab model's concepts."""

from functools import partial

from benchmarks.claims.claim import Claim, Printed, Setting
from benchmarks.claims.documents import Document
from benchmarks.claims.quotes import numbers

_README, _PAGE = "README.md", "docs/shift.md"
_FEW, _EVERY = "## What a sceptic's controls leave of it", "## Every set of words"
_LAYERS, _COMMAND = "python -m benchmarks.shift --part layers --scenes 120", "python -m benchmarks.shift"
_OTHER = "120 scenes of the test stream, seed 4242"
_HELD_OUT = "400 scenes of the test stream, seed 3; three in ten of their captions were in training"
_OTHERS = "other concepts' shifts of equal length; matches from other scenes"
_SAME, _HELD = "recovery, distance, same samples", "recovery, distance, held out"
_BEYOND = "held out minus these"


def _above(cell: str) -> bool:
    """Whether an interval lies above zero."""
    return numbers(cell)[-2] > 0


def _layers(setting: Setting) -> dict[str, float]:
    """What is left of recovery and correlation where matches are held out."""
    rows = Document(_PAGE).table(_FEW, first="tune, layer")
    first = [row for row in rows if row["tune, layer"].endswith("layer 0")]
    later = [row for row in rows if row not in first]

    def ends(some: list[dict[str, str]], column: str) -> tuple[float, float]:
        means = [numbers(row[column])[0] for row in some]
        return min(means), max(means)

    names = list(rows[0])
    r, p = names.index("consistency and recovery, held out: r"), "consistency and recovery, held out: r"
    passed = [row for row in rows if numbers(list(row.values())[r])[0] > 0]
    beyond = [row for row in rows if _above(row[_BEYOND])]
    strong = [row for row in rows if numbers(row[p])[1] > 0 and numbers(row[p])[0] >= 0.8]
    same, early, late, more = (
        ends(rows, _SAME), ends(first, _HELD), ends(later, _HELD), ends(rows, _BEYOND)
    )  # fmt: skip
    return {
        "rows": len(rows),
        "same_low": same[0],
        "same_high": same[1],
        "early_low": early[0],
        "early_high": early[1],
        "late_low": late[0],
        "late_high": late[1],
        "beyond": len(beyond),
        "beyond_low": more[0],
        "beyond_high": more[1],
        "positive": len(passed),
        "strong": len(strong),
        **dict(zip(("r", "r_low", "r_high"), numbers(strong[0][p]), strict=True)),
    }


def _every_set(setting: Setting) -> dict[str, float]:
    """Of the same samples: counts over all tunes, words and layers, and the last layer."""
    rows = Document(_PAGE).table(_EVERY, first="tune")
    gains = [row["T-Overlap: before, shifted, gain"] for row in rows]
    last = Document(_PAGE).table("## All nouns, layer 5", first="tune")
    tunes = [row for row in last if row["tune"] != "together"]
    together = [
        numbers(table[-1]["consistency, recovery_distance"])[0]
        for layer in range(2, 6)
        for table in [Document(_PAGE).table(f"## All nouns, layer {layer}", first="tune | consistency")]
    ]
    distances = [numbers(row["recovery, distance"])[0] for row in tunes]
    overlaps = [numbers(row["T-Overlap gain"])[0] for row in tunes]
    return {
        "all": len(rows),
        "distance": sum(_above(row["recovery, distance"]) for row in rows),
        "overlap": sum(_above(gain) for gain in gains),
        "low": min(distances),
        "high": max(distances),
        "overlap_low": min(overlaps),
        "overlap_high": max(overlaps),
        "r_low": min(together),
        "r_high": max(together),
    }


def _tests(setting: Setting) -> dict[str, float]:
    """How many rows are tested together, of how many concepts, and the smallest p that these can have."""
    rows = Document(_PAGE).table(_FEW, first="tune, layer")
    return {
        "rows": len(rows),
        "concepts": max(numbers(row["concepts"])[0] for row in rows),
        "smallest": min(numbers(row["p"])[0] for row in rows),
    }


_quoted = partial(Claim, cost="quoted", model="lab, three LoRA tunes")
_of_layers = partial(_quoted, command=_LAYERS, values=_layers, judged=_OTHER, control=_OTHERS)
_of_tests = partial(_quoted, command=_LAYERS, values=_tests, judged=_OTHER)
_of_same = partial(
    _quoted, command=_COMMAND, values=_every_set, judged=_HELD_OUT,
    control="random shifts, and other concepts', of equal length",
)  # fmt: skip
CLAIMS = (
    _of_same(
        "shift, same samples",
        _README,
        "shifted concepts lie nearer to the tuned ones (distance recovery above zero in {distance:d} of "
        "{all:d}, at the last layer "
        "{low:.2f} to {high:.2f}), and say more of their words (T-Overlap {overlap_low:+.2f} to {overlap_high:+.2f} there, "
        "{overlap:d} of 108 intervals above zero)",
    ),
    _of_layers(
        "shift, held out",
        _README,
        "recovery is {late_low:.2f} to {late_high:.2f} at layers 1 to 5 and {early_low:.2f} to {early_high:.2f} "
        "at layer 0: most of "
        "it was the samples' own; it goes beyond other concepts' shifts in {beyond:d} of {rows:d}, corrected. "
        "That consistency goes "
        "with recovery is left at {strong:d} of 18 layers and tunes after correction",
    ),
    _of_layers(
        "shift, page: recovery",
        _PAGE,
        "recovery in distance {same_low:.2f} to {same_high:.2f} in these {rows:d} rows | held out {early_low:.2f} to "
        "{early_high:.2f} at layer 0 and **{late_low:.2f} to {late_high:.2f} at layers 1 to 5**: most of it was "
        "the samples' own |",
    ),
    _of_layers(
        "shift, page: own",
        _PAGE,
        "beyond other concepts' in 108 of 108 | held out, in {beyond:d} of {rows:d} after correction ({beyond_low:.2f} to "
        "{beyond_high:.2f} beyond): **this holds** |",
    ),
    _of_layers(
        "shift, page: consistency",
        _PAGE,
        "r = 0.46, p = 2e-4 at the last layer, three tunes pooled | positive in {positive:d} of {rows:d} rows "
        "held out, above zero "
        "after correction in **{strong:d} of 18** (mood, layer 3: r = {r:.2f} [{r_low:.2f}, {r_high:.2f}])",
    ),
    _of_tests(
        "shift, page: smallest p",
        _PAGE,
        "for the {rows:d} rows (at 12 concepts the smallest possible is {smallest:.4f})",
    ),
    _of_tests("shift, page: concepts", _PAGE, "Same samples: 20 concepts, held out: {concepts:d}."),
    _of_same(
        "shift, page: same samples",
        _PAGE,
        "(in distance {distance:d} of {all:d}, T-Overlap {overlap:d} of 108), beyond other concepts' shifts",
    ),
    Claim(
        "shift, page: correlation",
        _PAGE,
        "for distance at the later layers (r = {r_low:.2f} to {r_high:.2f} over the three tunes pooled, each p "
        "for itself), not "
        "for cosine, and at the first layer not at all; corrected for the number of layers and tunes, and held "
        "out, it is left at "
        "one of 18",
        _COMMAND,
        "quoted",
        _every_set,
        judged=_HELD_OUT,
        control="",
        model="lab, three LoRA tunes",
    ),
)
_SAME_SCENES = {
    "judged": _HELD_OUT,
    "model": "lab, three LoRA tunes",
    "control": "other concepts' shifts of equal length",
}
PRINTED = (
    Printed("shift, layers", _PAGE, _FEW, _LAYERS, "tune, layer", "", _OTHER, _OTHERS, "lab, three LoRA tunes"),
    *(
        Printed(f"shift, all nouns, layer {layer}", _PAGE, f"## All nouns, layer {layer}", _COMMAND, **_SAME_SCENES)
        for layer in range(6)
    ),
    Printed("shift, every set", _PAGE, _EVERY, _COMMAND, **_SAME_SCENES),
)
