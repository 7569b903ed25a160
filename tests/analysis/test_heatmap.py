"""Heat maps: smooth maps, masks, overlays and controls, on maps whose answer can be said in advance."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlens.analysis.heatmap import HeatMap, centred_blob, iou
from mmlens.core.errors import InputError


def peak(row: int, column: int, size: tuple[int, int] = (80, 80), box: tuple[float, ...] = (0, 0, 80, 80)) -> HeatMap:
    values = torch.zeros(8, 8)
    values[row, column] = 1.0
    return HeatMap(values, size, box)  # type: ignore[arg-type]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (7, 2)])
def test_the_mask_falls_on_the_hot_patch(row: int, column: int) -> None:
    mask = peak(row, column).mask(99)
    y, x = mask.nonzero().float().mean(0)
    assert abs(float(y) + 0.5 - (row + 0.5) * 10) < 3
    assert abs(float(x) + 0.5 - (column + 0.5) * 10) < 3


def test_the_mask_covers_the_share_above_the_percentile() -> None:
    values = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    mask = HeatMap(values, (96, 96), (0, 0, 96, 96)).mask(95)
    assert abs(float(mask.float().mean()) - 0.05) < 0.002


def test_a_map_with_gaps_between_its_patches_is_hot_at_their_centres() -> None:
    centres = torch.tensor([7.0, 21.0, 35.0, 55.0, 69.0])  # two tiles of 48 pixels: three patches of 14, and two
    for hot in range(5):
        values = torch.zeros(5, 5)
        values[hot, 4 - hot] = 1.0
        smooth = HeatMap(values, (80, 80), (0, 0, 76, 76), "", (centres, centres)).smooth()
        # at the edge the map stays as it is at the last centre; the pixels around a centre lie half a pixel off it
        row, column = int(centres[hot]), int(centres[4 - hot])
        assert smooth[row - 1 : row + 1, column - 1 : column + 1].min() > 0.92
        assert float(smooth[:, column].sum()) == pytest.approx(float((smooth[:, column - 1]).sum()), rel=0.05)
        for other in set(range(5)) - {hot}:
            assert smooth[int(centres[other]), column] < 0.06
        assert smooth[76:].max() == smooth[:, 76:].max() == 0


def test_a_crops_margins_stay_cold() -> None:
    heat = peak(0, 0, size=(80, 120), box=(20, 0, 100, 80))
    smooth = heat.smooth()
    assert smooth[:, :20].max() == smooth[:, 100:].max() == 0
    assert smooth[:5, 20:25].min() > 0.9


def test_a_crop_that_reaches_beyond_the_picture_is_cut() -> None:
    heat = peak(7, 7, size=(60, 60), box=(-10, -10, 70, 70))
    assert heat.smooth().shape == (60, 60)
    # the hot patch's centre lies at 65, beyond the picture; pixel 59 is 5.5 of 10 pixels away on both axes
    assert float(heat.smooth()[-1, -1]) == pytest.approx(0.45**2, abs=1e-4)


def test_overlay_is_hot_where_the_map_is() -> None:
    grey = Image.new("RGB", (80, 80), (60, 60, 60))
    colored = np.asarray(peak(2, 2).overlay(grey)).astype(int)
    assert colored[25, 25].sum() > colored[70, 70].sum() + 150
    masked = np.asarray(peak(2, 2).overlay(grey, percentile=98))
    assert masked[25, 25].tolist() == [60, 60, 60]
    assert masked[70, 70].tolist() == [15, 15, 15]


def test_overlay_refuses_another_picture() -> None:
    with pytest.raises(InputError, match=r"picture of \[height=80 width=80\], found \[height=40 width=50\]"):
        peak(0, 0).overlay(Image.new("RGB", (50, 40)))


def test_overlay_takes_what_prepare_takes_and_draws_at_the_figures_size(tmp_path: Path) -> None:
    grey = Image.new("RGB", (80, 80), (60, 60, 60))
    grey.save(tmp_path / "grey.png")
    drawn = peak(2, 2).overlay(grey).tobytes()
    for given in (tmp_path / "grey.png", np.asarray(grey), grey.convert("RGBA")):
        assert peak(2, 2).overlay(given).tobytes() == drawn
    wide = peak(2, 2, size=(1500, 4000), box=(0, 0, 4000, 1500))
    picture = Image.new("RGB", (4000, 1500), (60, 60, 60))
    small = wide.overlay(picture)
    assert small.size == (1600, 600)
    assert wide.overlay(picture, longest=None).size == picture.size
    # the hot patch's centre, in shares of the picture, is where the colours are brightest
    hottest = np.unravel_index(np.asarray(small).astype(int).sum(-1).argmax(), (600, 1600))
    assert hottest == pytest.approx((600 * 2.5 / 8, 1600 * 2.5 / 8), abs=2)
    share = np.asarray(wide.overlay(picture, percentile=97.0))[..., 0] == 60
    assert share.mean() == pytest.approx(0.03, abs=0.001)


def test_iou_of_known_masks() -> None:
    a, b = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    assert iou(a, b) == 0
    a[:2], b[1:3] = True, True
    assert iou(a, b) == pytest.approx(4 / 12)
    with pytest.raises(InputError, match=r"\[4, 4\] and \[4, 5\]"):
        iou(a, torch.zeros(4, 5, dtype=torch.bool))


def test_the_blob_is_central_round_and_of_the_size_asked() -> None:
    blob = centred_blob((96, 96), 0.05)
    assert abs(float(blob.float().mean()) - 0.05) < 1e-3
    y, x = blob.nonzero().float().mean(0)
    assert float(y) == pytest.approx(47.5, abs=0.3)
    assert float(x) == pytest.approx(47.5, abs=0.3)
    spans = [blob.any(axis).nonzero().flatten() for axis in (0, 1)]
    assert abs(len(spans[0]) - len(spans[1])) <= 1


def test_percentiles_are_bounded() -> None:
    with pytest.raises(InputError, match="percentile=101 must be from 0 to 100"):
        peak(0, 0).mask(101)


def test_maps_with_values_that_are_not_finite_show_those_that_are() -> None:
    inf, nan = float("inf"), float("nan")
    whole = (4, 4), (0.0, 0.0, 4.0, 4.0), "t"
    some = HeatMap(torch.tensor([[1.0, nan], [inf, 2.0]]), *whole)
    assert repr(some) == "HeatMap(t: 2 x 2 patches, 1 to 2)"
    assert some.smooth().tolist() == HeatMap(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), *whole).smooth().tolist()
    nothing = HeatMap(torch.full((2, 2), nan), *whole)
    assert repr(nothing) == "HeatMap(t: 2 x 2 patches, no finite value)"
    assert nothing.smooth().eq(0).all()
    assert not HeatMap(torch.ones(2, 2, requires_grad=True), *whole).values.requires_grad
    with pytest.raises(InputError, match=r"must hold patches, found values of shape \[0, 2\]"):
        HeatMap(torch.zeros(0, 2), *whole)
