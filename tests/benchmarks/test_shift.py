"""The benchmark's tables say what the shifts say."""

import pytest
import torch

from benchmarks.shift import Line, correlations, first_of, summary, table
from mmlens.analysis.shift.grounding import ShiftGrounding, Shown
from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.analysis.store.states import States
from tests.analysis.shift.planted import CONCEPTS, planted_shift


def line(tune: str, words: str, *, seed: int) -> Line:
    """A planted shift, whose shifted concepts write two of the match's two words, the original ones one."""
    sides = [(Shown(said),) * CONCEPTS for said in (("old", "kept"), ("new", "kept"), ("new", "kept"))]
    return Line(tune, words, 0, ShiftGrounding(planted_shift(seed=seed, noise=1.0).measured(), *sides), alone=3)


def test_the_first_of_the_words_in_each_caption_is_kept() -> None:
    values = torch.arange(5.0)[:, None]
    states = States(values, "p", keys=tuple("aabbb"), tokens=("a", "star", "star", "ring", "star"))
    assert first_of(states, ("ring", "star")).values.flatten().tolist() == [1, 2]
    assert first_of(states, ("ring",)).values.flatten().tolist() == [3]


def test_rows_of_the_tables() -> None:
    lines = [line("place", "all nouns", seed=0), line("place", "star", seed=1), line("mood", "all nouns", seed=2)]
    assert lines[0].text_gain().mean == pytest.approx(0.5)
    rows = table(lines).splitlines()
    assert len(rows) == 2 + 3
    assert rows[3].startswith("| place | star | 0 | 160 (3) | 4 | ")
    assert str(lines[1].shift.mean("recovery_distance")) in rows[3]
    assert "0.50, 1.00, **0.500 [0.500, 0.500]**" in rows[3]
    totals = summary(lines, layer=0).splitlines()
    assert [row.split(" | ")[0] for row in totals[2:]] == ["| place", "| mood", "| together"]
    both = torch.cat([lines[number].shift.recovery_distance for number in (0, 2)])
    assert f"| together | {2 * CONCEPTS} |" in totals[4]
    assert str(mean_interval(both.numpy())) in totals[4]
    r, p, *_ = lines[2].shift.correlation()
    assert correlations(lines, layer=0).splitlines()[3].startswith(f"| mood | {r:.2f} ({p:.2g}) |")
