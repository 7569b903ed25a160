"""Attention knock-out: against a mask made by hand, in generation, and what is refused."""

from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units
from mmlens.core.units import Head
from mmlens.interventions.knockout import KnockOut
from tests.conftest import Subject
from tests.families.encoder_decoder import florence2
from tests.families.gemma_like import gemma3, paligemma
from tests.interventions.passes import never_entered
from tests.tiny import picture


@torch.no_grad()
def test_the_pattern_is_the_rest_made_to_sum_to_one(subject: Subject) -> None:
    """A cut pair weighs nothing, and what is left of the query's pattern keeps its proportions."""
    model, batch = subject.model, subject.batches["left"]
    names = ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern", "blocks.2.attn.hook_pattern"]
    _, before = model.run_with_cache(batch, names=names)
    with model.intervene(KnockOut("last", "image", layers=[1], heads=[0, 3])):
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
        with model.intervene(KnockOut("text", "image")) as cut:
            shown.append(cut(each)[:, -1])
    assert not torch.allclose(model(batch)[:, -1], model(other)[:, -1], atol=1e-2)
    torch.testing.assert_close(*shown, rtol=0, atol=1e-5)


def _pictures() -> list[torch.Tensor]:
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

        cut = KnockOut(positions.last | positions.generated if generated else "last", "image")
        with model.intervene(cut), model.hooks([("blocks.1.attn.hook_pattern", look)]):
            model.generate(batch, max_new_tokens=3, min_new_tokens=3)
        assert len(seen) == 3
        assert seen[0].max() == 0
        assert (torch.stack(seen[1:]).max() == 0) == generated


def test_cuts_that_cannot_be_are_refused(llava: Subject, qwen: Subject) -> None:
    batch = llava.batches["left"]
    cases: list[tuple[KnockOut, str]] = [
        (
            KnockOut("last", "image", layers=[3]),
            r"layers=\[3\] of language have no attention scores; it has them in layers 0, 1, 2",
        ),
        (KnockOut("last", "image", heads=[4]), r"heads=\[4\] must name some of the 4 heads, 0..3"),
        (KnockOut("image", [-1]), r"see none of keys=positions.index\(-1\) in samples \[0, 1\] anyway"),
        (KnockOut("last", "all"), r"Position 22 of sample 0 would have no key left to look at"),
    ]
    for cut, message in cases:
        with pytest.raises(InputError, match=message), llava.model.intervene(cut), never_entered(llava.model):
            llava.model(batch)
    with pytest.raises(InputError, match=r"layers=\[\] must be non-empty"):
        KnockOut("last", "image", layers=[])
    packed = KnockOut("all", [0], part="vision")
    with pytest.raises(InputError, match="has no batch axis"), qwen.model.intervene(packed):
        pass


@torch.no_grad()
def test_one_cut_serves_batches_of_other_lengths(llava: Subject) -> None:
    model, long = llava.model, llava.batches["left"]
    short = model.prepare("the image", images=long.images[0])
    name = "blocks.1.attn.hook_pattern"
    with model.intervene(KnockOut("last", "image")):
        for batch in (long, short, long):
            pattern = model.run_with_cache(batch, names=name)[1][name]
            for sample in range(batch.size):
                row = pattern[sample, :, int(batch.layout.last[sample])]
                assert row[:, batch.layout.image[sample]].abs().max() == 0
                torch.testing.assert_close(row.sum(-1), torch.ones(len(row)))


@torch.no_grad()
def test_what_a_decoder_writes_is_cut_from_what_it_wrote() -> None:
    model = florence2()
    batch = model.batch(
        {**model.prepare("describe the image", images=picture()), "decoder_input_ids": torch.tensor([[2, 5, 6, 7]])}
    )
    name = "blocks.1.attn.hook_pattern"
    expected = model.run_with_cache(batch, names=name)[1][name]
    expected[0, :, 2:, :2] = 0
    expected /= expected.sum(-1, keepdim=True)
    with model.intervene(KnockOut(slice(2, None), [0, 1], layers=[1])):
        pattern = model.run_with_cache(batch, names=name)[1][name]
    torch.testing.assert_close(pattern, expected)


@torch.no_grad()
@pytest.mark.parametrize("make", [gemma3, paligemma], ids=["gemma3", "paligemma"])
def test_later_positions_are_cut_where_the_model_looks_ahead(make: Any) -> None:
    """Pictures attend to all of themselves there, so a cut that stops at the diagonal would leave half of it in silence."""
    model = make()
    batch = model.prepare(["describe the image", "what color is it"], images=[[picture(0)], [picture(1)]])
    image = batch.layout.is_image
    first = torch.stack([rows[: len(rows) // 2] for rows in batch.layout.image])
    last = torch.stack([rows[len(rows) // 2 :] for rows in batch.layout.image])
    points = "blocks.*.attn.hook_attn_scores"

    def by_hand(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        cut = torch.zeros(scores.shape, dtype=torch.bool)
        for sample in range(2):
            cut[sample, :, first[sample][:, None], last[sample]] = True
        seen = scores[cut & image[:, None, :, None]] > torch.finfo(scores.dtype).min / 2
        assert seen.any(), "nothing ahead is seen, so nothing is compared"
        return scores.masked_fill(cut, float("-inf"))

    expected = model.run_with_hooks(batch, fwd_hooks=[(points, by_hand)])
    with model.intervene(KnockOut(first, last)):
        found = model(batch)
    real = batch.layout.is_token
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-6)
    assert (found - model(batch))[real].abs().max() > 1e-3
    sweep = mm.knock_out(
        model, batch, queries=first, keys=last, metric=mm.metrics.log_probability(5), window=99, progress=False
    )
    read = torch.stack([expected[n, i].log_softmax(-1)[5] for n, i in enumerate(batch.layout.last)])
    torch.testing.assert_close(sweep.corrupted, read, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_position_that_the_mask_leaves_nothing_else_to_see_is_an_error() -> None:
    """Text looks back only also where pictures do not; before the run, nobody can know."""
    model = gemma3()
    batch = model.prepare("describe the image", images=picture(0))
    query = int(batch.layout.last[0]) - 1
    with (
        model.intervene(KnockOut([query], list(range(query + 1)))),
        pytest.raises(InputError, match=rf"^Query {query} at blocks.0.attn.hook_attn_scores would have no key left"),
    ):
        model(batch)


@torch.no_grad()
def test_heads_as_units_bring_their_layers_along(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    with model.intervene(KnockOut("last", "image", layers=[1], heads=[0, 3])):
        expected = model(batch)
    for heads in (["L1.h0", "L1.h3"], Units(["L1.h3", "L1.h0"]), (Head(1, 0), "L1.h3")):
        with model.intervene(KnockOut("last", "image", heads=heads)):
            assert torch.equal(model(batch), expected)
    apart = [KnockOut("last", "image", layers=[layer], heads=[head]) for layer, head in ((1, 0), (2, 3))]
    with model.intervene(*apart):
        expected = model(batch)
    with model.intervene(KnockOut("last", "image", heads=["L2.h3", "L1.h0"])):
        torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)
    for settings, message in (
        ({"heads": "L9.h0"}, "The model has no L9.h0"),
        ({"heads": "L1.u0"}, "KnockOut takes heads, and L1.u0 is of another kind"),
        (
            {"heads": "vision.L0.h0"},
            r"KnockOut acts on heads of blocks\.\*\.attn here, and vision\.L0\.h0 lie elsewhere",
        ),
        ({"heads": "L1.h0", "layers": [1]}, r"layers=\[1\] have no meaning beside heads=Units\(L1\.h0\)"),
        ({"heads": []}, r"heads=\[\] must name some of the 4 heads"),
        ({"heads": [1.5]}, "1.5 is no unit"),
        ({"heads": [True]}, "True is no unit"),
    ):
        with pytest.raises(InputError, match=message), model.intervene(KnockOut("last", "image", **settings)):  # type: ignore[arg-type]
            pass
