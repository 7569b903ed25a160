"""Colours and shapes tell series apart, also for readers who do not see all colours."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

from mmlens.core.palette import FALL, GREY, RISE, SERIES, signed
from mmlens.viz.marks import marks
from tests.viz import made

#: What is left of red, green and blue (linear light) for readers without red, green or blue cones: Machado, Oliveira and
#: Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", TVCG 2009, severity 1.0.
SEEN = {
    "all colours": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(color: str | tuple[float, ...], seen: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of a colour as it is seen."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(seen @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SEEN)
def test_series_are_told_apart_by_every_reader(sight: str) -> None:
    """A difference of 10 is seen side by side; those after the seventh differ in shape."""
    seen = {color: lab(color, SEEN[sight]) for color in (*SERIES, GREY)}
    near = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in combinations(seen, 2)}
    assert min(near.values()) > 10, min(near, key=near.get)  # type: ignore[arg-type]
    white = lab("white", SEEN[sight])
    assert min(np.linalg.norm(each - white) for each in seen.values()) > 25


@pytest.mark.parametrize("sight", SEEN)
def test_a_rise_is_told_from_a_fall_by_every_reader(sight: str) -> None:
    rise, fall = (lab(tuple(part / 255 for part in each), SEEN[sight]) for each in (RISE, FALL))
    assert np.linalg.norm(rise - fall) > 40
    assert signed(-3.0, 3.0) == "rgb" + str(FALL).replace(" ", "")


def test_seventy_series_all_look_different() -> None:
    found = marks(map(str, range(70)))
    assert len({(mark.color, mark.shape) for mark in found.values()}) == 70


@pytest.mark.parametrize("one_method", [True, False])
def test_every_edit_has_a_look_of_its_own(one_method: bool) -> None:
    figure = made.edits(5, one_method=one_method).plot()
    looks = [
        (to_hex(line.get_color()), line.get_marker())
        for container in figure.axes[0].containers
        for line in [container.lines[0]]
    ]
    assert len(looks) == len(set(looks)) == 5
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [f"edit {i}" for i in range(5)]
    handles = [each for each in legend.legend_handles if isinstance(each, Line2D)]
    assert [(to_hex(each.get_color()), each.get_marker()) for each in handles] == looks


def test_edits_of_one_method_with_penalties_are_one_line_from_the_strongest() -> None:
    figure = made.edits(3, one_method=True, penalties=True).plot()
    (line,) = [container.lines[0] for container in figure.axes[0].containers]
    assert line.get_linestyle() == "-"
    changed = [0.7, 0.4, 0.0]  # edits 2, 1, 0: the report says how much each changes
    assert line.get_xdata() == pytest.approx(changed)
    assert [text.get_text() for text in figure.axes[0].texts] == ["edit 2", "edit 1", "edit 0"]
