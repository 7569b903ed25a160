"""Attention of each token to each patch: against bare Hugging Face's own weights, and what is averaged elsewhere."""

import numpy as np
import pytest
import torch

from mmlens.analysis.attention.looks import attention_looks
from mmlens.analysis.attention.shares import attention_map
from mmlens.analysis.relevance.maps import relevance_map
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.viz.page.packs import pack_of
from tests.conftest import Subject, bare_copy
from tests.tiny import picture, qwen2_vl


@torch.no_grad()
def test_every_token_looks_as_in_hugging_face(subject: Subject) -> None:
    model = subject.model
    if not subject.tiny.has_places:
        with pytest.raises(NoPlaceError, match=r"mm\.attention_map"):
            attention_looks(model, subject.batches["left"])
        return
    eager = bare_copy(model, "eager")
    for side in ("left", "right"):
        batch = subject.batches[side]
        weights = torch.stack(eager(**batch, output_attentions=True).attentions)  # [layer sample head query key]
        for sample in range(batch.size):
            looks = attention_looks(model, batch, sample=sample)
            grid = batch.layout.grid(sample=sample)
            own = batch.layout.is_token[sample].nonzero().flatten()
            text = [number for number, row in enumerate(own.tolist()) if not batch.layout.is_image[sample, row]]
            assert list(looks.positions) == text
            expected = weights[:, sample][:, :, own[text]][..., grid.rows]
            torch.testing.assert_close(looks.values, expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(looks.boxes, grid.boxes.float())
            torch.testing.assert_close(looks.shares, expected.sum(-1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_map_of_looks_is_the_attention_map(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    looks = attention_looks(model, batch, queries=[-1, -2], layers=[0, 2], sample=1)
    averaged = attention_map(model, batch, queries=-1, layers=[0, 2])[1]
    one = attention_map(model, batch, queries=-1, layers=[2], heads=[1])[1]
    assert averaged is not None
    assert one is not None
    number = looks.positions.index(max(looks.positions))
    torch.testing.assert_close(looks.map(number).values, averaged.values, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(looks.map(number, layer=2, head=1).values, one.values, atol=1e-6, rtol=1e-5)
    frame = looks.to_frame()
    assert len(frame) == looks.shares.numel()
    row = frame[(frame["layer"] == 2) & (frame["head"] == 1) & (frame["position"] == looks.positions[number])].iloc[0]
    assert row["share"] == pytest.approx(float(looks.shares[1, 1, number]))
    assert row["share of the patch"] == pytest.approx(float(one.values.max()), rel=1e-4)


def test_what_was_not_read_is_refused(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    looks = attention_looks(model, batch, layers=[1])
    for query, layer, head in ((99, None, None), (0, 0, None), (0, 1, 99)):
        with pytest.raises(InputError):
            looks.map(query, layer=layer, head=head)
    with pytest.raises(InputError, match=r"sample=9 must lie in 0\.\.1"):
        attention_looks(model, batch, sample=9)
    with pytest.raises(InputError, match="must name some of the language layers"):
        attention_looks(model, batch, layers=[7])


def test_the_view_opens_where_the_headline_says(llava: Subject) -> None:
    looks = attention_looks(llava.model, llava.batches["left"])
    pack = pack_of(looks)
    layer, head, token = (pack.start[axis] for axis in ("layer", "head", "token"))
    assert float(looks.shares[layer, head, token]) == float(looks.shares.max())
    assert f"L{looks.layers[layer]}.h{head}" in pack.headline


def test_frames_of_a_video_are_looked_at_one_by_one() -> None:
    model = qwen2_vl()
    batch = model.prepare("what color is the circle", videos=torch.stack([picture(n) for n in range(4)]))
    with pytest.raises(InputError, match=r"is a video of 4 frames.*pass frame=0\.\.3"):
        attention_looks(model, batch)
    for frame in (0, 2):
        looks = attention_looks(model, batch, queries="last", frame=frame)
        (expected,) = attention_map(model, batch, queries="last", frame=frame)
        assert expected is not None
        torch.testing.assert_close(looks.map(0).values, expected.values)
        assert looks.picture is not None
        assert np.array_equal(np.asarray(looks.picture), picture(frame).numpy())
        assert "look" in looks.view().text
        (relevant,) = relevance_map(model, batch, method="rollout", frame=frame)
        assert relevant is not None
        assert relevant.size == (32, 32)
        assert relevant.values.shape == expected.values.shape
    assert attention_looks(model, batch, frame=0).values.ne(attention_looks(model, batch, frame=2).values).any()
