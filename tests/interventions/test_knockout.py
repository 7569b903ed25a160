"""Attention knock-out: against a mask made by hand, in generation, and what is refused."""

from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.interventions.knockout import KnockOut
from tests.conftest import Subject


@torch.no_grad()
def test_the_pattern_is_the_rest_made_to_sum_to_one(subject: Subject) -> None:
    """A cut pair weighs nothing, and what is left of the query's pattern keeps its proportions."""
    model, batch = subject.model, subject.batches["left"]
    names = ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern", "blocks.2.attn.hook_pattern"]
    _, before = model.run_with_cache(batch, names=names)
    with model.intervene(KnockOut("last", "image", batch.layout, layers=[1], heads=[0, 3])):
        logits, after = model.run_with_cache(batch, names=names)
    assert torch.equal(after[names[0]], before[names[0]])
    expected = before[names[1]].clone()
    for sample in range(2):
        last = int(batch.layout.last[sample])
        for head in (0, 3):
            row = expected[sample, head, last]
            assert row[batch.layout.image[sample]].sum() > 0.01, "nothing to cut"
            row[batch.layout.image[sample]] = 0
            row /= row.sum()
    torch.testing.assert_close(after[names[1]], expected, rtol=0, atol=1e-6)
    assert not torch.allclose(logits, model(batch), atol=1e-3)


@torch.no_grad()
def test_cut_in_all_layers_the_last_position_sees_no_picture(llava: Subject) -> None:
    """With every position cut from the picture, the answer is that of any other picture."""
    model, batch = llava.model, llava.batches["left"]
    other = model.prepare(["describe the image", "what color is the big red circle"], images=[[p] for p in _pictures()])
    shown = []
    for each in (batch, other):
        with model.intervene(KnockOut("text", "image", each.layout)) as cut:
            shown.append(cut(each)[:, -1])
    assert not torch.allclose(model(batch)[:, -1], model(other)[:, -1], atol=1e-2)
    torch.testing.assert_close(*shown, rtol=0, atol=1e-5)


def _pictures() -> list[torch.Tensor]:
    from tests.tiny import picture

    return [picture(6), picture(7)]


@torch.no_grad()
def test_in_generation_the_new_tokens_are_cut_when_asked(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    image = batch.layout.image
    for generated in (False, True):
        seen: list[torch.Tensor] = []

        def look(pattern: torch.Tensor, hook: Any, seen: list[torch.Tensor] = seen) -> None:
            weights = [pattern[i, :, -1, rows].sum() for i, rows in enumerate(image)]
            seen.append(torch.stack(weights))

        cut = KnockOut("last", "image", batch.layout, generated=generated)
        with model.intervene(cut), model.hooks([("blocks.1.attn.hook_pattern", look)]):
            model.generate(batch, max_new_tokens=3, min_new_tokens=3)
        assert len(seen) == 3
        assert seen[0].max() == 0
        assert (torch.stack(seen[1:]).max() == 0) == generated


def test_cuts_that_cannot_be_are_refused(llava: Subject, qwen: Subject) -> None:
    batch = llava.batches["left"]
    layout = batch.layout
    cases: list[tuple[KnockOut, str]] = [
        (
            KnockOut("last", "image", layout, layers=[3]),
            r"layers=\[3\] of language have no attention scores; it has them in layers 0, 1, 2",
        ),
        (KnockOut("last", "image", layout, layers=[]), "No layer was named"),
        (KnockOut("last", "image", layout, heads=[4]), r"heads=\[4\] must name some of the 4 heads, 0..3"),
        (KnockOut("image", [22], layout), r"see none of keys=\[22\] in samples \[0, 1\] anyway"),
        (KnockOut("last", "all", layout), r"Position 22 of sample 0 would have no key left to look at"),
    ]
    for cut, message in cases:
        with pytest.raises(InputError, match=message), llava.model.intervene(cut):
            pass
    packed = KnockOut("all", [0], qwen.batches["left"].layout, part="vision")
    with pytest.raises(InputError, match="has no batch axis"), qwen.model.intervene(packed):
        pass
    with (
        pytest.raises(InputError, match=r"made for a batch of \[2, 23\] \[batch pos\], this run has \[1, 18\]"),
        llava.model.intervene(KnockOut("last", "image", layout)),
    ):
        llava.model(llava.model.prepare("the image", images=batch.images[0]))
