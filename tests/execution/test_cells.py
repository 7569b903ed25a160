"""Every kind of point, on families of different structure: cells equal whole forward passes with hooks on one sample."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch

from mmlens.execution import Cell, Change, CleanRun, activation_rows
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests import tiny as own
from tests.conftest import LONG, SHORT
from tests.families import (
    cross_attending,
    encoder_decoder,
    gemma_like,
    idefics_like,
    internvl_like,
    language_models,
    qwen_like,
    siglip_like,
)
from tests.tiny import Tiny, picture

_ALL = {
    each.name: each
    for module in (
        own,
        cross_attending,
        encoder_decoder,
        language_models,
        gemma_like,
        idefics_like,
        internvl_like,
        qwen_like,
        siglip_like,
    )
    for each in module.TINY
}
#: Families by what is particular about them, and the way that points of their language model must take.
PACKED = {
    "llava_clip": "left padding and grouped heads",
    "qwen2_vl": "positions in three axes, a packed tower",
    "qwen3_vl": "features added between blocks",
    "instructblip": "learned queries",
    "paligemma": "rows that all see each other",
    "gemma3": "sliding windows, and picture rows that see each other",
    "idefics3": "pictures cut into tiles",
    "internvl": "a tower with layer scales",
}
FROZEN = {
    "mllama": "cross-attention blocks",
    "florence2": "an encoder and a decoder",
    "lfm2_vl": "convolutions between attention blocks",
    "gemma4_small": "blocks that read the keys of others",
}
KINDS = (
    *("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mixer_out", "mlp.post", "ln1.scale"),
    *("attn.q", "attn.k", "attn.v", "attn.rot_q", "attn.rot_k", "attn.q_normed", "attn.v_normed"),
    *("attn.attn_scores", "attn.pattern", "attn.z"),
)


@cache
def run_of(name: str) -> CleanRun:
    """A clean run of two prompts of different length, each with a picture."""
    tiny: Tiny = _ALL[name]
    model = tiny.make()
    (h0, w0), (h1, w1) = tiny.sizes
    texts, images = [SHORT, LONG], [[picture(0, h0, w0)], [picture(1, h1, w1)]]
    batch = model.prepare(texts, images=images) if tiny.padded else model.prepare(texts[:1], images=images[:1])
    return CleanRun(model, batch)


class Shift:
    """Adds noise of its own to what it is given; small where values are."""

    def __init__(self, seed: int, size: float = 0.5):
        self.seed, self.size = seed, size

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(self.seed))
        return x + self.size * noise * x.abs().mean().clamp(0.05, 3.0)  # masked scores are far below all others


def whole(model: HookedMultimodal, batch: MultimodalBatch, cells: Sequence[Cell]) -> torch.Tensor:
    """Each cell as one forward pass of the batch with a plain hook, written here anew: logits at the last position."""
    answers = []
    for cell in cells:
        pairs = [(change.at, _hook(model, cell.sample, change)) for change in cell.changes]
        logits = model.run_with_hooks(batch, fwd_hooks=pairs)
        decodes = logits.shape[1] != batch.layout.is_token.shape[1]
        answers.append(logits[cell.sample, -1 if decodes else int(batch.layout.last[cell.sample])])
    return torch.stack(answers)


def _hook(model: HookedMultimodal, sample: int, change: Change):  # type: ignore[no-untyped-def]
    axes = model.graph[change.at].axes.split()
    axis = next(i for i, word in enumerate(axes) if word in ("pos", "query", "key", "patch", "row"))

    def hook(activation, hook):  # type: ignore[no-untyped-def]
        index: list = [slice(None)] * activation.ndim
        if "batch" in axes:
            index[0] = sample
        if change.rows is not None:
            index[axis] = change.rows
        index = tuple(index)
        if change.rows is not None and axis == 2:  # scores and patterns: [sample, :, rows]
            activation[sample][:, change.rows] = change.apply(activation[sample][:, change.rows])
        else:
            activation[index] = change.apply(activation[index])
        return activation

    return hook


def language_cells(run: CleanRun, kinds: Sequence[str] = KINDS, layers: Sequence[int] | None = None) -> list[Cell]:
    """Cells at every kind of point in the language model: early, in the middle and late, alone and in pairs."""
    found = []
    model, layout = run.model, run.batch.layout
    for node in model.graph:
        if node.part != "language" or node.kind not in kinds or node.dead or (layers and node.layer not in layers):
            continue
        size = 0.1 if node.kind in ("ln1.scale", "attn.pattern") else 0.5
        for spot in range(3):
            sample = len(found) % run.batch.size
            tokens = layout.is_token[sample].nonzero().flatten()
            rows = [tokens[[1]], tokens[[len(tokens) // 2, -2]], tokens[[-1]]][spot]
            own = rows if node.sequence == "language" else None
            found.append(Cell(sample, (Change(node.name, own, Shift(len(found), size)),)))
    return found


def compare(run: CleanRun, cells: Sequence[Cell]) -> None:
    """Cells equal whole passes; the effects are far larger than the differences, and a shifted row would be seen."""
    with torch.no_grad():
        expected = whole(run.model, run.batch, cells)
    found = run.logits(cells, progress=False)
    effect = (expected - run.clean_logits[[cell.sample for cell in cells]]).abs().amax(-1)
    gap = (found - expected).abs().amax(-1)
    worst = cells[int(gap.argmax())].changes[0]
    seen = f"effect up to {effect.max():.2f} (median {effect.median():.2g}), difference up to {gap.max():.1e}"
    assert gap.max() <= 1e-5 * max(1.0, float(expected.abs().max())), f"{seen}, at {worst.at}, rows {worst.rows}"
    assert effect.max() > 0.05, seen
    shifted = found.roll(1, 0)
    assert ((shifted - expected).abs().amax(-1) > 1e-4).float().mean() > 0.5, "rows are so alike that none was tested"
    assert not any(point.attached for point in run.model.hook_dict.values())  # type: ignore[attr-defined]
    assert not any("forward" in vars(module) for module in run.model.hf_model.modules())


@pytest.mark.parametrize("name", PACKED)
def test_points_of_the_language_model(name: str) -> None:
    run = run_of(name)
    compare(run, language_cells(run))
    assert run._ways.shortest(language_cells(run, ["resid_pre"])[0]) == "packed"
    assert "packed" not in run._ways.verdicts.refused, run._ways.verdicts.refused


@pytest.mark.parametrize("name", ["llava_clip", "gemma4_sparse", "paligemma"])
def test_cells_one_by_one_leave_the_clean_run_as_it_was(name: str) -> None:
    shared = run_of(name)
    run = CleanRun(shared.model, shared.batch)  # a recording of its own
    recording = run._ways.runs.recording
    assert recording is not None
    before = [tensor.clone() for tensor in recording.tensors]
    cells = language_cells(run, ["resid_pre", "attn.k", "mlp_out"])
    read = list(run.batch.layout.last[:, None])
    found = [run._ways.runs.run("packed", [cell], read, run.clean_logits[:, None])[0][0] for cell in cells]
    assert all(map(torch.equal, recording.tensors, before))
    with torch.no_grad():
        torch.testing.assert_close(torch.stack(found), whole(run.model, run.batch, cells), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FROZEN)
def test_families_whose_rows_cannot_be_run_alone(name: str) -> None:
    run = run_of(name)
    cells = language_cells(run, ("resid_pre", "attn_out", "mixer_out", "mlp.post", "attn.z", "resid_post"))
    compare(run, cells)
    plan = run.plan(cells)
    assert set(run._ways.sorted(cells, run.clean_logits)) == {"frozen"}
    assert plan.fraction < 1
    assert any(line.startswith("rows of the language model alone: ") for line in plan.widened)


@pytest.mark.parametrize("name", ["llava_clip", "qwen3_vl", "instructblip", "mllama", "paligemma"])
def test_points_in_front_of_the_language_model(name: str) -> None:
    run = run_of(name)
    cells = []
    for kind in ("vision.blocks.0.hook_resid_pre", "vision.blocks.1.attn.hook_z", "vision.blocks.1.mlp.hook_post"):
        cells += [Cell(0, (Change(kind, torch.tensor([row]), Shift(row)),)) for row in (1, 3)]
    cells += [Cell(0, (Change("projector.hook_out", torch.tensor([row]), Shift(row)),)) for row in (0, 2)]
    compare(run, cells)


def test_changes_at_several_points_of_several_parts() -> None:
    run = run_of("llava_clip")
    parts = [
        Change("vision.blocks.1.hook_resid_post", torch.tensor([2, 5]), Shift(1)),
        Change("blocks.0.attn.hook_k", torch.tensor([6]), Shift(2)),
        Change("blocks.1.attn.hook_pattern", torch.tensor([7, 9]), Shift(3, 0.1)),
        Change("blocks.1.hook_resid_post", torch.tensor([4, 12]), Shift(4)),
        Change("blocks.2.hook_resid_pre", torch.tensor([12]), Shift(5)),
    ]
    chosen = [parts[:2], parts[1:4], parts[1:], parts[2:], parts, parts[3:], parts[:1], [parts[0], parts[4]]]
    compare(run, [Cell(0, tuple(changes)) for changes in chosen])


def test_logits_at_several_positions_and_of_some_tokens() -> None:
    run = run_of("llava_clip")
    cells = language_cells(run, ["resid_pre", "attn.z", "mlp_out"])
    where, tokens = [17, 9, 20], (5, 3)
    found = run.logits(cells, positions=where, tokens=tokens, progress=False)
    with torch.no_grad():
        for cell, logits in zip(cells, found, strict=True):
            (change,) = cell.changes
            expected = run.model.run_with_hooks(
                run.batch, fwd_hooks=[(change.at, _hook(run.model, cell.sample, change))]
            )
            assert torch.allclose(logits, expected[cell.sample, where][:, list(tokens)], atol=1e-5)


def test_done_is_called_with_every_cell_once() -> None:
    run = run_of("llava_clip")
    cells = language_cells(run, ["resid_pre", "attn.z"])
    seen: dict[int, torch.Tensor] = {}

    def done(numbers: list[int], logits: torch.Tensor) -> None:
        assert not seen.keys() & set(numbers)
        seen.update(zip(numbers, logits, strict=True))

    found = run.logits(cells, progress=False, on_done=done)
    assert sorted(seen) == list(range(len(cells)))
    assert all(torch.equal(found[number], logits) for number, logits in seen.items())


def test_rows_of_cuts_what_a_change_is_given() -> None:
    run = run_of("llava_clip")
    names = ["blocks.1.hook_resid_pre", "blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern"]
    _, cache = run.model.run_with_cache(run.batch, names=names)
    given: dict[str, torch.Tensor] = {}
    rows = torch.tensor([8, 11])
    for name in names:

        def keep(x: torch.Tensor, name: str = name) -> torch.Tensor:
            given[name] = x
            return x + 1

        cells = [Cell(1, (Change(name, rows, keep),))] * 6
        run.logits(cells, progress=False)
        expected = activation_rows(cache[name], run.model.graph[name], run.batch, 1, rows)
        assert torch.allclose(given[name], expected, atol=1e-5), name
