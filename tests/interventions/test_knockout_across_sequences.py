"""Knock-out of attention to another sequence, and in an encoder: against bare Hugging Face, and patterns made by hand."""

from functools import cache
from typing import Any

import pytest
import torch

from mmlens.analysis.metrics import log_probability, measure
from mmlens.analysis.patching.knockout import knock_out
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.knockout import KnockOut
from tests.conftest import LONG, SHORT, bare_copy
from tests.families import FAMILIES
from tests.tiny import picture


@cache
def made(name: str) -> tuple[Any, MultimodalBatch]:
    tiny = next(each for each in FAMILIES if each.name == name)
    model = tiny.make()
    return model, model.prepare([SHORT, LONG], images=[[picture(seed, *tiny.sizes[0])] for seed in (0, 1)])


@torch.no_grad()
def test_a_decoder_cut_from_the_picture_answers_as_with_it_masked() -> None:
    model, batch = made("instructblip_t5")
    bare = bare_copy(model)
    encoded = model.run_with_cache(batch, names="encoder.ln_final.hook_out")[1]["encoder.ln_final.hook_out"]
    left = batch["attention_mask"].bool() & ~batch.layout.is_image
    started = batch["decoder_input_ids"]
    expected = bare.language_model(
        encoder_outputs=(encoded,), attention_mask=left.long(), decoder_input_ids=started, use_cache=False
    ).logits
    with model.intervene(KnockOut("last", "image", attention="cross")):
        found = model(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(found, model(batch), atol=1e-2), "the comparison could not fail"


@torch.no_grad()
def test_new_tokens_of_a_decoder_are_cut_when_asked() -> None:
    model, batch = made("instructblip_t5")
    image = batch.layout.is_image
    for generated in (False, True):
        weights: list[float] = []

        def look(pattern: torch.Tensor, hook: Any, weights: list[float] = weights) -> None:
            weights.append(float((pattern * image[:, None, None]).sum()))

        queries = positions.last | positions.generated if generated else "last"
        cut = KnockOut(queries, "image", attention="cross")
        with model.intervene(cut), model.hooks([("blocks.1.cross_attn.hook_pattern", look)]):
            model.generate(batch, max_new_tokens=3, min_new_tokens=3)
        assert len(weights) == 3
        assert weights[0] == 0
        assert (max(weights[1:]) == 0) == generated


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "block"),
    [
        ("instructblip_t5", {"stack": "encoder.blocks"}, "encoder.blocks.1.attn"),
        ("instructblip_t5", {"attention": "cross"}, "blocks.1.cross_attn"),
        ("mllama", {"attention": "cross"}, "blocks.1.cross_attn"),
    ],
)
def test_the_pattern_is_the_rest_made_to_sum_to_one(name: str, options: dict[str, Any], block: str) -> None:
    model, batch = made(name)
    pattern = f"{block}.hook_pattern"
    decodes = name == "instructblip_t5" and "stack" not in options
    queries = "last" if decodes else batch.layout.last[:, None]
    keys = [3, 4, 5] if name == "mllama" else "image"
    before = model.run_with_cache(batch, names=pattern)[1][pattern]
    with model.intervene(KnockOut(queries, keys, layers=[1], heads=[0, 3], **options)):
        after = model.run_with_cache(batch, names=pattern)[1][pattern]
    expected = before.clone()
    for sample in range(2):
        asks = 0 if decodes else int(batch.layout.last[sample])
        cut = torch.tensor(keys) if isinstance(keys, list) else batch.layout.image[sample]
        for head in (0, 3):
            row = expected[sample, head, asks]
            assert row[cut].sum() > 0.01, "nothing to cut"
            row[cut] = 0
            row /= row.sum()
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(after, before, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "keys"),
    [
        ("instructblip_t5", {"stack": "encoder.blocks"}, "image"),
        ("instructblip_t5", {"attention": "cross"}, "image"),
        ("mllama", {"attention": "cross"}, [1, 2, 3]),
    ],
)
def test_every_window_equals_its_intervention(name: str, options: dict[str, Any], keys: Any) -> None:
    model, batch = made(name)
    queries = "text" if name == "instructblip_t5" else "last"
    metric = log_probability("red")
    sweep = knock_out(model, batch, queries=queries, keys=keys, metric=metric, progress=False, **options)
    layers = [int(point.removeprefix("layer ")) for point in sweep.points]
    assert layers == ([1, 3] if name == "mllama" else [0, 1, 2])
    for number, layer in enumerate(layers):
        with model.intervene(KnockOut(queries, keys, layers=[layer], **options)):
            expected = measure(model, batch, metric=metric)
        torch.testing.assert_close(sweep.values[number, 0], expected, rtol=0, atol=1e-5)
    assert float(sweep.effect.abs().max()) > 1e-3, "the comparison could not fail"


@torch.no_grad()
def test_learned_queries_are_cut_from_patches() -> None:
    """How many there are the batch does not tell; the pass does."""
    model, batch = made("instructblip_t5")
    pattern = "projector.blocks.2.cross_attn.hook_pattern"
    before = model.run_with_cache(batch, names=pattern)[1][pattern]
    patches = [3, 4, 7]
    with model.intervene(KnockOut([0, 2], patches, part="projector", attention="cross", layers=[2])):
        logits, after = model.run_with_cache(batch, names=pattern)
    expected = before.clone()
    for query in (0, 2):
        row = expected[:, :, query]
        row[..., patches] = 0
        row /= row.sum(-1, keepdim=True)
    torch.testing.assert_close(after[pattern], expected, rtol=0, atol=1e-6)
    assert not torch.allclose(logits, model(batch), atol=1e-4)
    asked: dict[str, Any] = {"part": "projector", "attention": "cross", "metric": log_probability("red")}
    with pytest.raises(InputError, match=r"The length of the queries sequence is not known before a run.*KnockOut"):
        knock_out(model, batch, queries="all", keys=[3], progress=False, **asked)


@torch.no_grad()
def test_a_decoder_predicts_at_its_own_last_position() -> None:
    model, batch = made("instructblip_t5")
    logits = model(batch)
    assert logits.shape[1] == 1 < int(batch.layout.last.min())
    expected = logits[:, 0].log_softmax(-1)[:, model.to_single_token("red")]
    torch.testing.assert_close(measure(model, batch, metric=log_probability("red")), expected)


@torch.no_grad()
def test_cuts_that_cannot_be_are_refused() -> None:
    model, batch = made("instructblip_t5")
    cases: list[tuple[KnockOut, str]] = [
        (
            KnockOut("last", "image", stack="blocks.encoder"),
            r"no self-attention .* in the stack 'blocks.encoder'; .*: 'encoder",
        ),
        (KnockOut("last", "all", attention="cross"), r"Position 0 of sample 0 would have no key left"),
        (KnockOut("text", "image", attention="cross", part="vision"), r"no cross-attention .* stacks that have: none"),
        (KnockOut("text", "image", stack="encoder.blocks", heads=[4]), r"heads=\[4\] must name some of the 4 heads"),
    ]
    with pytest.raises(InputError, match="attention='crossed' must be 'self' or 'cross'"):
        KnockOut("last", "image", attention="crossed")  # type: ignore[arg-type]
    for cut, message in cases:
        with pytest.raises(InputError, match=message), model.intervene(cut):
            model(batch)
    crossing = made("mllama")[0]
    one_tile = crossing.prepare(SHORT, images=picture(0, 16, 16))
    # the five rows of its tile; the five of the tile that it lacks are seen by nobody
    with (
        pytest.raises(InputError, match=r"at blocks.1.cross_attn.hook_attn_scores would have no key left to look at"),
        crossing.intervene(KnockOut("last", range(5), attention="cross")),
    ):
        crossing(one_tile)
