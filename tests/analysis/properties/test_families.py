"""The whole report on tiny models of three families: against slow references, resumed, and where places are missing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmlens import InputError
from mmlens.analysis.heatmap import HeatMap, iou
from mmlens.analysis.properties.cases import NeuronChoice, case_of
from mmlens.analysis.properties.causal import Causal
from mmlens.analysis.properties.invariance import PermuteImage
from mmlens.analysis.properties.likelihood import caption_likelihood
from mmlens.analysis.properties.localisation import energy_inside, points_at
from mmlens.analysis.properties.noun_occurrences import CaptionSettings, noun_occurrences
from mmlens.analysis.samples.sample import Sample
from mmlens.core.errors import NoPlaceError, UnsupportedModelError
from mmlens.core.results import TensorKind
from mmlens.interventions.ablation import Ablate
from mmlens.properties import Measurements, cross_modality, localisation, neuron_report, region_invariance
from tests.conftest import Subject
from tests.tiny import WORDS, picture


def samples(subject: Subject, count: int = 3) -> list[Sample]:
    """Pictures with a mask for every word, whatever the model says, and a writing."""
    found = []
    for seed in range(count):
        mask = np.zeros((32, 32), dtype=bool)
        mask[4 : 14 + seed, 6:20] = True
        regions = {word: mask if i % 2 else ~mask for i, word in enumerate(WORDS)}
        pixels = Image.fromarray(picture(seed).numpy())
        found.append(Sample((pixels,), "describe the image", "a red circle", regions, "red circle and grass"))
    return found


def report(subject: Subject, data: Any, **more: Any) -> Measurements:
    options: dict[str, Any] = {
        "methods": ("contribution", "random"), "k": 3, "nouns": WORDS, "per_sample": 1, "max_new_tokens": 4,
        "reference": 2, "batch_size": 2, "draws": 3, "progress": False,
    }  # fmt: skip
    return neuron_report(subject.model, data, **{**options, **more})


@pytest.mark.parametrize("name", ["llava", "qwen", "blip"])
def test_every_property_is_measured_or_says_why_not(name: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(name)
    found = report(subject, samples(subject), captions=False)
    names = {quantity.name for quantity in found.quantities}
    captioned = found.values["sample"].nunique()  # a random model may name no noun of a picture
    assert captioned >= 2
    assert {"noun among its words", "noun said of permuted image tokens"} <= names
    for way in ("zeroed", "set to their mean", "rows noised, sigma 1"):
        assert found.interval(f"log p of the noun, {way}", "contribution").count == captioned
    if subject.tiny.has_places:
        assert not found.skipped
        assert found.interval("IoU", "contribution").count == captioned
    else:
        assert "IoU" not in names
        assert "queries of the Q-Former mix all patches" in found.skipped["localisation"]
        assert "a writing cannot stand in its place" in found.skipped["cross modality"]
        with pytest.raises(InputError, match="The family instructblip needs a picture with every text"):
            cross_modality(subject.model, samples(subject), k=3, nouns=WORDS, progress=False)
        with pytest.raises(NoPlaceError, match="queries of the Q-Former mix all patches"):
            localisation(subject.model, samples(subject), k=3, nouns=WORDS, progress=False)


@pytest.mark.parametrize("name", ["llava", "qwen", "blip"])
def test_many_sets_in_one_sweep_are_each_ablated_alone(name: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(name)
    settings = CaptionSettings(WORDS, max_new_tokens=4)
    mentions = [m for sample in samples(subject) for m in noun_occurrences(subject.model, sample, settings)]
    case = case_of(mentions[0], NeuronChoice.of(("contribution", "random"), k=6, draws=4))
    means = torch.linspace(-1, 1, subject.model.cfg.n_layers * subject.model.cfg.d_mlp).reshape(
        subject.model.cfg.n_layers, -1
    )
    measure = Causal(("zero", "mean"), (6,), means=means, captions=True, settings=settings)
    values = {(value.quantity, value.method): value.value for value in measure.measure([case])}
    before = caption_likelihood(case.occurrence)
    assert len(case.sets()) > 6  # enough for the short way
    for method, neurons in case.sets().items():
        for label, value in (("zeroed", 0.0), ("set to their mean", [float(means[n.layer, n.index]) for n in neurons])):
            with subject.model.intervene(Ablate(neurons, value)):
                after = caption_likelihood(case.occurrence)
                nouns = [m.noun for m in noun_occurrences(subject.model, case.occurrence.sample, settings)]
            change = float((after.log_p - before.log_p)[case.occurrence.step])
            assert values[f"log p of the noun, {label}", method] == pytest.approx(change, abs=2e-4)
            if label == "zeroed":
                assert values["noun gone from the caption, zeroed", method] == (case.occurrence.noun not in nouns)


def test_maps_are_compared_with_the_mask_of_the_noun(llava: Subject) -> None:
    data = samples(llava, 1)
    found = localisation(llava.model, data, methods=("contribution",), k=2, nouns=WORDS, progress=False)
    batch = llava.model.prepare(data[0].prompt, images=data[0].pictures[0])
    trace = llava.model.trace_generation(batch, names="hook_logits", max_new_tokens=30)
    said = next(word for word in trace.text[0].split() if word in WORDS)
    step = trace.tokens[0].tolist().index(llava.model.to_single_token(said))
    whole = llava.model.extend(batch, trace.tokens[:, :step])
    _, cache = llava.model.run_with_cache(whole, names="blocks.*.mlp.hook_post")
    scores = torch.stack(
        [
            cache[f"blocks.{layer}.mlp.hook_post"][0, -1]
            * (llava.bare.model.language_model.layers[layer].mlp.down_proj.weight.T @ llava.bare.lm_head.weight[
                llava.model.to_single_token(said)])
            for layer in range(3)
        ]
    )  # fmt: skip
    rows = batch.layout.grid().rows
    values = [cache[f"blocks.{i // 48}.mlp.hook_post"][0, rows, i % 48] for i in scores.flatten().topk(2).indices]
    heat = HeatMap(torch.stack(values).mean(0).reshape(4, 4), (32, 32), (0.0, 0.0, 32.0, 32.0))
    truth = torch.as_tensor(data[0].regions[said])
    row = found.values[(found.values["noun"] == said) & (found.values["method"] == "contribution")]
    measured = row.set_index("quantity")["value"]
    assert measured["IoU"] == pytest.approx(iou(heat.mask(), truth), abs=1e-6)
    assert measured["pointing game"] == points_at(heat, truth)
    assert measured["energy inside"] == pytest.approx(energy_inside(heat, truth), abs=1e-4)


def test_pointing_and_energy_on_maps_drawn_by_hand() -> None:
    truth = torch.zeros(8, 8, dtype=torch.bool)
    truth[:4, :4] = True
    inside = HeatMap(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), (8, 8), (0.0, 0.0, 8.0, 8.0))
    outside = HeatMap(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), (8, 8), (0.0, 0.0, 8.0, 8.0))
    assert (points_at(inside, truth), points_at(outside, truth)) == (1, 0)
    assert energy_inside(inside, truth) > 2 > 0.5 > energy_inside(outside, truth)
    even = HeatMap(torch.ones(2, 2), (8, 8), (0.0, 0.0, 8.0, 8.0))
    assert energy_inside(even, truth) == 1
    assert points_at(even, truth) == 0.25  # all pixels tie: the mask's share of them
    # a map of 0 and 1 at full resolution: half of its energy inside a quarter of the area
    half = torch.zeros(8, 8)
    half[0, 0] = half[7, 7] = 1
    assert energy_inside(HeatMap(half, (8, 8), (0.0, 0.0, 8.0, 8.0)), truth) == pytest.approx(0.5 / 0.25)


def test_permuted_image_tokens_are_the_same_rows_in_another_order(subject: Subject) -> None:
    batch = subject.model.prepare("describe the image", images=picture(0))
    _, plain = subject.model.run_with_cache(batch, names="hook_embed")
    with subject.model.intervene(PermuteImage(seed=1)):
        _, moved = subject.model.run_with_cache(batch, names="hook_embed")
    image = batch.layout.image[0]
    before, after = plain["hook_embed"][0], moved["hook_embed"][0]
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(1))
    assert not torch.equal(order, torch.arange(len(image)))
    torch.testing.assert_close(after[image], before[image][order])
    text = batch.layout.text[0]
    torch.testing.assert_close(after[text], before[text])


def test_permuting_is_seeded_and_the_share_of_one_picture_can_be_counted(llava: Subject) -> None:
    data = samples(llava, 1)
    found, again = (
        region_invariance(llava.model, data, methods=("contribution",), k=(1, 4), nouns=WORDS, seed=2, progress=False)
        for _ in range(2)
    )
    assert found.values.equals(again.values)
    assert found.ks == [1, 4]
    shares = found.values[found.values["quantity"] == "shared with permuted image tokens"]["value"]
    assert set(shares * 4 % 1) == {0}


class Interrupted(Exception):
    """What stops a run."""


def stopping(data: list[Sample], after: int) -> Iterator[Sample]:
    yield from data[:after]
    raise Interrupted


def test_an_interrupted_report_goes_on_and_ends_the_same(llava: Subject, tmp_path: Path) -> None:
    data, path = samples(llava, 5), tmp_path / "report.safetensors"
    settings = {"ways": ("zero",), "captions": False, "max_new_tokens": 2}
    whole = report(llava, data, **settings)
    with pytest.raises(Interrupted):
        report(llava, stopping(data, 4), checkpoint=path, **settings)
    kept = path.stat().st_size
    resumed = report(llava, data, checkpoint=path, **settings)
    assert resumed.values.equals(whole.values)
    assert path.stat().st_size > kept
    # what is kept is not measured again: other pictures would give other numbers, and are another part
    changed = report(llava, [replace(data[0], name="same content"), *data[1:]], checkpoint=path, **settings)
    assert changed.values.equals(whole.values)


def test_rows_that_cannot_be_edited_cost_the_noise_alone(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise UnsupportedModelError("The rows are quantised.")

    monkeypatch.setattr("mmlens.analysis.properties.causal.noise_neurons", refuse)
    found = report(llava, samples(llava, 1), ways=("zero", "noise"), captions=False)
    assert found.skipped == {"causal effect, rows noised": "The rows are quantised."}
    assert found.interval("log p of the noun, zeroed", "contribution").count == 1
    assert "log p of the noun, rows noised, sigma 1" not in {quantity.name for quantity in found.quantities}


def test_no_gradient_reaches_the_last_layers_activations_at_the_picture(llava: Subject) -> None:
    batch = llava.model.prepare("describe the image", images=picture(0))
    kept: dict[str, torch.Tensor] = {}

    def keep(activation: torch.Tensor, hook: Any) -> None:
        activation.retain_grad()
        kept[hook.name] = activation

    with llava.model.hooks([("blocks.*.mlp.hook_post", keep)]), torch.enable_grad():
        llava.model(batch)[0, -1].max().backward()
    image = batch.layout.image[0]
    reached = [bool(kept[f"blocks.{layer}.mlp.hook_post"].grad[0, image].any()) for layer in range(3)]
    llava.model.zero_grad()
    assert reached == [True, True, False]
    case = case_of(noun_occurrences(llava.model, samples(llava, 1)[0], CaptionSettings(WORDS))[0], NeuronChoice())
    assert {neuron.layer for neurons in case.sets(read=True).values() for neuron in neurons} <= {0, 1}
    assert case.sets(read=True)["contribution"] == [n for n in case.scores["contribution"].top(144) if n.layer < 2][:20]


def test_checkpoints_of_other_settings_are_refused(llava: Subject, tmp_path: Path) -> None:
    data, path = samples(llava, 1), tmp_path / "report.safetensors"
    report(llava, data, ways=("zero",), captions=False, checkpoint=path)
    with pytest.raises(
        InputError, match=r"of another report of neurons: it differs in choice, measures\. Use another file"
    ):
        report(llava, data, ways=("zero",), captions=False, checkpoint=path, k=4)
    with pytest.raises(InputError, match="it differs in measures"):
        report(llava, data, ways=("noise",), captions=False, checkpoint=path)
    TensorKind("mmlens.patching.PatchSweep", 2, "patch sweep").write(path, {}, {})
    with pytest.raises(InputError, match="is no checkpoint of a report of neurons"):
        report(llava, data, ways=("zero",), captions=False, checkpoint=path)
    path.write_text("{")
    with pytest.raises(InputError, match="or a damaged one"):
        report(llava, data, ways=("zero",), captions=False, checkpoint=path)
    with pytest.raises(InputError, match=r"batch_size=0 must be at least 1"):
        report(llava, data, batch_size=0)


def test_samples_without_truth_are_refused_for_what_needs_it(llava: Subject) -> None:
    bare = [Sample(sample.images, sample.prompt) for sample in samples(llava, 2)]
    with pytest.raises(InputError, match="Nothing could be measured: samples must bring what a measure compares with"):
        localisation(llava.model, bare, k=2, nouns=WORDS, progress=False)
