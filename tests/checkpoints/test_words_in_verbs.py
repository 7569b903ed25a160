"""Verbs about words on the sub-word tokenizers of checkpoints, with capitals and punctuation; and the items of data sets."""

from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.metrics import log_probability, measure
from mmlens.analysis.nouns.caption_nouns import caption_words
from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.models.hooked import HookedMultimodal
from tests.checkpoints.cases import picture
from tests.checkpoints.layouts import BLIP2, INSTRUCTBLIP, LLAVA, QWEN2_VL, Layout

layouts = pytest.mark.parametrize("layout", [QWEN2_VL, INSTRUCTBLIP, LLAVA], ids=lambda layout: layout.name)
quick = pytest.mark.parametrize("layout", [QWEN2_VL, BLIP2], ids=lambda layout: layout.name)
#: Words that are several sub-words in every layout, as people write them.
WORD, OTHER = "Dogs", "house"


def one(model: HookedMultimodal) -> Any:
    return model.prepare("What is this?", images=picture(0, 40, 60))


@layouts
@torch.no_grad()
def test_neurons_of_a_word_are_those_of_its_sub_words(layout: Layout, open_layout) -> None:
    model = open_layout(layout)
    batch, ids = one(model), model.to_word_tokens(WORD)
    assert len(ids) > 1
    found = mm.find_neurons(model, batch, token=f" {WORD}", progress=False)  # a blank in front makes no difference
    assert (found.word, list(found.tokens)) == (WORD, ids)
    total = torch.zeros_like(found.scores)
    for step, token in enumerate(ids):
        behind = model.extend(batch, torch.tensor([ids[:step]])) if step else batch
        total += mm.find_neurons(model, behind, token=token, progress=False).scores
    torch.testing.assert_close(found.scores, total, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("layout", [QWEN2_VL, LLAVA], ids=lambda layout: layout.name)
@torch.no_grad()
def test_nouns_of_a_caption_come_with_all_their_sub_words(layout: Layout, open_layout) -> None:
    model = open_layout(layout)
    for seed in range(8):  # random weights do not always write letters
        batch = model.prepare("What is this?", images=picture(seed, 40, 60))
        trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=8)
        words = [word for word in caption_words(model, trace) if word.text.isalpha() and len(word.text) > 1]
        if words:
            break
    word = max(words, key=lambda word: len(word.tokens))
    (found,) = mm.neurons.find_caption_neurons(model, batch, nouns=word.text.upper(), max_new_tokens=8, progress=False)
    assert [noun.tokens for noun in found.nouns] == [word.tokens]
    said = trace.tokens[:, : word.step]
    before = model.extend(batch, said) if word.step else batch
    total = torch.zeros_like(found.scores[0].scores)
    for step, token in enumerate(word.tokens):
        behind = model.extend(before, torch.tensor([word.tokens[:step]])) if step else before
        total += mm.find_neurons(model, behind, token=token, progress=False).scores
    torch.testing.assert_close(found.scores[0].scores, total, atol=1e-4, rtol=1e-3)


@quick
def test_edits_teach_every_sub_word(layout: Layout, open_layout) -> None:
    model = open_layout(layout)
    batch = one(model)
    source = int(model.trace_generation(batch, names="hook_logits", max_new_tokens=1).tokens[0, 0])
    metric = log_probability(WORD)
    before = float(measure(model, batch, metric=metric))
    depth = model.cfg.n_layers
    for method in (mm.edits.Through(learning_rate=0.05, penalty=0.0, n_steps=12), mm.edits.Direct(beta=0.02)):
        edit = mm.edits.replace_token(
            model,
            batch,
            source=source,
            target=WORD,
            neurons=[Neuron(depth - 1, index) for index in range(16)],
            method=method,
            max_new_tokens=1,
            progress=False,
        )
        assert edit.provenance.target == WORD
        assert edit.provenance.settings["places"] == len(model.to_word_tokens(WORD)) > 1
        with model.edited(edit):
            assert float(measure(model, batch, metric=metric)) > before


@quick
@torch.no_grad()
def test_lenses_and_directions_read_a_words_first_token(layout: Layout, open_layout) -> None:
    model = open_layout(layout)
    batch = one(model)
    first = model.to_word_tokens(WORD)[0]
    lens = mm.logit_lens(model, batch, words=[WORD, first], progress=False)
    assert torch.equal(lens.word_probabilities[..., 0], lens.word_probabilities[..., 1])


#: Data sets as people write them, with a key that nobody knows; what is nearest to it is named.
MISSPELT = {"image": picture(0, 40, 40), "queston": "What is this?"}


@pytest.mark.parametrize(
    "verb",
    [
        lambda model, data: mm.collect(model, data, at="blocks.0.hook_resid_post", positions="last", progress=False),
        lambda model, data: mm.find_neurons(model, data, token=5, progress=False),
        lambda model, data: mm.neurons.find_caption_neurons(model, data, progress=False),
        lambda model, data: mm.steering.steering_report(model, mm.Ablate("L0.u1"), data, progress=False),
        lambda model, data: mm.steering.dose_curve(
            model, data, VECTOR, alphas=[1.0], metric=log_probability(5), progress=False
        ),
        lambda model, data: mm.edits.edit_report(
            model,
            mm.edits.zero_neurons(model, ["L0.u1"]),
            targets={"asked": data},
            controls={"other": data},
            source="yes",
            target="no",
            progress=False,
        ),
        lambda model, data: mm.properties.sensitivity(model, data, progress=False),
    ],
    ids=["collect", "find_neurons", "captions", "steering_report", "dose_curve", "edit_report", "properties"],
)
def test_items_with_unknown_keys_are_refused_by_every_verb(
    verb: Any, subword: HookedMultimodal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(subword.hf_model), "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(
        InputError, match=r"Sample 1 has keys that mean nothing here: 'queston' \(nearest: 'question'\)"
    ):
        verb(subword, [{"image": picture(0, 40, 40), "question": "What is this?"}, MISSPELT])


VECTOR = mm.steering.SteeringVector(torch.ones(32), "blocks.0.hook_resid_post")
