"""The shipped weights: they load in plain transformers and answer as the model card says."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmlens import lab
from mmlens.lab.language import CAPTION_PROMPT
from mmlens.lab.training.accuracy import captions, lab_accuracy, split_caption
from mmlens.lab.training.noun_neurons import noun_neurons
from mmlens.models.hooked import HookedMultimodal

HELD_OUT = lab.scenes(20, seed=77)


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(lab.path(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(lab.path())


def test_the_files_are_small_and_complete():
    names = {each.name for each in lab.path().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "evaluation.json"} <= names
    assert (lab.path() / "model.safetensors").stat().st_size <= 16e6


def test_the_model_answers_above_a_floor(model, processor):
    measured = lab_accuracy(model, processor, HELD_OUT, progress=False)
    assert measured.objects >= 0.95
    assert measured.place >= 0.95
    for kind, share in measured.questions.items():
        assert share >= 0.9, kind


def test_load_gives_the_hooked_model(model):
    hooked = lab.load()
    scene = HELD_OUT[0]
    assert hooked.caption(scene.image).endswith(f"on {scene.place}")
    own = dict(model.named_parameters())
    wrapped = [value for name, value in hooked.named_parameters() if name.endswith("lm_head.weight")]
    assert all(torch.equal(value, own["model.language_model.embed_tokens.weight"]) for value in wrapped)


def test_padding_on_either_side_gives_the_same_captions(model, processor):
    some = sorted(HELD_OUT[:6], key=lambda scene: len(scene.placed))
    alone = [captions(model, processor, [scene], as_text=True, progress=False)[0] for scene in some]
    assert captions(model, processor, some, as_text=True, progress=False) == alone
    content = [{"type": "image"}, {"type": "text", "text": CAPTION_PROMPT}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    texts = [f"{chat} {scene.caption}" for scene in some]
    last = []
    for side in ("left", "right"):
        inputs = processor(
            text=texts, images=[s.image for s in some], padding=True, padding_side=side, return_tensors="pt"
        )
        with torch.no_grad():
            logits = model(**inputs).logits
        ends = inputs["attention_mask"].sum(dim=1) - 1 if side == "right" else torch.full((6,), -1)
        last.append(logits[torch.arange(6), ends])
    torch.testing.assert_close(last[0], last[1], atol=2e-3, rtol=1e-3)


def test_a_text_only_message_works(model, processor):
    chat = [{"role": "user", "content": f"{HELD_OUT[0].written()} {CAPTION_PROMPT}"}]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs.pop("token_type_ids", None)
    output = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(output, skip_special_tokens=True).endswith(f"on {HELD_OUT[0].place}")


def test_a_picture_and_its_written_twin_get_the_same_caption(model, processor):
    seen = captions(model, processor, HELD_OUT, progress=False)
    read = captions(model, processor, HELD_OUT, as_text=True, progress=False)
    assert sum(one == other for one, other in zip(seen, read, strict=True)) >= 18


def test_twins_change_the_caption_by_the_changed_word(model, processor):
    originals = [scene for scene in HELD_OUT if scene.placed[0].kind == "shape"][:8]
    twins = [s.twin(color="blue" if s.placed[0].color != "blue" else "red", object=0) for s in originals]
    said = captions(model, processor, twins, progress=False)
    assert sum(text == twin.caption for text, twin in zip(said, twins, strict=True)) >= 7


def test_split_caption():
    assert split_caption("a red circle , a man in blue and a tap sign on grass") == (
        ["a red circle", "a man in blue", "a tap sign"],
        "grass",
    )


def test_the_card_states_the_figures_of_the_evaluation():
    card = (lab.path() / "README.md").read_text()
    measured = json.loads((lab.path() / "evaluation.json").read_text())
    assert f"{measured['accuracy']['objects']:.3f}" in card
    assert f"{measured['neurons']['readable']['mean']:.3f}" in card


def test_the_nouns_have_readable_shared_neurons(model, processor):
    neurons = noun_neurons(HookedMultimodal.from_hf(model, processor), HELD_OUT[:4], progress=False)
    assert neurons.readable.mean > 2 * neurons.readable_random.mean
    assert neurons.shared.mean > 5 * neurons.shared_other.mean
    assert sum(neurons.layers) == pytest.approx(1.0, abs=1e-3)
