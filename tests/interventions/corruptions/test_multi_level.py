"""Corruptions of pixels and of what lies behind them: limits, means over several batches, orders in which nothing stays."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.interventions.activations import gaussian
from mmlens.interventions.corruptions import blank, mean, noise, shuffle
from mmlens.interventions.corruptions.multi_level import _other_order, _tiles_moved
from tests.conftest import Subject
from tests.tiny import picture

AT = "projector.hook_out"


def rows_of(llava: Subject, batch: object) -> torch.Tensor:
    """What stands at the point, all rows."""
    return llava.model.run_with_cache(batch, names=AT)[1][AT].flatten(0, 1)  # type: ignore[arg-type]


def test_the_mean_is_over_all_rows_of_all_batches(llava: Subject) -> None:
    """Two pictures and one: three pictures' rows, each as much as any other."""
    model = llava.model
    batch = llava.batches["left"]
    references = [
        model.prepare(["the image"] * 2, images=[[picture(4)], [picture(5)]]),
        model.prepare("where is this", images=picture(6)),
    ]
    vector = torch.cat([rows_of(llava, other) for other in references]).double().mean(0).float()
    for reference in (references, iter(references)):
        torch.testing.assert_close(rows_of(llava, mean(model, batch, reference, at=AT)), vector.expand(32, -1))
    alone = rows_of(llava, references[1]).mean(0)
    torch.testing.assert_close(rows_of(llava, mean(model, batch, references[1], at=AT)), alone.expand(32, -1))
    words = model.run_with_cache(references[1], names="hook_embed")[1]["hook_embed"][
        0, references[1].layout.text[0].plain
    ]
    at_text = mean(model, references[1], references[1], at="hook_embed", positions="text")
    changed = model.run_with_cache(at_text, names="hook_embed")[1]["hook_embed"][0, references[1].layout.text[0].plain]
    torch.testing.assert_close(changed, words.mean(0).expand_as(words))
    with pytest.raises(InputError, match="mean was given no batch to take the mean over"):
        mean(model, batch, [])


def test_noise_is_of_the_spread_and_of_each_samples_own(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    before = rows_of(llava, batch)
    spread = float((before - before.mean(0)).pow(2).mean().sqrt())
    found = rows_of(llava, noise(model, batch, sigma=2.0, at=AT, seed=5))
    drawn = torch.cat([gaussian(before[:16], 5, f"{AT} {sample}") for sample in (0, 1)])
    torch.testing.assert_close(found, before + 2 * spread * drawn)
    # at rows that are all alike there is no unit
    alike = blank(model, batch, at=AT)
    with pytest.raises(InputError, match=r"^The rows at projector.hook_out are all equal, so their spread is 0"):
        noise(model, alike, at=AT)


def test_rows_change_places_within_their_sample(llava: Subject) -> None:
    before = rows_of(llava, llava.batches["left"])
    found = rows_of(llava, shuffle(llava.model, llava.batches["left"], at=AT, seed=2))
    orders = []
    for sample in (slice(0, 16), slice(16, 32)):
        same = (found[sample][:, None] == before[sample][None]).all(-1)
        assert (same.sum(0) == 1).all()
        assert (same.sum(1) == 1).all()
        orders.append(same.float().argmax(1).tolist())
        assert orders[-1] != list(range(16))
    assert orders[0] != orders[1]


def test_pixel_noise_stays_within_what_a_pixel_can_be(llava: Subject) -> None:
    """Where it is large, half of the pixels are black and half as bright as can be: nothing comes round."""
    clean = llava.model.prepare("the image", images=picture(0))
    shown = np.asarray(noise(llava.model, clean, sigma=40.0, at="pixels", seed=3).images[0][0])
    assert (shown == 0).mean() > 0.45
    assert (shown == 255).mean() > 0.45


def test_tiles_of_uneven_size_are_made_to_fit() -> None:
    """Seven by ten pixels in two by three tiles, each of a colour of its own."""
    down, across = [0, 4, 7], [0, 3, 7, 10]
    shown = np.zeros((7, 10, 3), dtype=np.uint8)
    tiles = [(t, b, left, r) for t, b in pairwise(down) for left, r in pairwise(across)]
    for number, (top, bottom, left, right) in enumerate(tiles):
        shown[top:bottom, left:right] = 30 * number + 10
    orders = set()
    for seed in range(6):
        moved = np.asarray(_tiles_moved(Image.fromarray(shown), (2, 3), torch.Generator().manual_seed(seed)))
        colors = [np.unique(moved[top:bottom, left:right]).tolist() for top, bottom, left, right in tiles]
        assert sorted(colors) == [[30 * number + 10] for number in range(6)]
        assert colors != sorted(colors)
        orders.add(str(colors))
    assert len(orders) == 6


def test_one_row_cannot_change_places_and_two_always_do() -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        assert _other_order(1, generator).tolist() == [0]
        assert _other_order(2, generator).tolist() == [1, 0]
