"""Concepts in words and pictures: what is shown is what the model and the bank say, on every family."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmlens import lab
from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.coders import NonNegative
from mmlens.analysis.concepts.explain import explain_state, sweep_concepts
from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.concepts.grounding import ground_concepts
from mmlens.analysis.concepts.methods.semi_nmf import SemiNMF
from mmlens.analysis.concepts.random_words import random_words
from mmlens.analysis.concepts.scores import concept_specificity, score_grounding
from mmlens.analysis.concepts.words import concept_words, is_content_word
from mmlens.analysis.samples.sample import as_samples
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.analysis.store.store import ActivationStore
from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject
from tests.tiny import picture

POINT = "blocks.1.hook_resid_post"
DATASET = [picture(seed) for seed in range(6)]


def gathered(subject: Subject) -> ActivationStore:
    points = ["blocks.0.hook_resid_post", POINT]
    options: dict[str, Any] = {"positions": "last", "dtype": "float32"}
    return collect(subject.model, DATASET, at=points, batch_size=6, progress=False, **options)


def bank_of_words(model: HookedMultimodal, words: list[str], at: str) -> ConceptBank:
    """A bank whose concepts are, but for the final norm, the directions of words."""
    vectors = torch.nn.functional.normalize(
        model.tokens_to_residual_directions(torch.tensor([model.to_single_token(word) for word in words])).detach(),
        dim=1,
    )
    codes = torch.eye(len(words))
    return ConceptBank(NonNegative(vectors, 0.0), codes, codes, at, "planted", 0.0)


@torch.no_grad()
def test_words_are_those_of_the_norm_and_the_unembedding(subject: Subject) -> None:
    model = subject.model
    bank = extract_concepts(gathered(subject).at(POINT), 3, method="kmeans")
    anything = {"k": 6, "keep": lambda word: True}
    base = model.ln_final(bank.vectors[None])[0]
    for through_norm, states in ((True, base), (False, bank.vectors)):
        ranked = (states.double() @ model.W_U.double() + model.b_U.double()).argsort(dim=1, descending=True)
        expected = [[model.tokenizer.decode([t]).strip().lower() for t in row[:6].tolist()] for row in ranked]
        assert concept_words(model, bank, through_norm=through_norm, **anything) == expected  # type: ignore[arg-type]


def test_a_concept_made_of_a_word_says_it_first() -> None:
    model = lab.load()
    nouns = ["circle", "tree", "woman"]
    bank = bank_of_words(model, nouns, f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")
    said = concept_words(model, bank, k=5)
    assert [words[0] for words in said] == nouns
    assert all(is_content_word(word) for words in said for word in words)
    assert concept_words(model, bank, k=5, keep=lambda word: word == "circle")[0] == ["circle"]
    drawn = random_words(model, bank, like=said, seed=0)
    assert [len(words) for words in drawn] == [len(words) for words in said]
    assert drawn == random_words(model, bank, like=said, seed=0) != random_words(model, bank, like=said, seed=1)


def test_where_there_are_no_words_it_is_said(llava: Subject) -> None:
    state = States(torch.zeros(1, 48), "blocks.1.mlp.hook_post")
    bank = ConceptBank.of(NonNegative(torch.eye(48)[:2]), state, method="semi_nmf")
    with pytest.raises(InputError, match=r"Directions at blocks\.1\.mlp\.hook_post .* write no words"):
        concept_words(llava.model, bank)


@torch.no_grad()
def test_pictures_and_maps_are_those_of_the_most_active_samples(subject: Subject) -> None:
    model = subject.model
    bank = extract_concepts(gathered(subject).at(POINT), 2, method="pca")
    shuffled = [DATASET[i] for i in (3, 0, 5, 1, 4, 2)]
    found = ground_concepts(model, bank, shuffled, k=2, keep=lambda word: True, progress=False, batch_size=4)
    pictures = {s.key: s.pictures[0] for s in as_samples(DATASET)}
    for concept, each in enumerate(found.concepts):
        rows = bank.codes[:, concept].abs().topk(2).indices.tolist()
        assert list(each.rows) == rows
        assert [
            np.array_equal(shown, pictures[bank.keys[row]]) for shown, row in zip(each.pictures, rows, strict=True)
        ] == [True] * 2
        assert bool(each.maps) == subject.tiny.has_places
        for heat, row in zip(each.maps, rows, strict=False):
            batch = model.prepare("describe the image", images=DATASET[row])
            hidden = subject.bare(**batch, output_hidden_states=True).hidden_states[2][0]
            along = hidden @ torch.nn.functional.normalize(bank.vectors[concept], dim=0)
            expected = batch.layout.raster(along)
            torch.testing.assert_close(heat.values, expected, atol=1e-4, rtol=1e-4)
    assert (found.placeless is None) == subject.tiny.has_places
    with pytest.raises(InputError, match=r"The dataset lacks \d of \d samples .*pass the dataset and prompt"):
        ground_concepts(model, bank, DATASET[:1], keep=lambda word: True, progress=False)


def test_a_state_is_explained_by_what_it_holds_most_of(llava: Subject) -> None:
    states = gathered(llava).at(POINT)
    bank = extract_concepts(states, 3, method=SemiNMF(penalty=0.1))
    for row in range(3):
        told = explain_state(llava.model, bank, states[[row]], k=2, keep=lambda word: True)
        order = bank.codes[row].argsort(descending=True)[:2]
        assert list(told.concepts) == order.tolist()
        np.testing.assert_allclose(told.activations, bank.codes[row][order].numpy(), atol=1e-3)
        rest = states.values[row] - bank.codes[row] @ bank.vectors
        assert told.unexplained == pytest.approx(
            float(rest.square().sum() / states.values[row].square().sum()), abs=1e-3
        )
    with pytest.raises(InputError, match="One state is explained at a time, found 6"):
        explain_state(llava.model, bank, states)


def test_a_sweep_has_the_concepts_of_every_point(llava: Subject) -> None:
    store = gathered(llava)
    sweep = sweep_concepts(llava.model, store, 2, method="kmeans", keep=lambda word: True)
    for point, bank in zip(sweep.points, sweep.banks, strict=True):
        assert torch.equal(bank.vectors, extract_concepts(store.at(point), 2, method="kmeans").vectors)
    assert list(sweep.to_frame()["point"]) == list(store.points)


class Counts:
    """A scorer of known values: how many of the words are in the caption, or how bright the picture is."""

    name, unit = "count", "words"

    def __init__(self, against: str):
        self.against: Any = against

    def score(self, references: Any, texts: Any) -> torch.Tensor:
        if self.against == "picture":
            return torch.tensor([float(np.asarray(image).mean()) for image in references])
        said = [text.removeprefix("words ").rstrip(".").split(", ") for text in texts]
        return torch.tensor(
            [float(sum(w in ref.split() for w in words)) for ref, words in zip(references, said, strict=True)]
        )


def test_scores_compare_each_sample_with_its_own_concepts_words() -> None:
    model, scenes = lab.load(), lab.scenes(4)
    samples = list(as_samples(scenes))
    nouns = [scene.objects[0].shape for scene in scenes]
    at = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    planted = bank_of_words(model, nouns, at)
    bank = ConceptBank(
        planted.coder, planted.codes, planted.activation, at, "planted", 0.0, tuple(s.key for s in samples)
    )
    options: dict[str, Any] = {"words": 1, "prefix": "words "}
    text = score_grounding(model, bank, scenes, Counts("text"), **options)
    assert text.concepts.tolist() == [1.0] * 4  # each sample's concept is its own noun, which its true caption has
    assert np.isnan(text.noise).all()
    assert text.above_random.mean > 0
    three = score_grounding(model, bank, scenes, Counts("text"), top=3, **options)
    best = bank.strengths().topk(3, dim=1).indices.tolist()
    captions = [(sample.caption or "").split() for sample in samples]
    alone = [[float(nouns[concept] in caption) for concept in own] for own, caption in zip(best, captions, strict=True)]
    assert three.concepts.tolist() == pytest.approx([sum(own) / 3 for own in alone])  # each concept is scored alone
    assert 0 < three.concepts.min() < 1
    bright = score_grounding(model, bank, scenes, Counts("picture"), rows=[2, 0], **options)
    assert bright.concepts.tolist() == pytest.approx([float(np.asarray(scenes[i].image).mean()) for i in (2, 0)])
    assert np.abs(bright.noise - 127.5).max() < 3
    with pytest.raises(InputError, match=r"top=5 must lie in 1\.\.4"):
        score_grounding(model, bank, scenes, Counts("text"), top=5)
    bare = [scene.image for scene in scenes]
    with pytest.raises(InputError, match="count compares with a true caption, which the samples"):
        score_grounding(model, bank, bare, Counts("text"))


def test_specificity_is_the_share_among_the_strongly_active() -> None:
    codes = torch.tensor([[4.0], [3.0], [2.1], [1.9], [0.0]])
    bank = ConceptBank(NonNegative(torch.ones(1, 3)), codes, codes, "here", "semi_nmf", 0.0)
    assert concept_specificity(bank, 0, [True, False, True, True, True]) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="truth must say of each of the 5 states"):
        concept_specificity(bank, 0, [True])


def test_a_board_shows_every_asked_concept_and_its_pictures(llava: Subject) -> None:
    bank = extract_concepts(gathered(llava).at(POINT), 3, method="pca")
    found = ground_concepts(llava.model, bank, DATASET, k=2, keep=lambda word: True, progress=False)
    figure = found.plot(concepts=[2, 0])
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert [text for text in texts if text.startswith("concept")] == ["concept 2", "concept 0"]
    assert ", ".join(found[2].words).split(", ")[0] in texts[1]
    shown = [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]
    first = Image.fromarray(DATASET[found[2].rows[0]].numpy())
    assert len(shown) == 2 * 2 * 2  # two concepts, two pictures each, with a map beside each
    assert np.array_equal(shown[0], np.asarray(first))
