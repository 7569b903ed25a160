"""Layouts of pictures that are cut into tiles, where the contract of all families does not look."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmlens.architectures.families.video_llava import VIDEO_LLAVA
from mmlens.architectures.weights import MlpWeights
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.inputs.batch_changes import with_exchanged_pictures
from mmlens.inputs.processing import ComposedProcessor
from tests.conftest import SHORT
from tests.families.internvl_like import aya_vision, got_ocr2, internvl
from tests.families.llava_like import llava_next, llava_onevision, video_llava
from tests.tiny import picture, tokenizer


def test_squeezed_picture_and_canvas() -> None:
    layout = llava_next().prepare(SHORT, images=picture(0, 48, 64)).layout
    whole, canvas = layout.views()
    assert (whole.shape, canvas.shape) == ((4, 4), (6, 8))
    assert whole.boxes[0].tolist() == [0, 0, 16, 12]
    # the canvas is 64 x 64 with bars of 8 pixels, one cell, above and below, which are cut off
    assert canvas.boxes[0].tolist() == [0, 0, 8, 8]
    assert canvas.boxes[-1].tolist() == [56, 40, 64, 48]
    # every row of eight tokens ends with a newline, which has no place
    assert (canvas.rows[8] - canvas.rows[7]).item() == 2
    assert len(layout.image[0]) == 16 + 6 * 9
    # the tower has all of the canvas, bars included
    tower = layout.grid("vision")
    assert tower.shape == (8, 8)
    assert tower.boxes[0].tolist() == [0, -8, 8, 0]


def test_the_tiles_of_the_second_picture_follow_those_of_the_first() -> None:
    layout = llava_next().prepare([SHORT] * 2, images=[[picture(0, 48, 64)], [picture(1, 64, 32)]]).layout
    whole, canvas = layout.views("vision", sample=1)
    assert whole.index == 5
    assert isinstance(canvas.index, torch.Tensor)
    assert canvas.index.unique().tolist() == [6, 7]


def test_interpolated_tokens_stand_for_all_cells_that_they_are_made_of() -> None:
    layout = llava_onevision(2).prepare(SHORT, images=picture(0, 64, 64)).layout
    grid = layout.grid()
    assert grid.shape == (5, 5)
    # eight cells to five tokens: centres 0.3, 1.9, 3.5, 5.1 and 6.7 lie between two cells each
    assert grid.boxes[:5, [0, 2]].tolist() == [[0, 16], [8, 24], [24, 40], [40, 56], [48, 64]]


def test_several_pictures_of_onevision_are_squared() -> None:
    layout = llava_onevision().prepare(SHORT, images=[[picture(0, 64, 48), picture(1, 32, 64)]]).layout
    (first,), (second,) = layout.views(image=0), layout.views(image=1)
    assert first.boxes[0].tolist() == [-8, 0, 8, 16]
    assert second.boxes[0].tolist() == [0, -16, 16, 0]


def test_pictures_without_their_sizes() -> None:
    model = llava_next()
    tensors = dict(model.prepare(SHORT, images=picture(0, 48, 64)))
    del tensors["image_sizes"]
    with pytest.raises(
        InputError, match=r"pixel_values came without image_sizes, the \(height, width\) of each picture"
    ):
        model.batch(tensors)


def test_tensors_do_not_say_how_tiles_lie() -> None:
    model = internvl()
    prepared = model.prepare(SHORT, images=picture(0, 32, 64))
    batch = model.batch(dict(prepared))
    with pytest.raises(NoPlaceError, match="do not say how the 3 tiles of sample 0 lie in its pictures"):
        batch.layout.grid()
    assert torch.equal(model(batch), model(prepared))


def test_whole_and_canvas_of_internvl() -> None:
    layout = internvl().prepare(SHORT, images=[picture(0, 32, 64), picture(1, 32, 32)]).layout
    whole, canvas = layout.views("vision")
    assert (whole.index, whole.shape, canvas.shape) == (2, (4, 4), (4, 8))
    assert len(layout.views("vision", image=1)) == 1
    assert layout.views("vision", image=1)[0].index == 3
    # the class row is left out; a token is two by two patches
    assert int(whole.rows.min()) == 1
    assert layout.views()[1].boxes[0].tolist() == [0, 0, 16, 16]


@pytest.mark.parametrize("make", [llava_next, llava_onevision, internvl, aya_vision, video_llava])
def test_other_pictures_in_the_place_of_the_old_ones(make: Any) -> None:
    model = make()
    size = (32, 32) if make is video_llava else (32, 64)
    old = model.prepare(SHORT, images=picture(0, *size))
    new = model.prepare(SHORT, images=picture(1, *size))
    made = with_exchanged_pictures(model.family, model.config, model.processor, old, [list(new.images[0])])
    assert torch.equal(made["pixel_values"], new["pixel_values"])
    assert not torch.equal(made["pixel_values"], old["pixel_values"])


def test_pixels_under_their_old_name() -> None:
    model = video_llava()
    legacy = replace(
        VIDEO_LLAVA,
        image_options=lambda c: {},
        expand=lambda c, tensors: VIDEO_LLAVA.expand(c, {"pixel_values": tensors["pixel_values_images"]}),  # type: ignore[misc]
    )
    batch = model.prepare(SHORT, images=picture(0))
    model.processor = ComposedProcessor(model.processor.image_processor, tokenizer(), legacy, model.config)
    again = model.prepare(SHORT, images=picture(0))
    assert set(again) == set(batch)
    assert torch.equal(again["pixel_values"], batch["pixel_values"])


@torch.no_grad()
def test_weights_of_a_projector_whose_gate_comes_second() -> None:
    model = aya_vision()
    mlp = model.family.projector.mlp
    assert mlp is not None
    weights = MlpWeights(model.hf_model, mlp)
    linear = model.hf_model.model.multi_modal_projector.linear_1
    received: list[torch.Tensor] = []
    handle = linear.register_forward_hook(lambda module, args, output: received.append(args[0]))
    post = model.run_with_cache(model.prepare(SHORT, images=picture(0)), names="projector.mlp.hook_post")[1]
    handle.remove()
    x = received[0].flatten(1, -2)
    gate = x @ weights.W_gate + linear.bias.chunk(2)[1]
    expected = torch.nn.functional.silu(gate) * (x @ weights.W_in + weights.b_in)
    torch.testing.assert_close(post["projector.mlp.hook_post"], expected)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_the_divisor_of_a_norm_whose_kind_the_checkpoint_chooses(norm: str) -> None:
    model = internvl(norm)
    cache = model.run_with_cache(model.prepare(SHORT, images=picture(0)), names="vision.blocks.0.**")[1]
    x = cache["vision.blocks.0.hook_resid_pre"]
    x = x - x.mean(-1, keepdim=True) if norm == "layer_norm" else x
    expected = (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(cache["vision.blocks.0.ln1.hook_scale"], expected)
    assert model.part("vision").cfg.uses_rms_norm == (norm == "rms_norm")


@torch.no_grad()
def test_hooks_see_the_raster_where_blocks_see_windows() -> None:
    model = got_ocr2()
    batch = model.prepare(SHORT, images=picture(0, 64, 64))
    names = ["vision.blocks.0.hook_resid_pre", "vision.blocks.0.hook_attn_out", "vision.blocks.0.hook_resid_mid"]
    cache = model.run_with_cache(batch, names=names)[1]
    before, branch, middle = (cache[name] for name in names)
    assert before.shape == branch.shape == (1, 64, 24)
    torch.testing.assert_close(middle, before + branch)
    # what the first row of windows hands on is read by the first three rows of the raster alone
    normed = model.hf_model.model.vision_tower.layers[0].layer_norm1(before).view(1, 8, 8, 24)
    window = model.hf_model.model.vision_tower.layers[0].attn(normed[:, :3, :3])[0]
    torch.testing.assert_close(branch.view(1, 8, 8, 24)[:, :3, :3], window)
