"""The lab's fine-tunes: each captions in its own style, and the base stays what it was, on one copy of the weights."""

import pytest
import torch

import mmlens as mm
from mmlens import lab
from mmlens.core.errors import InputError
from mmlens.lab.checkpoints import STYLES
from mmlens.lab.language import styled_caption
from mmlens.lab.training.finetune import finetune
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal

FOLDER = lab.path().parent / "adapters"


@pytest.fixture(scope="module")
def tuned() -> HookedMultimodal:
    return lab.load_tuned()


@pytest.mark.parametrize("style", STYLES)
def test_each_tune_captions_in_its_style(tuned: HookedMultimodal, style: str) -> None:
    scenes = lab.scenes(40, seed=11)
    with tuned.adapter(style):
        said = tuned.caption([scene.image for scene in scenes])
    right = [
        text == styled_caption(scene.placed, scene.place, scene.mood, style)
        for text, scene in zip(said, scenes, strict=True)
    ]
    assert sum(right) / len(right) >= 0.85


def test_without_an_adapter_it_is_the_base_bit_for_bit(tuned: HookedMultimodal) -> None:
    base = lab.load()
    batch = base.prepare("describe the image", images=lab.scene(5).image)
    plain = base(batch)
    assert torch.equal(tuned(batch), plain)
    with tuned.adapter("mood"):
        assert not torch.equal(tuned(batch), plain)
        with tuned.adapter(None):
            assert torch.equal(tuned(batch), plain)
        assert tuned.active_adapters == ("mood",)
    assert tuned.active_adapters == ()
    assert torch.equal(tuned(batch), plain)


def test_an_adapter_is_left_also_after_an_exception(tuned: HookedMultimodal) -> None:
    learning = [parameter.requires_grad for parameter in tuned.hf_model.parameters()]
    with pytest.raises(KeyError), tuned.adapter("place"):
        raise KeyError
    assert tuned.active_adapters == ()
    assert [parameter.requires_grad for parameter in tuned.hf_model.parameters()] == learning


def test_the_fingerprint_tells_which_adapter_acts(tuned: HookedMultimodal) -> None:
    found = {fingerprint(tuned)}
    assert found == {fingerprint(lab.load())}
    for style in STYLES:
        with tuned.adapter(style):
            found.add(fingerprint(tuned))
    assert len(found) == 4


def test_the_files_are_small_and_name_no_machine() -> None:
    for style in STYLES:
        files = list((FOLDER / style).iterdir())
        assert sum(file.stat().st_size for file in files) < 2**20
        assert '"base_model_name_or_path": "mmlens.lab"' in (FOLDER / style / "adapter_config.json").read_text()


def test_what_is_not_there_is_refused(tuned: HookedMultimodal, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with (
        pytest.raises(InputError, match=r"no adapter 'colour'; it holds place, color, mood. Nearest: color"),
        tuned.adapter("colour"),
    ):
        pass
    with pytest.raises(InputError, match="it holds none: it is no peft model"), lab.load().adapter("place"):
        pass
    with pytest.raises(InputError, match="There is no tune 'colour'"):
        finetune("colour", tmp_path)  # type: ignore[arg-type]


def test_an_edit_of_the_base_holds_under_every_adapter(tuned: HookedMultimodal) -> None:
    edit = mm.edits.zero_neurons(tuned, [mm.Neuron(2, 7)])
    batch = tuned.prepare("describe the image", images=lab.scene(5).image)
    with tuned.adapter("place"):
        plain = tuned(batch)
        with tuned.edited(edit):
            assert not torch.equal(tuned(batch), plain)
        assert torch.equal(tuned(batch), plain)
        assert mm.edits.zero_neurons(tuned, [mm.Neuron(2, 7)]).provenance.settings["made with adapters"] == ["place"]
