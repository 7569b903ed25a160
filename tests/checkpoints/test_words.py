"""Words of several tokens, on the tokenizers that checkpoints have."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

import mmlens as mm
from mmlens.analysis.metrics import readings
from mmlens.analysis.nouns.caption_nouns import caption_words
from mmlens.core.errors import InputError
from mmlens.inputs.words import word_occurrences
from mmlens.models.generation import GenerationTrace
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.word_forms import forms_in_context, in_form
from tests.checkpoints.cases import SHORT, picture
from tests.checkpoints.layouts import BLIP2, GEMMA3, LLAVA, PALIGEMMA2, QWEN2_VL, Layout
from tests.conftest import CAPTIONS

layouts = pytest.mark.parametrize("layout", [LLAVA, QWEN2_VL, PALIGEMMA2, BLIP2], ids=lambda layout: layout.name)


QUESTIONS = [SHORT, "what is the color of the moon"]


def said_by_bare(model: HookedMultimodal, bare: Any, batch: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Log-probability of a word in each sample by bare Hugging Face: each sample alone, nothing cached."""
    values = []
    for prompt, images in zip(batch.prompts, batch.images, strict=True):
        one = model.prepare(prompt, images=images)
        one = model.extend(one, torch.tensor([tokens[:-1]])) if len(tokens) > 1 else one
        rows = bare(**dict(one), use_cache=False).logits[0, -len(tokens) :].double().log_softmax(-1)
        values.append(rows[range(len(tokens)), list(tokens)].sum())
    return torch.stack(values)


CASES = [(QWEN2_VL, ("doghouse", "dog")), (QWEN2_VL, ("dogma", "dogged"))] + [
    (layout, ("dog", "yes")) for layout in (LLAVA, QWEN2_VL, PALIGEMMA2, BLIP2)
]


@pytest.mark.parametrize(
    ("layout", "pair"), CASES, ids=lambda value: "-".join(value) if isinstance(value, tuple) else value.name
)
@torch.no_grad()
def test_metrics_of_words_are_those_of_bare_hugging_face(layout: Layout, pair: Any, open_layout, folder_of) -> None:
    model = open_layout(layout)
    bare = AutoModelForImageTextToText.from_pretrained(folder_of(layout)).eval()
    batch = model.prepare(QUESTIONS, images=[picture(0, 60, 80), picture(1, 60, 80)])
    # a sample's way of writing is the one in which the model says one of the words most likely, by trying all four
    ways = torch.stack([
        torch.stack([said_by_bare(model, bare, batch, in_form(model.to_word_forms(word), way)) for word in pair])
        for way in range(4)
    ])  # fmt: skip
    samples = torch.arange(batch.size)
    first, second = ways[ways.logsumexp(1).argmax(0), :, samples].T
    alone = ways[:, 0].amax(0)
    expected = {
        mm.metrics.logit_difference(*pair): first - second,
        mm.metrics.log_probability(pair[0]): alone,
        mm.metrics.probability(pair[0]): alone.exp(),
        mm.metrics.log_odds(pair[0]): alone - torch.log1p(-alone.exp()),
    }
    for metric, values in expected.items():
        torch.testing.assert_close(
            mm.metrics.measure(model, batch, metric=metric).double(), values, atol=2e-4, rtol=1e-4
        )


def test_two_words_take_two_runs_only_if_both_go_on(open_layout) -> None:
    model = open_layout(QWEN2_VL)
    ids = {word: model.to_word_tokens(word) for word in ("dog", "dogma", "doll", "yes", "moon")}
    assert ids["dog"][0] == ids["doll"][0] != ids["yes"][0]
    assert len(ids["moon"]) == 1
    runs = {
        pair: [(reading.n_rows, reading.reads) for reading in readings(mm.metrics.logit_difference(*pair), model, 1)]
        for pair in (("dog", "doll"), ("moon", "dog"), ("dog", "yes"))
    }
    # what "dog" and "doll" share cancels; where both end behind it, two logits of one row are all
    assert [rows for rows, _ in runs["moon", "dog"]] == [len(ids["dog"])]
    assert len(runs["dog", "yes"]) == 2
    parting = next(n for n, (a, b) in enumerate(zip(ids["dog"], ids["doll"], strict=False)) if a != b)
    last = max(len(ids["dog"]), len(ids["doll"])) - 1
    assert runs["dog", "doll"][0][0] == last - parting + 1


@layouts
@torch.no_grad()
def test_sweeps_read_whole_words(layout: Layout, open_layout) -> None:
    """Every cell of a sweep against a whole run with hooks, in which the answer is forced token by token."""
    model = open_layout(layout)
    clean = model.prepare(QUESTIONS, images=[picture(0, 60, 80), picture(1, 60, 80)])
    corrupted = model.prepare(QUESTIONS, images=[picture(2, 60, 80), picture(3, 60, 80)])
    metric = mm.metrics.logit_difference("dogma", "yes")
    forms = forms_in_context(model, clean, [[model.to_word_forms(word)] * clean.size for word in ("dogma", "yes")])
    words = [[in_form(model.to_word_forms(word), form) for form in forms] for word in ("dogma", "yes")]
    at = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z"]
    groups = {"image": mm.positions.image, "last": mm.positions.last, "all": mm.positions.all}
    sweep = mm.patch(model, clean, corrupted, at=at, positions=groups, metric=metric, progress=False)

    def forced(batch: Any, rows: Any, hooks: Any = ()) -> torch.Tensor:
        behind = model.extend(batch, torch.tensor([filled(ids, rows)[:-1] for ids in rows]))
        longest = max(map(len, rows))
        logits = model.run_with_hooks(behind, fwd_hooks=list(hooks))[:, -longest:].log_softmax(-1)
        return torch.stack([row[range(len(ids)), list(ids)].sum() for row, ids in zip(logits, rows, strict=True)])

    def filled(ids: Any, rows: Any) -> list[int]:
        return [*ids, *[ids[-1]] * (max(map(len, rows)) - len(ids))]

    end = clean["input_ids"].shape[1]
    for i, name in enumerate(at):
        for j, group in enumerate(groups):
            values = []
            for rows in words:
                behind = torch.tensor([filled(ids, rows)[:-1] for ids in rows])
                _, cache = model.run_with_cache(model.extend(clean, behind), names=name)

                mask = torch.ones(cache[name].shape[:2], dtype=torch.bool)
                if group == "image":
                    mask[:, :end], mask[:, end:] = clean.layout.is_image, False
                elif group == "last":
                    mask[:] = False
                    mask[:, end - 1] = True

                def put(activation: Any, hook: Any, new: Any = cache[name], mask: Any = mask) -> torch.Tensor:
                    return new.where(mask.reshape(*mask.shape, *[1] * (activation.ndim - 2)), activation)

                values.append(forced(corrupted, rows, [(name, put)]))
            torch.testing.assert_close(sweep.values[i, j], values[0] - values[1], atol=5e-5, rtol=1e-5)
    assert float(sweep.effect.abs().max()) > 1e-3, "the comparison could not fail"
    torch.testing.assert_close(sweep.clean, forced(clean, words[0]) - forced(clean, words[1]), atol=5e-4, rtol=1e-3)
    # all positions mean the words' own too, so that the clean run comes back as a whole
    torch.testing.assert_close(sweep.values[0, 2], sweep.clean, atol=5e-4, rtol=1e-3)


def test_single_token_metrics_refuse_words_at_the_predicting_position(open_layout) -> None:
    model = open_layout(QWEN2_VL)
    with pytest.raises(InputError, match=r"'dog', which is \d tokens .* mm\.metrics\.measure\(model, batch"):
        mm.metrics.log_probability("dog").on(model)
    dog = model.to_word_tokens("dog")[0]
    assert mm.metrics.log_probability(dog).on(model).ids.tolist() == [[dog]]
    batch = model.prepare(SHORT, images=picture(0, 60, 80))
    with pytest.raises(InputError, match="compares 'dog' with itself"):
        mm.metrics.measure(model, batch, metric=mm.metrics.logit_difference(" dog", "dog"))
    right = model.prepare(QUESTIONS, images=[picture(0, 60, 80)] * 2, padding_side="right")
    with pytest.raises(InputError, match="padding_side='left'"):
        mm.metrics.measure(model, right, metric=mm.metrics.log_probability("dog"))


def test_a_blank_in_front_is_found_not_asked_for(open_layout) -> None:
    for layout in (QWEN2_VL, GEMMA3):  # whose texts begin with none
        model = open_layout(layout)
        assert model.to_string(model.to_single_token("moon")) == " moon"
        assert model.to_word_tokens("moon") == [model.to_single_token("moon")]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_words_of_a_caption_are_whole_words_with_all_their_tokens(caption: str, subword) -> None:
    ids = torch.tensor([subword.tokenizer.encode(caption, add_special_tokens=False)])
    logits = torch.zeros(1, ids.shape[1], 1)
    trace = GenerationTrace(ids, torch.tensor([ids.shape[1]]), {}, logits, logits, [[]], [caption])
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
