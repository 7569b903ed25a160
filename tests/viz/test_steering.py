"""Figures of steering show the numbers of the result, as marks while there is room, as heat maps where there is none."""

import numpy as np
import pytest

from tests.viz import made


def test_few_points_have_a_panel_each_with_the_same_limits() -> None:
    curve = made.dose(3)
    figure = curve.plot()
    assert [axes.get_title() for axes in figure.axes] == [f"{i} resid_post" for i in range(3)]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    for axes, point in zip(figure.axes, curve.points, strict=True):
        vector, random, without = axes.lines
        assert vector.get_ydata() == pytest.approx([curve.interval(point, alpha).mean for alpha in curve.alphas])
        assert random.get_ydata() == pytest.approx([curve.control(point, alpha).mean for alpha in curve.alphas])
        assert set(without.get_ydata()) == {0.0}
        assert vector.get_zorder() > random.get_zorder()


def test_many_points_are_heat_maps_of_the_change_in_order_of_strength() -> None:
    curve = made.dose(20, alphas=(2.0, -1.0, 0.0))
    vector, random, colors = curve.plot().axes
    for axes, values in ((vector, curve.values), (random, curve.controls.mean(0))):
        expected = (values - curve.baseline).mean(-1)[:, [1, 2, 0]]
        np.testing.assert_allclose(axes.images[0].get_array(), expected, atol=1e-6)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["-1", "0", "2"]
    low, high = vector.images[0].get_clim()
    assert (low, high) == random.images[0].get_clim()
    assert low == -high
    assert colors.get_ylabel().replace("\n", " ") == "change of logit('no') - logit('yes') (logits)"


def test_a_report_has_a_mark_per_intervention_and_set_and_its_controls_in_grey() -> None:
    report = made.steering(2, 3)
    figure = report.plot()
    changed, score = figure.axes
    marks = [container.lines[0] for container in changed.containers]
    assert [line.get_xdata().tolist() for line in marks] == [[0.25] * 2, [0.5] * 2, [0.75] * 2]
    assert [c.lines[0].get_xdata().tolist() for c in score.containers] == [[-0.25] * 2, [-0.5] * 2, [-0.75] * 2]
    places = [line.get_ydata() for line in marks]
    assert (np.diff(places, axis=0) > 0).all()
    controls = [each for each in changed.collections if len(each.get_offsets()) == 2 and each.get_facecolor().size == 0]
    assert len(controls) == 3 * 2
    assert {tuple(each.get_offsets()[:, 0]) for each in controls} == {(0.0, 0.0)}
    top, bottom = sorted(changed.get_ylim())
    assert changed.get_ylim() == (bottom, top), "the first set stands on top"


def test_a_large_report_is_heat_maps_beside_those_of_random_vectors() -> None:
    report = made.steering(10, 6)
    *maps, _ = report.plot().axes
    titles = [axes.get_title().replace("\n", " ") for axes in maps]
    quantities = ["answers changed (share)", "change of the score"]
    assert titles == [f"{name}{how}" for name in quantities for how in ("", ", random vectors")]
    found = [np.asarray(axes.images[0].get_array()) for axes in maps]
    expected = np.array([[(1 + i % 4) / 4] * 10 for i in range(6)])
    np.testing.assert_allclose(found[0], expected)
    np.testing.assert_allclose(found[2], -expected)
    assert not found[1].any()
    assert not found[3].any()
