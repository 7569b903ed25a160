"""Claims about the neurons of the lab model."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from benchmarks.claims import measures
from benchmarks.claims.claim import Claim, Figure, Printed, Setting
from benchmarks.claims.quotes import cell, numbers, quoted

_README, _PAGE = "README.md", "docs/findings.md"
_FEW = "## What a sceptic's controls leave of it"
_ALL = "## Properties, Measurements(47 quantities of 7 choices of neurons, 200 samples, 24 nouns)"
_OVER_K, _LAYERS = (
    "## Ablation over k, 50 scenes",
    "## Maps by layer, Measurements(2 quantities of 16 choices of neurons, 98 samples, 25 nouns)",
)
_COMMAND = "python -m benchmarks.findings --scenes 200"
_CONTROLS = "python -m benchmarks.findings --part controls --scenes 16"
_MEAN, _MINUS = "mean [95%]", "minus random, same layers"
_METHODS = {"contribution": "contribution", "gradient": "gradient_x_activation", "activation": "activation"}
_HELD_OUT = "200 scenes of the test stream, seed 0; three in ten of their captions were in training"
_OTHER = "16 scenes of the test stream, seed 4242"
Measure: TypeAlias = Callable[[Setting], Mapping[str, Figure | float]]
_RANDOM = "random neurons of the same layers; other pictures, nouns and objects"


def _row(quantity: str, other: str = "") -> Callable[[Setting], Mapping[str, Figure | float]]:
    """The three methods' means of a quantity (and of its control), and that of random neurons."""

    def values(setting: Setting) -> Mapping[str, Figure | float]:
        found: dict[str, Figure | float] = {}
        for name, method in _METHODS.items():
            found[name] = quoted(_PAGE, _ALL, {"quantity": quantity, "neurons": method}, _MEAN)
            if other:
                found[f"{name}_other"] = quoted(_PAGE, _ALL, {"quantity": other, "neurons": method}, _MEAN)
        row = {"quantity": quantity, "neurons": "contribution"}
        random = quoted(_PAGE, _ALL, row, _MEAN) - quoted(_PAGE, _ALL, row, _MINUS)
        return found | {"random": abs(random) if abs(random) < 0.005 else random}

    return values


def _few(quantity: str, column: str = _MEAN, neurons: str = "contribution") -> float:
    return quoted(_PAGE, _FEW, {"quantity": quantity, "neurons": neurons}, column, first="quantity")


def _beside_controls(setting: Setting) -> dict[str, float]:
    """What is left beside active neurons and weights."""
    odds = "log odds of the noun, zeroed (change in nats)"
    among = "noun among its words (share of neurons)"
    return {
        "odds": _few(odds),
        "odds_matched": _few(odds, "random, as active [95%]"),
        "matched": _few(among, "random, as active [95%]"),
        "weights": _few(among, neurons="weights alone"),
    }


def _left(setting: Setting) -> dict[str, float]:
    """The same for the table of the page."""
    among, true = "noun among its words (share of neurons)", "words that are true of the picture (share of words)"
    odds = "log odds of the noun, zeroed (change in nats)"
    matched = "random, as active [95%]"
    low, high = numbers(cell(_PAGE, _FEW, {"quantity": among, "neurons": "contribution"}, matched, first="quantity"))[
        1:3
    ]
    own_low, own_high = numbers(
        cell(_PAGE, _FEW, {"quantity": odds, "neurons": "contribution"}, _MEAN, first="quantity")
    )[1:3]
    other = numbers(cell(_PAGE, _FEW, {"quantity": odds, "neurons": "contribution"}, matched, first="quantity"))
    true_low, true_high = numbers(
        cell(_PAGE, _FEW, {"quantity": true, "neurons": "contribution"}, matched, first="quantity")
    )[1:3]
    return {
        "among": _few(among),
        "matched": _few(among, matched),
        "low": low,
        "high": high,
        "weights": _few(among, neurons="weights alone"),
        "true": _few(true),
        "true_matched": _few(true, matched),
        "true_low": true_low,
        "true_high": true_high,
        "true_weights": _few(true, neurons="weights alone"),
        "odds": _few(odds),
        "odds_low": own_low,
        "odds_high": own_high,
        "odds_matched": other[0],
        "odds_matched_low": other[1],
        "odds_matched_high": other[2],
    }


def _as_it_stood(setting: Setting) -> dict[str, float]:
    """What the table of all properties says."""
    among, true = "noun among its words (share of neurons)", "words that are true of the picture (share of words)"
    odds = "log odds of the noun, zeroed (change in nats)"
    found = {}
    for name, quantity in (("among", among), ("true", true), ("odds", odds)):
        row = {"quantity": quantity, "neurons": "contribution"}
        found[name] = quoted(_PAGE, _ALL, row, _MEAN)
        found[f"{name}_random"] = abs(found[name] - quoted(_PAGE, _ALL, row, _MINUS))
    return found


def _maps(setting: Setting) -> dict[str, float]:
    row = {"quantity": "IoU of magnitudes (IoU)", "neurons": "all but the last"}
    return {"iou": quoted(_PAGE, _LAYERS, row, _MEAN), "beyond": quoted(_PAGE, _LAYERS, row, _MINUS)}


def _sure(setting: Setting) -> dict[str, float]:
    quantity = "log p of the noun, zeroed (change in nats)"
    few = quoted(_PAGE, _ALL, {"quantity": quantity, "neurons": "contribution"}, _MEAN)
    many = quoted(_PAGE, _OVER_K, {"quantity": quantity, "neurons": "contribution", "k": "200"}, _MEAN)
    return {"few": -few, "many": -many}


def _of_readme(name: str, text: str, quantity: str, other: str = "", again: Measure | None = None) -> Claim:
    return Claim(
        name, _README, text, _COMMAND, "quoted", _row(quantity, other), judged=_HELD_OUT, control=_RANDOM, again=again
    )


CLAIMS = (
    _of_readme(
        "the noun among words",
        "the noun among their 5 words | {contribution:.3f} | **{gradient:.3f}** | **{activation:.3f}** | {random:.3f} |",
        "noun among its words (share of neurons)",
        again=measures.noun_among_words,
    ),
    _of_readme(
        "shared by two pictures",
        "shared by two pictures of the noun; of another noun | {contribution:.3f}; {contribution_other:.3f} | "
        "**{gradient:.3f}**; {gradient_other:.3f} | **{activation:.3f}**; {activation_other:.3f} | {random:.3f} |",
        "shared by two pictures (share of neurons)",
        "shared by pictures of two nouns (share of neurons)",
    ),
    _of_readme(
        "shared with the writing",
        "shared by a picture and its writing; another noun's writing | {contribution:.3f}; {contribution_other:.3f} | "
        "**{gradient:.3f}**; {gradient_other:.3f} | **{activation:.3f}**; {activation_other:.3f} | {random:.3f} |",
        "shared with the writing (share of neurons)",
        "shared with the writing of another noun (share of neurons)",
    ),
    _of_readme(
        "IoU",
        "IoU of their mean map with the named object | {contribution:.3f} | **{gradient:.3f}** | "
        "**{activation:.3f}** | {random:.3f} |",
        "IoU (IoU)",
    ),
    _of_readme(
        "IoU, magnitudes",
        "IoU, magnitudes of activations | {contribution:.3f} | {gradient:.3f} | {activation:.3f} | {random:.3f} |",
        "IoU, magnitudes (IoU)",
    ),
    _of_readme(
        "log-odds",
        "log-odds of the noun with them zeroed, nats | {contribution:.2f} | **{gradient:.2f}** | "
        "**{activation:.2f}** | {random:.2f} |",
        "log odds of the noun, zeroed (change in nats)",
    ),
    Claim(
        "the noun among words, new captions",
        _README,
        "On 28 scenes whose captions training never had the first row is lower, {contribution:.2f} [{low:.2f}, "
        "{high:.2f}], "
        "{gradient:.2f}, {activation:.2f} and {random:.2f}, in the same order",
        "python -m benchmarks.claims --only 'the noun among words, new captions'",
        "cheap",
        measures.noun_among_words,
        judged="28 scenes of the fresh seed, without captions of training",
        control=_RANDOM,
    ),
    Claim(
        "neurons beside controls",
        _README,
        "the effect of zeroing stands ({odds:.1f}, theirs {odds_matched:.2f}) and the words do not: as active "
        "ones write the noun "
        "in {matched:.2f}, and neurons chosen by weights alone in {weights:.2f}, more than those that were found",
        _CONTROLS,
        "quoted",
        _beside_controls,
        judged=_OTHER,
        control="20 draws of neurons as active; weights alone",
        again=measures.beside_controls,
    ),
    Claim(
        "maps of magnitudes",
        _README,
        "maps of magnitudes without it reach IoU {iou:.3f}, {beyond:.3f} above random neurons'",
        _COMMAND,
        "quoted",
        _maps,
        judged="100 scenes of the test stream, seed 2",
        control=_RANDOM,
    ),
    Claim(
        "sure words",
        _README,
        "Twenty neurons move a word that the model is sure of by {few:.2f} nats of log-probability, two hundred "
        "by {many:.1f}",
        _COMMAND,
        "quoted",
        _sure,
        judged=_HELD_OUT,
        control=_RANDOM,
        again=measures.sure_words,
    ),
    Claim(
        "neurons, words",
        _PAGE,
        "neurons write the noun | {among_old:.2f} of them, random ones {among_random:.2f} | {among:.2f}; as "
        "active ones {matched:.2f} "
        "[{low:.2f}, {high:.2f}], 0 of 20 draws as high; **the weights alone {weights:.2f}, which is more**",
        _CONTROLS,
        "quoted",
        lambda setting: _named(setting, "among"),
        judged=_OTHER,
        control="20 draws of neurons as active; weights alone",
    ),
    Claim(
        "neurons, true words",
        _PAGE,
        "their words are true of the picture | {true_old:.2f} of the words, random {true_random:.2f} | "
        "{true:.2f}; as active "
        "{true_matched:.2f} [{true_low:.2f}, {true_high:.2f}]; the weights alone {true_weights:.2f} |",
        _CONTROLS,
        "quoted",
        lambda setting: _named(setting, "true"),
        judged=_OTHER,
        control="20 draws of neurons as active; weights alone",
    ),
    Claim(
        "neurons, zeroed",
        _PAGE,
        "the noun leans on them | {odds_old:.1f} nats of log-odds when zeroed, random {odds_random:.2f} | {odds:.1f} "
        "[{odds_low:.1f}, {odds_high:.1f}]; as active ones {odds_matched:.2f} [{odds_matched_low:.2f}, "
        "{odds_matched_high:.2f}], no draw "
        "near: **this holds** |",
        _CONTROLS,
        "quoted",
        lambda setting: _named(setting, "odds"),
        judged=_OTHER,
        control="20 draws of neurons as active",
    ),
)


def _named(setting: Setting, quantity: str) -> dict[str, float]:
    """What the page's table of controls says of a quantity, and what stood before."""
    old = _as_it_stood(setting)
    return _left(setting) | {f"{quantity}_old": old[quantity], f"{quantity}_random": old[f"{quantity}_random"]}


PRINTED = (
    Printed(
        "neurons, controls",
        _PAGE,
        _FEW,
        _CONTROLS,
        "quantity",
        judged=_OTHER,
        control="random, as active, weights alone",
    ),
    Printed("neurons, all properties", _PAGE, _ALL, _COMMAND, judged=_HELD_OUT, control=_RANDOM),
    Printed("neurons, methods", _PAGE, "## contribution against the others", _COMMAND, judged=_HELD_OUT),
    Printed(
        "neurons, over k", _PAGE, _OVER_K, _COMMAND, judged="50 scenes of the test stream, seed 1", control=_RANDOM
    ),
    Printed(
        "neurons, noise",
        _PAGE,
        "## Noise over sigma",
        _COMMAND,
        judged="50 scenes of the test stream, seed 1",
        control=_RANDOM,
    ),
    Printed(
        "neurons, layers", _PAGE, _LAYERS, _COMMAND, judged="100 scenes of the test stream, seed 2", control=_RANDOM
    ),
)
