"""The page of asks: each call gives what was asked for, not only a value."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

import mmlens as mm
from docs import executed


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names that the page leaves, and its folder, in which the tests run."""
    folder = tmp_path_factory.mktemp("asks")
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as place:
        place.chdir(folder)
        blocks = [block for block, _ in executed.run(executed.FOLDER / "asks.md", names)]
        assert sum(block.how == "table" for block in blocks) == 25
        yield {**names, "folder": folder}


def test_hooks_and_inputs(asked: dict[str, Any]) -> None:  # U1 to U4
    model, batch = asked["model"], asked["batch"]
    torch.testing.assert_close(asked["bound"](asked["bound"].to_tokens()), model(batch))
    bare = mm.lab.load().hf_model(**dict(batch.items()))
    assert torch.equal(bare.logits, model(batch)), "edits are gone, and the model is the one that Hugging Face runs"


def test_edits(asked: dict[str, Any]) -> None:  # U5 to U9
    model, batch, edit = asked["model"], asked["batch"], asked["edit"]
    bare = AutoModelForImageTextToText.from_pretrained(asked["folder"] / "edited", dtype=torch.float32).eval()
    with torch.no_grad(), model.edited(edit):
        assert torch.equal(bare(**dict(batch.items())).logits, model(batch))
    assert not torch.equal(asked["changed"], model(batch))
    assert {case.role for case in asked["report"].cases} >= {"target", "control"}
    assert asked["located"].effect.shape[1] >= 2
    assert model.answer(asked["image"], asked["question"]) == "red", "and restored"


def test_states(asked: dict[str, Any]) -> None:  # U10 to U15
    model, batch = asked["model"], asked["batch"]
    _, cache = model.run_with_cache(batch, names="blocks.2.hook_resid_post", positions="last", device="cpu")
    assert [tuple(states.shape) for states in cache.values()] == [(1, 1, model.cfg.d_model)]
    assert len(asked["store"]) == len(asked["scenes"])
    assert list(asked["folder"].glob("states/**/*.safetensors"))
    assert asked["trace"].text == ["red"]
    assert {tuple(states.shape) for states in asked["trace"].states.values()} == {(1, 2, model.cfg.d_model)}, (
        "and the end"
    )
    pattern = asked["cache"]  # of one thing's patches, made last
    touched = batch.layout.patches_of_mask(torch.from_numpy(asked["moon"].mask))
    assert pattern["blocks.2.hook_resid_post"].shape[1] == len(touched)
    assert batch.layout.last[0] == batch["input_ids"].shape[1] - 1


def test_patches_and_views(asked: dict[str, Any]) -> None:  # U16 to U20
    boxes = asked["layout"].boxes(asked["layout"].image[0])
    width, height = asked["image"].size
    areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
    assert float(areas) == pytest.approx(width * height, rel=0.01), "they tile the picture"
    heat = mm.attention_map(asked["model"], asked["batch"], queries="moon", layers=[2])[0]
    assert isinstance(heat.overlay(asked["image"]), Image.Image)
    page = (asked["folder"] / "looks.html").read_text(encoding="utf-8")
    assert "<script" in page
    assert 'src="http' not in page
    assert len(asked["looked"]) == asked["said"].shape[1] > 10
    assert {noun.text for noun, _ in asked["maps"]} == {"star", "moon", "house"}


def test_concepts_steering_features(asked: dict[str, Any]) -> None:  # U21 to U24
    first = [words[0] for words in asked["words"]]
    assert len(set(first)) == 3
    assert set(first) <= set(mm.lab.SHAPES)
    assert asked["steered"] == "blue"
    assert str(asked["steer"].touched) == "2 positions in 2 steps", "a word and the end"
    assert asked["features"].top(1)


def test_checkpoints(asked: dict[str, Any]) -> None:  # U25
    again, model, batch = asked["again"], asked["model"], asked["batch"]
    with model.edited(asked["edit"]):
        assert torch.equal(again(batch), model(batch))
    wrapped, scene = asked["wrapped"], asked["scene"]
    plain = wrapped.caption(scene.image)
    with wrapped.adapter("place"):
        assert wrapped.caption(scene.image) != plain
