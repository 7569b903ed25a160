"""Attention over the picture: against bare Hugging Face's own weights, and on a model whose looking head is known."""

import pytest
import torch

from mmlens.analysis.attention_map import attention_map
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
    batch = subject.batches["left"]
    eager = bare_copy(model, "eager")
    weights = eager(**batch, output_attentions=True).attentions
    for sample, image in ((0, 0), (1, 0)):
        found = attention_map(model, batch, layers=[0, 2], heads=[1, 3], sample=sample, image=image)
        expected = torch.stack([weights[layer][sample, [1, 3], -1] for layer in (0, 2)]).mean((0, 1))
        grid = batch.layout.grid(sample=sample, image=image)
        for row, (down, across) in zip(grid.rows.tolist(), grid.cells.tolist(), strict=True):
            torch.testing.assert_close(found.values[down, across], expected[row], atol=1e-5, rtol=1e-4)
        assert found.size == batch.layout.place(sample, image).size
    assert found.title == "attention of language layers 0, 2, heads 1, 3"
    everything = attention_map(model, batch, queries=[-2, -1])
    by_hand = torch.stack([layer[0, :, -2:] for layer in weights]).mean((0, 1, 2))[batch.layout.image[0]]
    torch.testing.assert_close(everything.values.sum(), by_hand.sum(), atol=1e-5, rtol=1e-4)
    assert everything.title == "attention of language layers 0 to 2"


@torch.no_grad()
def test_a_towers_class_row_looks_at_patches(llava: Subject) -> None:
    batch = llava.batches["several"]
    weights = (
        bare_copy(llava.model, "eager").model.vision_tower(batch["pixel_values"], output_attentions=True).attentions
    )
    for sample, image, entry in ((0, 0, 0), (0, 1, 1), (1, 0, 2)):
        found = attention_map(llava.model, batch, part="vision", queries=0, layers=[1], sample=sample, image=image)
        expected = weights[1][entry, :, 0, 1:].mean(0)  # behind the class row, in raster order
        torch.testing.assert_close(found.values.flatten(), expected, atol=1e-5, rtol=1e-4)


def test_it_points_at_the_planted_patch_and_not_in_the_twin(planted_patch: Wrapped) -> None:
    truth, batch = planted_patch.planted.truth, planted_patch.batch()
    about = {"layers": [truth.head_layer], "heads": [truth.head]}
    found = attention_map(planted_patch.model, batch, **about)  # type: ignore[arg-type]
    assert divmod(int(found.values.argmax()), found.values.shape[1]) == (truth.row, truth.column)
    assert found.values[truth.row, truth.column] > 0.5
    twin = attention_map(planted_patch.twin, batch, **about)  # type: ignore[arg-type]
    assert twin.values[truth.row, truth.column] < 0.2


def test_what_cannot_be_mapped(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    for about, text in (
        ({"layers": [3]}, r"^layers=\[3\] must name some of the language layers 0 to 2\.$"),
        ({"heads": [4]}, r"^heads=\[4\] must name some of the 4 heads, 0\.\.3\.$"),
        ({"queries": 99}, r"^positions=99 name \[99\], outside the \d+ positions of the language sequence\.$"),
        ({"part": "projector"}, r"^part='projector' must be one of 'language', 'vision'\.$"),
        ({"part": "vision"}, r"^positions='last' has no meaning on the vision sequence"),
    ):
        with pytest.raises(InputError, match=text):
            attention_map(model, batch, **about)  # type: ignore[arg-type]
    decoder = next(tiny for tiny in FAMILIES if tiny.name == "florence2").make()
    with pytest.raises(NoPlaceError, match=r"^blocks of florence2 look at the decoder sequence, which holds no rows"):
        attention_map(decoder, decoder.prepare("describe the image", images=picture(0)))
