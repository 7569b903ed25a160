"""Pictures whose text marks their tiles: marks that stand alone are text, and counts that differ are told."""

import pytest
import torch

from mmlens.core.errors import InputError
from tests.families.mistral_like import llama4
from tests.families.siglip_like import lfm2_vl
from tests.tiny import picture


def test_marks_without_a_picture_between_them_are_text() -> None:
    model = llama4()
    batch = model.prepare("describe the image", images=picture(0, 64, 64))
    begin, end = (getattr(model.config, name) for name in ("boi_token_id", "eoi_token_id"))
    longer = model.extend(batch, torch.tensor([[end, begin, begin, end, begin]]))
    assert [grid.shape for grid in longer.layout.views()] == [(2, 2), (4, 4)]
    assert torch.equal(longer.layout.grid().rows, batch.layout.grid().rows)


def test_text_and_tiles_that_differ_are_refused() -> None:
    model = llama4()
    inputs = dict(model.prepare("describe the image", images=picture(0, 64, 64)))
    with pytest.raises(InputError, match="The text marks pictures of 5 tiles, but 6 were given"):
        model.batch(**{**inputs, "pixel_values": inputs["pixel_values"][[0, 1, 2, 3, 4, 4]]})
    ids = inputs["input_ids"].clone()
    ids[ids == model.config.image_token_id] = torch.where(
        torch.arange(int((ids == model.config.image_token_id).sum())) < 1, 3, model.config.image_token_id
    )
    with pytest.raises(
        InputError, match="is cut into 2 x 2 tiles, which take 20 image tokens, but the text has 19 for it"
    ):
        model.batch(**{**inputs, "input_ids": ids})


def test_flexible_entries_that_the_text_does_not_have_are_refused() -> None:
    model = lfm2_vl()
    inputs = dict(model.prepare("describe the image", images=picture(0, 64, 64)))
    pictures = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
    more = {name: inputs[name][[0, 1, 2, 3, 4, 4]] for name in pictures}
    with pytest.raises(InputError, match="The text has image tokens for 5 entries, but 6 were given"):
        model.batch(**{**inputs, **more})
    fewer = {name: inputs[name][:4] for name in pictures}
    with pytest.raises(InputError, match="The text has 4 image tokens left over for no further picture"):
        model.batch(**{**inputs, **fewer})
