"""Contract: every corruption keeps the layout, changes every sample and nothing of the batch itself, and says what it did."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmlens as mm
from tests.conftest import Subject
from tests.tiny import picture

Corrupt = Callable[[Any, mm.MultimodalBatch], mm.MultimodalBatch]


def others(batch: mm.MultimodalBatch) -> list[list[Any]]:
    """Other pictures of the same sizes."""
    return [[picture(20 + n, shown.height, shown.width) for shown in sample] for n, sample in enumerate(batch.images)]


def twins(batch: mm.MultimodalBatch) -> list[Image.Image]:
    """The pictures with a corner painted."""
    made = [np.array(sample[0].convert("RGB")) for sample in batch.images]
    for pixels in made:
        pixels[:6, :6] = 255 - pixels[:6, :6]
    return [Image.fromarray(pixels) for pixels in made]


#: Every corruption with what it needs; those that stand at several levels once for each.
CASES: dict[str, list[Corrupt]] = {
    "swap": [lambda m, b: mm.corrupt.swap(m, b, others(b))],
    "twin": [lambda m, b: mm.corrupt.twin(m, b, twins(b))],
    "blur": [lambda m, b: mm.corrupt.blur(m, b)],
    "replace_words": [lambda m, b: mm.corrupt.replace_words(m, b, {"describe": "what", "what": "describe"})],
    "noise": [lambda m, b, at=at: mm.corrupt.noise(m, b, at=at, sigma=1.0) for at in ("pixels", "hook_embed")],
    "blank": [lambda m, b, at=at: mm.corrupt.blank(m, b, at=at) for at in ("pixels", "hook_embed")],
    "mean": [lambda m, b, at=at: mm.corrupt.mean(m, b, b, at=at) for at in ("pixels", "hook_embed")],
    "shuffle": [lambda m, b, at=at: mm.corrupt.shuffle(m, b, at=at) for at in ("pixels", "hook_embed")],
}
every_case = pytest.mark.parametrize("corrupt", [c for cases in CASES.values() for c in cases])


def test_all_corruptions_are_held_to_it() -> None:
    assert set(CASES) == set(mm.corrupt.__all__)
    for name in CASES:
        function = getattr(mm.corrupt, name)
        assert list(inspect.signature(function).parameters)[:2] == ["model", "batch"]
        assert inspect.getdoc(function).split("\n")[0].startswith("The batch with ")  # type: ignore[union-attr]


@every_case
@torch.no_grad()
def test_the_layout_stays_every_sample_changes_and_the_batch_is_left_as_it_was(
    subject: Subject, corrupt: Corrupt
) -> None:
    model, batch = subject.model, subject.batches["left"]
    inputs = {name: tensor.clone() for name, tensor in batch.items()}
    clean = model(batch)[:, -1]
    corrupted = corrupt(model, batch)
    assert torch.equal(corrupted.layout.is_image, batch.layout.is_image)
    assert torch.equal(corrupted.layout.is_token, batch.layout.is_token)
    assert float((model(corrupted)[:, -1] - clean).abs().amax(-1).min()) > 1e-4
    assert not batch.carried
    assert all(torch.equal(batch[name], tensor) for name, tensor in inputs.items())
    again = corrupt(model, batch)
    assert torch.equal(model(again), model(corrupted))  # what is drawn comes from the seed
