"""Dual encoders opened from folders as the hub has them: ids, pixels and scores are those of transformers' own processor."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from mmlens.analysis.metrics import log_probability
from mmlens.analysis.patching.sweep import patch
from mmlens.core.errors import InputError
from mmlens.core.positions import box, word
from mmlens.interventions.corruptions.multi_level import mean, noise, shuffle
from mmlens.models.hooked import HookedMultimodal
from tests.checkpoints.cases import picture
from tests.checkpoints.layouts import CLIP, DUAL_ENCODERS, SIGLIP, Layout

TEXTS = ["A photo of a dog.", "a big red circle on the grass, and a small blue one", "Yes."]
#: How people call transformers' processor for each.
PADDING: dict[str, dict[str, Any]] = {"clip": {"padding": True}, "siglip": {"padding": "max_length"}}

PAGE = Path(__file__).parents[2] / "docs" / "dual_encoders.md"

Open = Callable[[Layout], HookedMultimodal]


@pytest.mark.parametrize("layout", DUAL_ENCODERS, ids=lambda layout: layout.name)
@torch.no_grad()
def test_scores_are_those_of_bare_hugging_face(
    layout: Layout, folder_of: Callable[[Layout], Path], open_layout: Open
) -> None:
    bare, processor = (
        AutoModel.from_pretrained(folder_of(layout)).eval(),
        AutoProcessor.from_pretrained(folder_of(layout)),
    )
    pictures = [picture(0), picture(1, 224, 300)]
    own = processor(text=TEXTS, images=pictures, return_tensors="pt", **PADDING[layout.name])
    model = open_layout(layout)
    batch = model.prepare(TEXTS, images=pictures)
    assert set(batch) == set(own)
    assert all(torch.equal(batch[name], own[name]) for name in own)
    assert torch.equal(model(batch), bare(**own).logits_per_image)
    assert model(batch).shape == (2, 3)


@pytest.mark.parametrize("layout", DUAL_ENCODERS, ids=lambda layout: layout.name)
@torch.no_grad()
def test_what_reads_like_the_end_of_a_text_does_not_end_it(layout: Layout, open_layout: Open) -> None:
    model = open_layout(layout)
    end = model.processor.tokenizer.eos_token
    plain = model.prepare("a dog", images=picture(0))
    written = model.prepare(f"a dog {end} in the grass", images=picture(0))
    real = written["input_ids"][written.layout.is_token]
    ends = 1 if layout is CLIP else 64 - int((plain["input_ids"] != plain["input_ids"][0, -1]).sum())
    assert int((real == model.processor.tokenizer.eos_token_id).sum()) <= ends
    assert written.prompts == (f"a dog {end} in the grass",)
    assert not torch.equal(model(written), model(plain))


@torch.no_grad()
def test_words_and_boxes_are_rows_of_their_own_towers(open_layout: Open) -> None:
    model = open_layout(CLIP)
    batch = model.prepare(TEXTS[:2], images=[picture(0), picture(1, 224, 448)])
    _, cache = model.run_with_cache(batch, names="blocks.1.hook_resid_post", positions=word(["dog", "circle"]))
    _, whole = model.run_with_cache(batch, names=["blocks.1.hook_resid_post", "vision.blocks.1.hook_resid_post"])
    ids = [batch.tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("dog", "circle")]
    for sample, pieces in enumerate(ids):
        row = batch["input_ids"][sample].tolist()
        first = next(at for at in range(len(row)) if row[at : at + len(pieces)] == pieces)
        states = whole["blocks.1.hook_resid_post"][sample, first : first + len(pieces)]
        assert torch.equal(cache.samples("blocks.1.hook_resid_post")[sample], states)
    # a picture of 448 x 224 is cropped to its middle: its first column of patches begins at pixel 112
    rows = batch.layout.patches(box=(112, 0, 144, 32), sample=1, part="vision")
    assert rows.plain.tolist() == [1]
    _, boxed = model.run_with_cache(
        batch, names="vision.blocks.1.hook_resid_post", positions=box([(80, 0, 81, 1), (112, 0, 144, 32)])
    )
    assert torch.equal(
        boxed.samples("vision.blocks.1.hook_resid_post")[1][0], whole["vision.blocks.1.hook_resid_post"][1, 1]
    )


def test_texts_that_are_too_long_are_refused(open_layout: Open) -> None:
    with pytest.raises(InputError, match=r"The texts take \d+ tokens, and the text tower has 77 positions"):
        open_layout(CLIP).prepare("dog " * 100, images=picture(0))
    with pytest.raises(InputError, match=r"The texts take \d+ tokens, and the text tower has 64 positions"):
        open_layout(SIGLIP).prepare("dog " * 100, images=picture(0))


@pytest.mark.parametrize("layout", DUAL_ENCODERS, ids=lambda layout: layout.name)
def test_the_code_of_the_page_runs(layout: Layout, folder_of: Callable[[Layout], Path]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    if layout is SIGLIP:  # whose picture's embedding is no row times a matrix
        block = block.replace('method="direct_effect"', 'method="gradient_x_activation"')
    names: dict[str, Any] = {}
    exec(compile(block.replace("openai/clip-vit-base-patch32", str(folder_of(layout))), str(PAGE), "exec"), names)
    assert names["scores"].shape == (2, 2)
    assert names["sweep"].values.shape == (2, 4 if layout is CLIP else 16, 2)
    assert names["words"].values.isfinite().all()


@pytest.mark.parametrize("layout", DUAL_ENCODERS, ids=lambda layout: layout.name)
def test_tensors_of_texts_that_are_too_long_are_refused(layout: Layout, open_layout: Open) -> None:
    model = open_layout(layout)
    tensors = dict(model.prepare("a dog", images=picture(0)))
    ids = torch.ones(1, 200, dtype=torch.long)
    tensors |= {"input_ids": ids} | ({"attention_mask": ids} if "attention_mask" in tensors else {})
    with pytest.raises(InputError, match=r"The texts take 200 tokens, and the text tower has (77|64) positions"):
        model.batch(tensors)


def test_tensors_of_texts_that_siglip_was_not_trained_to_read_are_remarked(open_layout: Open) -> None:
    model = open_layout(SIGLIP)
    own = model.processor(text=["a red circle"], images=[picture(0)], return_tensors="pt", padding=True)
    with pytest.warns(UserWarning, match="trained on texts padded to 64: it reads padding too"):
        batch = model.batch(dict(own))
    assert not torch.equal(model(batch), model(model.prepare("a red circle", images=picture(0))))


def test_metrics_of_texts_that_the_batch_lacks_are_refused(open_layout: Open) -> None:
    model = open_layout(CLIP)
    batch = model.prepare(["a red circle", "a dog"], images=[picture(0), picture(1)])
    with pytest.raises(InputError, match=r"names the texts \[2\]; the batch has 2, numbered 0 to 1"):
        patch(model, batch, batch, at="projector.hook_out", metric=log_probability(2))


@torch.no_grad()
@pytest.mark.parametrize("layout", DUAL_ENCODERS, ids=lambda layout: layout.name)
def test_pictures_are_corrupted_where_the_model_reads_them(layout: Layout, open_layout: Open) -> None:
    model = open_layout(layout)
    batch = model.prepare(["a red circle", "a dog"], images=[picture(0), picture(1)])
    for corrupted in (
        noise(model, batch),
        mean(model, batch, batch),
        shuffle(model, batch),
        noise(model, batch, positions="image"),
    ):
        assert [carried.at for carried in corrupted.carried] == ["vision.hook_embed"]
        assert not torch.equal(model(corrupted), model(batch))
    assert [carried.at for carried in noise(model, batch, positions=[0, 1]).carried] == ["hook_embed"]
