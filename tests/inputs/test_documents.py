"""Models that read documents: what their batches must be, and which are refused."""

from collections.abc import Callable
from typing import Literal

import pytest

from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT
from tests.families.document_readers import deepseek_ocr2, granite_docling, kosmos2_5, unlimited_ocr
from tests.tiny import picture


@pytest.mark.parametrize("side", ["left", "right"])
def test_kosmos_queries_take_the_places_of_their_tokens_wherever_the_padding_is(side: Literal["left", "right"]) -> None:
    model = kosmos2_5()
    batch = model.prepare([SHORT, LONG], images=[picture(0), picture(1)], padding_side=side)
    token = model.tokenizer.convert_tokens_to_ids("<s>")
    assert (batch["attention_mask"] == 0).any()
    assert ((batch["image_embeds_position_mask"] == 1) == (batch["input_ids"] == token)).all()
    assert (batch.layout.is_image == (batch["input_ids"] == token)).all()


@pytest.mark.parametrize("make", [deepseek_ocr2, unlimited_ocr])
def test_crops_are_refused_as_the_tower_would_run_twice(make: Callable[[], HookedMultimodal]) -> None:
    model = make()
    count = int(model.prepare(SHORT, images=picture(0)).layout.is_image.sum())
    model.prepare(SHORT, images=picture(0, 48, 48))
    made = model.processor.image_processor(images=[picture(0, 96, 96)], return_tensors="pt")
    ids = model.to_tokens("<image>" * count + " " + SHORT)
    with pytest.raises(InputError, match=r"pixel_values_local holds crops.*second run.*make the pictures smaller"):
        model.batch({"input_ids": ids, **made})


def test_a_branch_is_shown_as_it_is_added_after_a_factor() -> None:
    model = granite_docling()
    batch = model.prepare(SHORT, images=picture(0))
    _, cache = model.run_with_cache(batch)
    added = cache["blocks.1.hook_attn_out"] + cache["blocks.1.hook_mlp_out"]
    change = cache["blocks.1.hook_resid_post"] - cache["blocks.1.hook_resid_pre"]
    assert (added - change).abs().max() < 1e-4
