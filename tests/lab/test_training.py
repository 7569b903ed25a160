"""Training: packed rows mean what single prompts mean, an interrupted run ends as an unbroken one would."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.lab import CANVAS, COLORS, NOUNS, PLACES, scenes
from mmlens.lab.architecture import LAB, TINY, make_model, make_processor
from mmlens.lab.language import CAPTION_PROMPT
from mmlens.lab.training.data import IGNORED, Packer, choose_questions
from mmlens.lab.training.gallery import make_gallery
from mmlens.lab.training.gauge import fix_signs
from mmlens.lab.training.objectives import language_loss, packed_logits
from mmlens.lab.training.recipe import STAGES, Recipe, Stage
from mmlens.lab.training.start import scale_to_width
from mmlens.lab.training.train import Trainer
from mmlens.lab.world import SIZES

SMALL = Recipe(
    size=TINY,
    stages=(
        Stage("tower", ("vision_tower",), 3, 2e-3, batch=4, objective="patches"),
        Stage("language", ("language_model",), 3, 1e-3, batch=3, written_every=1, questions=2),
        Stage("align", ("multi_modal_projector",), 2, 1e-3, batch=3),
        Stage(
            "joint",
            ("vision_tower", "multi_modal_projector", "language_model"),
            6,
            1e-3,
            batch=3,
            written_every=4,
            answer_weight=5.0,
            lookups=2.0,
        ),
    ),
    scenes=12,
)
PROCESSOR = make_processor(TINY)
MODEL = make_model(TINY)
SCENES = scenes(3, seed=31)


def trainer(folder: Path, recipe: Recipe = SMALL) -> Trainer:
    return Trainer(recipe, folder, progress=False, workers=1)


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in of.model.state_dict().items()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Trainer:
    whole = trainer(tmp_path_factory.mktemp("unbroken"))
    whole.run()
    return whole


@pytest.mark.parametrize("stop", [(0, 2), (1, 0), (2, 1), (3, 1), (3, 4)])
def test_an_interrupted_run_ends_in_the_same_weights(unbroken, stop, tmp_path):
    trainer(tmp_path).run(until=stop)
    resumed = trainer(tmp_path)
    assert (resumed.stage, resumed.step) == stop
    resumed.run()
    for name, value in weights(resumed).items():
        assert torch.equal(value, unbroken.model.state_dict()[name]), name


def test_each_stage_trains_its_own_parts(tmp_path):
    run = trainer(tmp_path)
    for number, stage in enumerate(SMALL.stages):
        before = weights(run)
        run.run(until=(number + 1, 0))
        after = run.model.state_dict()
        changed = [name for name in after if not torch.equal(before[name], after[name])]
        parts = {part for part in SMALL.stages[-1].learns if any(part in name for name in changed)}
        assert parts == set(stage.learns), stage.name


def test_the_rate_rises_and_falls_and_written_batches_come_in_turn():
    stage = Stage("", (), 200, 1e-3, written_every=4)
    rates = [stage.rate_at(step) for step in range(200)]
    assert rates[0] == pytest.approx(2e-5, rel=1e-2)
    assert max(rates) == pytest.approx(1e-3, rel=0.2)
    assert rates[-1] == pytest.approx(5e-5, rel=0.01)
    assert Stage("", (), 200, 1e-3, last=0.7).rate_at(199) == pytest.approx(7e-4, rel=0.01)
    assert [step for step in range(9) if stage.is_written(step)] == [3, 7]
    assert not any(Stage("", (), 9, 1e-3).is_written(step) for step in range(9))


def test_the_shipped_recipe_teaches_every_part_and_speaks_of_pictures_and_writing():
    parts = {"vision_tower", "multi_modal_projector", "language_model"}
    assert {part for stage in STAGES for part in stage.learns} == parts
    for stage in STAGES:
        if "language_model" in stage.learns:
            assert 0 < sum(map(stage.is_written, range(stage.steps))) < stage.steps


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    trainer(tmp_path).run(until=(0, 1))
    with pytest.raises(InputError, match=r"another recipe \(different: decay\)"):
        trainer(tmp_path, replace(SMALL, decay=0.3))


def test_export_loads_in_plain_transformers_and_computes_the_same(unbroken, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    unbroken.export(tmp_path / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": CAPTION_PROMPT}]}]
    inputs = processor(
        text=processor.apply_chat_template(chat, add_generation_prompt=True),
        images=SCENES[0].image,
        return_tensors="pt",
    )
    with torch.no_grad():
        difference = loaded(**inputs).logits - unbroken.model(**inputs).logits
    assert difference.abs().max() < 5e-3  # float16 storage
    stored = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert stored.dtype == torch.float16
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert record["recipe"]["stages"][3]["steps"] == SMALL.stages[3].steps


@torch.no_grad()
@pytest.mark.parametrize("written", [False, True])
def test_packed_rows_give_the_logits_of_single_prompts(written):
    packer = Packer(PROCESSOR)
    asked = [[(q.text, q.answer) for q in scene.questions[:3]] for scene in SCENES]
    rows = [(s, [(CAPTION_PROMPT, s.caption), *more]) for s, more in zip(SCENES, asked, strict=True)]
    pictures = None if written else np.stack([np.asarray(s.image) for s in SCENES])
    logits, tokens = packed_logits(MODEL, packer.pack(rows, pictures))
    expected, expected_tokens = [], []
    for scene, said in rows:
        for prompt, answer in said:
            start = [{"type": "text", "text": scene.written()}] if written else [{"type": "image"}]
            content = [*start, {"type": "text", "text": prompt}]
            text = PROCESSOR.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            images = None if written else scene.image
            inputs = PROCESSOR(text=text + answer + " <eos>", images=images, return_tensors="pt")
            length = len(packer.encode(answer)) + 1
            expected.append(MODEL(**inputs).logits[0, -1 - length : -1])
            expected_tokens.append(inputs["input_ids"][0, -length:])
    assert torch.equal(tokens, torch.cat(expected_tokens))
    torch.testing.assert_close(logits, torch.cat(expected), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_segment_does_not_see_another():
    packer = Packer(PROCESSOR)
    scene = SCENES[0]
    pictures = np.asarray(scene.image)[None]
    pairs = [(q.text, q.answer) for q in scene.questions]
    one, _ = packed_logits(MODEL, packer.pack([(scene, [pairs[0], pairs[1]])], pictures))
    other, _ = packed_logits(MODEL, packer.pack([(scene, [pairs[0], pairs[2]])], pictures))
    length = len(packer.encode(pairs[0][1])) + 1
    torch.testing.assert_close(one[:length], other[:length], atol=1e-6, rtol=1e-5)


def test_an_answer_weighs_as_much_however_long_it_is():
    packer = Packer(PROCESSOR)
    said = [
        (CAPTION_PROMPT, "a red circle on sand"),
        ("where is this", "sand"),
        ("how do i use this", "push it"),
    ]
    weights = packer.pack([(SCENES[0], said)], None, answer_weight=5.0).weights[0]
    assert weights[weights > 0].tolist() == pytest.approx([1.0] * 6 + [2.5] * 2 + [5 / 3] * 3)
    assert set(packer.pack([(SCENES[0], said)], None).weights.flatten().tolist()) == {0.0, 1.0}


def test_pixels_are_those_of_the_processor():
    packer = Packer(PROCESSOR)
    images = [scene.image for scene in SCENES]
    ours = packer.pixels(np.stack([np.asarray(image) for image in images]))
    assert torch.equal(ours, PROCESSOR.image_processor(images, return_tensors="pt")["pixel_values"])


@torch.no_grad()
def test_fixing_signs_leaves_the_function_and_makes_neurons_positive():
    from mmlens.lab.training.objectives import recorded_neurons

    model = make_model(TINY, seed=3)
    packer = Packer(PROCESSOR)
    rows = [(scene, [(CAPTION_PROMPT, scene.caption)]) for scene in SCENES]
    batch = packer.pack(rows, np.stack([np.asarray(scene.image) for scene in SCENES]))
    before, _ = packed_logits(model, batch)
    assert 0 < fix_signs(model, [batch]) < model.config.text_config.intermediate_size * 2
    with recorded_neurons(model) as recorded:
        after, _ = packed_logits(model, batch)
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)
    for activity in recorded:
        active = activity[batch.labels != IGNORED]
        assert ((active * active.abs()).sum(dim=0) >= 0).all()
    assert fix_signs(model, [batch]) == 0


def test_sparsity_adds_the_mean_absolute_activation():
    from mmlens.lab.training.objectives import recorded_neurons

    packer = Packer(PROCESSOR)
    batch = packer.pack([(SCENES[0], [(CAPTION_PROMPT, SCENES[0].caption)])], None)
    plain, _ = language_loss(MODEL, batch)
    with recorded_neurons(MODEL) as recorded:
        penalised, _ = language_loss(MODEL, batch, sparsity=0.5)
    mean = torch.stack([each.abs().mean() for each in recorded]).mean()
    torch.testing.assert_close(penalised - plain, 0.5 * mean, atol=1e-6, rtol=1e-4)


def test_patch_labels_tell_what_the_masks_show():
    drawn = scenes(20, seed=41)
    labels = make_gallery(drawn, LAB.patch).labels(np.arange(20))
    per_side = CANVAS // LAB.patch
    told = 0
    for number, scene in enumerate(drawn):
        for rank, thing in enumerate(sorted(scene.objects, key=lambda thing: thing.box[0]), start=1):
            column, row = (int(value // LAB.patch) for value in thing.center)
            if thing.mask[row * 12 : row * 12 + 12, column * 12 : column * 12 + 12].mean() < 0.5:
                continue
            where, told = row * per_side + column, told + 1
            assert labels.ranks[number, where] == rank
            assert NOUNS[labels.nouns[number, where] - 1] == thing.shape
            assert list(COLORS)[labels.colors[number, where] - 1] == thing.color
            assert SIZES[labels.sizes[number, where] - 1] == thing.size
            center = (labels.centers[number, where].numpy() + 1) / 2 * CANVAS
            assert center == pytest.approx(thing.center, abs=1e-3)
        bare = ~np.any([thing.mask for thing in scene.objects], axis=0)
        empty = bare.reshape(per_side, LAB.patch, per_side, LAB.patch).all(axis=(1, 3)).ravel()
        for each in (labels.ranks, labels.nouns, labels.colors, labels.sizes):
            assert (each[number, empty] == 0).all()
        assert PLACES[labels.places[number]] == scene.place
    assert told > 20


def test_weights_start_at_a_spread_that_fits_their_width():
    model = make_model(LAB)
    tower = {name: value.clone() for name, value in model.model.vision_tower.state_dict().items()}
    scale_to_width(model)
    block = model.model.language_model.layers[0]
    branch = (2 * LAB.layers) ** -0.5
    for layer, gain in (
        (block.self_attn.q_proj, 1.0),
        (block.mlp.up_proj, 1.0),
        (block.mlp.down_proj, branch),
    ):
        assert float(layer.weight.detach().std()) == pytest.approx(gain * layer.in_features**-0.5, rel=0.02)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    for name, value in model.model.vision_tower.state_dict().items():
        assert torch.equal(value, tower[name])


def test_choose_says_the_caption_and_different_questions():
    rng = np.random.default_rng(0)
    rich = 0
    for scene in scenes(100, seed=42):
        (prompt, caption), *rest = choose_questions(scene, 4, rng)
        assert prompt == CAPTION_PROMPT
        rich += caption != scene.caption
        assert len({text for text, _ in rest}) == len(rest) <= 4
        assert set(rest) <= {(q.text, q.answer) for q in scene.questions}
    assert 0 < rich < 15
