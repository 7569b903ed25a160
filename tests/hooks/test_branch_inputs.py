"""Entrances: what a branch reads, apart from the skip path; and streams of their own for single heads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmlens.hooks.branch_inputs import Reading, SplitReading, entrances
from mmlens.hooks.point import Point, reads_only
from mmlens.hooks.session import attached
from tests.conftest import Subject


def all_points(subject: Subject) -> dict[str, Point]:
    points = subject.model.hook_dict
    return {**points, **entrances(points)}  # type: ignore[arg-type, dict-item]


def add(delta: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda activation, hook: activation + delta


@torch.no_grad()
def test_an_edit_at_an_entrance_reaches_one_branch_and_not_the_skip_path(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    _, cache = model.run_with_cache(batch)
    delta = torch.randn(cache["blocks.1.hook_resid_mid"].shape, generator=torch.Generator().manual_seed(0))
    kept: dict[str, torch.Tensor] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        kept[hook.name] = activation

    names = ["blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]
    with attached(all_points(llava), [("blocks.1.hook_mlp_in", add(delta)), (names, keep)]):
        model(batch)
    block = llava.bare.model.language_model.layers[1]
    stream = cache["blocks.1.hook_resid_mid"]
    expected = block.mlp(block.post_attention_layernorm(stream + delta))
    assert torch.equal(kept["blocks.1.hook_resid_mid"], stream)
    torch.testing.assert_close(kept["blocks.1.hook_mlp_out"], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(kept["blocks.1.hook_resid_post"], stream + expected, rtol=0, atol=1e-5)
    assert not torch.allclose(expected, cache["blocks.1.hook_mlp_out"], atol=1e-2)


@pytest.mark.parametrize("block", ["blocks.1", "vision.blocks.1"])
def test_the_gradient_of_a_stream_is_that_of_its_branch_and_of_what_follows(subject: Subject, block: str) -> None:
    seen: dict[str, torch.Tensor] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        seen[hook.name] = activation

    kinds = ("hook_resid_pre", "hook_attn_in", "hook_resid_mid", "hook_mlp_in", "hook_resid_post")
    names = [f"{block}.{kind}" for kind in kinds]
    with attached(all_points(subject), [(names, keep)]):
        logits = subject.model(subject.batches["left"])
        found = torch.autograd.grad(logits[:, -1, 5].sum(), [seen[name] for name in names])
    pre, attn, mid, mlp, post = found
    torch.testing.assert_close(pre, attn + mid, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mid, mlp + post, rtol=1e-4, atol=1e-6)
    assert min(float(each.abs().max()) for each in (attn, mlp, post)) > 1e-5, "the comparison could not fail"


@torch.no_grad()
@pytest.mark.parametrize("block", ["blocks.1", "vision.blocks.1"])
def test_one_head_reads_a_stream_of_its_own(subject: Subject, block: str) -> None:
    model, batch = subject.model, subject.batches["left"]
    stream, names = f"{block}.hook_resid_pre", [f"{block}.attn.hook_{kind}" for kind in "qkv"]
    clean, cache = model.run_with_cache(batch, names=[stream, *names])
    delta = torch.randn(cache[stream].shape, generator=torch.Generator().manual_seed(0))
    moved: dict[str, torch.Tensor] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        moved[hook.name] = activation

    points = all_points(subject)
    with attached(points, [(f"{block}.hook_attn_in", add(delta)), (names, keep)]):
        whole = model(batch)

    def put(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        head = {"q": 1, "k": 0, "v": 1}[hook.name[-1]]
        activation[..., head, :] = moved[hook.name][..., head, :]
        return activation

    expected = model.run_with_hooks(batch, fwd_hooks=[(names, put)])
    axis = model.graph[names[0]].axes.split().index("head")
    readings = [Reading(delta, {"q": [1], "k": [0]}), Reading(delta, {"v": [1]})]
    with SplitReading(points, f"{block}.attn", axis).reading(lambda: readings):
        torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(expected, clean, atol=1e-3)
    assert not torch.allclose(expected, whole, atol=1e-3)
    assert torch.equal(model(batch), clean), "a trace was left"


def test_nothing_is_left_behind_after_an_error(llava: Subject) -> None:
    split = SplitReading(all_points(llava), "blocks.1.attn", 2)

    def fail() -> list[Reading]:
        raise RuntimeError("asked for")

    with pytest.raises(RuntimeError, match="asked for"), split.reading(fail):
        llava.model(llava.batches["left"])
    assert not split.norm._forward_pre_hooks
    assert not split.kernel._forward_pre_hooks
    assert not any(point.attached for point in llava.model.hook_dict.values())


@torch.no_grad()
def test_streams_are_read_as_often_as_one_likes(llava: Subject) -> None:
    """Also of another run: what the branch received then is forgotten."""
    model, batch = llava.model, llava.batches["left"]
    clean, cache = model.run_with_cache(batch, names="blocks.1.hook_resid_pre")
    delta = torch.randn_like(cache["blocks.1.hook_resid_pre"])
    split = SplitReading(all_points(llava), "blocks.1.attn", 2)
    outs = []
    for _ in range(2):
        with split.reading(lambda: [Reading(delta, {"v": [1]})]):
            outs.append(model(batch))
        assert torch.equal(model(batch), clean)
    assert torch.equal(*outs)
    assert not torch.allclose(outs[0], clean, atol=1e-3)
