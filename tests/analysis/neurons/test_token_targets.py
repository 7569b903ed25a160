"""What can be asked: words of several tokens, several words, the nouns of a caption, datasets."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from mmlens.analysis.neurons.captions import find_caption_neurons
from mmlens.analysis.neurons.find import find_neurons, score_words
from mmlens.analysis.neurons.methods import NEURON_METHODS
from mmlens.analysis.neurons.methods.random_scores import Random
from mmlens.analysis.nouns.caption_nouns import caption_words
from mmlens.analysis.samples.sample import Sample
from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.lab.bare_model import CONST
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.conftest import Wrapped
from tests.conftest import SHORT, Subject
from tests.tiny import WORDS, picture

METHODS = [name for name in NEURON_METHODS.names if name != "integrated_gradients"]  # which costs twenty passes


def samples(count: int) -> list[Sample]:
    return [
        Sample((Image.fromarray(picture(n).numpy()),), f"what is the {WORDS[10 + n]} circle", name=f"picture {n}")
        for n in range(count)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_word_of_several_tokens_is_the_sum_of_its_tokens_each_where_it_is_said(subject: Subject, method: Any) -> None:
    model, batch = subject.model, subject.batches["left"]
    word = find_neurons(model, batch, token="big red circle", method=method)
    total = torch.zeros_like(word.scores)
    for place, token in enumerate(word.tokens):
        said = torch.tensor(word.tokens[:place]).expand(2, -1)
        before = model.extend(batch, said) if place else batch
        total += find_neurons(model, before, token=token, method=method).scores
    assert word.tokens == tuple(model.to_single_token(each) for each in ("big", "red", "circle"))
    torch.testing.assert_close(word.scores, total, rtol=1e-4, atol=1e-5)


def test_words_asked_together_score_as_they_do_alone(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    words = ["red", "big circle", "blue", 18, "red green"]
    together = score_words(model, batch, words)
    for word, found in zip(words, together, strict=True):
        alone = find_neurons(model, batch, token=word)
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-5, atol=1e-6)
        assert (found.word, found.tokens) == (alone.word, alone.tokens)


@contextmanager
def counted(model: HookedMultimodal) -> Iterator[list[int]]:
    """How often the model runs."""
    runs: list[int] = []
    handle = model.hf_model.register_forward_pre_hook(lambda *args: runs.append(1))
    try:
        yield runs
    finally:
        handle.remove()


def test_words_of_one_token_share_one_forward_pass(llava: Subject) -> None:
    with counted(llava.model) as runs:
        score_words(llava.model, llava.batches["left"], ["red", "blue", "green", "circle", "sand"])
    assert len(runs) == 1


def test_tokens_behind_padding_are_refused(llava: Subject) -> None:
    with pytest.raises(InputError, match="Tokens cannot follow padding"):
        find_neurons(llava.model, llava.batches["right"], token="red circle")


@pytest.mark.parametrize("method", METHODS)
def test_a_dataset_scores_as_the_mean_of_its_samples(subject: Subject, method: Any) -> None:
    model, data = subject.model, samples(5)
    alone = [
        find_neurons(model, model.prepare(each.prompt, images=each.images[0]), token="red", method=method)
        for each in data
    ]
    whole = find_neurons(model, data, token="red", method=method, batch_size=2, keep=3, progress=False)
    mean = torch.stack([each.scores for each in alone]).mean(0)
    torch.testing.assert_close(whole.scores, mean, rtol=1e-3, atol=1e-4)
    assert whole.n_samples == 5
    assert [kept.name for kept in whole.samples] == [f"picture {n}" for n in range(5)]
    for kept, single in zip(whole.samples, alone, strict=True):
        assert [whole.neuron(int(i)) for i in kept.indices] == single.top(3)
        torch.testing.assert_close(kept.scores, single.scores.flatten()[kept.indices], rtol=1e-3, atol=1e-4)


def test_a_dataset_is_read_only_as_it_is_needed(llava: Subject) -> None:
    read: list[int] = []

    def stream() -> Any:
        for number, each in enumerate(samples(3)):
            read.append(number)
            yield each

    with pytest.raises(InputError, match="'zebra' is unknown to the tokenizer"):
        find_neurons(llava.model, stream(), token="zebra", progress=False)
    assert read == []
    assert find_neurons(llava.model, stream(), token="red", batch_size=2, progress=False).n_samples == 3
    with pytest.raises(InputError, match="holds no samples"):
        find_neurons(llava.model, [], token="red", progress=False)


def test_random_scores_are_those_of_their_seed(llava: Subject) -> None:
    found = [find_neurons(llava.model, llava.batches["left"], token="red", method=Random(seed=s)) for s in (1, 1, 2)]
    assert found[0].top(5) == found[1].top(5) != found[2].top(5)
    assert found[0].settings == {"seed": 1}


def speaking(model: HookedMultimodal, words: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model say given words, whatever it is shown."""
    ids = torch.tensor([[model.to_single_token(word) for word in sample] for sample in words])
    own = model.trace_generation

    def trace(batch: Any, **options: Any) -> Any:
        made = own(batch, **{**options, "max_new_tokens": ids.shape[1]})
        spoken = [[model.to_string(i) for i in row] for row in ids]
        return replace(
            made, tokens=ids, lengths=torch.full((len(ids),), ids.shape[1]), words=spoken, text=model.decode(ids)
        )

    monkeypatch.setattr(model, "trace_generation", trace)


SAID = [["a", "red", "circle", "and", "a", "circle"], ["the", "sand", "of", "a", "big", "circle"]]


@pytest.mark.parametrize("method", METHODS)
def test_every_noun_of_a_caption_is_scored_where_it_was_said(
    subject: Subject, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = subject.model
    speaking(model, SAID, monkeypatch)
    batch = subject.batches["left"]
    nouns = ["zebra", "circle", "sand", "grass", "big circle"]
    first, second = find_caption_neurons(model, batch, nouns=nouns, method=method)
    assert [noun.text for noun in first.nouns] == ["circle"]  # once, though it is said twice
    assert [noun.text for noun in second.nouns] == ["sand", "big circle"]
    for sample, found in enumerate((first, second)):
        for noun, scores in found:
            assert scores.tokens == noun.tokens
            own = model.prepare([batch_text(sample)], images=[list(batch.images[sample])])
            said = torch.tensor([[model.to_single_token(word) for word in SAID[sample][: noun.step]]])
            alone = find_neurons(model, model.extend(own, said), token=noun.text, method=method)
            torch.testing.assert_close(scores.scores, alone.scores, rtol=1e-3, atol=1e-4)
            assert found[noun.text] is scores
    assert second["sand"].tokens == (model.to_single_token("sand"),)
    with pytest.raises(InputError, match="has no noun 'grass'; it has circle"):
        first["grass"]


def batch_text(sample: int) -> str:
    return (SHORT, "what color is the big red circle")[sample]


def test_captions_without_nouns_have_no_scores(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    speaking(llava.model, SAID, monkeypatch)
    found = find_caption_neurons(llava.model, llava.batches["left"], nouns=["sand"])
    assert [len(each) for each in found] == [0, 1]
    assert [len(each) for each in find_caption_neurons(llava.model, llava.batches["left"], nouns=["zebra"])] == [0, 0]
    assert repr(found[0]).endswith("none of the nouns)")
    assert found[1].to_frame(2, words=1)["noun"].tolist() == ["sand", "sand"]


def test_one_generation_and_one_forward_pass_serve_all_nouns(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    with counted(model) as generated:
        trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=8)
    said = sorted({word.text for sample in range(2) for word in caption_words(model, trace, sample=sample)})
    with counted(model) as runs:
        found = find_caption_neurons(model, batch, nouns=said, max_new_tokens=8)
    assert sum(len(each) for each in found) > 2
    assert len(runs) == len(generated) + 1


def test_a_caption_neuron_is_mapped_on_its_own_picture(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    speaking(llava.model, SAID, monkeypatch)
    batch = llava.batches["left"]
    second = find_caption_neurons(llava.model, batch, nouns=["sand"])[1]["sand"]
    neuron = Neuron(1, 4)
    own = find_neurons(llava.model, llava.model.prepare(SHORT, images=batch.images[1][0]), token="red").heatmap(neuron)
    torch.testing.assert_close(second.heatmap(neuron).values, own.values, rtol=1e-4, atol=1e-5)


def test_a_loud_neuron_that_says_nothing_comes_first_by_activation_alone(planted_neuron: Wrapped) -> None:
    model = HookedMultimodal.from_hf(copy.deepcopy(planted_neuron.planted.model), planted_neuron.planted.processor)
    loud, planted = Neuron(2, 7), Neuron(planted_neuron.truth.layer, int(planted_neuron.truth.neuron or 0))
    mlp = model.hf_model.model.language_model.layers[loud.layer].mlp
    with torch.no_grad():
        for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
            weight[loud.index] = 0
            weight[loud.index, CONST] = 30
        mlp.down_proj.weight[:, loud.index] = 0
    for method in set(NEURON_METHODS.names) - {"random"}:
        scores = find_neurons(model, planted_neuron.batch(), token=planted_neuron.truth.word, method=method)  # type: ignore[arg-type]
        assert scores.top(1) == [loud if method == "activation" else planted], method
        assert method == "activation" or abs(scores[loud]) < 1e-6 * scores[planted]


def test_a_planted_neuron_is_found_over_a_dataset_of_pictures_with_its_cause(planted_neuron: Wrapped) -> None:
    truth = planted_neuron.truth
    pictures = [(planted_neuron.planted.image(True, seed=seed), planted_neuron.planted.prompt) for seed in range(4)]
    scores = find_neurons(planted_neuron.model, pictures, token=truth.word, keep=1, progress=False)
    planted = Neuron(truth.layer, int(truth.neuron or 0))
    assert scores.top(1) == [planted]
    assert [scores.neuron(int(kept.indices[0])) for kept in scores.samples] == [planted] * 4
