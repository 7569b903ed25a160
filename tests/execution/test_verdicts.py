"""A wrong way is not taken: neither one that a short text shows to be wrong, nor one that only the batch at hand does."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mmlens.execution import Cell, Change, CleanRun
from mmlens.execution.equivalence_check import language_trials
from mmlens.execution.frozen import DownstreamPoints
from mmlens.execution.known_structure import known_structure, short_text
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests import tiny
from tests.conftest import LONG, SHORT
from tests.execution.test_cells import Shift, language_cells, run_of, whole
from tests.tiny import picture

#: More rows than a short text and a packed call have, fewer than the batch.
_MANY = 20


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """Rows that know of each other, where there are many."""
    return x - x.mean(-2, keepdim=True) if x.shape[-2] > _MANY else x


class _Mixing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _mixed(x)


@contextmanager
def _module(block: Any) -> Iterator[None]:
    block.mlp.act_fn = nn.Sequential(block.mlp.act_fn, _Mixing())
    yield


@contextmanager
def _instance(block: Any) -> Iterator[None]:
    forward = block.mlp.forward
    block.mlp.forward = lambda x: _mixed(forward(x))
    yield


@contextmanager
def _class(block: Any) -> Iterator[None]:
    forward = type(block.mlp).forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(block.mlp), "forward", lambda self, x: _mixed(forward(self, x)))
        yield


@contextmanager
def _hook(block: Any) -> Iterator[None]:
    block.mlp.register_forward_hook(lambda module, args, output: _mixed(output))
    yield


@contextmanager
def _kernel(block: Any) -> Iterator[None]:
    def mixing(module: nn.Module, *args: Any, **options: Any) -> tuple[torch.Tensor, None]:
        output = ALL_ATTENTION_FUNCTIONS["sdpa"](module, *args, **options)[0]
        return (output - output.mean(1, keepdim=True) if output.shape[1] > _MANY else output), None

    AttentionInterface.register("mixing", mixing)
    block.self_attn.config._attn_implementation_internal = "mixing"
    yield


@contextmanager
def _known_module(block: Any) -> Iterator[None]:
    block.mlp.act_fn = nn.Softmax(dim=-2)
    yield


@pytest.fixture
def model() -> HookedMultimodal:
    """A LLaVA of its own for each test."""
    return tiny.TINY[0].make()


def _batch(model: HookedMultimodal) -> MultimodalBatch:
    return model.prepare([SHORT, LONG], images=[[picture(0)], [picture(1)]])


@pytest.mark.parametrize("change", [_module, _instance, _class, _hook, _kernel, _known_module])
def test_blocks_that_mix_rows_are_not_packed(model: HookedMultimodal, change: Callable[[nn.Module], Any]) -> None:
    batch = _batch(model)
    before = CleanRun(model, batch)
    before.plan(language_cells(before, ["resid_pre"]))
    assert "packed" not in before._ways.verdicts.refused, "the model is a sound one at first"
    with ExitStack() as stack:
        stack.enter_context(change(model.hf_model.model.language_model.layers[1]))
        assert (known_structure(model) is not None) == (change is _known_module)
        run = CleanRun(model, batch)
        cells = language_cells(run, ["resid_pre", "resid_post"])
        with torch.no_grad():
            expected = whole(model, batch, cells)
        assert torch.allclose(run.logits(cells, progress=False), expected, atol=1e-5)
        assert run._ways.verdicts.refused["packed"].startswith("a trial differs by")


def _keys(run: CleanRun) -> torch.Tensor:
    return run._ways.runs.recording.attended[1].key[:, :, 3]


def _values(run: CleanRun) -> torch.Tensor:
    return run._ways.runs.recording.attended[2].value[:, :, 3]


def _tables(run: CleanRun) -> torch.Tensor:
    return run._ways.runs.recording.entered[1].kwargs["position_embeddings"][0]


@pytest.mark.parametrize("part", [_keys, _values, _tables])
def test_what_is_wrong_of_the_batch_at_hand_is_seen(
    model: HookedMultimodal, part: Callable[[CleanRun], torch.Tensor]
) -> None:
    batch = _batch(model)
    cells = language_cells(CleanRun(model, batch), ["resid_pre"])
    expected = CleanRun(model, batch).logits(cells, progress=False)
    run = CleanRun(model, batch)
    part(run).add_(0.5)
    assert torch.allclose(run.logits(cells, progress=False), expected, atol=1e-5)
    assert run._ways.verdicts.refused["packed"].startswith("a trial differs by")


def test_a_picture_that_gets_in_by_another_way_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DownstreamPoints, "past_embeddings", lambda self, name: False)
    model, batch = run_of("qwen3_vl").model, run_of("qwen3_vl").batch
    run = CleanRun(model, batch)
    cells = [
        Cell(0, (Change(f"vision.blocks.{layer}.hook_resid_pre", torch.tensor([row]), Shift(row)),))
        for layer in (0, 1)
        for row in range(4)
    ]
    with torch.no_grad():
        expected = whole(model, batch, cells)
    assert torch.allclose(run.logits(cells, progress=False), expected, atol=1e-5)
    assert set(run._ways.sorted(cells, run.clean_logits)) == {"frozen"}


def test_a_structure_is_proven_once_and_on_a_short_text(
    model: HookedMultimodal, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = _batch(model)
    lengths: list[int] = []
    forward = type(model).forward

    def counted(self: HookedMultimodal, inputs: Any = None, **tensors: Any) -> torch.Tensor:
        lengths.append(inputs.layout.is_token.shape[1])
        return forward(self, inputs, **tensors)

    monkeypatch.setattr(type(model), "forward", counted)
    for _ in range(2):
        run = CleanRun(model, batch)
        run.logits(language_cells(run, ["resid_pre"]), progress=False)
    length = batch.layout.is_token.shape[1]
    text = [count for count in lengths if count < length]
    assert lengths == [length, *text, length], "the batch itself runs once for each clean run"
    assert set(text) == {12}
    monkeypatch.setattr(type(model), "forward", forward)
    model.hf_model.model.language_model.layers[0].mlp.act_fn = nn.Tanh()
    assert known_structure(model) is not None
    changed = CleanRun(model, batch)
    cells = language_cells(changed, ["resid_pre"])
    with torch.no_grad():
        assert torch.allclose(changed.logits(cells, progress=False), whole(model, batch, cells), atol=1e-5)


def test_a_short_text_holds_words_alone(model: HookedMultimodal) -> None:
    text = short_text(model, _batch(model))
    assert text is not None
    assert not text.layout.image[0].numel()
    words = model.processor.tokenizer.convert_ids_to_tokens(text["input_ids"][0])
    assert set(words) <= {*SHORT.split(), "user", "assistant", ":"}


def test_noise_is_put_into_rows_of_the_language_model_and_all_of_others() -> None:
    """In the middle of a sample's own rows, and near their end; a decoder has rows of its own."""
    for name in ("llava_clip", "florence2"):
        run = run_of(name)
        trials = language_trials(run.model, run.batch)
        own = [mask.nonzero().flatten() for mask in run.batch.layout.is_token]
        for cells, spot in zip(trials, (0.5, 0.9, 0.5), strict=False):
            assert [cell.sample for cell in cells] == list(range(run.batch.size))
            for cell, rows in zip(cells, own, strict=True):
                (change,) = cell.changes
                if run.model.graph[change.at].sequence == "language":
                    assert change.rows is not None
                    assert change.rows.tolist() == [int(rows[int(spot * len(rows))])]
                else:
                    assert change.rows is None
        points = [cells[0].changes[0].at for cells in trials]
        assert points[0] == "blocks.0.hook_resid_pre"
        assert ("encoder.hook_embed" in points) == (name == "florence2")


def test_blocks_in_front_of_a_change_are_frozen_and_the_projector_too() -> None:
    run = run_of("llava_clip")
    cells = language_cells(run, ["resid_pre"])[-1:]
    layer = run.model.graph[cells[0].changes[0].at].layer
    assert layer
    frozen = run._ways.runs.frozen.frozen(cells)
    depth = run.model.part("vision").cfg.n_layers - 1  # the projector reads the last but one
    expected = {"projector", *(f"blocks.{i}" for i in range(layer)), *(f"vision.blocks.{i}" for i in range(depth))}
    assert expected <= set(frozen)
    assert f"blocks.{layer}" not in frozen
    inside = Cell(0, (Change("vision.blocks.0.hook_resid_pre", torch.tensor([1]), Shift(1)),))
    assert not {"projector", "blocks.0"} & set(run._ways.runs.frozen.frozen([inside]))


def test_nothing_runs_under_gradients(model: HookedMultimodal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials and checks, when a plan asks for them first, keep no graph either."""
    batch, grads = _batch(model), []
    linear = nn.Linear.forward

    def watched(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        grads.append(torch.is_grad_enabled())
        return linear(self, x)

    monkeypatch.setattr(nn.Linear, "forward", watched)
    with torch.enable_grad():
        run = CleanRun(model, batch)
        front = Cell(0, (Change("vision.blocks.0.hook_resid_pre", torch.tensor([1]), Shift(1)),))
        for cells in (language_cells(run, ["resid_pre"]), [front] * 8):
            run.plan(cells)
            run.logits(cells, progress=False)
    assert len(grads) > 100
    assert not any(grads)


def test_what_is_known_is_the_way_that_was_tried(model: HookedMultimodal) -> None:
    verdicts = CleanRun(model, _batch(model))._ways.verdicts
    clean = torch.zeros(2, model.cfg.d_vocab)  # type: ignore[arg-type]
    assert not any(verdicts.knows(kind) for kind in ("packed", "front", "frozen"))
    verdicts.holds("frozen", clean)
    assert verdicts.knows("frozen")
    assert not verdicts.knows("packed")
    assert not verdicts.knows("front")


def test_a_wrapped_or_quantised_model_has_no_known_structure(model: HookedMultimodal) -> None:
    assert known_structure(model) is not None
    model.base.is_quantized = True
    assert known_structure(model) is None
    model.base.is_quantized = False
    assert known_structure(model) is not None
