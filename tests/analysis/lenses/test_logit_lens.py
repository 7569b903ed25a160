"""Lenses: against the model's own logits, a slow reference on bare Hugging Face, and a model whose answer is known."""

import pytest
import torch
from PIL import Image

from mmlens.analysis.lenses.logit_lens import logit_lens
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.interventions.corruptions import swap
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject
from tests.families import FAMILIES
from tests.tiny import picture


def test_the_last_stream_says_what_the_model_says(subject: Subject) -> None:
    model = subject.model
    for batch in subject.batches.values():
        lens = logit_lens(model, batch, at="blocks.*.hook_resid_post", positions="last", k=3, progress=False)
        last = model(batch).detach()[torch.arange(batch.size), batch.layout.last].softmax(-1)
        best, top = last.topk(3)
        torch.testing.assert_close(lens.probabilities[:, -1, 0], best, rtol=0, atol=1e-6)
        assert torch.equal(lens.top_tokens[:, -1, 0], top)
        assert not torch.allclose(lens.probabilities[:, 0, 0], best, atol=1e-3), (
            "an earlier layer must say something else"
        )


def test_families_that_scale_their_logits_are_read_as_they_answer() -> None:
    tiny = next(each for each in FAMILIES if each.name == "granite_docling")
    model = tiny.make()
    batch = model.prepare("describe the image", images=picture(0, *tiny.sizes[0]))
    names = model.graph.select("blocks.*.hook_resid_post").names
    lens = logit_lens(model, batch, at=names, positions=[-3, -1], k=4, words=["red"], progress=False)
    said = model(batch).detach()[0, [-3, -1]].softmax(-1)
    torch.testing.assert_close(lens.probabilities[0, -1], said.gather(-1, lens.top_tokens[0, -1]), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        lens.word_probabilities[0, -1, :, 0], said[:, model.to_single_token("red")], rtol=0, atol=1e-6
    )
    _, cache = model.run_with_cache(batch, names="hook_logits")
    head = cache["hook_logits"][0, -1].softmax(-1)
    assert not torch.allclose(head, said[-1], atol=1e-2), "this family does nothing to its logits any more"


def test_earlier_streams_equal_the_bare_model_in_double_precision(llava: Subject) -> None:
    batch, bare = llava.batches["left"], llava.bare
    with torch.no_grad():
        states = bare(**batch, output_hidden_states=True).hidden_states[2].double()
        variance = states.pow(2).mean(-1, keepdim=True)
        norm = bare.model.language_model.norm
        normed = states / (variance + norm.variance_epsilon).sqrt() * norm.weight.double()
        expected = (normed @ bare.lm_head.weight.double().T).softmax(-1)
        raw = (states @ bare.lm_head.weight.double().T).softmax(-1)
    asked = {"at": "blocks.1.hook_resid_post", "words": ["red", 3], "progress": False}
    lens = logit_lens(llava.model, batch, **asked)
    red = llava.model.to_single_token("red")
    unnormed = logit_lens(llava.model, batch, final_norm=False, **asked)
    for sample, is_token in enumerate(batch.layout.is_token):
        rows = is_token.nonzero().flatten()
        assert lens.positions[sample, : len(rows)].equal(rows)
        for found, right in ((lens, expected), (unnormed, raw)):
            words = found.word_probabilities[sample, 0]
            right_words = right[sample, rows][:, [red, 3]].float()
            torch.testing.assert_close(words[: len(rows)], right_words, rtol=0, atol=1e-6)
            assert words[len(rows) :].isnan().all()
    assert lens.counts == [19, 23]
    last = [states.softmax(-1).argmax(-1) for states in (expected[:, -1])]
    assert [lens.top(1, sample=s)[0][0] for s in range(2)] == [llava.model.to_string(t).strip() for t in last]
    assert float((expected - raw).abs().max()) > 0.01, "the comparison could not fail"


def test_vision_streams_are_carried_through_the_projector(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    handed_on = next(iter(model.graph.digraph.predecessors("projector.hook_in")))
    earlier = "vision.blocks.0.hook_resid_post"
    rows = torch.stack([image[:4] for image in batch.layout.image])
    lens, same = (
        logit_lens(model, batch, at=at, positions=rows, progress=False)
        for at in ([earlier, handed_on, "projector.hook_out"], "hook_embed")
    )
    for point in (1, 2):  # what the tower hands on is what the projector is given anyway
        torch.testing.assert_close(lens.probabilities[:, point], same.probabilities[:, 0], rtol=0, atol=1e-6)
    assert not torch.allclose(lens.probabilities[:, 0], same.probabilities[:, 0], atol=1e-3)
    _, cache = model.run_with_cache(batch, names=earlier)
    with model.hooks([(handed_on, lambda activation, hook: cache[earlier])]):
        _, carried = model.run_with_cache(batch, names="hook_embed", positions=rows)
    expected = model.unembed(model.ln_final(carried["hook_embed"])).softmax(-1).gather(-1, lens.top_tokens[:, 0])
    torch.testing.assert_close(lens.probabilities[:, 0], expected.detach(), rtol=0, atol=1e-6)


def test_the_planted_answer_appears_where_the_head_writes_it(planted_patch: Wrapped) -> None:
    truth, batch = planted_patch.truth, planted_patch.batch()
    at = ["blocks.0.hook_resid_pre", "blocks.0.hook_attn_out", "blocks.*.hook_resid_post"]
    lens = logit_lens(planted_patch.model, batch, at=at, positions="last", progress=False)
    assert [words[0] for words in lens.top(1)] == [truth.default_word] + [truth.word] * 4
    twin = logit_lens(planted_patch.twin, batch, at="blocks.*.hook_resid_post", positions="last", progress=False)
    assert all(words[0] == truth.default_word for words in twin.top(1))


def test_the_control_is_the_same_lens_on_other_pictures(llava: Subject) -> None:
    batch = llava.batches["left"]
    control = swap(llava.model, batch, [[picture(5)], [picture(6)]])
    words = ["red", "circle"]
    lens = logit_lens(llava.model, batch, positions="image", words=words, control=control, progress=False)
    alone = logit_lens(llava.model, control, positions="image", words=words, k=32, progress=False)
    torch.testing.assert_close(lens.control_word_probabilities, alone.word_probabilities)
    everywhere = torch.zeros(*alone.top_tokens.shape).scatter(-1, alone.top_tokens, alone.probabilities)
    torch.testing.assert_close(lens.control_probabilities, everywhere.gather(-1, lens.top_tokens))
    assert float(lens.excess.abs().max()) > 0.01
    frame = lens.to_frame()
    assert len(frame) == lens.probabilities.numel()
    row = frame[(frame["sample"] == 1) & (frame["point"] == "blocks.2.hook_resid_post")].iloc[0]
    assert row["control"] == pytest.approx(float(lens.control_probabilities[1, 2, 0, 0]))


def test_maps_lie_as_the_picture_lies(llava: Subject) -> None:
    batch = llava.batches["left"]
    lens = logit_lens(llava.model, batch, positions="image", words=["red"], progress=False)
    heat = lens.map("red", point="blocks.1.hook_resid_post", sample=1)
    for row, cell in zip(batch.layout.grid(sample=1).rows, batch.layout.grid(sample=1).cells, strict=True):
        place = lens.positions[1].tolist().index(int(row))
        assert heat.values[tuple(cell)] == lens.word_probabilities[1, 1, place, 0]
    assert lens.overlay(Image.new("RGB", (32, 32)), word="red", sample=1).size == (32, 32)


def test_pictures_show_the_words(llava: Subject) -> None:
    lens = logit_lens(llava.model, llava.batches["left"], positions="image", progress=False)
    figure = lens.plot_picture(Image.new("RGB", (32, 32)), point=1, sample=1)
    drawn = [text.get_text() for text in figure.axes[0].texts]
    assert drawn == [lens.strings[int(token)] for token in lens.top_tokens[1, 1, :, 0]]
    words = [text.get_text() for text in lens.plot(sample=0).axes[0].texts]
    assert words == [lens.strings[int(t)] for point in lens.top_tokens[0] for t in point[:, 0]]


def test_what_cannot_be_read_is_refused(llava: Subject, blip: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    lens = logit_lens(llava.model, llava.batches["left"], positions="last", words=["red"], progress=False)
    queries = logit_lens(blip.model, blip.batches["left"], positions="image", words=["red"], progress=False)
    for model in (llava.model, blip.model):
        monkeypatch.setattr(type(model.hf_model), "forward", _no_run)
    batch = llava.batches["left"]
    with pytest.raises(
        InputError, match=r"blocks.0.attn.hook_z is \[batch query head d_head\] with 8 last.*reads states"
    ):
        logit_lens(llava.model, batch, at="blocks.0.attn.hook_z", progress=False)
    with pytest.raises(InputError, match=r"only streams of the encoder .* can be carried to the language model"):
        logit_lens(llava.model, batch, at="vision.blocks.0.mlp.hook_post", positions="image", progress=False)
    with pytest.raises(InputError, match=r"reach the language model at image positions alone, and positions='all'"):
        logit_lens(llava.model, batch, at="projector.hook_out", positions="all", progress=False)
    with pytest.raises(InputError, match=r"k=0 must be at least 1"):
        logit_lens(llava.model, batch, k=0, progress=False)
    with pytest.raises(InputError, match=r"The control has image tokens at other positions"):
        logit_lens(llava.model, batch, control=llava.batches["right"], progress=False)
    with pytest.raises(InputError, match=r"'blue' was not asked for \(red\); take the lens with .*words=\['blue'\]"):
        lens.map("blue")
    with pytest.raises(InputError, match=r"16 were not read; take the lens with positions='image'"):
        lens.map("red")
    with pytest.raises(InputError, match=r"The lens was not taken at 'blocks.9.hook_resid_post'. Nearest: blocks"):
        lens.map("red", point="blocks.9.hook_resid_post")
    with pytest.raises(InputError, match=r"This lens has no control"):
        _ = lens.excess
    with pytest.raises(NoPlaceError, match="queries"):
        queries.map("red")


def _no_run(*args: object, **kwargs: object) -> None:
    raise AssertionError("the model ran before the input was refused")
