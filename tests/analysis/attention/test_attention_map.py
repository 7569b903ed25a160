"""Attention over the picture: against bare Hugging Face's own weights, and on a model whose looking head is known."""

import pytest
import torch

from mmlens.analysis.attention.shares import attention_map
from mmlens.core import positions
from mmlens.core.errors import InputError, NoPlaceError
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject, bare_copy
from tests.families import FAMILIES
from tests.tiny import picture


@torch.no_grad()
def test_the_map_is_hugging_faces_own_attention(subject: Subject) -> None:
    model = subject.model
    if not subject.tiny.has_places:
        with pytest.raises(NoPlaceError, match=r"^Rows of the part 'language' were asked for their place: "):
            attention_map(model, subject.batches["left"])
        return
    eager = bare_copy(model, "eager")
    for side in ("left", "right"):
        batch = subject.batches[side]
        weights = eager(**batch, output_attentions=True).attentions
        maps = attention_map(model, batch, layers=[0, 2], heads=[1, 3])
        assert len(maps) == 2
        for sample, found in enumerate(maps):
            last = int(batch["attention_mask"][sample].nonzero().max())
            expected = torch.stack([weights[layer][sample, [1, 3], last] for layer in (0, 2)]).mean((0, 1))
            grid = batch.layout.grid(sample=sample)
            assert found is not None
            for row, (down, across) in zip(grid.rows.tolist(), grid.cells.tolist(), strict=True):
                torch.testing.assert_close(found.values[down, across], expected[row], atol=1e-5, rtol=1e-4)
            assert found.size == batch.layout.place(sample).size
            assert found.title == "attention of language layers 0, 2, heads 1, 3"
    everything = attention_map(model, batch, queries=[-2, -1])[1]
    assert everything is not None
    by_hand = torch.stack([layer[1, :, -2:] for layer in weights]).mean((0, 1, 2))[batch.layout.image[1]]
    torch.testing.assert_close(everything.values.sum(), by_hand.sum(), atol=1e-5, rtol=1e-4)
    assert everything.title == "attention of language layers 0 to 2"


@torch.no_grad()
def test_a_word_looks_from_wherever_it_stands(llava: Subject) -> None:
    model = llava.model
    texts = ["what is the color of the circle", "the red circle", "circle"]
    batch = model.prepare(texts, images=[[picture(0)], [], [picture(2), picture(3)]])
    weights = bare_copy(model, "eager")(**batch, output_attentions=True).attentions
    circle = model.to_single_token("circle")
    for image in (0, 1):
        maps = attention_map(model, batch, queries="Circle", image=image)
        assert [found is None for found in maps] == [image == 1, True, False]  # samples without such a picture
        for sample, found in enumerate(maps):
            if found is None:
                continue
            (at,) = (batch["input_ids"][sample] == circle).nonzero().flatten().tolist()
            by_hand = torch.stack([layer[sample, :, at] for layer in weights]).mean((0, 1))
            rows = batch.layout.grid(sample=sample, image=image).rows
            torch.testing.assert_close(found.values.flatten(), by_hand[rows], atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match=r"'color' does not stand in the text of samples \[1, 2\]"):
        attention_map(model, batch, queries="color")


@torch.no_grad()
def test_a_towers_class_row_looks_at_patches(llava: Subject) -> None:
    batch = llava.batches["several"]
    weights = (
        bare_copy(llava.model, "eager").model.vision_tower(batch["pixel_values"], output_attentions=True).attentions
    )
    entries = {(0, 0): 0, (0, 1): 1, (1, 0): 2}
    for image in (0, 1):
        maps = attention_map(llava.model, batch, part="vision", queries=positions.row(0), layers=[1], image=image)
        everything = attention_map(llava.model, batch, part="vision", layers=[1], image=image)
        for sample in (0, 1):
            entry = entries.get((sample, image))
            for found, queries in ((maps[sample], [0]), (everything[sample], list(range(17)))):
                assert (found is None) == (entry is None)
                if found is not None:
                    expected = weights[1][entry, :, queries, 1:].mean((0, 1))  # behind the class row, in raster order
                    torch.testing.assert_close(found.values.flatten(), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="rows of another picture of the sample, which cannot see this one"):
        attention_map(llava.model, batch, part="vision", queries=0, image=1)


def test_it_points_at_the_planted_patch_and_not_in_the_twin(planted_patch: Wrapped) -> None:
    truth, batch = planted_patch.planted.truth, planted_patch.batch()
    about = {"layers": [truth.head_layer], "heads": [truth.head]}
    (found,) = attention_map(planted_patch.model, batch, **about)  # type: ignore[arg-type]
    assert found is not None
    assert divmod(int(found.values.argmax()), found.values.shape[1]) == (truth.row, truth.column)
    assert found.values[truth.row, truth.column] > 0.5
    (twin,) = attention_map(planted_patch.twin, batch, **about)  # type: ignore[arg-type]
    assert twin is not None
    assert twin.values[truth.row, truth.column] < 0.2


@torch.no_grad()
def test_a_frame_of_a_video(qwen: Subject) -> None:
    model = qwen.model
    frames = torch.stack([picture(n) for n in range(4)])
    batch = model.prepare("describe the image", videos=[frames])
    weights = bare_copy(model, "eager")(**batch, output_attentions=True).attentions
    by_hand = torch.stack([layer[0, :, -1] for layer in weights]).mean((0, 1))
    for frame in (0, 3):
        (found,) = attention_map(model, batch, frame=frame)
        assert found is not None
        rows = batch.layout.grid(frame=frame).rows
        torch.testing.assert_close(found.values.flatten(), by_hand[rows], atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match=r"is a video of 4 frames, and frame=None is none of them; pass frame=0\.\.3"):
        attention_map(model, batch)


def test_what_cannot_be_mapped(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    for about, text in (
        ({"layers": [3]}, r"^layers=\[3\] must name some of the language layers 0 to 2\.$"),
        ({"heads": [4]}, r"^heads=\[4\] must name some of the 4 heads, 0\.\.3\.$"),
        ({"queries": 99}, r"^positions.index\(99\) name \[99\], outside the 19 tokens of sample 0"),
        ({"part": "projector"}, r"part='projector' must be 'language' or 'vision'\.$"),
        (
            {"part": "vision", "queries": "last"},
            r"^positions='last' has no meaning at vision.blocks.0.attn.hook_pattern",
        ),
        ({"image": 1}, r"^There is no picture 1 in sample 0"),
    ):
        with pytest.raises(InputError, match=text):
            attention_map(model, batch, **about)  # type: ignore[arg-type]
    decoder = next(tiny for tiny in FAMILIES if tiny.name == "florence2").make()
    with pytest.raises(NoPlaceError, match=r"^blocks of florence2 look at the decoder sequence, which holds no rows"):
        attention_map(decoder, decoder.prepare("describe the image", images=picture(0)))


def test_heads_as_units_bring_their_layers_along(llava: Subject) -> None:
    batch = llava.batches["left"]
    by_number = attention_map(llava.model, batch, layers=[2], heads=[1, 3])
    by_name = attention_map(llava.model, batch, heads=["L2.h1", "L2.h3"])
    for ours, theirs in zip(by_name, by_number, strict=True):
        assert torch.equal(ours.values, theirs.values)  # type: ignore[union-attr]
        assert ours.title == theirs.title == "attention of language layer 2, heads 1, 3"  # type: ignore[union-attr]
    first, second = (attention_map(llava.model, batch, heads=name)[0] for name in ("L0.h1", "L2.h3"))
    both = attention_map(llava.model, batch, heads=["L0.h1", "L2.h3"])[0]
    torch.testing.assert_close(both.values, (first.values + second.values) / 2)  # type: ignore[union-attr]
    assert both.title == "attention of language layers 0, 2, heads L0.h1, L2.h3"  # type: ignore[union-attr]
