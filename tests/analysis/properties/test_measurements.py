"""Tables of measured values: means, paired differences, files."""

from pathlib import Path

import numpy as np
import pytest

from mmlens import InputError
from mmlens.analysis.properties.quantities import Quantity, Value, control_name, control_of
from mmlens.properties import Measurements

SIZE = Quantity("size", "cm", control="size of others", baseline="blob")
OTHERS = Quantity("size of others", "cm", better="lower")
RANDOM = control_of("best")


def table() -> Measurements:
    values = []
    for sample in range(4):
        for noun in ("cat", "dog"):
            own = 10.0 * sample + (noun == "dog")
            values.append(Value("size", "best", 5, own, sample, noun))
            for draw in range(3):  # 1 around the mean
                values.append(
                    Value("size", control_name("best", draw), 5, own - 3 + draw - (sample == 3), sample, noun)
                )
            values.append(Value("size", "blob", 5, 1.0, sample, noun))
            if sample:
                values.append(Value("size of others", "best", 5, 0.5 * own, sample, noun))
    values.append(Value("size", "best", 9, float("nan"), 0, "cat"))
    return Measurements.of([SIZE, OTHERS, Quantity("weight", "kg")], values, {"k": 5}, {"place": "no places"})


def test_means_and_differences_are_paired_by_sample_and_noun() -> None:
    found = table()
    assert [quantity.name for quantity in found.quantities] == ["size", "size of others"]  # no weight was measured
    assert found.interval("size", "best", k=5).mean == 15.5
    against_random = found.difference("size", "best", k=5)
    assert (against_random.mean, against_random.count) == (2.25, 8)
    # where the control is missing, the pair is left out: samples 1 to 3 alone
    control = found.difference("size", "best", minus_quantity="size of others", k=5)
    assert control.count == 6
    assert control.mean == pytest.approx(0.5 * np.mean([10, 11, 20, 21, 30, 31]))
    blob = found.difference("size", "best", minus="blob", k=5)
    assert blob.mean == 14.5


def test_random_neurons_stand_as_the_distribution_of_their_draws() -> None:
    found = table()
    assert found.methods == ["best", RANDOM, "blob"]
    drawn = found.draws("size", "best", k=5)
    assert (drawn.mean, drawn.count) == (13.25, 3)
    assert (drawn.low, drawn.high) == pytest.approx((12.3, 14.2))  # quantiles of 12.25, 13.25 and 14.25
    frame = found.to_frame().set_index(["quantity", "method", "k"])
    row = frame.loc[("size", "best", 5)]
    assert (row["random"], row["random_low"], row["random_high"]) == pytest.approx((13.25, 12.3, 14.2))
    assert tuple(frame.loc[("size", RANDOM, 5), ["mean", "low", "high"]]) == pytest.approx((13.25, 12.3, 14.2))
    assert found.interval("size", RANDOM, k=5).count == 8  # each sample and noun once, the mean of its draws
    assert (row["random_as_high"], row["random_draws"]) == (0, 3)
    place = found.standing("size", "best", control="random", k=5)
    assert (place.value, place.draws, place.at_least, place.beyond, place.p) == (15.5, drawn, 0, True, 0.25)
    with pytest.raises(InputError, match="was not measured for 'matched, like best'"):
        found.standing("size", "best", k=5)
    with pytest.raises(InputError, match="was not measured for 'random, like blob'"):
        found.draws("size", "blob", k=5)


def test_intervals_draw_whole_samples() -> None:
    # between samples the values differ by 10, within by 1: drawing single values would give a narrower interval
    found = table().interval("size", "best", k=5)
    assert found.low < 9
    assert found.high > 22


def test_values_of_all_pictures_of_a_noun_are_drawn_by_noun() -> None:
    values = [Value("own", "best", 5, float(i), -1, noun) for i, noun in enumerate("abcd")]
    found = Measurements.of([Quantity("own", "share")], values).interval("own", "best")
    assert found.mean == 1.5
    assert found.low < found.mean < found.high


def test_the_frame_has_every_difference() -> None:
    frame = table().to_frame().set_index(["quantity", "method", "k"])
    row = frame.loc[("size", "best", 5)]
    assert (row["mean"], row["minus_random"], row["minus_baseline"]) == (15.5, 2.25, 14.5)
    assert row["control"] == "size of others"
    assert np.isnan(frame.loc[("size", "blob", 5), "minus_random"])


def test_a_table_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    found = table()
    read = Measurements.load(found.save(tmp_path / "table.json"))
    assert read.values.equals(found.values)
    assert (read.quantities, read.about, read.skipped) == (found.quantities, found.about, found.skipped)
    assert "NaN" not in (tmp_path / "table.json").read_text()


def test_its_figure_has_a_panel_per_quantity_that_is_no_control() -> None:
    figure = table().plot(k=5)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["size ↑"]
    points = [container.lines[0].get_ydata()[0] for container in figure.axes[0].containers]
    assert points == [15.5, 13.25, 10.25]


def test_curves_are_drawn_where_several_k_were_measured() -> None:
    values = [Value("size", "best", k, k + sample / 10, sample, "cat") for k in (1, 5, 20) for sample in range(3)]
    panel = Measurements.of([SIZE], values).plot().axes[0]
    assert panel.lines[0].get_xdata().tolist() == [1, 5, 20]
    assert panel.lines[0].get_ydata() == pytest.approx([1.1, 5.1, 20.1])


def test_what_was_not_measured_is_named(tmp_path: Path) -> None:
    found = table()
    with pytest.raises(InputError, match=r"'weight' was not measured for 'best'; measured are size, size of others"):
        found.interval("weight", "best")
    with pytest.raises(InputError, match=r"'size' was not measured with k=7; k was 5, 9"):
        found.interval("size", "best", k=7)
    with pytest.raises(InputError, match="Nothing was measured with k=7; k was 5, 9"):
        found.plot(k=7)
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(
        InputError, match=r"is no file of measurements \(format None, expected 'mmlens.Measurements/1'\)"
    ):
        Measurements.load(tmp_path / "other.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(InputError, match="it is no JSON"):
        Measurements.load(tmp_path / "torn.json")
