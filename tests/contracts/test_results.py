"""Contract: what every result can do that shows itself: a frame, a figure, a view, and a file from which the same comes back.

Damage of every file is in `tests/core/test_saved_results.py`, which goes over the same results.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.viz.page.encode import encode_pack
from mmlens.viz.page.packs import pack_of
from tests.results import RESULTS, all_of
from tests.viz import made

SHOWN = [kind.__name__ for kind in all_of(Viewable)]
SAVED = {kind.__name__ for kind in all_of(Saved)}
#: Results that show themselves and have no file of their own, and why.
WITHOUT_FILE = {
    "FeatureScores": "works on its model with the dictionaries attached",
    "Reproduction": "is a folder: each of its tables is a file there",
    "SAETraining": "its dictionary is kept in SAELens's format, which other tools read: load_sae(folder)",
    "Tune": "is a folder that peft reads: Tune.load(folder)",
}
#: The picture that a result is about, where it does not hold it.
PICTURES = {"HeatMap": made.picture(36, 24), "LogitLens": made.picture(), "PatchSweep": made.picture()}


def test_every_result_that_shows_itself_is_here() -> None:
    assert set(SHOWN) <= set(RESULTS), "say in tests/results.py how a small one is made"
    assert {name for name in SHOWN if name not in SAVED} == set(WITHOUT_FILE)
    kinds = {kind.__name__: kind for kind in all_of(Viewable)}
    assert [name for name in SHOWN if not (hasattr(kinds[name], "to_frame") and hasattr(kinds[name], "plot"))] == []


def words_of(figure: Figure) -> list[list[str]]:
    """All texts of a figure, by its axes."""
    figure.draw_without_rendering()
    return [[text.get_text() for text in axes.findobj(Text)] for axes in figure.axes]


@pytest.mark.parametrize("name", [name for name in SHOWN if name in SAVED])
def test_what_is_read_shows_what_was_written(name: str, tmp_path: Path) -> None:
    result: Any = RESULTS[name]()
    path = tmp_path / "file"
    assert result.save(path) == path
    assert result.save(str(path)) == path
    again = type(result).load(path)
    assert repr(again) == repr(result)
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    assert again._repr_mimebundle_() == result._repr_mimebundle_()
    for picture in (None, PICTURES.get(name)):
        packs = [encode_pack(pack_of(one, picture)) for one in (again, result)]
        assert packs[0] == packs[1]
    assert words_of(again.plot()) == words_of(result.plot())


@pytest.mark.parametrize("name", SHOWN)
def test_figures_are_of_matplotlib_and_draw_where_they_are_told(name: str) -> None:
    result: Any = RESULTS[name]()
    figure = result.plot()
    assert isinstance(figure, Figure)
    assert any(axes.has_data() or axes.texts for axes in figure.axes)
    whole = Figure(figsize=(9, 5))
    left, right = whole.subfigures(1, 2)
    assert result.plot(figure=left) is whole
    assert whole.axes
    assert not right.axes
