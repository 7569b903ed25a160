"""Pictures that are cut, padded and pooled: how many rows there are, and places that a resize or a padding moves."""

import pytest
import torch
from PIL import Image

from mmlens.core.errors import InputError, NoPlaceError
from tests.contracts import test_families as contract
from tests.families import cross_attending, idefics_like, query_like
from tests.tiny import Tiny, picture

_OWN = [tiny for module in (idefics_like, cross_attending, query_like) for tiny in module.TINY]


@torch.no_grad()
@pytest.mark.parametrize("tiny", _OWN, ids=lambda tiny: tiny.name)
def test_the_layout_knows_how_many_rows_a_part_has(tiny: Tiny) -> None:
    model = tiny.make()
    batch = contract.batch_of(tiny, model)
    held = dict(model.run_with_cache(batch, names=contract.POINTS)[1].items())
    assert set(held) == set(contract.POINTS)
    for name, activation in held.items():
        node = model.graph[name]
        # rows without any place (queries) are counted by a run alone
        known = node.sequence in ("vision", "language") or tiny.has_places
        expected = activation.shape[node.position_axis] if known else None
        assert batch.layout.length(node.sequence) in (expected, activation.shape[node.position_axis]), name


def _at(monkeypatch: pytest.MonkeyPatch, *points: str) -> None:
    monkeypatch.setattr(contract, "POINTS", list(points))


def test_tiles_that_are_padded_below_have_rows_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 x 16 pixels on a canvas of two tiles of 16: the last row of patches is padding."""
    model = cross_attending.mllama()
    layout = model.prepare(contract.SHORT, images=picture(0, 24, 16)).layout
    assert [len(layout.grid(part).rows) for part in ("vision", "projector")] == [6, 6]
    _at(monkeypatch, "vision.hook_embed", "projector.hook_in", "projector.hook_out")
    tiny = Tiny("mllama", cross_attending.mllama)
    contract.check_painting(tiny, model, [[picture(0, 24, 16)], [picture(1, 16, 24)]])


@pytest.mark.parametrize("size", [(48, 80), (33, 20), (64, 40)])
def test_tiles_of_a_picture_that_is_resized(size: tuple[int, int]) -> None:
    """Interpolation spreads a pixel, by at most two processed pixels here."""
    model = idefics_like.idefics3()
    reach = 1 + 2.5 * max(size) / 32
    tiny = Tiny("idefics3", idefics_like.idefics3, reach=reach)
    contract.check_painting(tiny, model, [[picture(0, *size)]])
    for part in contract.PARTS:
        for view in model.prepare(contract.SHORT, images=picture(0, *size)).layout.views(part):
            ends = view.boxes.max(0).values[2:]
            torch.testing.assert_close(ends, torch.tensor(size).flip(0).double())


def test_every_tile_is_found_by_the_tokens_around_it() -> None:
    """The layout of ids alone, without pictures, is that of the pictures they were made from."""
    model = idefics_like.idefics3()
    made = model.prepare(
        [contract.SHORT, contract.LONG], images=[[picture(0, 64, 32), picture(1, 32, 64)], [picture(2, 64, 64)]]
    )
    for layout in (made.layout, model.batch(**made.inputs).layout):
        shapes = [[view.shape for view in places.views("language")] for places in layout.places]
        assert shapes == [[(2, 2), (4, 2)], [(2, 2), (2, 4)], [(2, 2), (4, 4)]]


def test_image_tokens_that_are_no_whole_tiles_are_refused() -> None:
    model = idefics_like.idefics3()
    batch = model.prepare(contract.SHORT, images=picture(0, 64, 64))
    ids = batch["input_ids"].clone()
    ids[0, (ids[0] == model.config.image_token_id).nonzero()[2]] = 0
    with pytest.raises(InputError, match="not those of whole tiles of 4 tokens"):
        model.batch(**{**batch.inputs, "input_ids": ids})


def test_smolvlm_and_idefics3_write_the_same_prompt() -> None:
    """What is composed here is what the Hugging Face processor writes."""
    prompts = [
        make().prepare(contract.LONG, images=[picture(0, 64, 32), picture(1, 64, 64)])["input_ids"]
        for make in (idefics_like.idefics3, idefics_like.smolvlm)
    ]
    assert torch.equal(*prompts)


def test_pictures_that_aria_cuts_have_no_place() -> None:
    model = query_like.aria()
    model.processor.image_processor.split_image = True
    whole = model.prepare(contract.SHORT, images=picture(0, 980, 980))
    assert whole.layout.grid("vision").shape == (5, 5)
    processor = model.processor.image_processor
    tensors = dict(processor([Image.new("RGB", (1960, 980))], split_image=True, return_tensors="pt"))
    assert len(tensors["pixel_values"]) > 1
    ids = torch.tensor([[1] + [model.config.image_token_id] * 4 * len(tensors["pixel_values"])])
    places = model.family.places(model.config, {**tensors, "input_ids": ids}, [[(980, 1960)]], processor)
    assert "cut the picture into" in places[0].placeless["vision"]


def test_the_canvas_of_molmo_is_the_picture() -> None:
    """What crops share is read from one crop alone: the windows of the canvas cover the picture once."""
    model = query_like.molmo2()
    layout = model.prepare(contract.SHORT, images=picture(0, 40, 64)).layout
    squeezed, canvas = layout.views("language")
    assert (squeezed.shape, canvas.shape) == ((3, 3), (3, 4))
    widths = canvas.boxes[:, 2:] - canvas.boxes[:, :2]
    assert float(widths.prod(1).sum()) == 40 * 64
    assert [view.shape for view in layout.views("vision")] == [(5, 5)] * 3


def test_the_quarters_of_a_picture_lie_in_their_own_entries() -> None:
    layout = idefics_like.idefics2(cut=True).prepare(contract.SHORT, images=picture(0, 32, 48)).layout
    whole, quarters = layout.views("vision")
    assert (whole.index, whole.shape, quarters.shape) == (4, (4, 6), (4, 6))
    assert sorted(set(quarters.index.tolist())) == [0, 1, 2, 3]  # type: ignore[union-attr]
    with pytest.raises(NoPlaceError, match="4 latents of the perceiver mix all patches"):
        layout.grid("language")


@torch.no_grad()
@pytest.mark.parametrize("tiny", [each for each in _OWN if each.padded], ids=lambda tiny: tiny.name)
def test_the_side_of_padding_does_not_matter(tiny: Tiny) -> None:
    """What lies beside the ids (which tiles a position may look at, where queries go) moves with them."""
    model = tiny.make()
    pictures = [[picture(number, *size)] for number, size in enumerate(tiny.sizes)]
    texts = [contract.SHORT, contract.LONG]
    rows: list[list[torch.Tensor]] = []
    for side in ("left", "right"):
        batch = model.prepare(texts, images=pictures, padding_side=side)  # type: ignore[arg-type]
        rows.append([row[own] for row, own in zip(model(batch), batch.layout.is_token, strict=True)])
    for left, right in zip(*rows, strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=0)
