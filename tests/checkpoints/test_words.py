"""Words of several tokens, on the tokenizers that checkpoints have."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

import mmlens as mm
from mmlens.analysis.nouns import caption_words
from mmlens.core.errors import InputError
from mmlens.inputs.words import word_occurrences
from mmlens.models.generation import GenerationTrace
from tests.checkpoints.cases import SHORT, picture
from tests.checkpoints.layouts import BLIP2, GEMMA3, LLAVA, PALIGEMMA2, QWEN2_VL, Layout
from tests.conftest import CAPTIONS

layouts = pytest.mark.parametrize("layout", [LLAVA, QWEN2_VL, PALIGEMMA2, BLIP2], ids=lambda layout: layout.name)


@layouts
@torch.no_grad()
def test_a_whole_words_probability_is_that_of_bare_hugging_face(layout: Layout, open_layout, folder_of) -> None:
    model = open_layout(layout)
    bare = AutoModelForImageTextToText.from_pretrained(folder_of(layout)).eval()
    batch = model.prepare([SHORT, "what is the color of the moon"], images=[picture(0, 60, 80), picture(1, 60, 80)])
    words = ("dog", "Yes")
    found = mm.metrics.word_log_probability(model, batch, words)
    for sample, word in enumerate(words):
        tokens = model.to_word_tokens(word)
        assert len(tokens) > 1
        one = model.prepare(batch.prompts[sample], images=batch.images[sample])
        logits = bare(**dict(model.extend(one, torch.tensor([tokens[:-1]]))), use_cache=False).logits[0, -len(tokens) :]
        by_hand = sum(float(row.log_softmax(-1)[token]) for row, token in zip(logits, tokens, strict=True))
        assert float(found[sample]) == pytest.approx(by_hand, abs=1e-4)


@layouts
def test_a_metric_of_a_word_reads_its_first_token(layout: Layout, open_layout) -> None:
    model = open_layout(layout)
    dog, yes = (model.to_word_tokens(word)[0] for word in ("dog", "yes"))
    measure = mm.metrics.logit_difference("dog", "yes").on(model)
    assert measure.ids.tolist() == [[dog, yes]]
    logits = torch.randn(1, model.W_U.shape[-1])
    assert float(measure(logits)) == pytest.approx(float(logits[0, dog] - logits[0, yes]))
    assert mm.metrics.log_probability("dog").on(model).ids.tolist() == [[dog]]


def test_words_that_begin_alike_say_how_they_are_told_apart(open_layout) -> None:
    model = open_layout(QWEN2_VL)
    first = model.to_word_tokens("dog")[0]
    assert model.to_word_tokens("doll")[0] == first
    with pytest.raises(InputError, match=rf"begin with the same token .* \(id {first}\).*model\.extend"):
        mm.metrics.logit_difference("dog", "doll").on(model)
    with pytest.raises(InputError, match="'dog house' is not a single token"):
        mm.metrics.log_probability("dog house").on(model)


def test_a_blank_in_front_is_found_not_asked_for(open_layout) -> None:
    for layout in (QWEN2_VL, GEMMA3):  # whose texts begin with none
        model = open_layout(layout)
        assert model.to_string(model.to_single_token("moon")) == " moon"
        assert model.to_word_tokens("moon") == [model.to_single_token("moon")]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_words_of_a_caption_are_whole_words_with_all_their_tokens(caption: str, subword) -> None:
    ids = torch.tensor([subword.tokenizer.encode(caption, add_special_tokens=False)])
    trace = GenerationTrace(ids, torch.tensor([ids.shape[1]]), {}, torch.zeros(1, ids.shape[1], 1), [[]], [caption])
    words = caption_words(subword, trace)
    assert any(len(word.tokens) > 1 for word in words)
    for word in words:
        assert trace.tokens[0, word.step : word.step + len(word.tokens)].tolist() == list(word.tokens)
        assert word.text in subword.tokenizer.decode(word.tokens).lower()


@pytest.mark.parametrize(
    ("text", "word"),
    [("Is the Dog here?", "dog"), ("a caf\u00e9 \u732b!", "caf\u00e9"), ("the \u732b\u732b", "\u732b\u732b")],
)
def test_positions_of_a_word_are_all_of_its_tokens(text: str, word: str, subword) -> None:
    ids = subword.tokenizer.encode(text, add_special_tokens=False)
    (found,) = word_occurrences(subword.tokenizer, ids, word, [False] * len(ids))
    assert found == list(range(found[0], found[-1] + 1))
    assert subword.tokenizer.decode([ids[at] for at in found]).strip().lower() == word
    batch = subword.prepare(text, images=picture(0, 40, 40))
    point = "blocks.0.hook_resid_post"
    _, cache = subword.run_with_cache(batch, names=point, positions=mm.positions.word(word))
    assert cache[point].shape[1] == len(found)
