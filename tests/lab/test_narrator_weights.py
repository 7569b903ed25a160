"""The shipped narrator: plain transformers opens it, both stages answer as far as their card says, wrong names are refused."""

import time

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmlens import lab
from mmlens.core.errors import InputError
from mmlens.lab.narrating import add_change
from mmlens.lab.tales.asking import Fact
from mmlens.lab.tales.facts import OWNERS
from mmlens.lab.training.narrator.figures import PictureReader

TALES = lab.tales.scenes(24, seed=77)
STAGES = ("frozen", "tuned", "lens")


@pytest.fixture(scope="module")
def bare():
    return AutoModelForImageTextToText.from_pretrained(lab.path("narrator"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(lab.path("narrator"))


@pytest.fixture(scope="module")
def models():
    return {stage: lab.load("narrator", stage=stage) for stage in STAGES}


def test_the_files_are_small_and_complete():
    names = {file.name for file in lab.path("narrator").iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "training.json",
        "tuned",
        "lens",
    } <= names
    assert sum(file.stat().st_size for file in lab.path("narrator").rglob("*") if file.is_file()) <= 16e6


def test_load_gives_what_plain_transformers_gives(bare, processor, models):
    tale = TALES[0]
    inputs = processor(text=tale.prompt("What is the ground?"), images=tale.image, return_tensors="pt")
    with torch.no_grad():
        expected = bare(**inputs).logits[0, -1]
    logits = models["frozen"](models["frozen"].prepare("What is the ground?", images=tale.image))[0, -1]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_answers_and_captions_are_above_a_floor(models, stage):
    model = models[stage]
    said = [model.caption(tale.image, prompt="Describe the picture.") for tale in TALES[:6]]
    assert all(
        text[0].isupper() and text.endswith(f" on {tale.place}.") for text, tale in zip(said, TALES, strict=False)
    )
    right = []
    for tale in TALES:
        for question in tale.questions:
            if question.kind in ("color", "place", "mood", "count"):
                right.append(model.caption(tale.image, prompt=question.text) == question.answer)
    assert sum(right) / len(right) > 0.75


def test_each_stage_is_another_model(models):
    batch = [models[stage].prepare("What do you see?", images=TALES[0].image) for stage in STAGES]
    logits = [models[stage](one)[0, -1] for stage, one in zip(STAGES, batch, strict=True)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (logits[one] - logits[other]).abs().max() > 0.1


def test_the_language_model_repeats_random_tokens_and_composes_facts_from_text(bare, processor):
    generator = torch.Generator().manual_seed(3)
    once = torch.randint(110, 600, (8, 30), generator=generator)
    ids = torch.cat([torch.full((8, 1), processor.tokenizer.bos_token_id), once, once], dim=1)
    with torch.no_grad():
        guesses = bare(input_ids=ids).logits.argmax(dim=-1)
    assert (guesses[:, 31:-1] == ids[:, 32:]).float().mean() > 0.9
    assert (guesses[:, 1:30] == ids[:, 2:31]).float().mean() < 0.1  # nothing can tell the first time


def test_two_hops_that_pictures_never_had_are_answered(bare, processor):
    reader = PictureReader(bare, processor)
    right = []
    for tale in TALES:
        things = [thing for thing in tale.placed if thing.shape in OWNERS]
        colors = [thing.color for thing in tale.placed]
        posed = [
            Fact("owner by color", OWNERS[thing.shape], thing.shape, thing.color)
            for thing in things
            if colors.count(thing.color) == 1
        ]
        right += [answer.right for answer in reader.ask(tale, posed)] if posed else []
    assert sum(right) / len(right) > 0.5  # one owner in eight by chance


def test_object_patches_read_as_their_nouns(bare, processor):
    lens = PictureReader(bare, processor).lens(TALES)
    assert max(lens["own"]) > 0.3
    assert max(lens["ground"]) < 0.15
    best = lens["own"].index(max(lens["own"]))
    assert lens["own"][best] > 2 * lens["shuffled"][best]


def test_in_the_lens_stage_patches_read_as_their_nouns_to_the_end(bare, processor):
    trained = AutoModelForImageTextToText.from_pretrained(lab.path("narrator"), dtype=torch.float32).eval()
    add_change(trained, lab.path("narrator") / "lens")
    before, after = PictureReader(bare, processor).lens(TALES[:12]), PictureReader(trained, processor).lens(TALES[:12])
    assert after["own"][-1] > before["own"][-1] + 0.3
    assert max(after["ground"]) < 0.15


def test_both_labs_answer_to_the_same_calls(models):
    for model, prompt in ((lab.load(), "describe the image"), (models["frozen"], "Describe the picture.")):
        image = lab.scene(seed=7).image
        batch = model.prepare(prompt, images=image)
        _, cache = model.run_with_cache(batch)
        depth = model.cfg.n_layers
        assert cache[f"blocks.{depth - 1}.hook_resid_post"].shape[-1] == model.cfg.d_model
        assert model.caption(image, prompt=prompt)


def test_loading_takes_less_than_a_second():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        lab.load("narrator")
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0


def test_what_does_not_exist_is_refused_with_what_does():
    with pytest.raises(InputError, match="captioner"):
        lab.load("storyteller")
    with pytest.raises(InputError, match="frozen"):
        lab.load("narrator", stage="joint")
    with pytest.raises(InputError, match="only one stage"):
        lab.load(stage="tuned")
    with pytest.raises(InputError, match="narrator"):
        lab.path("teller")
