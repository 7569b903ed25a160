"""DeepStack: what mergers return is in the graph, and is exactly what is added to the stream at image tokens."""

import pytest
import torch

from mmlens.core.errors import UnsupportedModelError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT
from tests.families.qwen_like import qwen3_vl
from tests.tiny import picture


@pytest.fixture(scope="module")
def model() -> HookedMultimodal:
    """Qwen3-VL, whose mergers read vision blocks 0 and 1."""
    return qwen3_vl()


@pytest.fixture(scope="module")
def batch(model: HookedMultimodal) -> MultimodalBatch:
    """Two samples with pictures of different size, padded."""
    return model.prepare([SHORT, LONG], images=[[picture(0)], [picture(1, 48, 80)]])


@torch.no_grad()
@pytest.mark.parametrize("number", [0, 1])
def test_the_stream_grows_by_what_the_merger_returns(
    model: HookedMultimodal, batch: MultimodalBatch, number: int
) -> None:
    cache = model.run_with_cache(batch)[1]
    added = cache[f"blocks.{number + 1}.hook_resid_pre"] - cache[f"blocks.{number}.hook_resid_post"]
    image = batch.layout.is_image
    assert added[~image].abs().max() == 0
    torch.testing.assert_close(added[image], cache[f"projector.deepstack.{number}.hook_out"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_writers_of_the_stream_and_the_mergers_sum_to_it(model: HookedMultimodal, batch: MultimodalBatch) -> None:
    cache = model.run_with_cache(batch)[1]
    summed = torch.stack([cache[name] for name in model.graph.residual_writers().names]).sum(0)
    for number in (0, 1):
        summed[batch.layout.is_image] += cache[f"projector.deepstack.{number}.hook_out"]
    torch.testing.assert_close(summed, cache["blocks.2.hook_resid_post"])


def test_mergers_stand_between_vision_and_later_language_blocks(model: HookedMultimodal) -> None:
    graph = model.graph
    for number in (0, 1):
        out = f"projector.deepstack.{number}.hook_out"
        assert f"vision.blocks.{number}.hook_resid_post" in graph.upstream(out).names
        assert f"vision.blocks.{number + 1}.hook_resid_pre" not in graph.upstream(out).names
        assert f"blocks.{number + 1}.hook_resid_pre" in graph.downstream(out).names
        assert f"blocks.{number}.hook_resid_post" not in graph.downstream(out).names


@torch.no_grad()
def test_an_edit_of_a_merger_reaches_what_is_downstream_and_nothing_else(
    model: HookedMultimodal, batch: MultimodalBatch
) -> None:
    name = "projector.deepstack.1.hook_out"
    clean = dict(model.run_with_cache(batch)[1].items())
    with model.hooks([(name, lambda a, hook: torch.zeros_like(a))]):
        edited = dict(model.run_with_cache(batch)[1].items())
    moved = {point for point, value in edited.items() if not torch.equal(value, clean[point])}
    downstream = set(model.graph.downstream(name).names)
    assert moved - {name} <= downstream
    assert {point for point in downstream if point.endswith("hook_resid_post")} <= moved


def test_features_behind_the_last_language_block_are_refused() -> None:
    hf_model = qwen3_vl().hf_model
    layers = hf_model.model.language_model.layers
    del layers[2]
    with pytest.raises(
        UnsupportedModelError, match=r"in front of language blocks \[1, 2\]; of 2 blocks it must be some of 1..1"
    ):
        HookedMultimodal.from_hf(hf_model)
