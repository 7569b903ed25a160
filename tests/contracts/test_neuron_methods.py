"""Contract: every method that scores neurons finds the planted one, runs on every kind of model, and refuses what it cannot."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mmlens as mm
from mmlens.analysis.method_table import method_tables
from mmlens.analysis.neurons.methods import NEURON_METHODS, NeuronMethod
from mmlens.analysis.neurons.methods.random_scores import Random
from mmlens.analysis.properties.cases import NeuronChoice
from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.core.units import Neuron
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.conftest import Wrapped, planted_neuron
from tests.conftest import Subject
from tests.tiny import llava as tiny_llava

__all__ = ["planted_neuron"]  # the fixture
TOKEN = "circle"
FINDERS = [cls for cls in NEURON_METHODS if cls is not Random]
every_method = pytest.mark.parametrize("cls", list(NEURON_METHODS), ids=lambda cls: cls.name)
every_finder = pytest.mark.parametrize("cls", FINDERS, ids=lambda cls: cls.name)


@every_finder
def test_the_planted_neuron_comes_first_where_it_is_and_not_in_its_twin(
    planted_neuron: Wrapped, cls: type[NeuronMethod]
) -> None:
    truth, batch = planted_neuron.truth, planted_neuron.batch()
    planted = Neuron(truth.layer, int(truth.neuron or 0))
    scores, twin, chance = (
        mm.find_neurons(model, batch, token=truth.word, method=method)
        for model, method in (
            (planted_neuron.model, cls()),
            (planted_neuron.twin, cls()),
            (planted_neuron.model, Random()),
        )
    )
    assert scores.top(1) == [planted]
    assert abs(twin[planted]) < 0.1 * scores[planted]
    assert chance.top(1) != [planted]
    assert not torch.allclose(chance.scores, scores.scores, atol=0.1)


@every_method
def test_it_runs_on_every_kind_of_model_and_a_sample_alone_scores_the_same(
    subject: Subject, cls: type[NeuronMethod]
) -> None:
    model, batch = subject.model, subject.batches["left"]
    whole = mm.find_neurons(model, batch, token=TOKEN, method=cls(), keep=len(batch.prompts))
    assert whole.scores.shape == (model.cfg.n_layers, model.cfg.d_mlp)
    assert whole.scores.isfinite().all()
    alone = [
        mm.find_neurons(model, model.prepare(prompt, images=images[0]), token=TOKEN, method=cls()).scores
        for prompt, images in zip(batch.prompts, batch.images, strict=True)
    ]
    torch.testing.assert_close(whole.scores, torch.stack(alone).mean(0), rtol=1e-3, atol=1e-4)


@every_method
def test_names_and_settings_say_the_same_and_are_written_down(
    llava: Subject, cls: type[NeuronMethod], tmp_path: Path
) -> None:
    by_name = mm.find_neurons(llava.model, llava.batches["left"], token=TOKEN, method=cls.name)
    scores = mm.find_neurons(llava.model, llava.batches["left"], token=TOKEN, method=cls())
    assert torch.equal(by_name.scores, scores.scores)
    scores.save(tmp_path / "scores.safetensors")
    again = mm.neurons.NeuronScores.load(tmp_path / "scores.safetensors")
    assert (again.method, again.settings) == (cls.name, cls().settings)
    assert NEURON_METHODS[again.method](**again.settings) == cls()


@every_method
def test_a_need_that_is_not_met_is_refused_before_anything_runs(
    cls: type[NeuronMethod], llava: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cls.needs <= {"gradients", "language", "weights"}
    model = HookedMultimodal.from_hf(tiny_llava().hf_model, llava.model.processor)
    down = model.hf_model.model.language_model.layers[0].mlp.down_proj
    monkeypatch.setattr(model.hf_model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    batch = llava.batches["left"]
    if "language" in cls.needs:
        with pytest.raises(InputError, match=rf"'{cls.name}' reads neurons at the position .* 'gradient_x_activation'"):
            mm.find_neurons(model, batch, token=TOKEN, method=cls(), part="vision")
    if "gradients" in cls.needs:
        with torch.inference_mode(), pytest.raises(InputError, match=rf"'{cls.name}' needs gradients"):
            mm.find_neurons(model, batch, token=TOKEN, method=cls())
    if "weights" in cls.needs:
        down.weight = torch.nn.Parameter(down.weight.data.to(torch.int8), requires_grad=False)
        with pytest.raises(UnsupportedModelError, match="down_proj is quantised"):
            mm.find_neurons(model, batch, token=TOKEN, method=cls())


TOY = '''"""Sum of activations: a toy."""
from dataclasses import dataclass

import torch

from mmlens.analysis.neurons.method import NEURON_METHODS, NeuronMethod
from mmlens.analysis.neurons.token_targets import states_at


@NEURON_METHODS.register("toy")
@dataclass(frozen=True)
class Toy(NeuronMethod):
    """Twice the activation, or so many times.

    Attributes:
        times: how often.
    """

    needs = frozenset({"language"})

    times: float = 2.0

    def scores(self, model, targets, layers):
        states = states_at(model, targets, layers.names())
        return self.times * torch.stack([states[name] for name in layers.names()], dim=1)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One new file in a package of methods."""
    package = tmp_path / "toy_methods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    NEURON_METHODS.discover("toy_methods", [str(package)])
    yield
    NEURON_METHODS.remove("toy")
    for name in ("toy_methods.toy", "toy_methods"):
        sys.modules.pop(name)


@pytest.mark.usefixtures("toy")
def test_a_new_method_is_one_new_file(llava: Subject, tmp_path: Path) -> None:
    model, batch = llava.model, llava.batches["left"]
    activation = mm.find_neurons(model, batch, token=TOKEN, method="activation")
    torch.testing.assert_close(mm.find_neurons(model, batch, token=TOKEN, method="toy").scores, 2 * activation.scores)
    scores = mm.find_neurons(model, batch, token=TOKEN, method=mm.neurons.Toy(times=3.0))
    torch.testing.assert_close(scores.scores, 3 * activation.scores)
    scores.save(tmp_path / "toy.safetensors")
    assert mm.neurons.NeuronScores.load(tmp_path / "toy.safetensors").settings == {"times": 3.0}
    assert "| `toy` | `Toy(times=2.0)` | Twice the activation, or so many times. | language |" in method_tables()
    with pytest.raises(InputError, match="'toy' reads neurons at the position"):
        mm.find_neurons(model, batch, token=TOKEN, method="toy", part="vision")
    with pytest.raises(InputError, match=r"'toys' is unknown; .*; nearest: 'toy'\."):
        mm.find_neurons(model, batch, token=TOKEN, method="toys")
    assert list(NeuronChoice.of(["contribution", mm.neurons.Toy(times=3.0)], k=2).scoring_methods) == [
        "contribution",
        "toy(times=3.0)",
    ]
