"""The value itself: what it refuses, how it adds, and that a file gives it back."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.interventions.edits import Edit, noise_neurons, scale_neurons, zero_neurons
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject
from tests.tiny import TINY

ROWS = [Neuron(0, 3), Neuron(2, 7)]


def test_scaled_zeroed_and_noisy_rows(llava: Subject) -> None:
    model = llava.model
    rows = torch.stack([model.blocks[0].mlp.W_out[3], model.blocks[2].mlp.W_out[7]]).detach()
    assert torch.equal(zero_neurons(model, ROWS).deltas, -rows)
    torch.testing.assert_close(scale_neurons(model, ROWS, factor=2.5).deltas, 1.5 * rows)
    many = [Neuron(layer, index) for layer in range(3) for index in range(48)]
    noise = noise_neurons(model, many, sigma=0.2, seed=3)
    assert abs(float(noise.deltas.std()) - 0.2) < 0.01
    assert noise != noise_neurons(model, many, sigma=0.2, seed=4)
    assert noise == noise_neurons(model, many, sigma=0.2, seed=3)
    assert noise.provenance.seed == 3
    with model.edited(zero_neurons(model, ROWS)):
        assert not model.blocks[2].mlp.W_out[7].any()


def test_zeroed_rows_are_zero_in_half_precision_and_in_double() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        made = TINY[0].make()
        model = HookedMultimodal.from_hf(made.hf_model.to(dtype), made.processor)
        edit = zero_neurons(model, ROWS)
        assert edit.deltas.dtype == (torch.float32 if dtype == torch.bfloat16 else torch.float64)
        with model.edited(edit):
            assert not model.blocks[0].mlp.W_out[3].any()


def test_sum_product_size_and_frame(llava: Subject) -> None:
    model = llava.model
    first = noise_neurons(model, ROWS, sigma=0.1, seed=0)
    second = noise_neurons(model, [Neuron(2, 7), Neuron(1, 1)], sigma=0.1, seed=1)
    both = first + second
    assert list(both.rows) == [Neuron(0, 3), Neuron(2, 7), Neuron(1, 1)]
    torch.testing.assert_close(both.deltas[1], first.deltas[1] + second.deltas[0])
    assert torch.equal(both.deltas[2], second.deltas[1])
    assert both.provenance.method == "sum"
    assert both.provenance.parts == (first.provenance, second.provenance)
    assert (both + first).provenance.parts == (first.provenance, second.provenance, first.provenance)
    assert both.size == pytest.approx(float(both.deltas.pow(2).sum()) ** 0.5)
    assert torch.equal((2.0 * first).deltas, first.deltas * 2)
    assert (2.0 * first).provenance.settings == {"sigma": 0.1, "multiplied by": 2.0}
    frame = first.to_frame()
    assert list(frame.columns) == ["part", "stack", "layer", "neuron", "norm"]
    assert frame.iloc[1].tolist()[:4] == ["language", "blocks", 2, 7]
    assert frame["norm"].tolist() == pytest.approx(first.deltas.norm(dim=1).tolist())
    assert repr(first) == f"Edit(noise: 2 rows in L0, L2; size {first.size:.3g})"
    other = noise_neurons(TINY[2].make(), ROWS, sigma=0.1, seed=0)
    with pytest.raises(InputError, match=r"^These edits were made for different weights \(LlavaFor.* and Qwen2VL"):
        first + other


def test_a_file_gives_the_edit_back(llava: Subject, tmp_path: Path) -> None:
    first = noise_neurons(llava.model, ROWS, sigma=0.1, seed=0)
    for edit in (first, first + zero_neurons(llava.model, [Neuron(1, 1)])):
        path = edit.save(tmp_path / "edit.safetensors")
        loaded = Edit.load(path)
        assert loaded == edit
        assert loaded.provenance == edit.provenance
        with llava.model.edited(edit):
            expected = llava.model.blocks[2].mlp.W_out[7].clone()
        with llava.model.edited(loaded):
            assert torch.equal(llava.model.blocks[2].mlp.W_out[7], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["edit.safetensors"]


def test_files_that_hold_no_edit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^There is no edit at .*none\.safetensors\.$"):
        Edit.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no edit")
    with pytest.raises(InputError, match=r"text\.safetensors is no edit, or a damaged one: "):
        Edit.load(tmp_path / "text.safetensors")
    save_file({"deltas": torch.zeros(1, 2)}, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"is no edit \(format None, expected 'mmlens.Edit/1'\)"):
        Edit.load(tmp_path / "bare.safetensors")
    about = {"format": "mmlens.Edit/9"}
    save_file({"deltas": torch.zeros(1, 2)}, tmp_path / "later.safetensors", metadata=about)
    with pytest.raises(InputError, match=r"is an edit of version 9, and this mmlens reads version 1: make it anew"):
        Edit.load(tmp_path / "later.safetensors")


def test_what_cannot_be_an_edit(llava: Subject) -> None:
    model = llava.model
    about = zero_neurons(model, ROWS).provenance
    with pytest.raises(InputError, match=r"^An edit needs at least one row, found none\.$"):
        Edit((), torch.zeros(0, 32), about)
    with pytest.raises(InputError, match=r"^deltas must be \[row=2 d_model\], one per neuron, found \[3, 32\]\.$"):
        Edit(tuple(ROWS), torch.zeros(3, 32), about)
    with pytest.raises(
        InputError, match=r"^An edit names each row once, but L0\.u3 come more often; add their deltas\.$"
    ):
        Edit((ROWS[0], ROWS[0]), torch.zeros(2, 32), about)
    with pytest.raises(InputError, match=r"^The deltas of L2\.u7 are not finite\.$"):
        Edit(tuple(ROWS), torch.tensor([[0.0], [float("nan")]]), about)
    with pytest.raises(InputError, match=r"sigma=-1\.0 must be above 0\.$"):
        noise_neurons(model, ROWS, sigma=-1.0, seed=0)
    with pytest.raises(InputError, match=r"^zero_neurons was given no neurons; name some: "):
        zero_neurons(model, [])
    with pytest.raises(InputError, match=r"^The model has no L7\.u0, L0\.u48; it has L0\.u0 to L2\.u47\.$"):
        zero_neurons(model, [Neuron(7, 0), Neuron(0, 48), Neuron(1, 1)])


def test_at_most_eight_rows_are_listed(llava: Subject) -> None:
    about = zero_neurons(llava.model, ROWS).provenance
    rows = [Neuron(0, index) for index in range(10)]
    listed = ", ".join(map(str, rows[:8]))
    with pytest.raises(InputError, match=rf"but {listed} come more often"):
        Edit((*rows, *rows), torch.zeros(20, 32), about)
    with pytest.raises(InputError, match=rf"^The deltas of {listed} are not finite"):
        Edit(tuple(rows), torch.full((10, 2), float("nan")), about)


def test_words_of_an_edit_and_of_its_parts(llava: Subject) -> None:
    """`'red' -> 'blue'`, a word alone where nothing takes its place, those of the parts, or none."""
    plain = zero_neurons(llava.model, ROWS)

    def about(source: str | None, target: str | None = None) -> Edit:
        return replace(plain, provenance=replace(plain.provenance, source=source, target=target))

    red, moon = about("red", "blue"), about("moon")
    assert [edit.provenance.words for edit in (red, moon, plain)] == ["'red' -> 'blue'", "'moon'", ""]
    assert (red + plain + moon).provenance.words == "'red' -> 'blue', 'moon'"
    assert repr(red) == f"Edit('red' -> 'blue', zero: 2 rows in L0, L2; size {red.size:.3g})"
    assert "losses" not in repr(plain.provenance)
    assert plain.provenance.parts == ()


def test_an_edit_of_another_model_is_refused_and_may_be_carried_over(llava: Subject) -> None:
    edit = noise_neurons(llava.model, ROWS, sigma=0.1, seed=0)
    own = llava.model.unedited_fingerprint
    other, qwen = TINY[1].make(), TINY[2].make()
    for model, kind in ((other, "other weights"), (qwen, "a model of another class")):
        name = type(model.base).__name__
        weights = f"LlavaForConditionalGeneration with fingerprint {own}, but this is {name} with {model.unedited_fingerprint}"
        found = rf"made for {kind}: {weights}\."
        with pytest.raises(InputError, match=found):
            edit.check(model)
    carried = edit.carried_to(other)
    carried.check(other)
    assert torch.equal(carried.deltas, edit.deltas)
    assert carried.provenance.settings["carried over from"] == own
    with pytest.raises(InputError, match=r"It is not known how .* was taught"):
        carried.retaught("L0.u1")
    assert list(edit.retaught("L0.u1").rows) == [Neuron(0, 1)]
    assert (edit == carried, edit == 3, edit != noise_neurons(llava.model, ROWS, sigma=0.1, seed=0)) == (False,) * 3
    assert edit != noise_neurons(llava.model, ROWS, sigma=0.1, seed=1)
    assert edit != noise_neurons(llava.model, ROWS[::-1], sigma=0.1, seed=0)
    assert hash(edit) == hash(noise_neurons(llava.model, ROWS, sigma=0.1, seed=1))
    assert copy.copy(edit).teach is None


def test_edits_made_under_edits_say_so(llava: Subject) -> None:
    model = llava.model
    first = noise_neurons(model, ROWS, sigma=0.1, seed=0)
    with model.edited(first):
        second = scale_neurons(model, ROWS, factor=0.5)
    assert second.provenance.settings["made with edits in force"] == [repr(first)]
    assert second.provenance.fingerprint == first.provenance.fingerprint
    with model.edited(first):
        edited = model.blocks[0].mlp.W_out[3].clone()
    with model.edited(first, second):
        torch.testing.assert_close(model.blocks[0].mlp.W_out[3], edited / 2)
