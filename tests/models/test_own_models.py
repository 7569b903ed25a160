"""A user's own model, outside transformers, on the same hooks after `register_family`."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError, NoPlaceError, UnsupportedModelError
from mmlens.declarations import registry as declarations
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.verify import verify
from tests.models.own_models import IMAGE_TOKEN, MOLMO, OWL, MolmoLike, OwlLike
from tests.tiny import redraw


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Leave the registry as it was."""
    before = dict(declarations._REGISTRY.families)
    yield
    declarations._REGISTRY.families.clear()
    declarations._REGISTRY.families.update(before)


def tensors() -> dict[str, torch.Tensor]:
    """Two samples: a picture of four image tokens, and text on both sides."""
    ids = torch.tensor([[5, *[IMAGE_TOKEN] * 4, 7, 8], [6, 9, *[IMAGE_TOKEN] * 4, 10]])
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


CASES = [pytest.param(OWL, OwlLike, id="mPLUG-Owl2"), pytest.param(MOLMO, MolmoLike, id="Molmo-7B")]


def wrapped(family: Any, make: Any) -> HookedMultimodal:
    mm.register_family(family)
    return HookedMultimodal.from_hf(redraw(make()))


@pytest.mark.parametrize(("family", "make"), CASES)
def test_every_point_fires_and_moves_the_logits(family: Any, make: Any) -> None:
    model = wrapped(family, make)
    report = verify(model, model.batch(tensors()), progress=False)
    assert report.ok, repr(report)
    # Molmo's third vision block is read by nobody
    assert all(point.name.startswith("vision.blocks.2.") for point in report.points if point.dead)
    assert "blocks.1.attn.hook_z" in model.graph
    assert "blocks.1.attn.hook_pattern" not in model.graph  # its attention is code of its own


@torch.no_grad()
@pytest.mark.parametrize(("family", "make"), CASES)
def test_resid_mid_is_the_stream(family: Any, make: Any) -> None:
    model = wrapped(family, make)
    zero = [("blocks.1.hook_resid_mid", lambda a, hook: torch.zeros_like(a))]
    with model.hooks(zero):
        _, cache = model.run_with_cache(model.batch(tensors()), names="blocks.1.*")
    torch.testing.assert_close(cache["blocks.1.hook_resid_post"], cache["blocks.1.hook_mlp_out"])


@torch.no_grad()
@pytest.mark.parametrize(("family", "make"), CASES)
def test_neurons_and_heads_write_what_their_weights_say(family: Any, make: Any) -> None:
    model = wrapped(family, make)
    _, cache = model.run_with_cache(model.batch(tensors()))
    block = model.blocks[2]
    torch.testing.assert_close(cache["blocks.2.mlp.hook_post"] @ block.mlp.W_out, cache["blocks.2.hook_mlp_out"])
    heads = torch.einsum("bphd,hdm->bpm", cache["blocks.2.attn.hook_z"], block.attn.W_O)
    torch.testing.assert_close(heads, cache["blocks.2.hook_attn_out"])


def test_fused_projections_have_weights_by_head_and_missing_ones_say_so() -> None:
    molmo, owl = wrapped(MOLMO, MolmoLike), wrapped(OWL, OwlLike)
    assert molmo.blocks[0].attn.W_Q.shape == (4, 24, 6)
    assert molmo.blocks[0].attn.W_K.shape == (2, 24, 6)
    assert owl.blocks[0].attn.W_Q.shape == (4, 24, 6)
    with pytest.raises(
        InputError, match=r"no one linear for these weights \(Attention.q, k, v or qkv is not declared\)"
    ):
        _ = owl.blocks[0].attn.W_K


@torch.no_grad()
def test_a_painted_patch_changes_the_rows_that_the_layout_names() -> None:
    model = wrapped(MOLMO, MolmoLike)
    inputs = tensors()
    batch = model.batch(inputs)
    painted = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
    painted["pixel_values"][1, :, 16:20, 0:8] += 1
    cut = [("vision.blocks.*.hook_attn_out", lambda a, hook: torch.zeros_like(a))]
    with model.hooks(cut):
        before, after = (
            model.run_with_cache(model.batch(each), names=["vision.hook_embed", "projector.hook_out", "hook_embed"])[1]
            for each in (inputs, painted)
        )
    for name, part in (
        ("vision.hook_embed", "vision"),
        ("projector.hook_out", "projector"),
        ("hook_embed", "language"),
    ):
        moved = (before[name] != after[name]).any(-1).nonzero().tolist()
        rows = batch.layout.patches((0, 16, 8, 20), part=part, sample=1).tolist()  # type: ignore[arg-type]
        assert moved == [[1, row] for row in rows], name


def test_queries_say_that_they_have_no_place() -> None:
    batch = wrapped(OWL, OwlLike).batch(tensors())
    assert batch.layout.patches((0, 0, 8, 8), part="vision").tolist() == [0]
    with pytest.raises(NoPlaceError, match="the abstractor's queries mix all patches"):
        batch.layout.patches((0, 0, 8, 8))


def test_patching_runs_on_them() -> None:
    model = wrapped(MOLMO, MolmoLike)
    clean = model.batch(tensors())
    corrupted = model.batch({**tensors(), "pixel_values": -tensors()["pixel_values"]})
    sweep = mm.patch(
        model,
        clean,
        corrupted,
        at="blocks.*.hook_resid_pre",
        metric=mm.metrics.logit_difference(11, 12),
        progress=False,
    )
    assert sweep.values.shape[0] == 3


def test_a_declaration_that_does_not_fit_says_which_module_is_missing() -> None:
    mm.register_family(MOLMO)
    model = MolmoLike()
    del model.pooling
    with pytest.raises(
        UnsupportedModelError, match="expects a module 'pooling' in MolmoLike, but MolmoLike has no 'pooling'"
    ):
        HookedMultimodal.from_hf(model)
