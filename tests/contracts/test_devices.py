"""Contract: away from the CPU everything runs, gives the CPU's values, and hands its results back on the CPU.

The lab model lies on one device, a tiny LLaVA on two, as `device_map="auto"` spreads a model that is too large for one. The
devices are pretended (`tests.devices`), so that this needs no accelerator: they refuse to be mixed as real ones do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from torch.nn.attention import SDPBackend, sdpa_kernel

import mmlens as mm
from mmlens.analysis.controls.matches import MATCHES
from mmlens.analysis.neurons.methods import NEURON_METHODS
from mmlens.analysis.neurons.methods.integrated_gradients import IntegratedGradients
from mmlens.models.hooked import HookedMultimodal
from tests.devices import DEVICE, SECOND, pretend_devices
from tests.tiny import TINY

AT = "blocks.1.hook_resid_post"
QUESTION = "what color is the circle"
#: Both sides compute in float32 and by the same kernels, now and then in another order.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Here:
    """A model where it lies, with what to ask it.

    Attributes:
        model: on the CPU, or the same weights on the device.
        clean, corrupted: two samples each, with different pictures.
        samples: a dataset of three.
        folder: an empty one, for files.
    """

    model: HookedMultimodal
    clean: mm.MultimodalBatch
    corrupted: mm.MultimodalBatch
    samples: list[mm.Sample]
    folder: Path

    def states(self, n: int = 40) -> mm.store.States:
        """States made up of three groups, as `collect` gives them."""
        width = self.model.cfg.d_model
        drawn = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
        return mm.store.States(drawn + 9 * torch.eye(width)[torch.arange(n) % 3], AT, keys=tuple(map(str, range(n))))

    def vector(self) -> mm.steering.SteeringVector:
        """A direction that moves answers."""
        return mm.steering.SteeringVector(self.model.W_U[:, self.model.to_single_token("blue")], AT)


METRIC = mm.metrics.logit_difference("red", "blue")
#: The language model on both, and its input not where its output is: the unembedding's logits are sent back to the input.
PLACES = {
    "model.vision_tower": str(DEVICE),
    "model.multi_modal_projector": str(SECOND),
    "model.language_model.embed_tokens": str(DEVICE),
    "model.language_model.rotary_emb": str(DEVICE),
    "model.language_model.layers.0": str(DEVICE),
    "model.language_model.layers.1": str(SECOND),
    "model.language_model.layers.2": str(SECOND),
    "model.language_model.norm": str(SECOND),
    "lm_head": str(SECOND),
}
CASES: dict[str, Callable[[Here], Any]] = {}
#: What needs a model that answers; the others run on the LLaVA.
ON_THE_LAB = {
    "generate",
    "streams_taken_apart",
    "neurons",
    "doses",
    "properties_of_neurons",
    "collecting",
    "reports_of_steering",
    "concepts",
}


def case(function: Callable[[Here], Any]) -> Callable[[Here], Any]:
    """Have a function run on both devices; what it returns must be the same."""
    CASES[function.__name__] = function
    return function


# -- running ----------------------------------------------------------------------------------------------------------


@case
def forward(here: Here) -> Any:
    return here.model(here.clean).cpu()


@case
def forward_of_plain_tensors(here: Here) -> Any:
    return here.model(**{name: tensor.cpu() for name, tensor in here.clean.items()}).cpu()


@case
def generate(here: Here) -> Any:
    return here.model.generate(here.clean, max_new_tokens=3).cpu()


@case
def trace_of_a_generation(here: Here) -> Any:
    trace = here.model.trace_generation(here.clean, names=["blocks.*.hook_resid_post", "hook_logits"], max_new_tokens=3)
    return [trace.tokens.cpu(), {name: states.cpu() for name, states in trace.states.items()}]


@case
def cache_kept_where_it_is(here: Here) -> Any:
    _, cache = here.model.run_with_cache(here.clean)
    expected = {parameter.device for parameter in here.model.hf_model.parameters()}
    assert {tensor.device for tensor in cache.values()} == expected
    return {name: tensor.cpu() for name, tensor in cache.items()}


@case
def cache_brought_to_the_cpu(here: Here) -> Any:
    _, cache = here.model.run_with_cache(here.clean, names="blocks.*.hook_resid_post", positions="image", device="cpu")
    assert {tensor.device.type for tensor in cache.values()} == {"cpu"}
    return dict(cache.items())


@case
def streams_taken_apart(here: Here) -> Any:
    cache = here.model.run_with_cache(here.clean)[1]
    return [part.cpu() for part in (cache.accumulated_resid(), cache.decompose_resid(), cache.stack_head_results())]


@case
def cache_in_a_file(here: Here) -> Any:
    _, cache = here.model.run_with_cache(here.clean, names="blocks.*.hook_resid_post")
    cache.save(here.folder / "cache.safetensors")
    return dict(mm.store.ActivationCache.load(here.folder / "cache.safetensors").items())


@case
def verify(here: Here) -> Any:
    report = mm.verify(here.model, here.clean, causal=False, progress=False)
    assert report.ok, repr(report)
    return report


# -- interventions ------------------------------------------------------------------------------------------------------


def _interventions(here: Here) -> dict[str, Any]:
    """One of each; numbers and masks on the CPU, as users have them."""
    model = here.model
    width = model.cfg.d_model
    direction = torch.randn(width, generator=torch.Generator().manual_seed(1))
    vector = mm.steering.SteeringVector(direction, AT)
    rows = int(here.clean["input_ids"].shape[1])
    bank = mm.extract_concepts(here.states(), 3, method="kmeans")
    units = [mm.Neuron(0, 3), mm.Neuron(1, 5), mm.Head(1, 2)]
    means = mm.neurons.mean_activation(model, here.clean, units, progress=False)
    return {
        "replace": mm.Replace(AT, torch.zeros(2, rows, width), positions="image"),
        "add": mm.Add(AT, direction, alpha=2.0),
        "add at the image": mm.Add(AT, direction, alpha=2.0, positions="image"),
        "add at numbers": mm.Add(AT, direction, positions=mm.positions.row(torch.tensor([[3, 5], [4, 6]]))),
        "add at rows on the device": mm.Add(AT, direction, positions=torch.tensor([3, 5], device=model.device)),
        "add at each sample's": mm.Add(
            AT, direction, positions=[torch.tensor([n + 3], device=model.device) for n in (0, 1)]
        ),
        "scale": mm.Scale("blocks.1.hook_mlp_out", 0.5, positions="text"),
        "clamp": mm.Clamp("blocks.*.mlp.hook_post", high=0.1),
        "noise": mm.Noise("hook_embed", sigma=0.3, seed=1, positions="image"),
        "ablate": mm.Ablate(units),
        "ablate at the last": mm.Ablate(units, positions="last"),
        "ablate to means": mm.Ablate(units, value=means),
        "knock out": mm.KnockOut("last", "image", layers=range(2)),
        "steer": mm.Steer(vector, alpha=2.0, positions=mm.positions.last | mm.positions.generated),
        "steer, same length": mm.Steer(vector, alpha=2.0, keep_norm=True),
        "steer where a concept is": mm.Steer(vector, gate=mm.steering.ActiveConcept(bank, [0, 1]), positions="all"),
        "project out": mm.ProjectOut(vector, positions="all"),
        "vision": mm.Scale("vision.blocks.0.hook_mlp_out", 0.0),
        "projector": mm.Scale("projector.hook_out", 0.5),
    }


@case
def interventions(here: Here) -> Any:
    found = {}
    for name, intervention in _interventions(here).items():
        with here.model.intervene(intervention):
            found[name] = here.model(here.clean).cpu()
    return found


@case
def interventions_in_a_generation(here: Here) -> Any:
    found = {}
    for name, intervention in _interventions(here).items():
        if name not in ("replace", "noise"):
            with here.model.intervene(intervention):
                found[name] = here.model.generate(here.clean, max_new_tokens=2).cpu()
    return found


@case
def corruptions(here: Here) -> Any:
    model, batch = here.model, here.clean
    made = [
        mm.corrupt.blur(model, batch),
        mm.corrupt.noise(model, batch, sigma=1.0),
        mm.corrupt.noise(model, batch, sigma=1.0, at="hook_embed"),
        mm.corrupt.blank(model, batch),
        mm.corrupt.mean(model, batch, [here.corrupted], at="hook_embed"),
        mm.corrupt.shuffle(model, batch, at="hook_embed"),
        mm.corrupt.replace_words(model, batch, {"circle": "image"}),
    ]
    return [model(each).cpu() for each in made]


# -- neurons and edits --------------------------------------------------------------------------------------------------


@case
def neurons(here: Here) -> Any:
    found = {}
    for method in NEURON_METHODS:
        settings = IntegratedGradients(steps=3) if method is IntegratedGradients else method()
        found[method.name] = mm.find_neurons(here.model, here.clean, token="red", method=settings, keep=2)
    found["vision"] = mm.find_neurons(
        here.model, here.clean, token="red", method="gradient_x_activation", part="vision"
    )
    found["dataset"] = mm.find_neurons(here.model, here.samples, token="red", batch_size=2, progress=False)
    control = [
        mm.random_units(here.model, found["contribution"].top(3), match=match, draws=2, batch=here.clean)
        for match in MATCHES.names
    ]
    scores = found["contribution"]
    return [found, control, scores.heatmap(k=3), scores.words(3), scores.to_frame(5)]


@case
def neurons_of_captions(here: Here) -> Any:
    return mm.neurons.find_caption_neurons(
        here.model, here.samples[:2], nouns=["circle", "red"], max_new_tokens=4, progress=False
    )


@case
def properties_of_neurons(here: Here) -> Any:
    return mm.properties.neuron_report(
        here.model,
        mm.lab.scenes(1),
        methods=("contribution",),
        ways=("mean", "noise"),
        k=3,
        nouns=mm.lab.NOUNS,
        per_sample=1,
        max_new_tokens=8,
        reference=4,
        progress=False,
    )


@case
def edits(here: Here) -> Any:
    model, some = here.model, [mm.Neuron(1, 3), mm.Neuron(0, 5)]
    asked = model.prepare(QUESTION, images=here.samples[0].images)
    word = int(model(asked)[0, -1].argmax())
    known = {"source": word, "target": "blue", "max_new_tokens": 1, "progress": False}
    made = {
        "scaled": mm.edits.scale_neurons(model, some, factor=2.0),
        "zero": mm.edits.zero_neurons(model, some),
        "noise": mm.edits.noise_neurons(model, some, sigma=0.5, seed=0),
        "direct": mm.edits.replace_token(model, asked, neurons=some, method="direct", **known),
        "through": mm.edits.replace_token(model, asked, neurons=some, method=mm.edits.Through(n_steps=2), **known),
        "removed": mm.edits.remove_word(
            model,
            asked,
            word=word,
            neurons=some,
            method=mm.edits.Through(n_steps=2),
            max_new_tokens=1,
            progress=False,
        ),
        "rank one": mm.edits.rank_one(
            model, asked, layer=1, samples=here.clean, settings=mm.edits.Through(n_steps=2), **known
        ),
    }
    logits = {}
    for name, edit in made.items():
        with model.edited(edit):
            logits[name] = model(here.clean).cpu()
    made["zero"].save(here.folder / "edit.safetensors")
    before = model.blocks[1].mlp.W_out[3].cpu()
    with model.edited(type(made["zero"]).load(here.folder / "edit.safetensors")):
        assert not model.blocks[1].mlp.W_out[3].any()
    assert torch.equal(model.blocks[1].mlp.W_out[3].cpu(), before)
    return [made, logits]


@case
def report_of_an_edit(here: Here) -> Any:
    edit = mm.edits.zero_neurons(here.model, [mm.Neuron(1, 3)])
    asked = [(sample.images[0], QUESTION) for sample in here.samples]
    return mm.edits.edit_report(
        here.model, edit, targets=asked[:1], controls=asked[1:], source="red", target="blue", max_new_tokens=2,
        progress=False,
    )  # fmt: skip


# -- patching and attribution -------------------------------------------------------------------------------------------


@case
def patching(here: Here) -> Any:
    model, pair = here.model, (here.clean, here.corrupted)
    quiet = {"metric": METRIC, "progress": False}
    return [
        mm.patch(model, *pair, at="blocks.*.hook_resid_pre", positions=["image", "last"], **quiet),
        mm.patch(model, *pair, at="blocks.1.hook_mlp_out", positions=["text"], direction="noise", **quiet),
        mm.patch(model, *pair, at="blocks.1.attn.hook_z", units="head", positions=["last"], **quiet),
        mm.patch(model, *pair, at="vision.blocks.*.hook_resid_post", positions=["image"], **quiet),
        mm.patch(model, *pair, at="blocks.2.hook_resid_pre", metric=mm.metrics.kl_divergence(), progress=False),
        mm.patch(model, *pair, at="blocks.2.hook_resid_pre", metric=lambda logits: logits[:, 5], progress=False),
    ]


@case
def tracing(here: Here) -> Any:
    positions = ["image", "last"]
    return mm.patching.causal_trace(
        here.model, here.clean, metric=METRIC, positions=positions, seeds=[0], progress=False
    )


@case
def knocking_out(here: Here) -> Any:
    return mm.knock_out(here.model, here.clean, queries="last", keys="image", metric=METRIC, progress=False)


@case
def attributing(here: Here) -> Any:
    model, pair = here.model, (here.clean, here.corrupted)
    quiet = {"metric": METRIC, "progress": False}
    return [
        mm.attribute(model, *pair, at="blocks.*.hook_resid_pre", **quiet),
        mm.attribute(
            model, *pair, at="blocks.*.hook_resid_pre", method=mm.patching.IntegratedGradients(steps=2), **quiet
        ),
        mm.attribute(model, *pair, at="blocks.*.attn.hook_q", units="head", positions=["last"], **quiet),
        mm.patching.compare_attribution(model, *pair, at="blocks.*.hook_resid_pre", **quiet),
    ]


@case
def path_patching(here: Here) -> Any:
    model, pair = here.model, (here.clean, here.corrupted)
    return [
        mm.patching.path_patch(
            model, *pair, at="blocks.0.attn.hook_z", units="head", to=to, to_positions=where, metric=METRIC,
            freeze=freeze, progress=False,
        )
        for to, where, freeze in (("hook_logits", "all", "branches"), ("blocks.1.attn.hook_q", "last", "attention"))
    ]  # fmt: skip


@case
def circuits(here: Here) -> Any:
    model, pair = here.model, (here.clean, here.corrupted)
    quiet = {"metric": METRIC, "progress": False}
    found = {
        "eap": mm.find_circuit(model, pair, method="eap", towers="language", **quiet),
        "eap-ig": mm.find_circuit(model, pair, method=mm.circuits.EAPIG(steps=2), nodes="attention", **quiet),
    }
    circuit = found["eap"].strongest(5)
    circuit.save(here.folder / "circuit.safetensors")
    again = mm.circuits.Circuit.load(here.folder / "circuit.safetensors")
    return [found, again, mm.circuits.evaluate_circuit(model, circuit, pair, n_random=1, n_edges=2, **quiet)]


# -- lenses ---------------------------------------------------------------------------------------------------------------


@case
def lenses(here: Here) -> Any:
    lens = mm.logit_lens(
        here.model, here.clean, positions=slice(-3, None), words=["red", "blue"], control=here.corrupted, progress=False
    )
    return [lens, mm.logit_lens(here.model, here.clean, at="blocks.*.hook_mlp_out", final_norm=False, progress=False)]


@case
def patchscopes(here: Here) -> Any:
    return mm.lenses.patchscope(
        here.model, here.clean, at="blocks.*.hook_resid_post", positions="last", target_prompt="what is the",
        max_new_tokens=2, progress=False,
    )  # fmt: skip


# -- concepts and steering --------------------------------------------------------------------------------------------


@case
def collecting(here: Here) -> Any:
    quiet = {"at": "blocks.*.hook_resid_post", "batch_size": 2, "dtype": "float32", "progress": False}
    stores = [
        mm.collect(here.model, here.samples, positions="last", **quiet),
        mm.collect(here.model, here.samples, token=["red", "blue", "green", "yellow"], max_new_tokens=5, **quiet),
        mm.collect(here.model, here.samples, positions="generated", max_new_tokens=2, **quiet),
        mm.collect(here.model, here.samples, positions="image", into=here.folder / "store", **quiet),
    ]
    return [
        [store.at(AT) for store in stores],
        str(mm.store.size_estimate(here.model, here.samples, at=AT, positions="last")),
    ]


@case
def concepts(here: Here) -> Any:
    states = here.states()
    found = {
        method: mm.extract_concepts(states, 3, method=method) for method in ("semi_nmf", "kmeans", "pca", "simple")
    }
    on_device = mm.store.States(states.values.to(here.model.device), states.at, keys=states.keys)
    found["of states on the device"] = mm.extract_concepts(on_device, 3)
    found["computed on the device"] = mm.extract_concepts(
        states, 3, method=mm.concepts.SemiNMF(device=here.model.device), batch_size=16
    )
    bank = found["semi_nmf"]
    bank.save(here.folder / "bank.safetensors")
    store = mm.collect(here.model, here.samples, at=AT, positions="last", dtype="float32", progress=False)
    few = mm.extract_concepts(store, 2)
    return [
        found,
        mm.concepts.ConceptBank.load(here.folder / "bank.safetensors"),
        bank.encode(states.values.to(here.model.device)[:5]).cpu(),
        mm.concepts.concept_words(here.model, bank),
        mm.concepts.explain_state(here.model, bank, states[[0]]),
        mm.concepts.ground_concepts(here.model, few, here.samples, k=2, words=3, progress=False),
    ]


@case
def shifts(here: Here) -> Any:
    base = here.states()
    moved = base.values + 0.1 * torch.arange(len(base.values))[:, None]
    place = here.model.device
    tuned = mm.store.States(moved, AT, keys=base.keys)
    bank = mm.extract_concepts(base, 3, method="kmeans")
    shift = mm.concept_shift(base, tuned, bank)
    far = [mm.store.States(states.values.to(place), AT, keys=states.keys) for states in (base, tuned)]
    return [shift, mm.concept_shift(*far, bank), mm.concepts.ground_shift(here.model, shift, words=3)]


@case
def steering_vectors(here: Here) -> Any:
    states, place = here.states(), here.model.device
    bank = mm.extract_concepts(states, 3, method="kmeans")
    return [
        mm.steering_vector(states.values[:20], states.values[20:], at=AT),
        mm.steering_vector(states.values[:20].to(place), states.values[20:].to(place), at=AT),
        mm.steering.concept_steering_vectors(bank),
        mm.steering.contrastive_vector(
            here.model, here.samples, positive="what color", negative="where is", at=AT, progress=False
        ),
    ]


@case
def doses(here: Here) -> Any:
    bank = mm.extract_concepts(here.states(), 3, method="kmeans")
    return [
        mm.steering.dose_curve(
            here.model, data, here.vector(), alphas=[0, 2], metric=METRIC, gate=gate, seeds=[0], progress=False
        )
        for data, gate in ((here.clean, None), (here.samples, mm.steering.ActiveConcept(bank, 0)))
    ]


@case
def reports_of_steering(here: Here) -> Any:
    steer = mm.Steer(here.vector(), alpha=5.0, positions=mm.positions.last | mm.positions.generated)
    return [
        mm.steering.steering_report(here.model, steer, here.samples, max_new_tokens=2, progress=False),
        mm.steering.select_vectors(
            here.model,
            {"blue": steer},
            [(s.images[0], QUESTION) for s in here.samples],
            method=mm.steering.Effect(max_new_tokens=1),
            progress=False,
        ),
        mm.steering.select_vectors(here.model, {"blue": here.vector()}, method=mm.steering.Proximity(here.vector())),
    ]


# -- the contract -----------------------------------------------------------------------------------------------------


def same(found: Any, expected: Any, where: str) -> None:
    """The same numbers, words and shapes, however deep; and every tensor of a result on the CPU."""
    assert type(found) is type(expected), f"{where}: {type(found)} against {type(expected)}"
    if isinstance(expected, mm.MultimodalBatch):  # what was put in, not what came out
        found = found.to("cpu")
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(
            found, expected, atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True, msg=lambda text: f"{where}: {text}"
        )
    elif isinstance(expected, np.ndarray):
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=TOLERANCE, err_msg=where)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE, nan_ok=True), where
    elif is_dataclass(expected):
        for field in fields(expected):
            if not callable(getattr(expected, field.name)):
                same(getattr(found, field.name), getattr(expected, field.name), f"{where}.{field.name}")
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected), where
        for name in expected:
            same(found[name], expected[name], f"{where}[{name!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, (own, other) in enumerate(zip(found, expected)):
            same(own, other, f"{where}[{number}]")
    elif hasattr(expected, "to_dict"):  # a frame
        same(found.to_dict("list"), expected.to_dict("list"), where)
    else:
        assert found == expected, where


_MODELS: dict[str, tuple[HookedMultimodal, HookedMultimodal]] = {}


def models(name: str) -> tuple[HookedMultimodal, HookedMultimodal]:
    """A model on the CPU, and with the same weights away from it; made once."""
    if name not in _MODELS:
        if name == "lab":
            _MODELS[name] = (
                mm.lab.load(),
                HookedMultimodal.from_pretrained(mm.lab.path(), dtype="float32", device=DEVICE),
            )
        else:
            _MODELS[name] = TINY[0].make(), TINY[0].make()
            dispatch_model(_MODELS[name][1].hf_model, PLACES, main_device=str(DEVICE))
    return _MODELS[name]


def ask(model: HookedMultimodal, folder: Path) -> Here:
    """The model with its questions."""
    scenes = mm.lab.scenes(4, seed=0)
    samples = [mm.Sample((scene.image,), QUESTION, caption="a red circle", answer="red") for scene in scenes[:3]]
    clean = model.prepare([QUESTION, "where is the circle"], images=[[scene.image] for scene in scenes[:2]])
    corrupted = mm.corrupt.swap(model, clean, [scene.image for scene in scenes[2:]])
    folder.mkdir()
    return Here(model, clean, corrupted, samples, folder)


@pytest.mark.parametrize("which", CASES)
def test_away_from_the_cpu_all_is_as_on_it(which: str, tmp_path: Path) -> None:
    with pretend_devices():
        near, far = models("lab" if which in ON_THE_LAB else "llava")
    with sdpa_kernel(SDPBackend.MATH):  # as the devices do
        expected = CASES[which](ask(near, tmp_path / "near"))
    with pretend_devices():
        found = CASES[which](ask(far, tmp_path / "far"))
    same(found, expected, which)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("which", CASES)
def test_on_a_gpu_all_is_as_on_the_cpu(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.contracts.test_devices.TOLERANCE", 1e-4)  # other kernels
    if which in ON_THE_LAB:
        near, far = mm.lab.load(), HookedMultimodal.from_pretrained(mm.lab.path(), dtype="float32", device="cuda")
    else:
        near, far = TINY[0].make(), TINY[0].make()
        far.hf_model.to("cuda")
    with sdpa_kernel(SDPBackend.MATH):
        expected = CASES[which](ask(near, tmp_path / "near"))
        found = CASES[which](ask(far, tmp_path / "far"))
    same(found, expected, which)
