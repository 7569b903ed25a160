"""Scores in files, in frames, in figures, and on pictures."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from mmlens.analysis.neurons.captions import CaptionNeurons
from mmlens.analysis.neurons.find import find_neurons
from mmlens.analysis.neurons.methods.gradient_x_activation import GradientXActivation
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.nouns.caption_nouns import CaptionWord
from mmlens.analysis.samples.sample import Sample
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject
from tests.tiny import llava as tiny_llava
from tests.tiny import picture


def found(subject: Subject, **options: object) -> NeuronScores:
    return find_neurons(subject.model, subject.batches["left"], token="red circle", **options)  # type: ignore[arg-type]


def test_scores_come_back_from_a_file_as_they_went(llava: Subject, tmp_path: Path) -> None:
    data = [Sample((Image.fromarray(picture(n).numpy()),), name=f"picture {n}") for n in range(3)]
    scores = find_neurons(
        llava.model,
        data,
        token="red circle",
        method=GradientXActivation(positions.image | "last"),
        keep=4,
        progress=False,
    )
    scores.save(tmp_path / "red.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["red.safetensors"]
    again = NeuronScores.load(tmp_path / "red.safetensors", model=llava.model)
    assert torch.equal(again.scores, scores.scores)
    for name in ("tokens", "word", "method", "part", "stack", "settings", "n_samples"):
        assert getattr(again, name) == getattr(scores, name), name
    assert again.settings == {"positions": positions.image | positions.last}
    for before, after in zip(scores.samples, again.samples, strict=True):
        assert before.name == after.name
        assert torch.equal(before.indices, after.indices)
        assert torch.equal(before.scores, after.scores)
    assert again.words(2) == scores.words(2)
    assert torch.equal(
        again.heatmap(batch=llava.batches["left"]).values, scores.heatmap(batch=llava.batches["left"]).values
    )


def test_without_a_model_all_is_there_but_words_and_maps(llava: Subject, tmp_path: Path) -> None:
    scores = found(llava)
    scores.save(tmp_path / "red.safetensors")
    bare = NeuronScores.load(tmp_path / "red.safetensors")
    assert bare.top(5) == scores.top(5)
    assert bare.layers(9) == scores.layers(9)
    assert bare.to_frame(3).equals(scores.to_frame(3).drop(columns="words"))
    assert bare.plot(5).axes
    with pytest.raises(InputError, match=r"Words of neurons need the model, .* load\(path, model=\.\.\.\)"):
        bare.words()
    with pytest.raises(InputError, match="Heat maps need the model"):
        bare.heatmap(batch=llava.batches["left"])
    bare.save(tmp_path / "again.safetensors")  # it still knows where it comes from
    NeuronScores.load(tmp_path / "again.safetensors", model=llava.model)
    with pytest.raises(InputError, match="which holds no picture; pass batch="):
        NeuronScores.load(tmp_path / "red.safetensors", model=llava.model).heatmap()


def test_neurons_of_a_caption_have_their_words_again_with_the_model(
    llava: Subject, qwen: Subject, tmp_path: Path
) -> None:
    scores = found(llava)
    neurons = CaptionNeurons("a circle", (CaptionWord("circle", 1, (5,)),), (scores,))
    neurons.save(tmp_path / "caption")
    again = CaptionNeurons.load(tmp_path / "caption", model=llava.model)
    assert again.to_frame(3).equals(neurons.to_frame(3))
    assert again["circle"].words(2) == scores.words(2)
    assert "words" not in CaptionNeurons.load(tmp_path / "caption").to_frame(3)
    with pytest.raises(InputError, match="another class"):
        CaptionNeurons.load(tmp_path / "caption", model=qwen.model)


def test_another_model_is_refused(llava: Subject, qwen: Subject, tmp_path: Path) -> None:
    path = tmp_path / "red.safetensors"
    found(llava).save(path)
    with pytest.raises(InputError, match=r"belong to a LlavaFor.*; the model given is a Qwen2VLFor.*: another class"):
        NeuronScores.load(path, model=qwen.model)
    trained = tiny_llava().hf_model
    with torch.no_grad():
        trained.model.language_model.layers[0].mlp.up_proj.weight.add_(1e-3)
    other = HookedMultimodal.from_hf(trained, llava.model.processor)
    with pytest.raises(InputError, match=r"with fingerprint \w{16}; .*: other weights\. Load the model"):
        NeuronScores.load(path, model=other)


def test_files_that_hold_no_scores_are_refused(llava: Subject, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file of neuron scores at"):
        NeuronScores.load(tmp_path / "none.safetensors")
    _, cache = llava.model.run_with_cache(llava.batches["left"], names="hook_embed")
    cache.save(tmp_path / "cache.safetensors")
    with pytest.raises(InputError, match="is no file of neuron scores"):
        NeuronScores.load(tmp_path / "cache.safetensors")
    (tmp_path / "text").write_text("scores")
    with pytest.raises(InputError, match="or a damaged one"):
        NeuronScores.load(tmp_path / "text")
    with pytest.raises(InputError, match=r"the folder .* does not exist"):
        found(llava).save(tmp_path / "nowhere" / "red.safetensors")


def test_neurons_of_another_part_are_not_among_the_scores(llava: Subject) -> None:
    scores = found(llava)
    assert scores["L1.u2"] == scores[Neuron(1, 2)]
    for wrong in ("L1.h2", "L3.u0", "L1.u48"):
        with pytest.raises(InputError, match="is not among these neurons"):
            scores[wrong]
    with pytest.raises(InputError, match=r"vision\.L1\.u2 is not among these neurons, which are L0\.u0 to L2\.u47\."):
        scores[Neuron(1, 2, "vision")]
    inner = found(llava, method="gradient_x_activation", part="projector")
    best = inner.top(1)[0]
    assert (best.stack, best.hook, inner.layers(4)) == ("", "projector.mlp.hook_post", [4])
    assert "words" not in inner.to_frame(2)
    with pytest.raises(InputError, match=r"projector\.u\d+ do not write into the language model's stream"):
        inner.words()


@pytest.mark.parametrize("part", ["vision", "projector"])
def test_maps_of_other_parts_lie_on_the_picture(subject: Subject, part: str) -> None:
    scores = found(subject, method="gradient_x_activation", part=part)
    neuron, batch = scores.top(1)[0], subject.batches["left"]
    if part == "projector" and not subject.tiny.has_places:
        with pytest.raises(InputError, match="queries of the Q-Former mix all patches"):
            scores.heatmap(neuron)
        return
    heat = scores.heatmap(neuron, sample=1)
    _, cache = subject.model.run_with_cache(batch, names=neuron.hook)
    grid = batch.layout.grid(part, sample=1)  # type: ignore[arg-type]
    values = cache[neuron.hook] if grid.index is None else cache[neuron.hook][grid.index]
    for row, (y, x) in zip(grid.rows.tolist(), grid.cells.tolist(), strict=True):
        assert heat.values[y, x] == values[row, neuron.index]


def test_maps_of_neurons_that_see_different_rows_are_refused(llava: Subject) -> None:
    with pytest.raises(InputError, match=r"these see those of language and vision\. Map them apart"):
        found(llava).heatmap([Neuron(0, 1), Neuron(0, 1, "vision")])
    with pytest.raises(InputError, match=r"The model has no L7\.u1; it has L0\.u0"):
        found(llava).heatmap(Neuron(7, 1))


def test_the_overlay_is_the_map_on_the_scored_picture(llava: Subject) -> None:
    scores = found(llava)
    picture_of = llava.batches["left"].images[0][0]
    assert scores.overlay(k=5).tobytes() == scores.heatmap(k=5).overlay(picture_of).tobytes()
    masked = scores.overlay(k=5, percentile=90.0)
    assert masked.tobytes() == scores.heatmap(k=5).overlay(picture_of, percentile=90.0).tobytes()
    assert scores.mask(90.0, k=5).equal(scores.heatmap(k=5).mask(90.0))
    raw = find_neurons(llava.model, dict(llava.batches["left"]), token="red")
    with pytest.raises(InputError, match="made of tensors, so there is no picture to draw on"):
        raw.overlay()


def test_the_figure_counts_and_lists_what_the_scores_say(llava: Subject) -> None:
    scores = found(llava)
    bars, table = scores.plot(12).axes
    assert [bar.get_height() for bar in bars.patches] == scores.layers(12)
    cells = table.tables[0].get_celld()
    listed = [cells[row, 0].get_text().get_text() for row in range(1, 11)]
    assert listed == [str(neuron) for neuron in scores.top(10)]
    assert cells[1, 2].get_text().get_text() == " ".join(scores.words(5, neurons=scores.top(1))[0])
