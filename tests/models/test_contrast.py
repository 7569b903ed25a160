"""Contrastive decoding is its formula, token by token: compared with two uncached bare passes a step; and it takes a planted
prior of the language away."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmlens as mm
from mmlens.core.errors import InputError, UnknownNameError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.text_only import without_pictures
from mmlens.models.contrast.methods import CONTRAST_METHODS, ContrastMethod
from mmlens.models.generation_limits import generator_of
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject
from tests.families import FAMILIES
from tests.generating import FREE, NEW, text_logits
from tests.interventions.passes import never_entered
from tests.tiny import picture

AT = "blocks.1.hook_resid_post"
PREFIX = "describe the small blue"
METHODS: dict[str, ContrastMethod] = {
    "vcd": mm.decoding.VCD(alpha=1.5, beta=0.2, step=700, seed=3),
    "icd": mm.decoding.ICD(PREFIX, alpha=1.5, beta=0.2),
    "pai": mm.decoding.PAI(alpha=1.5, beta=0.2),
    "blur": mm.decoding.Contrast(mm.corrupt.blur, alpha=1.5, beta=0.2),
    "carried": mm.decoding.Contrast(partial(mm.corrupt.noise, seed=2), alpha=1.5, beta=0.2),
}


def noised_by_hand(pixels: torch.Tensor, grid: torch.Tensor | None, step: int, seed: int) -> torch.Tensor:
    """Equation 2 of the paper with its schedule, picture by picture."""
    betas = [(0.5e-2 - 1e-5) / (1 + math.exp(-(-6 + 12 * i / 999))) + 1e-5 for i in range(1000)]
    kept = math.prod(1 - beta for beta in betas[:step])
    pictures = list(pixels) if grid is None else pixels.split(grid.prod(1).tolist())
    noise = [np.random.default_rng(seed).standard_normal(p.shape, np.float32) for p in pictures]
    made = [
        math.sqrt(kept) * p + math.sqrt(1 - kept) * torch.from_numpy(e) for p, e in zip(pictures, noise, strict=True)
    ]
    return torch.stack(made) if grid is None else torch.cat(made)


Other = Callable[[torch.Tensor], torch.Tensor]


def other_by_hand(subject: Subject, name: str, batch: MultimodalBatch) -> Other:
    """From the new tokens to the logits of the second prompt, each sample alone where its length differs."""
    model = subject.model
    if name == "pai":
        marks = [4, 5, 6, 7, 8]
        texts = [
            ids[mask.bool() & ~torch.isin(ids, torch.tensor(marks))]
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        return lambda new: torch.cat(
            [text_logits(model, torch.cat([t, n])[None])[:, -1] for t, n in zip(texts, new, strict=True)]
        )
    if name == "vcd":
        pixels = noised_by_hand(batch["pixel_values"], batch.inputs.get("image_grid_thw"), 700, 3)
        other = mm.MultimodalBatch({**batch.inputs, "pixel_values": pixels}, batch.layout)
    elif name == "icd":
        questions = [f"{PREFIX} {SHORT}", f"{PREFIX} {LONG}"]
        other = model.prepare(questions, images=[list(pictures) for pictures in batch.images])
    else:
        other = (mm.corrupt.blur if name == "blur" else partial(mm.corrupt.noise, seed=2))(model, batch)
    return lambda new: model(model.extend(other, new) if new.shape[1] else other)[:, -1]


@torch.no_grad()
def contrasted_by_hand(
    subject: Subject,
    name: str,
    batch: MultimodalBatch,
    choose: Callable[[torch.Tensor], torch.Tensor] = lambda scores: scores.argmax(-1),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and scores of the formula with alpha 1.5 and beta 0.2."""
    model, other = subject.model, other_by_hand(subject, name, batch)
    tokens, scores = torch.zeros(batch.size, 0, dtype=torch.long), []
    for _ in range(NEW):
        logits = model(model.extend(batch, tokens) if tokens.shape[1] else batch)[:, -1]
        mixed = 2.5 * logits - 1.5 * other(tokens)
        mixed[logits < logits.amax(-1, keepdim=True) + math.log(0.2)] = -torch.inf
        mixed[:, FREE["suppress_tokens"]] = -torch.inf
        scores.append(mixed)
        tokens = torch.cat([tokens, choose(mixed)[:, None]], dim=1)
    return tokens, torch.stack(scores, dim=1)


def generated(model: HookedMultimodal, batch: MultimodalBatch, contrast: Any, **options: Any) -> Any:
    return model.generate(
        batch, contrast=contrast, return_dict_in_generate=True, output_scores=True, **{**FREE, **options}
    )


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("name", list(METHODS))
def test_greedy_decoding_is_the_formula(subject: Subject, name: str, use_cache: bool) -> None:
    model, batch = subject.model, subject.batches["left"]
    out = generated(model, batch, METHODS[name], use_cache=use_cache)
    tokens, scores = contrasted_by_hand(subject, name, batch)
    assert torch.equal(out.sequences[:, -NEW:], tokens)
    torch.testing.assert_close(torch.stack(out.scores, 1), scores, atol=1e-4, rtol=1e-4)
    plain = model.generate(batch, **FREE)
    assert name in ("icd", "vcd", "blur") or not torch.equal(plain[:, -NEW:], tokens), "the contrast changes nothing"


def test_the_contrast_moves_some_token(subject: Subject) -> None:
    """Or the comparison above would hold for anything."""
    model, batch = subject.model, subject.batches["left"]
    plain = model.generate(batch, **FREE)
    moved = [
        name for name, method in METHODS.items() if not torch.equal(generated(model, batch, method).sequences, plain)
    ]
    assert len(moved) >= 3, moved


def test_sampling_draws_from_the_formula(llava: Subject) -> None:
    batch = llava.batches["left"]
    torch.manual_seed(5)
    out = generated(llava.model, batch, METHODS["pai"], do_sample=True, top_k=0)
    torch.manual_seed(5)
    tokens, _ = contrasted_by_hand(
        llava, "pai", batch, lambda scores: torch.multinomial(scores.softmax(-1), 1).squeeze(1)
    )
    assert torch.equal(out.sequences[:, -NEW:], tokens)
    assert not torch.equal(tokens, contrasted_by_hand(llava, "pai", batch)[0])


@pytest.mark.parametrize("name", ["pai", "vcd"])
def test_several_draws_of_each_prompt_each_follow_the_formula(subject: Subject, name: str) -> None:
    """Row by row the scores of what was drawn, which differ; the second prompt's cache goes with each."""
    model, batch = subject.model, subject.batches["left"]
    torch.manual_seed(7)
    out = generated(model, batch, METHODS[name], do_sample=True, top_k=0, num_return_sequences=3)
    tokens, scores = out.sequences[:, -NEW:], torch.stack(out.scores, 1)
    assert len(tokens) == 6
    assert len({tuple(row) for row in tokens.tolist()}) > 2
    for draw in range(3):
        own = torch.stack([tokens[draw], tokens[3 + draw]])
        written = iter(own.T)
        _, expected = contrasted_by_hand(subject, name, batch, lambda scores: next(written))  # noqa: B023
        torch.testing.assert_close(scores[[draw, 3 + draw]], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["pai", "vcd"])
def test_beams_search_the_normalised_formula(subject: Subject, name: str) -> None:
    """With as many beams as words, two steps are all pairs of words: the best pair is found."""
    model, batch = subject.model, subject.batches["left"]
    width = model.cfg.d_vocab
    found = generated(model, batch, METHODS[name], num_beams=width, max_new_tokens=2).sequences[:, -2:]
    other = other_by_hand(subject, name, batch)

    @torch.no_grad()
    def step(new: torch.Tensor) -> torch.Tensor:
        logits = model(model.extend(batch, new) if new.shape[1] else batch)[:, -1]
        mixed = 2.5 * logits - 1.5 * other(new)
        mixed[logits < logits.amax(-1, keepdim=True) + math.log(0.2)] = -torch.inf
        mixed = mixed.log_softmax(-1)
        mixed[:, FREE["suppress_tokens"]] = -torch.inf
        return mixed

    first = step(torch.zeros(2, 0, dtype=torch.long))
    sums = torch.full((2, width, width), -torch.inf)
    for token in range(width):
        if first[:, token].isfinite().any():
            sums[:, token] = first[:, token, None] + step(torch.full((2, 1), token))
    best = sums.flatten(1).argmax(1)
    assert torch.equal(found, torch.stack([best // width, best % width], dim=1))


@pytest.mark.parametrize("name", ["pai", "icd"])
def test_moved_beams_take_their_cache_with_them(subject: Subject, name: str) -> None:
    model, batch = subject.model, subject.batches["left"]
    cached, uncached = (
        generated(model, batch, METHODS[name], num_beams=4, num_return_sequences=4, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(cached.sequences_scores, uncached.sequences_scores, atol=1e-4, rtol=1e-4)


def test_nothing_is_changed_at_alpha_0(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    plain = model.generate(batch, return_dict_in_generate=True, output_scores=True, **FREE)
    for method in (mm.decoding.PAI, mm.decoding.VCD, mm.decoding.ICD):
        out = generated(model, batch, method(alpha=0.0, beta=0.0))
        assert torch.equal(out.sequences, plain.sequences)
        assert all(map(torch.equal, out.scores, plain.scores))
        bounded = generated(model, batch, method(alpha=0.0))  # the bound never cuts the likeliest
        assert torch.equal(bounded.sequences, plain.sequences)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_sample_is_decoded_as_it_is_alone(subject: Subject, name: str) -> None:
    if name == "carried":
        pytest.skip("the noise is drawn for the batch that is corrupted")
    model, batch = subject.model, subject.batches["left"]
    together = generated(model, batch, METHODS[name])
    for sample, question in enumerate((SHORT, LONG)):
        one = model.prepare([question], images=[list(batch.images[sample])])
        alone = generated(model, one, METHODS[name])
        assert torch.equal(alone.sequences[0, -NEW:], together.sequences[sample, -NEW:])
        scores = torch.stack(together.scores, 1)[sample]
        torch.testing.assert_close(torch.stack(alone.scores, 1)[0], scores, atol=1e-4, rtol=1e-4)


def test_the_released_codes_by_hand() -> None:
    """PAI's processor takes log-softmax scores with and without the picture, `gamma (s - u) + u`, and cuts below max s + ln 0.1;
    VCD's and ICD's take logits, `(1 + a) l - a l'`, cut below max l + ln beta. One number apart, which no choice sees."""
    generator = torch.Generator().manual_seed(0)
    logits, other = 3 * torch.randn(4, 11, generator=generator), 3 * torch.randn(4, 11, generator=generator)
    s, u = logits.double().log_softmax(-1), other.double().log_softmax(-1)
    gamma = 1.1
    pai = torch.where(s < s.max(-1, keepdim=True).values + math.log(0.1), -torch.inf, gamma * (s - u) + u)
    found = mm.decoding.PAI().scores(logits, other)
    torch.testing.assert_close(found.double().log_softmax(-1), pai.log_softmax(-1), atol=1e-5, rtol=1e-5)
    assert pai.isinf().any()
    for method, alpha, beta in ((mm.decoding.VCD(beta=0.2), 1.0, 0.2), (mm.decoding.ICD(), 1.0, 0.1)):
        floor = logits.max(-1, keepdim=True).values + math.log(beta)
        expected = torch.where(logits < floor, -torch.inf, (1 + alpha) * logits - alpha * other)
        torch.testing.assert_close(method.scores(logits, other), expected)


def test_the_formula_by_hand() -> None:
    method = mm.decoding.PAI(alpha=1.0, beta=0.1)
    logits, other = torch.tensor([[2.0, 1.0, -3.0]]), torch.tensor([[3.0, 0.0, -9.0]])
    assert method.scores(logits, other).tolist() == [[1.0, 2.0, -torch.inf]]  # e^-5 < 0.1
    assert mm.decoding.PAI(alpha=1.0, beta=0.0).scores(logits, other).tolist() == [[1.0, 2.0, 3.0]]


def test_it_comes_before_transformers_processors(llava: Subject) -> None:
    """As the papers have it: a penalty acts on the contrasted scores."""
    model, batch = llava.model, llava.batches["left"]
    out = generated(model, batch, METHODS["pai"], repetition_penalty=1.7, max_new_tokens=1)
    _, scores = contrasted_by_hand(llava, "pai", batch)
    expected = scores[:, 0].clone()
    seen = torch.zeros_like(expected).bool()
    for sample, ids in enumerate(batch["input_ids"]):
        seen[sample, ids[batch.layout.is_token[sample]]] = True
    expected = torch.where(seen & (expected < 0), expected * 1.7, torch.where(seen, expected / 1.7, expected))
    torch.testing.assert_close(out.scores[0], expected, atol=1e-4, rtol=1e-4)


# -- what is in force ----------------------------------------------------------------------------------------------


@contextmanager
def second_logits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """The second prompt's logits of the generations inside."""
    seen: list[torch.Tensor] = []
    plain = ContrastMethod.scores

    def scores(self: ContrastMethod, logits: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        seen.append(other.clone())
        return plain(self, logits, other)

    with monkeypatch.context() as patch:
        patch.setattr(ContrastMethod, "scores", scores)
        yield seen


@pytest.mark.parametrize("name", ["pai", "icd", "carried"])
def test_interventions_act_on_the_main_run_unless_told_otherwise(
    subject: Subject, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = subject.model, subject.batches["left"]
    drawn = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(3))
    steer = mm.Steer(mm.steering.SteeringVector(drawn, AT), 2.0, positions="generated")
    forced = {"prefix_allowed_tokens_fn": lambda sample, ids: [12]}
    found = {}
    for passes in ("none", "conditional", "all"):
        with (
            second_logits(monkeypatch) as seen,
            model.intervene(*([] if passes == "none" else [steer]), passes="all" if passes == "all" else "conditional"),
        ):
            generated(model, batch, METHODS[name], **forced)
        found[passes] = torch.stack(seen, 1)
    assert torch.equal(found["none"], found["conditional"])
    assert torch.equal(found["none"][:, 0], found["all"][:, 0])  # nothing is generated yet
    assert (found["none"] - found["all"])[:, 1:].abs().amax(-1).min() > 1e-3
    assert steer.touched.branches == dict.fromkeys(("conditional", "contrast"), 2 * (NEW - 1))


def test_states_are_those_of_the_main_run(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    names = ["blocks.*.hook_resid_post", "vision.blocks.0.hook_resid_post"]
    trace = model.trace_generation(batch, names=names[0], max_new_tokens=4, contrast=METHODS["pai"])
    _, cache = model.run_with_cache(model.extend(batch, trace.tokens), names=names[0])
    prompt = batch["input_ids"].shape[1]
    for name, states in trace.states.items():
        torch.testing.assert_close(states, cache[name][:, prompt - 1 : prompt + 3], atol=1e-4, rtol=1e-4)
    assert "in the conditional passes (contrast pai(alpha=1.5, beta=0.2) beside them)" in repr(trace)
    for sample, length in enumerate(trace.lengths.tolist()):
        assert torch.equal(trace.scores[sample, :length].argmax(-1), trace.tokens[sample, :length])
    assert not torch.equal(trace.scores, trace.logits)
    plain = model.trace_generation(batch, names=names[0], max_new_tokens=4)
    assert plain.scores is plain.logits
    assert "beside" not in repr(plain)
    guided = model.trace_generation(batch, names=names[0], max_new_tokens=4, guidance_scale=1.5)
    assert "guidance of 1.5 beside them" in repr(guided)
    assert all(len(states[0]) == 4 for states in guided.states.values())


def test_nothing_is_left_behind(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    before = generated(model, batch, None).sequences
    generated(model, batch, "pai")
    with pytest.raises(ZeroDivisionError), model.hooks([(AT, lambda x, hook: 1 / 0)], passes="all"):
        generated(model, batch, "pai")
    calls = itertools.count()

    def late(x: torch.Tensor, hook: Any) -> None:
        if next(calls) == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), model.hooks([(AT, late)], passes="all"):
        generated(model, batch, "pai")
    assert torch.equal(generated(model, batch, None).sequences, before)
    assert model.current_run is None


# -- a planted prior ------------------------------------------------------------------------------------------------


def test_a_prior_of_the_language_is_taken_away() -> None:
    """A direction that writes "blue" whatever is seen: without the picture it is still there, so that the contrast knows it.

    What acts in the main run alone is no prior of the language, and stays; without a prior nothing changes.
    """
    model = mm.lab.load()
    asked = [(scene, q) for scene in mm.lab.scenes(24, seed=11) for q in scene.questions if q.kind == "color"]
    asked = [(scene, q) for scene, q in asked if q.answer != "blue"][:8]
    batch = model.prepare([q.text for _, q in asked], images=[[scene.image] for scene, _ in asked])
    blue = mm.steering.SteeringVector(model.W_U[:, model.to_single_token("blue")], "ln_final.hook_out")
    prior = mm.Steer(blue, 20.0, positions="last")
    contrast = mm.decoding.PAI(alpha=3.0, beta=0.0)

    def right(contrast: Any) -> float:
        said = model.trace_generation(batch, names="hook_logits", max_new_tokens=1, contrast=contrast).text
        return sum(a == q.answer for a, (_, q) in zip(said, asked, strict=True)) / len(asked)

    assert right(None) == right(contrast) == 1.0
    with model.intervene(prior, passes="all"):
        assert right(None) == 0.0
        assert right(contrast) == 1.0
    with model.intervene(prior, passes="conditional"):
        assert right(contrast) == 0.0


# -- refusals -------------------------------------------------------------------------------------------------------


def test_what_is_refused(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    raw = dict(batch.inputs)
    blind = model.prepare([SHORT]) if subject.name != "instructblip" else None
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (
            batch,
            "vdc",
            {},
            r"contrast='vdc' is unknown; for contrastive decoding there are 'icd', 'other_batch', 'pai', 'permuted', 'vcd'",
        ),
        (
            batch,
            "other_batch",
            {},
            r"contrast='other_batch' does not work without settings; pass contrast=Contrast\(against=...\)",
        ),
        (batch, "pai", {"guidance_scale": 1.5}, r"contrast= .* does not go together with guidance_scale="),
        (batch, "pai", {"custom_generate": lambda *a, **k: None}, "does not go together with custom_generate="),
        (raw, "icd", {}, r"contrast='icd' writes the prompt anew, and this batch was made from tensors"),
        (model.extend(batch, torch.full((2, 1), 12)), "icd", {}, "these prompts do not give the batch's tokens again"),
        (batch, mm.decoding.Contrast(lambda model, batch: None), {}, "must be .* as many samples .* 2; found NoneType"),
        (batch, mm.decoding.Contrast(batch), {}, "would contrast the batch with itself, which changes nothing"),
        (mm.corrupt.noise(model, batch), "vcd", {}, r"contrast='vcd' makes .* corrupted behind them, by noise"),
        (mm.corrupt.noise(model, batch), "icd", {}, r"contrast='icd' makes .* corrupted behind them, by noise"),
        (batch, mm.decoding.Contrast(subject.batches["right"]), {}, "are padded on the right"),
        *((blind, name, {}, r"has none|has no picture") for name in ("vcd", "pai") if blind is not None),
    ]
    for inputs, contrast, options, message in cases:
        with pytest.raises((InputError, UnknownNameError), match=message), never_entered(model):
            model.generate(inputs, contrast=contrast, **FREE, **options)
    for settings in ({"alpha": -1.0}, {"beta": 1.5}, {"alpha": math.nan}):
        with pytest.raises(InputError, match=r"alpha|beta"):
            mm.decoding.PAI(**settings)
    with pytest.raises(InputError, match="step"):
        mm.decoding.VCD(step=0)


def test_positions_that_the_second_prompt_lacks(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    scale = mm.Scale(AT, 0.5, positions="image")
    message = "In the contrast passes of this generation.*names nothing"
    with pytest.raises(InputError, match=message), model.intervene(scale, passes="all"), never_entered(model):
        model.generate(batch, contrast="pai", **FREE)
    with model.intervene(scale, passes="all"):
        model.generate(batch, contrast="vcd", **FREE)


def test_assisted_generation_is_refused(llava: Subject) -> None:
    one = llava.model.prepare([SHORT], images=[Image.new("RGB", (30, 30))])
    with (
        pytest.raises(InputError, match="does not go together with prompt_lookup_num_tokens="),
        never_entered(llava.model),
    ):
        llava.model.generate(one, contrast="pai", prompt_lookup_num_tokens=2, **FREE)


def test_text_that_a_prompt_begins_with_is_the_question(subject: Subject) -> None:
    """The role stands where the question begins: in front of the whole question, once."""
    model, batch = subject.model, subject.batches["left"]
    method = CONTRAST_METHODS.get(mm.decoding.ICD(PREFIX))
    made = method.second(model, batch)
    assert torch.equal(
        made["input_ids"],
        model.prepare([f"{PREFIX} {SHORT}", f"{PREFIX} {LONG}"], images=[list(p) for p in batch.images])["input_ids"],
    )


@pytest.mark.parametrize("name", ["kosmos2", "florence2", "instructblip_t5", "mllama", "paligemma"])
def test_in_other_structures_a_sample_has_the_second_logits_that_it_has_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the picture: padded as the family needs it, in its own positions, through its own encoder."""
    tiny = next(tiny for tiny in FAMILIES if tiny.name == name)
    model = tiny.make()
    pictures = [[picture(0)], [picture(1)]]
    side: Any = "right" if model.family.left_padding else "left"
    forced = {"eos_token_id": None, "max_new_tokens": 3, "prefix_allowed_tokens_fn": lambda sample, ids: [12]}

    def found(batch: MultimodalBatch) -> torch.Tensor:
        with second_logits(monkeypatch) as seen:
            model.generate(batch, contrast="pai", **forced)
        return torch.stack(seen, 1)

    together = found(model.prepare([SHORT, LONG], images=pictures, padding_side=side))
    for sample, question in enumerate((SHORT, LONG)):
        alone = found(model.prepare([question], images=[pictures[sample]]))
        torch.testing.assert_close(together[sample], alone[0], atol=1e-4, rtol=1e-4)
    text = without_pictures(model.family, model.config, model.prepare([LONG], images=[pictures[1]]))
    writer = generator_of(model.base)
    if writer.config.is_encoder_decoder:
        start = writer.generation_config.decoder_start_token_id or writer.config.decoder_start_token_id
        written = torch.tensor([[start or 0, 12, 12]])
        with torch.no_grad():
            expected = writer(**text, decoder_input_ids=written).logits[0]
        torch.testing.assert_close(together[1], expected, atol=1e-4, rtol=1e-4)


def test_a_family_that_needs_a_picture_says_so() -> None:
    model = next(tiny for tiny in FAMILIES if tiny.name == "idefics").make()
    batch = model.prepare([SHORT], images=[[picture(0)]])
    with pytest.raises(InputError, match=r"IdeficsForVisionText2Text takes no prompt without a picture .* keep one"):
        model.generate(batch, contrast="pai", max_new_tokens=2)
    assert model.generate(batch, contrast="vcd", max_new_tokens=2).shape[1] == batch["input_ids"].shape[1] + 2
