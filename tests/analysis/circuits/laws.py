"""Which circuits each family has, and by which law it has no others: the table of docs/circuits.md.

`python -m tests.analysis.circuits.laws` writes it.
"""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests.families import FAMILIES
from tests.tiny import Tiny, picture

PAGE = Path(__file__).parents[3] / "docs" / "circuits.md"
METRIC = mm.metrics.logit_difference("red", "blue")
#: The laws, by a letter, in the words that the page explains, and how a refusal by each begins.
LAWS = {
    "A": (
        "the streams of a model are sums of what branches write",
        r"is not the sum|is no sum|changes its rows on the way",
    ),
    "B": ("a branch reads one stream", r"are made of two sequences|branches that read one stream|joins the streams"),
    "C": ("the projector reads one stream, at its end", r"circuits across\s+towers need one stream"),
    "D": ("a head has points in the path of its attention", r"cannot be told apart"),
    "E": (
        "a head's stream is what the norm in front of it returns",
        r"of their own|receives something else|has no norm|code of its own|not computed from what",
    ),
    "F": ("rows of a stream stay whose they are", r"rows are others|where they are added"),
    "G": ("a metric is of words that a model writes", r"needs a model that writes words"),
}
#: What is tried, in the order of the table: nodes, edges and towers.
COLUMNS: dict[str, dict[str, Any]] = {
    "edges of heads": {"nodes": "head"},
    "edges of branches": {"nodes": "attention"},
    "edges of heads, language": {"nodes": "head", "towers": "language"},
    "edges of branches, language": {"nodes": "attention", "towers": "language"},
    "nodes": {"nodes": "head", "edges": False},
}


def pair_of(tiny: Tiny) -> tuple[HookedMultimodal, tuple[MultimodalBatch, MultimodalBatch]]:
    """A tiny model, and two pictures."""
    model = tiny.make()
    clean, corrupted = (model.prepare("describe the image", images=picture(seed, *tiny.sizes[0])) for seed in (0, 8))
    return model, (clean, corrupted)


def letter_of(error: InputError) -> str:
    """The law that a refusal names."""
    return next((letter for letter, (_, words) in LAWS.items() if re.search(words, str(error))), "?")


def row_of(tiny: Tiny) -> list[str]:
    """What a family has: `yes`, or the letter of the law."""
    model, pair = pair_of(tiny)
    row = []
    for options in COLUMNS.values():
        try:
            found = mm.find_circuit(model, pair, metric=METRIC, method="eap", progress=False, **options)
            ends = mm.circuits.curve(model, found, pair, metric=METRIC, sizes=[1.0], n_random=0, progress=False)
            torch.testing.assert_close(ends.values[0, 0], found.clean, rtol=0, atol=1e-3)
            row.append("yes")
        except InputError as error:
            row.append("yes" if "same metric" in str(error) else letter_of(error))
    return row


def table(rows: dict[str, list[str]]) -> str:
    """Families of the same row together."""
    by_row: dict[tuple[str, ...], list[str]] = {}
    for name, row in rows.items():
        by_row.setdefault(tuple(row), []).append(name)
    head = f"| families | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}\n"
    order = sorted(by_row, key=lambda row: (-len(by_row[row]), row))
    return head + "".join(f"| {', '.join(sorted(by_row[row]))} | {' | '.join(row)} |\n" for row in order)


if __name__ == "__main__":
    chosen = [tiny for tiny in FAMILIES if tiny.name in sys.argv[1:] or not sys.argv[1:]]
    found = {}
    for each in chosen:
        try:
            found[each.name] = row_of(each)
        except pytest.skip.Exception:
            continue
        sys.stdout.write(f"{each.name} {found[each.name]}\n")
        sys.stdout.flush()
    sys.stdout.write(table(found))
