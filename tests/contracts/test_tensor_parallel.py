"""Models split over two processes (`tp_plan="auto"`) show, change and give back what the whole model does."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState

import mmlens as mm
from mmlens.architectures.tensor_parallel import SplitModules
from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.store.test_store import free_port, in_child, needs_fork
from tests.families import FAMILIES
from tests.tiny import TINY, Tiny, picture

METRIC = mm.metrics.logit_difference(5, 6)
QUIET: dict[str, Any] = {"progress": False}
#: One family of each kind of plan: linears split by output and input; norms of single heads; queries, keys and values, or gate
#: and up, in one linear whose output is gathered; experts.
PLANS = ("qwen2_vl", "gemma3", "glm4v", "llama4")
Found = dict[str, torch.Tensor]


@torch.no_grad()  # with gradients transformers' own forward of llama4 writes into a view of a split tensor
def states(model: HookedMultimodal, batch: MultimodalBatch) -> Found:
    """Every point, weights of the first block, and what becomes of the answer if units and rows are changed."""
    found: Found = {}
    found["logits"], cache = model.run_with_cache(batch)
    found |= {f"state {name}": value for name, value in cache.items()}
    block = model.blocks[0]
    for branch, names in (("attn", "W_Q W_K W_V W_O"), ("mlp", "W_in W_gate W_out")):
        for name in names.split():
            try:
                found[f"{branch} {name}"] = getattr(getattr(block, branch), name).clone()
            except InputError:  # the family has none
                continue
    found["W_U"], found["W_E"] = model.W_U.clone(), model.W_E.clone()
    units = [names[0] for kind in ("mlp.hook_post", "attn.hook_z") if (names := points(model, kind))]
    for name in units:
        found[f"changed {name}"] = model.run_with_hooks(batch, fwd_hooks=[(name, others(model.graph[name].axes))])
    if "blocks.0.mlp.hook_post" in units:
        with model.edited(mm.edits.zero_neurons(model, ["L0.u1", f"L0.u{model.graph[units[0]].width - 1}"])):
            found["edited"], found["edited rows"] = model(batch), model.blocks[0].mlp.W_out.clone()
        assert torch.equal(model(batch), found["logits"]), "the edit left something behind"
    return found


def points(model: HookedMultimodal, kind: str) -> list[str]:
    return [node.name for node in model.graph if node.part == "language" and node.name.endswith(kind)]


def others(axes: str) -> Callable[..., torch.Tensor]:
    """Changes the first and the last unit, which are different processes'."""
    axis = axes.split().index("head") if "head" in axes.split() else -1

    def change(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        activation.select(axis, 0).zero_()
        activation.select(axis, activation.shape[axis] - 1).mul_(3.0)
        return activation

    return change


def verbs(model: HookedMultimodal, batch: MultimodalBatch) -> Found:
    """What analyses find."""
    found: Found = {}
    pair = (model, batch, mm.corrupt.blur(model, batch))
    units = ["L1.u3", "L2.u40", "L0.h3", "L1.h0"]
    with model.intervene(mm.Ablate(units)):
        found["ablated"] = model(batch)
    for method in ("contribution", "direct_effect", "gradient_x_activation"):
        found[f"neurons, {method}"] = mm.find_neurons(model, batch, token=5, method=method, **QUIET).scores
    found["patched"] = mm.patch(
        *pair, at=["blocks.*.hook_resid_pre", "vision.blocks.1.*_out"], metric=METRIC, **QUIET
    ).values
    heads = mm.patch(*pair, at="blocks.*.attn.hook_z", units="head", positions=["last"], metric=METRIC, **QUIET)
    assert heads.plan is not None
    if dict(model.hf_model.named_parameters())["lm_head.weight"].__class__.__name__ == "DTensor":
        assert "split over processes" in heads.plan.widened[0]
    found["patched heads"] = heads.values
    attention = [f"attn.hook_{kind}" for kind in ("z", "k", "q", "rot_k", "pattern")]
    for at in ("mlp.hook_post", *attention, "hook_resid_mid"):
        found[f"attributed, {at}"] = mm.attribute(*pair, at=f"blocks.*.{at}", metric=METRIC, **QUIET).values
    found["knocked out"] = mm.patching.knock_out(
        model, batch, queries="last", keys="image", heads=[1, 3], metric=METRIC, **QUIET
    ).values
    found["circuit"] = mm.find_circuit(pair[0], pair[1:], metric=METRIC, method="eap", **QUIET).scores
    found["lens"] = mm.lenses.logit_lens(model, batch, **QUIET).probabilities
    vector = mm.steering.SteeringVector(model.W_U[:, 3].clone(), "blocks.1.hook_resid_post")
    with model.intervene(mm.Steer(vector, positions="all")):
        found["steered"] = model(batch)
    found["generated"] = model.generate(batch, max_new_tokens=4)
    found["fingerprint"] = torch.tensor(list(model.unedited_fingerprint.encode()))
    return found


def split(tiny: Tiny, folder: Path, work: Callable[[HookedMultimodal], object]) -> list[int]:
    """Run something on a model that two processes hold together; gives their exit codes."""
    whole = tiny.make()
    whole.hf_model.save_pretrained(folder)
    port = free_port()

    def start(rank: int) -> None:
        os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, OMP_NUM_THREADS="1")
        PartialState._reset_state()
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of tp_plan, for which older versions have nothing else
            hf_model = type(whole.hf_model).from_pretrained(folder, tp_plan="auto")
        work(HookedMultimodal.from_hf(hf_model, whole.processor))

    children = [in_child(lambda rank=rank: start(rank)) for rank in range(2)]  # type: ignore[misc]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def compare(found: Found, expected: Found) -> None:
    """To 1e-5, with what masks put in the place of scores left out."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        one, other = (tensor.detach().double().nan_to_num().clamp(-1e6, 1e6) for tensor in (found[name], value))
        scale = max(1.0, float(other[other.abs() < 1e6].abs().max()))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * scale, msg=lambda text, name=name: f"{name}: {text}")


@needs_fork
def test_analyses_find_what_they_find_on_the_whole_model(tmp_path: Path) -> None:
    (tiny,) = (tiny for tiny in TINY if tiny.name == "llava_clip")
    model = tiny.make()
    batch = model.prepare(
        ["describe the image", "what color is the big red circle"], images=[[picture(0)], [picture(1)]]
    )
    expected = states(model, batch) | verbs(model, batch)

    def work(parts: HookedMultimodal) -> None:
        assert parts.graph.unit_counts == model.graph.unit_counts
        compare(states(parts, batch) | verbs(parts, batch), expected)
        data = [mm.Sample((picture(0),))]
        with pytest.raises(InputError, match="hold one model together, and all would write the same store"):
            mm.collect(parts, data, at="blocks.1.hook_resid_post", positions="last", into=tmp_path / "store")
        assert len(mm.collect(parts, data, at="blocks.1.hook_resid_post", positions="last", **QUIET).records) == 1

    assert split(tiny, tmp_path / "model", work) == [0, 0]


@needs_fork
@pytest.mark.parametrize(
    "tiny", [tiny for tiny in (*TINY, *FAMILIES) if tiny.name in PLANS], ids=lambda tiny: tiny.name
)
def test_every_kind_of_plan_is_whole_to_hooks_and_edits(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.make()
    batch = model.prepare("describe the image", images=[[picture(0)]])
    expected = states(model, batch)
    assert split(tiny, tmp_path, lambda parts: compare(states(parts, batch), expected)) == [0, 0]


def test_a_style_that_is_not_known_is_refused_by_name() -> None:
    model = TINY[0].make().hf_model
    assert SplitModules.of(model) == SplitModules()
    model._tp_size = 2  # type: ignore[assignment]
    model._tp_plan = {"model.language_model.layers.*.input_layernorm": "sequence_parallel"}  # type: ignore[assignment]
    with pytest.raises(
        UnsupportedModelError,
        match=r"^model\.language_model\.layers\.0\.input_layernorm of LlavaForConditionalGeneration is split over processes in "
        r"the style 'sequence_parallel', .* Load the model with a plan that gives the module one",
    ):
        SplitModules.of(model)
    model._tp_plan = {"model.language_model.layers.*.mlp.down_proj": "rowwise"}  # type: ignore[assignment]
    (split_of, *_) = SplitModules.of(model).received.values()
    with pytest.raises(
        UnsupportedModelError, match=r"layers\.0\.mlp\.down_proj is to be split .* its weight is a Parameter"
    ):
        split_of.mesh()
