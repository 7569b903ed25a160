"""Fine-tunes: the loss is Hugging Face's, a stopped run ends in the same bits, and the model is left as it was."""

import warnings
from copy import deepcopy
from pathlib import Path

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject
from tests.tiny import picture

TEXTS = ("a red circle", "a blue", "a green circle the image")


def samples(n: int = 6) -> list[mm.Sample]:
    return [
        mm.Sample((picture(number),), "describe the image", caption=TEXTS[number % len(TEXTS)]) for number in range(n)
    ]


def bits(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_the_first_loss_is_hugging_faces(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Fresh adapters add nothing, so the first step's loss is the bare model's, over the texts' tokens and the end alone."""
    subject: Subject = request.getfixturevalue(name)
    model, data = subject.model, samples(1)
    tune = mm.finetune(model, data, into=tmp_path / "one", steps=1, batch_size=2, progress=False)
    batch = model.prepare(data[0].prompt, images=data[0].pictures[0])
    ids = model.tokenizer.encode(TEXTS[0], add_special_tokens=False) + [model.tokenizer.eos_token_id]
    assert model.tokenizer.eos_token_id in model.stop_tokens
    whole = dict(model.extend(batch, torch.tensor([ids])))
    labels = whole["input_ids"].clone()
    labels[:, : -len(ids)] = -100
    with torch.no_grad():
        assert tune.losses[0] == pytest.approx(float(subject.bare(**whole, labels=labels).loss), abs=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen", "blip"])
def test_it_learns_and_leaves_the_model_as_it_was(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    subject: Subject = request.getfixturevalue(name)
    model, data = subject.model, samples(2)
    batch = model.prepare([s.prompt for s in data], images=[list(s.pictures) for s in data])
    before, logits = fingerprint(model), model(batch).detach()
    learning = [weight.requires_grad for weight in model.base.parameters()]
    random = torch.random.get_rng_state()
    tune = mm.finetune(model, data, into=tmp_path / "tune", rank=4, steps=12, batch_size=2, rate=0.02, progress=False)
    assert tune.losses[-1] < tune.losses[0] / 2
    assert torch.equal(torch.random.get_rng_state(), random)
    assert fingerprint(model) == before
    assert model.adapters == ()
    assert [weight.requires_grad for weight in model.base.parameters()] == learning
    assert torch.equal(model(batch), logits)
    copy = HookedMultimodal.from_hf(deepcopy(subject.bare), model.processor)
    tuned = mm.tuning.with_adapters(copy, {"own": tune, "again": tune.folder})
    with torch.no_grad():
        assert torch.equal(tuned(batch), logits)
        assert torch.equal(copy(batch), logits)
        with tuned.adapter("own"):
            changed = tuned(batch)
        with tuned.adapter("again"):
            assert torch.equal(tuned(batch), changed)
    assert float((changed - logits).abs().max()) > 0.1


def test_a_stopped_run_ends_in_the_same_bits(llava: Subject, tmp_path: Path) -> None:
    settings = {"steps": 7, "batch_size": 2, "rate": 0.01, "save_every": 2, "progress": False}
    whole = mm.finetune(llava.model, samples(), into=tmp_path / "whole", **settings)

    class Stopping(list[mm.Sample]):
        left = 14  # samples that are read: those of the texts, and four steps and a half

        def __getitem__(self, index: int) -> mm.Sample:  # type: ignore[override]
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        mm.finetune(llava.model, Stopping(samples()), into=folder, **settings)
    assert llava.model.adapters == ()
    assert not (folder / "adapter_model.safetensors").exists()
    with pytest.raises(InputError, match="another fine-tune: it differs in samples"):
        mm.finetune(llava.model, samples(5), into=folder, **settings)
    resumed = mm.finetune(llava.model, samples(), into=folder, **settings)
    assert resumed.losses == whole.losses
    assert bits(folder) == bits(whole.folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.folder.iterdir())
    again = mm.finetune(llava.model, samples(), into=folder, **settings)  # finished: read, not run
    assert again == resumed == mm.tuning.Tune.load(folder)
    with pytest.raises(InputError, match="another fine-tune: it differs in settings"):
        mm.finetune(llava.model, samples(), into=folder, **{**settings, "rate": 0.02})


def test_what_cannot_be_learnt_is_refused(llava: Subject, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Sample 1 \('describe the image'\) has neither an answer nor a caption"):
        mm.finetune(llava.model, [samples(1)[0], mm.Sample((picture(),))], into=tmp_path)
    with pytest.raises(InputError, match="dataset holds no samples"):
        mm.finetune(llava.model, [], into=tmp_path)
    with pytest.raises(InputError, match="holds the adapters place, color, mood"):
        mm.finetune(mm.lab.load_tuned(), samples(), into=tmp_path)
    with pytest.raises(InputError, match=r"of the adapter 'none' holds no adapter_config"):
        mm.tuning.with_adapters(llava.model, {"none": tmp_path})


def test_the_frame_and_the_figure(tmp_path: Path) -> None:
    tune = mm.tuning.Tune(tmp_path / "place", (2.0, 1.0, 0.5))
    assert tune.to_frame()["loss"].tolist() == [2.0, 1.0, 0.5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (line,) = tune.plot().axes[0].lines
    assert line.get_ydata().tolist() == [2.0, 1.0, 0.5]
    assert "place" in tune._repr_html_()
