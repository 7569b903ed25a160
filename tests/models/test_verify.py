"""`verify` is satisfied with every family, and is not with a declaration that is wrong."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from mmlens.architectures.families.llava import LLAVA
from mmlens.core.errors import InputError, VerificationError
from mmlens.declarations.family import Family
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.verify import verify
from tests.conftest import Subject, bare_copy
from tests.families.gemma_like import gemma3
from tests.tiny import TINY


def test_it_is_satisfied_with_every_family(subject: Subject) -> None:
    report = verify(subject.model, progress=False).raise_if_failed()
    assert report.ok
    assert report.parity == 0
    assert 0 < report.hooked_parity <= report.tolerance < 1e-4
    assert report.alone is not None
    assert not report.alone.failed
    frame = report.to_frame()
    assert list(frame["name"]) == subject.model.graph.names
    assert frame["ok"].all()
    assert (frame["calls"] == 1).all()
    assert ((frame["effect"] > 0) == frame["dead"].isna()).all()
    assert repr(report).startswith(f"{type(subject.model.hf_model).__name__}: {len(frame)} hook points, 0 failed, ")


def test_in_bfloat16_the_bound_is_that_of_bfloat16(llava: Subject) -> None:
    model = HookedMultimodal.from_hf(bare_copy(llava.model).to(torch.bfloat16), llava.model.processor)
    report = verify(model, causal=False, progress=False)
    assert 0.05 < report.tolerance < 1.5  # logits are near 4, of which bfloat16 keeps 8 bits
    assert report.ok


class Unused(nn.Module):
    """Called with the stream, and its result is thrown away: a hook on it sees much and moves nothing."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block
        self.listener = nn.Identity()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.block(*args, **kwargs)
        self.listener(out[0] if isinstance(out, tuple) else out)
        return out


def broken(change: dict[str, Any], part: str = "language") -> Family:
    """LLaVA with one piece of a block declared wrongly."""
    declared = getattr(LLAVA, part)
    block = declared.stack.block
    pieces = {key: replace(getattr(block, key), **paths) for key, paths in change.items()}
    return replace(LLAVA, **{part: replace(declared, stack=replace(declared.stack, block=replace(block, **pieces)))})


@pytest.fixture
def own() -> Iterator[HookedMultimodal]:
    """A LLaVA of the test's own."""
    return TINY[0].make()


def failures(model: HookedMultimodal, family: Family) -> tuple[Any, list[str]]:
    wrong = HookedMultimodal(model.hf_model, model.processor, family)
    report = verify(wrong, progress=False)
    assert not report.ok
    with pytest.raises(VerificationError, match=f"hook points, {len(report.failed)} failed"):
        report.raise_if_failed()
    return report, [point.name for point in report.failed]


def test_a_point_that_never_fires(own: HookedMultimodal) -> None:
    layer = own.hf_model.model.language_model.layers[1]
    layer.mlp.spare = nn.Linear(48, 32)  # the forward pass does not use it
    for other in own.hf_model.model.language_model.layers:
        if other is not layer:
            other.mlp.spare = other.mlp.down_proj
    report, names = failures(own, broken({"mlp": {"down": "mlp.spare"}}))
    assert names == ["blocks.1.mlp.hook_post"]
    assert "blocks.1.mlp.hook_post: calls 0, shape []" in repr(report)


def test_a_point_of_the_wrong_width(own: HookedMultimodal) -> None:
    """The gate's linear for the activation: what it receives is the stream, not the neurons."""
    report, names = failures(own, broken({"mlp": {"act": "mlp.gate_proj"}}))
    assert names == [f"blocks.{i}.mlp.hook_pre" for i in range(3)]
    assert {(point.shape[-1], point.width_fits) for point in report.failed} == {(32, False)}


def test_an_edit_that_is_lost(own: HookedMultimodal) -> None:
    """A module that is called and whose result nobody uses, as a monitor would be."""
    for layer in own.hf_model.model.language_model.layers:
        layer.mlp = Unused(layer.mlp)
    paths = {key: f"mlp.block.{key}_proj" for key in ("down", "up", "gate")}
    family = broken({"mlp": {**paths, "act": "mlp.block.act_fn", "branch": "mlp.listener"}})
    report, names = failures(own, family)
    assert names == [f"blocks.{i}.hook_mlp_out" for i in range(3)]
    assert {point.effect for point in report.failed} == {0.0}


def test_a_dead_point_that_is_not_declared(own: HookedMultimodal) -> None:
    """The projector reads block 1; a family that says it reads block 2 lists a block without effect."""
    family = replace(LLAVA, vision=replace(LLAVA.vision, read=lambda config: [2]))
    _, names = failures(own, family)
    assert names == own.graph.select(part="vision", layer=2).names


def test_a_live_point_that_is_declared_dead(own: HookedMultimodal) -> None:
    family = replace(LLAVA, vision=replace(LLAVA.vision, read=lambda config: [0]))
    _, names = failures(own, family)
    assert names == own.graph.select(part="vision", layer=1).names


def test_positions_that_see_later_ones_have_to_be_declared() -> None:
    model = gemma3()
    assert verify(model, causal=False, progress=False).ok
    family = model.family
    model.family = replace(family, language=replace(family.language, looks_ahead=False))
    report = verify(model, causal=False, progress=False)
    assert not report.ok
    assert report.looking_ahead == tuple(f"blocks.{layer}.attn.hook_attn_scores" for layer in range(3))
    assert repr(report).endswith("positions see later ones, so the family's Language needs looks_ahead=True")


def test_without_a_processor_it_asks_for_a_batch(own: HookedMultimodal) -> None:
    batch = own.prepare("describe the image", images=torch.zeros(32, 32, 3, dtype=torch.uint8))
    bare = HookedMultimodal.from_hf(own.hf_model)
    with pytest.raises(
        InputError, match=r"^verify needs a batch for a model without a processor: verify\(model, batch=...\)\.$"
    ):
        verify(bare)
    assert verify(bare, batch, progress=False).ok
