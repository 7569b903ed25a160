"""Every method against hallucination, and its random control, answers a sample as it would alone: in padded batches, after
another sample, beside several pictures, with sub-words, in every family; or says before any forward pass why it cannot."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.mitigation.method import Force
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.mitigation import Boosted, Contrasted, Intervened, MitigationMethod, VisuallySteered
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject
from tests.interventions.passes import never_entered
from tests.tiny import picture

AT, LATE, NEW = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post", 3
LAST = mm.positions.last | mm.positions.generated
BOX = mm.positions.box((0, 0, 8, 8))
Made = Callable[[HookedMultimodal, Sequence[mm.Sample]], MitigationMethod]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(model: HookedMultimodal) -> mm.steering.SteeringVector:
    return mm.steering.SteeringVector(drawn(model.cfg.d_model), AT)


def predictor(model: HookedMultimodal, read_at: str) -> mm.steering.LearnedPredictor:
    width = model.cfg.d_model
    return mm.steering.LearnedPredictor(drawn(6, width), drawn(6), drawn(width, 6), AT, read_at)


def acts(*made: Callable[[HookedMultimodal], Any]) -> Made:
    return lambda model, samples: Intervened(tuple(one(model) for one in made))


def p2s(model: HookedMultimodal, samples: Sequence[mm.Sample]) -> MitigationMethod:
    """Keyed by sample, and made of all of them: each batch finds its own."""
    extra = mm.Sample((picture(9),), "what is the image")
    table = mm.steering.contrastive_vectors(
        model, [extra, *samples], positive="red", negative="blue", at=AT, progress=False
    )[AT]
    return Intervened((mm.Steer(table, 3.0),))


def vti_vision(model: HookedMultimodal, samples: Sequence[mm.Sample]) -> MitigationMethod:
    at = "vision.blocks.0.hook_resid_post"
    tables = mm.steering.blank_patch_vectors(model, samples[:1], at=at, blank=0.5, draws=2, progress=False)
    return Intervened((mm.Steer(tables[at], 0.5),))


METHODS: dict[str, Made] = {
    "PAI": lambda model, samples: Boosted(alpha=0.8, first=1, contrast=0.7),
    "PAI attention": lambda model, samples: Boosted(alpha=0.8, first=1, contrast=0.0),
    "PAI logits": lambda model, samples: Contrasted(mm.decoding.PAI(alpha=1.5)),
    "VCD": lambda model, samples: Contrasted(mm.decoding.VCD(alpha=1.5, step=700)),
    "ICD": lambda model, samples: Contrasted(mm.decoding.ICD("describe the small blue")),
    "blur": lambda model, samples: Contrasted(mm.decoding.Contrast(mm.corrupt.blur)),
    "VISTA": lambda model, samples: VisuallySteered(alpha=0.5),
    "VAR": acts(lambda model: mm.mitigation.RedistributeSinks(
        layers=[0, 1], dims=[7], threshold=1.0, factor=0.0, least_image=0.0, most_sink=1.0)),
    "P2S": p2s,
    "L2S": acts(lambda model: mm.Steer(predictor(model, AT), 0.5)),
    "L2S, read behind": acts(lambda model: mm.Steer(predictor(model, LATE), 0.5)),
    "VTI": acts(lambda model: mm.Steer(vector(model), 0.5, scale="relative", positions=LAST)),
    "VTI, tower": vti_vision,
    "project": acts(lambda model: mm.ProjectOut(vector(model))),
    "heads off": acts(lambda model: mm.Ablate(["L0.h0", "L1.h1"])),
    "object off": acts(lambda model: mm.Scale("hook_embed", 0.0, positions=BOX)),
    "cut": acts(lambda model: mm.KnockOut(LAST, mm.positions.index(1, 2), layers=[1])),
}  # fmt: skip
#: What a family cannot do, with what is said.
REFUSED = {
    ("VISTA", "instructblip"): (InputError, "needs pixel_values"),
    ("object off", "instructblip"): (NoPlaceError, "have no place in it"),
    ("VTI, tower", "qwen2_vl"): (InputError, "make the table from pictures of the same size"),
}


def samples_of(batch: mm.MultimodalBatch, prompts: Sequence[str]) -> list[mm.Sample]:
    return [mm.Sample(tuple(shown), text) for shown, text in zip(batch.images, prompts, strict=True)]


def logits(model: HookedMultimodal, force: Force, batch: mm.MultimodalBatch) -> torch.Tensor:
    """Scores of the same three new tokens, whatever would be written."""
    forced = {"prefix_allowed_tokens_fn": None, "eos_token_id": None}
    with model.intervene(*force.interventions):
        out = model.generate(
            batch,
            contrast=force.contrast,
            max_new_tokens=NEW,
            return_dict_in_generate=True,
            output_scores=True,
            **forced,
        )
    return torch.stack(out.scores, 1)


def require_alone(
    model: HookedMultimodal, method: MitigationMethod, samples: Sequence[mm.Sample], batch: mm.MultimodalBatch
) -> None:
    """Together each sample has the scores that it has alone, whatever ran before it; its control too; both change something."""
    force = method.force(model, samples, batch)
    together = logits(model, force, batch)
    plain = logits(model, Force(), batch)
    assert (together - plain).nan_to_num().abs().amax((1, 2)).max() > 1e-3, "the method changes nothing"
    controls = {seed: force.control(model, seed) for seed in (0, 1)}
    assert all(control is not None for control in controls.values())
    by_seed = {seed: logits(model, control, batch) for seed, control in controls.items()}
    assert any((found - plain).nan_to_num().abs().max() > 1e-3 for found in by_seed.values())
    for number, sample in enumerate(samples):
        one = model.prepare([sample.prompt], images=[list(sample.pictures)])
        alone = method.force(model, [sample], one)
        expected = {None: logits(model, alone, one)} | {0: logits(model, alone.control(model, 0), one)}
        for seed, found in ((None, together), (0, by_seed[0])):
            count = 1 + int((found[number].argmax(-1) == expected[seed][0].argmax(-1)).long().cumprod(0).sum())
            # behind a token that is another one by a tie, nothing compares
            torch.testing.assert_close(found[number, :count], expected[seed][0, :count], atol=2e-4, rtol=2e-4)
            assert count > NEW - 1


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_is_answered_as_it_is_alone(subject: Subject, name: str) -> None:
    model, batch = subject.model, subject.batches["left"]
    samples = samples_of(batch, (SHORT, LONG))
    kind, message = REFUSED.get((name, subject.name), (None, ""))
    if kind is None:
        require_alone(model, METHODS[name](model, samples), samples, batch)
        return
    method = METHODS[name](model, samples)
    answered = [mm.Sample(s.images, s.prompt, answer="yes") for s in samples]
    with pytest.raises(kind, match=message):
        mm.mitigation_report(model, {"pope": answered}, methods={"a": method}, progress=False)
    if "tower" not in name:  # where rows lie in a tower is known when it runs
        with pytest.raises(kind), never_entered(model):
            mm.mitigation_report(model, {"pope": answered}, methods={"a": method}, progress=False)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "VTI, tower"])
def test_beside_several_pictures(llava: Subject, qwen: Subject, name: str) -> None:
    for subject in (llava, qwen):
        batch = subject.batches["several"]
        samples = samples_of(batch, (SHORT, LONG))
        require_alone(subject.model, METHODS[name](subject.model, samples), samples, batch)


@pytest.mark.parametrize("name", METHODS)
def test_with_sub_words(subword: HookedMultimodal, name: str) -> None:
    """Words of several tokens, capitals, punctuation."""
    shown = [picture(seed) for seed in range(2)]
    prompts = ["Is there a dog?", "What is the man holding, and where?"]
    samples = [mm.Sample((image,), prompt) for image, prompt in zip(shown, prompts, strict=True)]
    batch = subword.prepare(prompts, images=[[image] for image in shown])
    require_alone(subword, METHODS[name](subword, samples), samples, batch)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("VISTA", "VTI, tower")])
def test_padding_on_the_right(subject: Subject, name: str) -> None:
    """One forward pass reads it; what is to be gone on with is refused by name, before any pass."""
    model, batch = subject.model, subject.batches["right"]
    samples = samples_of(batch, (SHORT, LONG))
    method = METHODS[name](model, samples)
    if (name, subject.name) in REFUSED:
        return
    with pytest.raises(InputError, match="padded on the right"), never_entered(model):
        method.check(model, samples, batch, NEW)
    force = method.force(model, samples, batch)
    if not force.interventions:
        return
    with model.intervene(*force.interventions):
        found = model(batch)
    for number, sample in enumerate(samples):
        one = model.prepare([sample.prompt], images=[list(sample.pictures)])
        with model.intervene(*method.force(model, [sample], one).interventions):
            alone = model(one)
        end = int(batch.layout.is_token[number].nonzero()[-1])
        torch.testing.assert_close(found[number, end], alone[0, -1], atol=2e-4, rtol=2e-4)
