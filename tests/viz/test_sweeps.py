"""Pictures of sweeps show the numbers of the sweep, in the places that they belong to."""

from typing import Any

import numpy as np
import pytest
import torch

from mmlens.analysis.patching.result import PatchSweep
from mmlens.core.errors import InputError
from mmlens.viz.sweeps import plot_over_picture, plot_sweep
from tests.tiny import picture
from tests.viz.made import estimated, sweep


def shown(figure: Any) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def test_the_grid_holds_the_mean_effects_layer_by_layer_from_below() -> None:
    made = sweep([f"blocks.{i}.hook_resid_pre" for i in range(4)], ["image", "last"])
    figure = plot_sweep(made)
    np.testing.assert_allclose(shown(figure), made.effect.mean(-1))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]
    assert axes.get_ylabel() == "layer (resid_pre)"
    assert figure.axes[1].get_ylabel() == "change (logits)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["image", "last"]
    assert [text.get_text() for text in axes.texts] == [f"{value:.2f}" for value in made.effect.mean(-1).flatten()]
    assert figure.get_suptitle() == "change of m, logits\nclean into corrupted, mean of 2 samples"
    some = plot_sweep(made, points=["blocks.2.hook_resid_pre"])
    np.testing.assert_allclose(shown(some), made.effect.mean(-1)[2:3])


def test_heads_at_one_group_are_drawn_layer_by_head() -> None:
    names = [f"blocks.{layer}.attn.hook_z[h{head}]" for layer in range(3) for head in range(4)]
    made = sweep(names, ["last"])
    figure = plot_sweep(made)
    np.testing.assert_allclose(shown(figure), made.effect.mean(-1).reshape(3, 4))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "2", "3"]
    assert figure.axes[0].get_xlabel() == "head, at last"
    some = plot_sweep(sweep([names[1], names[6]], ["last"]))
    assert shown(some).shape == (2, 1)


def test_heads_at_several_groups_are_a_map_for_each() -> None:
    names = [f"blocks.{layer}.attn.hook_z[h{head}]" for layer in range(3) for head in range(4)]
    made = sweep(names, ["image", "last"])
    *maps, colors = plot_sweep(made).axes
    assert [axes.get_title() for axes in maps] == ["at image", "at last"]
    for axes, effect in zip(maps, made.effect.mean(-1).T, strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), effect.reshape(3, 4))
        assert axes.images[0].get_clim() == maps[0].images[0].get_clim()
    assert colors.get_ylabel() == "change (logits)"


def test_many_points_of_several_kinds_are_a_map_for_each_kind() -> None:
    kinds = ("resid_pre", "mlp_out")
    made = sweep([f"vision.blocks.{i}.hook_{kind}" for i in range(8) for kind in kinds], ["a", "b"])
    *maps, _ = plot_sweep(made).axes
    assert [axes.get_title() for axes in maps] == ["vision resid_pre", "vision mlp_out"]
    for number, axes in enumerate(maps):
        np.testing.assert_allclose(axes.images[0].get_array(), made.effect.mean(-1)[number::2])
    few = sweep([f"blocks.{i}.hook_{kind}" for i in range(2) for kind in kinds], ["a", "b"])
    axes = plot_sweep(few).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "0 resid_pre",
        "0 mlp_out",
        "1 resid_pre",
        "1 mlp_out",
    ]


def test_towers_of_different_depth_keep_their_own_layers() -> None:
    names = [f"vision.blocks.{i}.attn.hook_z[h{h}]" for i in range(3) for h in range(2)]
    names += [f"blocks.{i}.attn.hook_z[h{h}]" for i in range(5) for h in range(4)]
    *maps, _ = plot_sweep(sweep(names, ["last"])).axes
    assert [[label.get_text() for label in axes.get_yticklabels()] for axes in maps] == [list("012"), list("01234")]
    assert [axes.images[0].get_array().shape for axes in maps] == [(3, 2), (5, 4)]


def test_no_change_is_white_and_rise_and_fall_are_equally_strong() -> None:
    made = sweep(["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"], ["a", "b"])
    drawn = plot_sweep(made).axes[0].images[0]
    low, high = drawn.get_clim()
    assert -low == high == pytest.approx(float(made.effect.mean(-1).abs().max()))
    assert min(drawn.to_rgba(np.array([0.0]))[0][:3]) > 0.95


def test_effects_lie_over_their_boxes() -> None:
    boxes = (torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([[16.0, 0, 24, 8], [24.0, 8, 32, 16]]), None)
    made = sweep(["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"], ["a", "b", "text"], boxes)
    figure = plot_over_picture(made, picture(0))
    effect = made.effect.mean(-1)[:, :2]
    for panel, values in zip(figure.axes[1:3], effect, strict=True):
        (drawn,) = panel.collections
        places = [path.get_extents().bounds for path in drawn.get_paths()]
        assert places == [(-0.5, -0.5, 16, 16), (15.5, -0.5, 8, 8), (23.5, 7.5, 8, 8)]
        colors = drawn.get_facecolor()
        assert tuple(colors[1]) == tuple(colors[2])
        for (red, _, blue, _), value in zip(colors[:2], values.tolist(), strict=True):
            assert (red > blue) == (value > 0), "a rise is red, a fall is blue"


def test_an_estimate_is_drawn_against_the_exact_effect() -> None:
    exact = sweep(["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.0.hook_mlp_out"], ["a", "b"])
    axes = estimated(exact).plot().axes[0]
    means = exact.effect.mean(-1)
    drawn = [each.get_offsets() for each in axes.collections]
    np.testing.assert_allclose(drawn[0], torch.stack([means[:2].flatten(), 1.1 * means[:2].flatten()], 1), rtol=1e-5)
    np.testing.assert_allclose(drawn[1], torch.stack([means[2], 1.1 * means[2]], 1), rtol=1e-5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("exact effect (logits)", "estimate by atp (logits)")


def test_zero_has_no_sign() -> None:
    made = sweep(["blocks.0.hook_resid_pre"], ["a", "b"])
    tiny = made.effect * 0 - 1e-6
    nothing = PatchSweep(tiny, made.points, made.groups, made.clean, made.corrupted * 0, "denoise", "m, logits")
    assert [text.get_text() for text in plot_sweep(nothing).axes[0].texts] == ["0.00", "0.00"]


def test_what_cannot_be_drawn_is_refused() -> None:
    made = sweep(["blocks.0.hook_resid_pre"], ["text"], (None,))
    with pytest.raises(InputError, match="None of the sweep's groups has a place in the picture; sweep blocks of it"):
        made.plot(picture(0))
    with pytest.raises(
        InputError, match=r"points=\['other'\] must name some of the sweep's points: blocks.0.hook_resid_pre"
    ):
        made.plot(points=["other"])
    many = sweep([f"blocks.{i}.hook_resid_pre" for i in range(30)], ["a"], (torch.tensor([[0.0, 0, 8, 8]]),))
    with pytest.raises(InputError, match="30 points are too many panels; name at most 24"):
        many.plot(picture(0))
