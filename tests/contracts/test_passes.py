"""Contract: each forward pass of a generation is told: what is in force acts in the passes it is meant for, at their own
positions, and says how many; compared with passes made by hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import LogitsProcessor, UnbatchedClassifierFreeGuidanceLogitsProcessor

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.generation_limits import generator_of
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import run_identity
from tests.conftest import Subject
from tests.generating import FREE, NEW, text_logits
from tests.interventions.passes import never_entered

AT = "blocks.1.hook_resid_post"
SCALE = 1.5


def vector_of(model: HookedMultimodal) -> mm.steering.SteeringVector:
    drawn = torch.randn(model.graph[AT].width or 0, generator=torch.Generator().manual_seed(3))
    return mm.steering.SteeringVector(drawn, AT)


@contextmanager
def added(model: HookedMultimodal, vector: Any, alpha: float, first: int | None) -> Iterator[None]:
    """A bare hook that adds a vector at all rows from one on; at none for None."""

    def add(x: torch.Tensor, hook: Any) -> torch.Tensor:
        x[:, x.shape[1] if first is None else first :] += alpha * vector.direction
        return x

    with model.hooks([(AT, add)]):
        yield


@torch.no_grad()
def guided_by_hand(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    vector: Any,
    alpha: float,
    *,
    everywhere: bool,
    unconditional: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Guided tokens and scores, by two uncached passes a step; the vector is added at new tokens, of both passes or the first."""
    prompt = batch["input_ids"].shape[1]
    tokens, scores = torch.zeros(batch.size, 0, dtype=torch.long), []
    for _ in range(NEW):
        whole = model.extend(batch, tokens) if tokens.shape[1] else batch
        with added(model, vector, alpha, prompt):
            s = model(whole)[:, -1].log_softmax(-1)
        ids = unconditional(tokens)
        with added(model, vector, alpha, ids.shape[1] - tokens.shape[1] if everywhere else None):
            u = text_logits(model, ids)[:, -1].log_softmax(-1)
        mixed = SCALE * (s - u) + u
        mixed[:, FREE["suppress_tokens"]] = -torch.inf
        scores.append(mixed)
        tokens = torch.cat([tokens, mixed.argmax(-1, keepdim=True)], dim=1)
    return tokens, torch.stack(scores, dim=1)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("passes", ["conditional", "all"])
def test_guidance_is_two_passes_of_which_the_choice_is_steered(subject: Subject, passes: Any, use_cache: bool) -> None:
    model, batch = subject.model, subject.batches["left"]
    vector = vector_of(model)
    steer = mm.Steer(vector, 2.0, positions="generated")
    with model.intervene(steer, passes=passes):
        out = model.generate(
            batch,
            guidance_scale=SCALE,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_scores=True,
            **FREE,
        )
    with torch.no_grad():
        tokens, scores = guided_by_hand(
            model,
            batch,
            vector,
            2.0,
            everywhere=passes == "all",
            unconditional=lambda new: torch.cat([batch["input_ids"][:, -1:], new], dim=1),
        )
    assert torch.equal(out.sequences[:, -NEW:], tokens)
    torch.testing.assert_close(torch.stack(out.scores, 1), scores, atol=1e-4, rtol=1e-4)
    expected = {"conditional": 2 * (NEW - 1)} | ({"unconditional": 2 * (NEW - 1)} if passes == "all" else {})
    assert steer.touched.branches == expected
    assert steer.touched.tokens == sum(expected.values())
    # the two choices differ, or nothing would be tested
    other, _ = guided_by_hand(
        model,
        batch,
        vector,
        2.0,
        everywhere=passes != "all",
        unconditional=lambda new: torch.cat([batch["input_ids"][:, -1:], new], dim=1),
    )
    assert subject.name != "llava_clip" or not torch.equal(other, tokens)


def test_eight_tokens_are_eight_positions(llava: Subject) -> None:
    """Nine are written and the last is not read; it was nine positions, with the unconditional prompt among them."""
    model = llava.model
    one = model.prepare(*[["describe the image"]], images=[[llava.batches["left"].images[0][0]]])
    steer = mm.Steer(vector_of(model), 2.0, positions="generated")
    with model.intervene(steer):
        model.generate(one, guidance_scale=SCALE, **FREE | {"max_new_tokens": 9})
    assert (steer.touched.tokens, steer.touched.steps) == (8, 8)


def test_a_negative_prompt_has_positions_of_its_own(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    vector = vector_of(model)
    negative = model.to_tokens("what color is the sand").repeat(2, 1)
    steer = mm.Steer(vector, 2.0, positions="generated")
    with model.intervene(steer, passes="all"):
        out = model.generate(batch, guidance_scale=SCALE, negative_prompt_ids=negative, **FREE)
    tokens, _ = guided_by_hand(
        model, batch, vector, 2.0, everywhere=True, unconditional=lambda new: torch.cat([negative, new], dim=1)
    )
    assert torch.equal(out[:, -NEW:], tokens)
    prompt = mm.Steer(vector, 2.0, positions="prompt")
    with model.intervene(prompt, passes="all"):
        model.generate(batch, guidance_scale=SCALE, negative_prompt_ids=negative, **FREE)
    length = int(batch.layout.is_token.sum())
    assert prompt.touched.branches == {"conditional": length, "unconditional": negative.numel()}


def test_positions_that_a_branch_lacks_are_refused_before_it_runs(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    steer = mm.Steer(vector_of(model), positions="image")
    message = r"In the unconditional passes of this generation.*passes='all'.*names nothing"
    with pytest.raises(InputError, match=message), model.intervene(steer, passes="all"), never_entered(model):
        model.generate(batch, guidance_scale=SCALE, **FREE)
    with model.intervene(steer):
        model.generate(batch, guidance_scale=SCALE, **FREE)
    assert steer.touched.branches == {"conditional": int(batch.layout.is_image.sum())}


def test_every_kind_of_intervention_and_hook_leaves_other_branches_alone(subject: Subject) -> None:
    """What acts in conditional passes alone changes no logit of the unconditional ones, and hooks see whose a pass is."""
    model, batch = subject.model, subject.batches["left"]
    kinds = [
        mm.Ablate("L1.u3"),
        mm.Add(AT, vector_of(model).direction),
        mm.Scale(AT, 0.5),
        mm.Clamp(AT, high=0.1),
        mm.Noise(AT, 0.5),
        mm.KnockOut(mm.positions.last | mm.positions.generated, "image"),
        mm.ProjectOut(vector_of(model)),
        mm.Replace("hook_embed", torch.zeros(2, batch["input_ids"].shape[1], model.cfg.d_model), positions="image"),
    ]
    seen: list[torch.Tensor] = []

    class Guidance(UnbatchedClassifierFreeGuidanceLogitsProcessor):
        """Transformers' own, whose logits are looked at."""

        def get_unconditional_logits(self, input_ids: Any) -> Any:
            logits = super().get_unconditional_logits(input_ids)
            seen.append(logits[:, -1].clone())
            return logits

    def run() -> list[torch.Tensor]:
        seen.clear()
        processor: LogitsProcessor = Guidance(SCALE, generator_of(model.base))
        forced = torch.arange(9, 9 + NEW)
        options = FREE | {"prefix_allowed_tokens_fn": lambda sample, ids: [int(forced[len(seen) - 1])]}
        model.generate(batch, logits_processor=[processor], **options)
        return list(seen)

    plain = run()
    assert len(plain) == NEW
    whose: list[str] = []
    for what in kinds:
        with model.intervene(what):
            found = run()
        assert all(map(torch.equal, found, plain)), what

    def look(x: torch.Tensor, hook: Any) -> torch.Tensor:
        run = model.current_run
        assert run is not None
        whose.append(run.branch)
        return x + 1

    with model.hooks([(AT, look)]):
        found = run()
    assert whose == ["conditional"] * NEW
    assert all(map(torch.equal, found, plain))
    whose.clear()
    with model.hooks([(AT, look)], passes="all"):
        found = run()
    assert whose == ["conditional", "unconditional"] * NEW
    assert not any(map(torch.equal, found, plain))


@pytest.mark.parametrize("kind", ["prompt lookup", "assistant"])
@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_candidates_that_are_rejected_do_not_count(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(name)
    model = subject.model
    one = model.prepare(["what color is the what color is the"], images=[[subject.batches["left"].images[0][0]]])
    steer = mm.Steer(vector_of(model), 2.0, positions=mm.positions.last | mm.positions.generated)
    cut = mm.KnockOut(mm.positions.generated, "image")
    options: dict[str, Any] = {"prompt_lookup_num_tokens": 3} if kind == "prompt lookup" else {}
    if kind == "assistant":
        options = {"assistant_model": subject.bare}
    with model.intervene(steer, cut):
        plain = model.generate(one, **FREE)
        assert steer.touched.tokens == NEW
        lengths: list[int] = []
        with model.hooks([(AT, lambda x, hook: lengths.append(x.shape[1]))]):
            found = model.generate(one, **FREE, **options)
    assert torch.equal(found, plain)
    assert sum(lengths) > one["input_ids"].shape[1] + NEW, "no candidate was rejected, so nothing is tested"
    assert steer.touched.tokens == NEW


@pytest.mark.parametrize("passes", ["conditional", "all"])
def test_a_models_own_drafts_are_a_branch(llava: Subject, passes: Any) -> None:
    model = llava.model
    one = model.prepare(["describe the image"], images=[[llava.batches["left"].images[0][0]]])
    steer = mm.Steer(vector_of(model), 2.0, positions="generated")
    with model.intervene(steer):
        plain = model.generate(one, **FREE)
    with model.intervene(steer, passes=passes):
        found = model.generate(one, assistant_model=model.hf_model, **FREE)
    assert torch.equal(found, plain)
    assert steer.touched.branches["conditional"] == NEW - 1
    assert ("draft" in steer.touched.branches) == (passes == "all")


def test_beams_are_conditional_and_each_counts(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    steer = mm.Steer(vector_of(model), 2.0, positions="generated")
    with model.intervene(steer):
        model.generate(batch, num_beams=3, **FREE)
    assert steer.touched.branches == {"conditional": batch.size * 3 * (NEW - 1)}


def test_what_cannot_be_right_is_refused(subject: Subject) -> None:
    model, batch = (
        subject.model,
        subject.model.prepare("describe the image", images=subject.batches["left"].images[0][0]),
    )
    cases: list[tuple[dict[str, Any], str]] = [
        ({"guidance_scale": SCALE, "num_beams": 2}, "num_beams=2 moves sequences between beams"),
        ({"assistant_model": model}, r"pass the Hugging Face model: assistant_model=other\.hf_model"),
        ({"assistant_early_exit": 1}, "transformers"),
    ]
    if subject.name == "instructblip":
        cases.append(({"prompt_lookup_num_tokens": 2}, "leaves the first candidates out"))
    else:
        cases.append(({"guidance_scale": SCALE, "prompt_lookup_num_tokens": 2}, "assisted generation rejects"))
        cases_of_two = ({"prompt_lookup_num_tokens": 2}, r"takes one sample at a time \(transformers' limit\), found 2")
        with pytest.raises(InputError, match=cases_of_two[1]), never_entered(model):
            model.generate(subject.batches["left"], **FREE, **cases_of_two[0])
    for options, message in cases:
        with pytest.raises(InputError, match=message), never_entered(model):
            model.generate(batch, **FREE, **options)
    with (
        pytest.raises(InputError, match=r"passes='main' must be 'conditional'.* or 'all'"),
        model.intervene(passes="main"),
    ):  # type: ignore[arg-type]
        pass
    assert "_get_logits_processor" not in vars(generator_of(model.base))


def test_a_processor_that_runs_the_model_itself_is_another_branch(llava: Subject) -> None:
    """Cached or not, with a picture or without: hooks act in the passes of the generation alone."""
    model, batch = llava.model, llava.batches["left"]
    swapped = model.prepare(["what color is the sand"] * 2, images=[list(batch.images[1]), list(batch.images[0])])
    seen: list[torch.Tensor] = []

    class Other(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
            new = input_ids[:, batch["input_ids"].shape[1] :]
            with torch.no_grad():
                seen.append(model.hf_model(**(model.extend(swapped, new) if new.shape[1] else swapped)).logits[:, -1])
            return scores

    calls: list[str] = []

    def look(x: torch.Tensor, hook: Any) -> torch.Tensor:
        run = model.current_run
        calls.append(run.branch if run is not None else "none")
        return 2 * x

    for use_cache in (True, False):
        seen.clear()
        calls.clear()
        steer = mm.Steer(vector_of(model), 2.0, positions="generated")
        with model.hooks([(AT, look)]), model.intervene(steer):
            out = model.generate(batch, logits_processor=[Other()], use_cache=use_cache, **FREE)
        assert calls == ["conditional"] * NEW
        assert steer.touched.branches == {"conditional": 2 * (NEW - 1)}
        whole = model.extend(swapped, out[:, -NEW:-1])
        with torch.no_grad():
            torch.testing.assert_close(seen[-1], model(whole)[:, -1], atol=1e-5, rtol=1e-5)


def test_the_choice_of_passes_is_part_of_a_run(llava: Subject) -> None:
    model = llava.model
    scale = mm.Scale(AT, 2.0)
    found = []
    for passes in ("conditional", "all"):
        with model.intervene(scale, passes=passes):  # type: ignore[arg-type]
            found.append(run_identity(model)["interventions"])
    assert found[0] != found[1]
