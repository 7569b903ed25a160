"""What a clean run refuses, what it keeps to, and what it leaves behind."""

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.execution import Cell, Change, CleanRun
from mmlens.execution.cell_runs import CellCall
from mmlens.execution.equivalence_check import Evidence
from mmlens.inputs.batch import MultimodalBatch
from tests.conftest import Subject
from tests.execution.test_cells import Shift, language_cells


@pytest.fixture
def run(llava: Subject) -> CleanRun:
    """A clean run of two samples."""
    return CleanRun(llava.model, llava.batches["left"])


def _cell(at: str = "blocks.1.hook_resid_pre", rows: Any = (5,), sample: int = 0, apply: Any = lambda x: x + 1) -> Cell:
    return Cell(sample, (Change(at, None if rows is None else torch.tensor(rows, dtype=torch.long), apply),))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], "There are no cells to run."),
        ([_cell(sample=2)], "Cell 0 is about sample 2, but the batch has samples 0..1."),
        ([_cell(), Cell(0, ())], "Cell 1 changes nothing; the answer without changes is run.clean_logits."),
        ([_cell(at="blocks.1.hook_resid_per")], "There is no hook point 'blocks.1.hook_resid_per' among"),
        ([_cell(rows=(99,))], "Cell 0 changes rows [99] of blocks.1.hook_resid_pre, whose sequence has positions"),
        ([_cell(rows=())], "rows must be a list of them, [row], that is not empty."),
    ],
)
def test_cells_that_cannot_happen_are_refused(run: CleanRun, cells: list[Cell], message: str) -> None:
    with _no_forward(run), pytest.raises(InputError) as error:
        run.logits(cells, progress=False)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ("first", "positions='first' must be 'last' or a list"),
        ([3, 99], "positions=[3, 99] must be some of 0.."),
        ([3, 3], "each once, where there are logits."),
    ],
)
def test_positions_without_logits_are_refused(run: CleanRun, positions: Any, message: str) -> None:
    with _no_forward(run), pytest.raises(InputError) as error:
        run.logits([_cell()], positions=positions, progress=False)
    assert message in str(error.value)


@pytest.mark.parametrize("at", ["blocks.1.hook_resid_pre", "blocks.1.attn.hook_z", "vision.blocks.0.hook_resid_pre"])
def test_a_change_of_another_shape_is_refused_and_nothing_stays(run: CleanRun, at: str) -> None:
    cells = [_cell(at), *[_cell(at, apply=lambda x: x[:, :1])] * 7]
    with pytest.raises(InputError, match="it must keep the shape"):
        run.logits(cells, progress=False)
    _untouched(run)


@pytest.mark.parametrize("at", ["blocks.1.hook_resid_pre", "vision.blocks.1.hook_resid_pre", "hook_logits"])
def test_no_graph_of_gradients_is_kept(run: CleanRun, at: str) -> None:
    with torch.enable_grad():
        answers = run.logits([_cell(at)], progress=False)
    assert not answers.requires_grad
    assert not run.clean_logits.requires_grad


def test_nothing_stays_after_an_interruption(run: CleanRun) -> None:
    def stop(x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    for at in ("blocks.1.attn.hook_pattern", "blocks.2.attn.hook_k", "projector.hook_out"):
        with pytest.raises(KeyboardInterrupt):
            run.logits([_cell(at, apply=stop)] * 8, progress=False)
        _untouched(run)


def test_hooks_of_others_are_seen(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    cells = language_cells(CleanRun(model, batch), ["resid_pre", "attn.z"])
    doubled = [("blocks.1.mlp.hook_post", lambda x, hook: 2 * x)]
    with model.hooks(doubled):
        inside = CleanRun(model, batch)
        found = inside.logits(cells, progress=False)
        assert inside.plan(cells).widened == (
            "rows of the language model alone: hooks are attached to the model, and blocks of packed rows would show them "
            "other tensors",
        )
        expected = inside._ways.runs.run("whole", cells, inside._where("last"), inside.clean_logits[:, None])
        assert torch.equal(found, torch.stack([logits[0] for logits in expected]))
    plain = CleanRun(model, batch)
    assert not torch.allclose(plain.clean_logits, inside.clean_logits, atol=1e-2)


def test_a_way_that_is_wrong_is_not_taken(run: CleanRun, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = language_cells(run, ["resid_pre"])
    expected = run.logits(cells, progress=False)
    wrong = CleanRun(run.model, run.batch)
    assert wrong._ways.runs.recording is not None
    wrong._ways.runs.recording.attended[1].key[:, :, 3] += 0.5
    assert torch.allclose(wrong.logits(cells, progress=False), expected, atol=1e-5)
    (widened,) = wrong.plan(cells).widened
    assert widened.startswith("rows of the language model alone: a trial differs by")
    assert set(wrong._ways.sorted(cells, wrong.clean_logits)) == {"frozen"}


@pytest.mark.parametrize(
    ("difference", "effect", "holds"),
    [(0.0, 0.0, True), (1e-6, 1.0, True), (1e-3, 1.0, False), (1e-6, 1e-6, False), (float("inf"), 1.0, False)],
)
def test_evidence(difference: float, effect: float, holds: bool) -> None:
    assert Evidence(difference, effect, 1e-5).holds is holds


def test_cells_outside_the_cone_cost_nothing_and_are_the_clean_run(run: CleanRun) -> None:
    last = int(run.batch.layout.last[0])
    dead = [_cell("blocks.2.hook_resid_post", (row,)) for row in range(last)]
    assert run.plan(dead).computed == 0
    assert torch.equal(run.logits(dead, progress=False), run.clean_logits[:1].expand(last, -1))


def test_plan_counts_what_is_carried_out(run: CleanRun) -> None:
    cells = [_cell(f"blocks.{layer}.hook_resid_pre", (row,)) for layer in range(3) for row in range(6, 20, 3)]
    plan = run.plan(cells)
    run.logits(cells, progress=False)  # trials are behind it
    with _Products() as carried_out:
        run.logits(cells, progress=False)
    with _Products() as whole, torch.no_grad():
        run.model(run.batch)
    # cells that share a window are padded in attention, which is not counted
    assert plan.computed == pytest.approx(carried_out.operations, rel=0.15)
    assert plan.whole / len(cells) == pytest.approx(
        whole.operations / run.batch.size, rel=0.2
    )  # without its fused attention
    assert repr(plan).startswith(f"Plan: {len(cells)} cells, ")


@pytest.mark.parametrize("budget", [0.5, 1.0])
def test_memory_stays_inside_the_budget(run: CleanRun, budget: float) -> None:
    cells = [_cell("blocks.0.hook_resid_pre", (row,)) for row in range(2, 18)] * 12
    run.logits(cells[:8], progress=False)
    with _Memory() as memory:
        run.logits(cells, tokens=(3,), budget=budget, progress=False)
    assert memory.peak <= budget * 2**20
    with _Memory() as free:
        run.logits(cells, tokens=(3,), progress=False)
    assert free.peak > memory.peak, "the budget bounds nothing here"


@pytest.mark.parametrize("at", ["blocks.0.hook_resid_pre", "vision.blocks.0.hook_resid_pre"])
def test_a_budget_that_holds_no_cell_is_refused(run: CleanRun, at: str) -> None:
    with pytest.raises(InputError, match=r"budget=0\.001 MiB is less than one cell takes: \d+ rows of"):
        run.logits([_cell(at, (6,))] * 8, budget=0.001, progress=False)


def test_plan_says_what_is_kept_of_the_clean_run(llava: Subject) -> None:
    before = _alive()
    run = CleanRun(llava.model, llava.batches["left"])
    now = sum(storage.nbytes() for address, storage in _alive().items() if address not in before)
    plan = run.plan([_cell()] * 8)
    # the mask, rotary tables and clean logits are kept besides
    assert 0.9 * now <= plan.kept <= now
    assert f"kept: {plan.kept / 2**20:.3g} MiB of the clean run" in repr(plan)
    run.logits([_cell("vision.blocks.0.hook_resid_pre")] * 8, progress=False)
    assert run.plan([_cell()] * 8).kept == plan.kept, "what frozen blocks return is kept from the start"


def test_generation_after_a_change_of_the_prompt(run: CleanRun) -> None:
    model, batch = run.model, run.batch
    cell = _cell("blocks.0.hook_resid_pre", (6, 7), apply=Shift(3, 4.0))
    written = run.generate(cell, max_new_tokens=4)
    clean = run.generate(_cell(apply=lambda x: x), max_new_tokens=4)
    assert not torch.equal(written, clean)
    # token by token, without a cache: the change is made at the same rows of every longer prompt
    extended = batch
    for step, token in enumerate(written.tolist()):
        answer = CleanRun(model, extended).logits([cell], progress=False)
        assert int(answer.argmax()) == token, step
        extended = model.extend(extended, torch.tensor([[token]] * batch.size))


def _untouched(run: CleanRun) -> None:
    """Nothing of ours is left on the model, and it answers as before."""
    assert not any(point.attached for point in run.model.hook_dict.values())  # type: ignore[attr-defined]
    assert not any("forward" in vars(module) for module in run.model.hf_model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in run.model.hf_model.model.language_model.layers)
    with torch.no_grad():
        assert torch.equal(run.model(run.batch)[0, -1], run.clean_logits[0])


def _alive() -> dict[int, torch.UntypedStorage]:
    """The storages of all tensors there are, by address; they are held, so that no address is used again."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor]
    return {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors}


class _no_forward:
    """Fails if the model runs inside."""

    def __init__(self, run: CleanRun):
        self.model = run.model.hf_model

    def __enter__(self) -> None:
        def ran(*args: Any) -> None:
            raise AssertionError("the model ran")

        self.handle = self.model.register_forward_pre_hook(ran)

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


class _Products(TorchDispatchMode):
    """Counts the operations of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        if name in ("mm", "bmm"):
            self.operations += 2 * out.numel() * args[0].shape[-1]
        elif name == "addmm":
            self.operations += 2 * out.numel() * args[1].shape[-1]
        return out


class _Memory(TorchDispatchMode):
    """Follows the memory of tensors that are made inside, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.held:
                    self.held[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    import weakref

                    weakref.finalize(storage, self._free, storage._cdata)
        return out

    def _free(self, key: int) -> None:
        self.now -= self.held.pop(key, 0)

    def __exit__(self, *error: object) -> None:  # type: ignore[override]
        super().__exit__(*error)
        gc.collect()


def test_calls_are_described_by_their_cells_and_what_the_batch_holds(run: CleanRun, llava: Subject) -> None:
    """Processes that share a sweep compare it: the same batch, prepared again, is the same; another one is not."""

    def described(batch: MultimodalBatch) -> str:
        return CleanRun(llava.model, batch)._described([CellCall([0, 1], list), CellCall([2], list)])

    again = replace(run.batch, inputs={name: tensor.clone() for name, tensor in run.batch.inputs.items()})
    assert described(again) == described(run.batch)
    assert described(run.batch).startswith("a sweep of [2, 1] cells over a batch ")
    assert described(run.batch).endswith(identity_of(run.batch, "the batch"))
    other = {**run.batch.inputs, "pixel_values": run.batch["pixel_values"] + 1}
    assert described(replace(run.batch, inputs=other)) != described(run.batch)
