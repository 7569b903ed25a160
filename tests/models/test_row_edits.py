"""Rows changed and put back: to the bit, in any order, whatever happens in between, and on models as people have them."""

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import disk_offload
from transformers import AutoModelForImageTextToText

import mmlens as mm
from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.core.units import Neuron
from mmlens.interventions.edits import Edit, noise_neurons, scale_neurons, zero_neurons
from mmlens.models.edit_ledger import Ledger
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.weight_rows import rows_added
from tests.conftest import Subject, bare_copy
from tests.families.language_models import muse_spark
from tests.models.test_conditions import with_adapter
from tests.tiny import TINY

FEW = [Neuron(0, 3), Neuron(2, 7), Neuron(2, 40), Neuron(1, 0)]
OVERLAPPING = [Neuron(2, 7), Neuron(0, 5), Neuron(0, 3)]


def weights(model: HookedMultimodal) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.hf_model.named_parameters()}


def same(model: HookedMultimodal, before: dict[str, torch.Tensor]) -> bool:
    """Whether every weight has the very bits, the sign of zeros included."""

    def bits(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous().view(torch.uint8)

    return all(torch.equal(bits(weight.detach()), bits(before[n])) for n, weight in model.hf_model.named_parameters())


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def own(request: pytest.FixtureRequest) -> HookedMultimodal:
    """A LLaVA of the test's own, in each dtype, with negative zeros among its weights."""
    made = TINY[0].make()
    model = HookedMultimodal.from_hf(made.hf_model.to(request.param), made.processor)
    model.blocks[2].mlp.W_out[7, :5].detach().fill_(-0.0)
    return model


@torch.no_grad()
def test_an_edit_adds_its_deltas_and_leaves_every_bit_as_it_was(own: HookedMultimodal) -> None:
    before, rows = weights(own), [own.blocks[n.layer].mlp.W_out[n.index].clone() for n in FEW]
    edit = noise_neurons(own, FEW, sigma=0.3, seed=1)
    with own.edited(edit) as inside:
        assert inside is own
        assert own.edits == (edit,)
        for neuron, row, delta in zip(FEW, rows, edit.deltas, strict=True):
            expected = (row.float() + delta).to(row.dtype)
            assert torch.equal(own.blocks[neuron.layer].mlp.W_out[neuron.index], expected)
        assert torch.equal(own.blocks[0].mlp.W_out[4], before_row(before, 0, 4))
    assert own.edits == ()
    assert same(own, before)


def before_row(before: dict[str, torch.Tensor], layer: int, index: int) -> torch.Tensor:
    return before[f"model.language_model.layers.{layer}.mlp.down_proj.weight"][:, index]


def test_edits_of_the_same_rows_compose_and_revert_in_any_order(own: HookedMultimodal) -> None:
    before = weights(own)
    first, second = noise_neurons(own, FEW, sigma=0.3, seed=1), noise_neurons(own, OVERLAPPING, sigma=0.2, seed=2)
    with own.edited(second):
        second_alone = weights(own)
    for order in ((first, second), (second, first)):
        with own.edited(*order):
            both = weights(own)
        assert own.apply(order[0]).apply(order[1]) is own
        assert same(own, both)
        own.revert(first)
        assert same(own, second_alone)
        own.revert(second)
        assert same(own, before)
    with own.edited(first + second):
        for name, weight in own.hf_model.named_parameters():
            torch.testing.assert_close(weight.detach(), both[name], atol=1e-6, rtol=1e-6)
    with own.edited(first), own.edited(first):  # the same edit twice
        assert own.edits == (first, first)
    assert same(own, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_come_back_after_an_exception_in_the_middle(
    own: HookedMultimodal, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights(own)
    edit, other = noise_neurons(own, FEW, sigma=0.3, seed=1), noise_neurons(own, OVERLAPPING, sigma=0.2, seed=2)
    with pytest.raises(error, match="inside"), own.edited(edit, other):
        raise error("inside")
    assert same(own, before)
    own.apply(other)
    held = weights(own)
    written, write = [], Ledger._write

    def fail_at_the_second_block(state: Any, *place: Any) -> None:
        written.append(place)
        if len(written) == 2:
            raise error("while writing")
        write(state, *place)

    for attempt in (lambda: own.apply(edit), lambda: own.edited(edit).__enter__()):
        written.clear()
        monkeypatch.setattr(Ledger, "_write", fail_at_the_second_block)
        with pytest.raises(error, match="while writing"):
            attempt()
        monkeypatch.undo()
        assert own.edits == (other,)
        assert same(own, held)
    own.revert(other)
    assert same(own, before)


def test_an_edit_taken_off_inside_its_with_stays_off(own: HookedMultimodal) -> None:
    before = weights(own)
    edit = zero_neurons(own, FEW)
    with own.edited(edit):
        own.revert(edit)
        assert same(own, before)
    assert same(own, before)


def test_edits_belong_to_the_model_not_to_the_wrapper() -> None:
    model = TINY[0].make()
    other = HookedMultimodal.from_hf(model.hf_model, model.processor)
    before = weights(model)
    first, second = noise_neurons(model, FEW, sigma=0.3, seed=1), noise_neurons(model, OVERLAPPING, sigma=0.2, seed=2)
    model.apply(first)
    other.apply(second)
    assert model.edits == other.edits == (first, second)
    model.revert(first)
    other.revert(second)
    assert same(model, before)


def test_twenty_rows_of_the_lab_model_come_and_go_in_under_five_milliseconds() -> None:
    model = mm.lab.load()
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randperm(6 * 768, generator=generator)[:20].tolist()
    edit = noise_neurons(model, [Neuron(*divmod(number, 768)) for number in numbers], sigma=0.5, seed=0)
    before = weights(model)
    seconds = []
    for _ in range(100):  # `benchmarks.edits` does it a thousand times
        started = time.process_time()
        with model.edited(edit):
            pass
        seconds.append(time.process_time() - started)
    assert same(model, before)
    assert sorted(seconds)[50] < 0.005


@torch.no_grad()
def test_rows_added_for_a_trial_act_like_the_edit(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    parts = [part for part in ("vision", "language") if model.part(part).blocks]  # type: ignore[arg-type]
    rows = [Neuron(layer, index, part) for part in parts for layer, index in ((0, 3), (1, 7), (1, 2))]  # type: ignore[arg-type]
    for part in parts:
        some = [row for row in rows if row.part == part]
        edit = scale_neurons(model, some, factor=-3.0)
        clean = model(batch)
        with model.edited(edit):
            expected = model(batch)
        with rows_added(model, some, lambda edit=edit: edit.deltas):
            torch.testing.assert_close(model(batch), expected, atol=2e-5, rtol=1e-5)
        assert (expected - clean).abs().max() > 1e-3
        assert torch.equal(model(batch), clean)


def test_gradients_flow_to_rows_on_trial(llava: Subject) -> None:
    """Against a finite difference along the gradient; transformers' norms compute in float32, whatever the weights."""
    model, batch = llava.model, llava.batches["left"]
    deltas = torch.zeros(len(FEW), 32, requires_grad=True)
    with rows_added(model, FEW, lambda: deltas):
        (gradient,) = torch.autograd.grad(model(batch)[:, -1].logsumexp(-1).sum(), deltas)
    size = gradient.norm()
    values = []
    for step in (0.02, -0.02):
        with torch.no_grad(), rows_added(model, FEW, lambda step=step: step * gradient / size):
            values.append(model(batch)[:, -1].logsumexp(-1).sum())
    torch.testing.assert_close(size, (values[0] - values[1]) / 0.04, atol=0, rtol=5e-3)


@torch.no_grad()
def test_an_edited_model_saved_loads_in_plain_transformers(tmp_path: Path, llava: Subject) -> None:
    lab = mm.lab.load()
    edit = noise_neurons(lab, [Neuron(2, 7), Neuron(5, 700)], sigma=1.0, seed=0)
    batch = lab.prepare("describe the image", images=mm.lab.scene(seed=7).image)
    clean = lab(batch)
    lab.apply(edit)
    assert lab.W_E.data_ptr() == lab.W_U.T.data_ptr()  # tied, and still tied
    lab.save_pretrained(tmp_path)
    edited = lab(batch)
    lab.revert(edit)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(loaded(**batch).logits, edited)
    assert not torch.equal(edited, clean)
    assert torch.equal(lab(batch), clean)


@torch.no_grad()
def test_under_an_adapter_the_rows_that_act_are_edited(llava: Subject) -> None:
    adapted = with_adapter(llava)
    model = HookedMultimodal.from_hf(adapted, llava.model.processor)
    before, batch = weights(model), llava.batches["left"]
    edit = noise_neurons(model, FEW, sigma=0.5, seed=0)
    merged = copy.deepcopy(adapted).merge_and_unload().model.language_model.layers[0].mlp.down_proj.weight
    assert torch.equal(zero_neurons(model, FEW[:1]).deltas[0], -merged[:, 3])
    clean = model(batch)
    with rows_added(model, FEW, lambda: edit.deltas):
        expected = model(batch)
    with model.edited(edit):
        torch.testing.assert_close(model(batch), expected, atol=2e-5, rtol=1e-5)
        adapted_base = model.hf_model.get_base_model().model.language_model.layers[0].mlp.down_proj.base_layer
        torch.testing.assert_close(adapted_base.weight[:, 3], llava.model.blocks[0].mlp.W_out[3] + edit.deltas[0])
        with adapted.disable_adapter():
            base = bare_copy(llava.model)
            for neuron, delta in zip(FEW, edit.deltas, strict=True):
                base.model.language_model.layers[neuron.layer].mlp.down_proj.weight[:, neuron.index] += delta
            torch.testing.assert_close(model(batch), base(**batch).logits)
    assert same(model, before)
    assert torch.equal(model(batch), clean)


def test_a_change_that_would_be_lost_is_told() -> None:
    model = TINY[0].make()
    before = weights(model)
    model.apply(edit := zero_neurons(model, [Neuron(1, 5)]))
    with torch.no_grad():
        model.blocks[1].mlp.W_out[5].add_(1.0)
    with pytest.warns(
        UserWarning, match=r"^Edited rows behind blocks\.1\.mlp\.hook_post were changed by something else while"
    ):
        model.revert(edit)
    assert same(model, before)


def test_apply_with_a_function_is_torch_s(llava: Subject) -> None:
    seen: list[type] = []
    assert llava.model.apply(lambda module: seen.append(type(module))) is llava.model
    assert type(llava.model) in seen


def test_edits_for_other_weights_are_refused_before_anything_is_written(llava: Subject) -> None:
    model = TINY[0].make()
    before = weights(model)
    good, edit = zero_neurons(model, FEW), noise_neurons(model, FEW, sigma=0.1, seed=0)
    own = model.unedited_fingerprint
    with torch.no_grad():
        model.hf_model.get_input_embeddings().weight.mul_(1.5)
    changed = model.unedited_fingerprint
    assert changed != own
    message = (
        rf"^Edit\(zero: 4 rows in L0, L1, L2; size [\d.]+\) was made for other weights: LlavaForConditionalGeneration with "
        rf"fingerprint {own}, but this is LlavaForConditionalGeneration with {changed}\. Load the checkpoint"
    )
    with pytest.raises(InputError, match=message):
        model.apply(good)
    with pytest.raises(InputError, match="was made for other weights"), model.edited(good):
        pass
    carried = edit.carried_to(model)
    with model.edited(carried):
        assert model.unedited_fingerprint == changed  # of the weights without the edit
        model.revert(carried)
    with torch.no_grad():
        model.hf_model.get_input_embeddings().weight.copy_(before["model.language_model.embed_tokens.weight"])
    assert same(model, before)
    with pytest.raises(
        InputError, match=r"was made for a model of another class: LlavaForCond.*but this is Qwen2VLForCond"
    ):
        TINY[2].make().apply(edit)


def test_fingerprints_are_not_worked_out_again_for_our_own_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmlens.models import row_edits as module

    model = TINY[0].make()
    calls: list[int] = []
    real = module.fingerprint
    monkeypatch.setattr(module, "fingerprint", lambda model, **options: (calls.append(1), real(model, **options))[1])
    edit = zero_neurons(model, FEW)
    for _ in range(5):
        with model.edited(edit):
            model.unedited_fingerprint  # noqa: B018
    assert len(calls) == 1


@dataclass
class Bad:
    """Something like an edit that checks nothing."""

    rows: list[Neuron]
    deltas: torch.Tensor

    def check(self, model: HookedMultimodal) -> None:
        """Pass."""


@pytest.mark.parametrize(
    ("rows", "width", "message"),
    [
        ([Neuron(0, 48), Neuron(3, 0)], 32, r"^The model has no L0\.u48, L3\.u0; it has L0\.u0 to L2\.u47\.$"),
        ([Neuron(0, 0, stack="nope")], 32, r"^The model has no nope\.L0\.u0; it has L0\.u0 to L2\.u47\.$"),
        (
            [Neuron(0, 0)],
            31,
            r"^The edit's deltas are 31 wide, but the rows behind blocks\.0\.mlp\.hook_post have d_model=32\.$",
        ),
    ],
)
def test_rows_that_do_not_exist_are_refused(llava: Subject, rows: list[Neuron], width: int, message: str) -> None:
    model = llava.model
    deltas = torch.zeros(len(rows), width)
    with pytest.raises(InputError, match=message), model.edited(Bad(rows, deltas)):
        pass
    if width == 32:
        with pytest.raises(InputError, match=message), rows_added(model, rows, lambda: deltas):
            pass
    assert model.edits == ()


def test_reverting_what_is_not_in_force(llava: Subject) -> None:
    edit = zero_neurons(llava.model, FEW)
    with pytest.raises(
        InputError, match=r"^This edit is not in force:\n  Edit\(zero: 4 rows.*\nIn force are:\n  none$"
    ):
        llava.model.revert(edit)
    with (
        pytest.raises(InputError, match=r"^An edit is expected \(see mm\.edits\), found str\.$"),
        llava.model.edited("e"),
    ):  # type: ignore[arg-type]
        pass
    other = Edit(edit.rows, edit.deltas.clone(), edit.provenance)
    llava.model.apply(edit)
    llava.model.revert(other)  # an equal one will do
    assert llava.model.edits == ()


def test_rows_without_numbers_are_refused_with_the_reason(llava: Subject, tmp_path: Path) -> None:
    edit = zero_neurons(llava.model, FEW)
    offloaded = bare_copy(llava.model)
    disk_offload(offloaded, str(tmp_path), execution_device=torch.device("cpu"))
    model = HookedMultimodal.from_hf(offloaded, llava.model.processor)
    with pytest.raises(
        UnsupportedModelError, match=r"^W_out behind blocks\.0\.mlp\.hook_post is offloaded.*to read its weights\.$"
    ):
        zero_neurons(model, FEW[:1])
    quantised = bare_copy(llava.model)
    linear = quantised.model.language_model.layers[0].mlp.down_proj
    linear.weight = torch.nn.Parameter(linear.weight.detach().to(torch.uint8), requires_grad=False)
    model = HookedMultimodal.from_hf(quantised, llava.model.processor)
    with pytest.raises(
        UnsupportedModelError,
        match=r"^W_out behind blocks\.0\.mlp\.hook_post is quantised \(torch\.uint8\) and cannot be edited: what is added",
    ):
        model.apply(edit.carried_to(model))


def test_a_mixture_of_experts_has_no_rows() -> None:
    model = muse_spark()
    layers = [layer for layer, block in enumerate(model.blocks) if block.mlp is None]
    with pytest.raises(
        InputError,
        match=rf"^The model has no L{layers[0]}\.u0; it has L0\.u0 to L0\.u47\. Of L{layers[0]} no module holds",
    ):
        zero_neurons(model, [Neuron(layers[0], 0)])
