"""The narrator's training: a lean forward that is the model's, rows that mean what single texts do, runs that can stop."""

import random
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmlens import lab
from mmlens.core.errors import InputError
from mmlens.lab.architecture import Size
from mmlens.lab.narrating import add_change
from mmlens.lab.tales.documents import Document, chat_turn
from mmlens.lab.tales.facts import PIECES
from mmlens.lab.tales.tokenizer import train_tokenizer
from mmlens.lab.training.narrator.export import export
from mmlens.lab.training.narrator.lean import additive, llama_states
from mmlens.lab.training.narrator.pictures import PictureRun, training_scene
from mmlens.lab.training.narrator.recipe import JOINT_STAGE, PROJECTOR_STAGE, TextStage, closed_gates
from mmlens.lab.training.narrator.rows import ANSWER_WEIGHT, IGNORED, LineEncoder, make_rows, pack
from mmlens.lab.training.narrator.text import TextRun

SMALL = Size(12, 128, 5, 4, 16, 2, 2, 24)
"""The lab's tower before a language model that learns nothing."""

TEXT = TextStage(steps=5, rise=2, fall=2, batch=2, length=96)
PICTURES = replace(PROJECTOR_STAGE, steps=4, scenes=6, batch=2, turns=2)
JOINT = replace(JOINT_STAGE, steps=4, scenes=6, batch=2, turns=2, rank=2, text_batch=1, cut=0.5)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(300).save_pretrained(folder / "tokenizer")
    return folder


def begin(tokenizer_folder, out, stage=TEXT) -> TextRun:
    if not (out / "tokenizer").exists():
        shutil.copytree(tokenizer_folder / "tokenizer", out / "tokenizer")
    return TextRun(stage, SMALL, out, dtype=torch.float32)


@pytest.fixture(scope="module")
def whole(tokenizer_folder, tmp_path_factory):
    """All stages without a stop: the text run, its weights before pictures, both runs with pictures."""
    text = begin(tokenizer_folder, tmp_path_factory.mktemp("whole"))
    text.run()
    weights = {name: weight.detach().clone() for name, weight in text.weights.items()}
    projector = PictureRun(PICTURES, text)
    projector.run(save_every=100)
    joint = PictureRun(JOINT, text)
    joint.run(save_every=100)
    return text, weights, projector, joint


def test_the_lean_forward_is_the_models(whole):
    text, *_ = whole
    language = text.model.model.language_model
    ids = torch.randint(5, 500, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = additive(torch.ones(40, 40, dtype=torch.bool).tril()[None].expand(3, -1, -1))
    layers, neurons = [], []
    with torch.no_grad():
        lean = llama_states(
            text.weights,
            text.config,
            language.embed_tokens(ids),
            torch.arange(40).expand(3, -1),
            mask,
            layers=layers,
            neurons=neurons,
        )
        bare = language(ids, output_hidden_states=True)
    torch.testing.assert_close(lean, bare.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layers[0], bare.hidden_states[1], atol=1e-5, rtol=1e-5)
    assert neurons[0].shape == (3, 40, SMALL.neurons)


def test_packed_documents_and_turns_are_as_if_alone(whole):
    text, *_ = whole
    encoder = LineEncoder(text.tokenizer, 160)
    turns = (chat_turn("What color is the star?", "red"), chat_turn("Who owns the red one?", "Mira"))
    first = encoder.encode(Document("USER: a red star, sand, sunny\n", turns))
    second = encoder.encode(Document("The moon belongs to ⟦Omar⟧."))
    rows = pack([[second, first]], 160)
    embedding = text.weights["embed_tokens.weight"]
    with torch.no_grad():
        states = llama_states(text.weights, text.config, embedding[rows.ids], rows.positions, additive(rows.mask))[0]
        for prefix, turn, segment in (
            ("USER: a red star, sand, sunny\n", turns[1], 2),
            ("The moon belongs to ⟦Omar⟧.", "", 0),
        ):
            plain = (prefix + turn).replace("⟦", "").replace("⟧", "")
            alone = text.tokenizer(plain, return_tensors="pt")["input_ids"]
            expected = text.model.model.language_model(alone).last_hidden_state[0]
            start = len(second.ids)
            if segment:
                where = [start + index for index, value in enumerate(first.segments) if value in (0, segment)]
            else:
                where = list(range(start))
            assert rows.ids[0, where].tolist() == alone[0].tolist()
            torch.testing.assert_close(states[where], expected, atol=1e-5, rtol=1e-5)


def test_answers_count_and_nothing_is_predicted_across_turns(whole):
    text, *_ = whole
    sequence = LineEncoder(text.tokenizer, 160).encode(
        Document("USER: a red star\n", (chat_turn("Is there a star?", "yes"), chat_turn("What is the ground?", "sand")))
    )
    heavy = [
        text.tokenizer.convert_ids_to_tokens(label)
        for label, weight in zip(sequence.labels, sequence.weights, strict=True)
        if weight == ANSWER_WEIGHT
    ]
    assert heavy == ["▁yes", "</s>", "▁sand", "</s>"]
    for number in set(sequence.segments):
        last = max(index for index, segment in enumerate(sequence.segments) if segment == number)
        assert (sequence.labels[last], sequence.weights[last]) == (IGNORED, 0.0)


def test_rows_are_full_and_follow_from_their_stream(whole):
    text, *_ = whole
    encoder = LineEncoder(text.tokenizer, 192)
    one, other = (make_rows(encoder, random.Random("rows"), 8) for _ in range(2))
    assert torch.equal(one.ids, other.ids)
    assert (one.ids != text.tokenizer.pad_token_id).float().mean() > 0.9
    assert one.positions.max() < 192
    assert not one.mask.triu(1).any()


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_text_run_ends_in_the_same_weights(whole, tokenizer_folder, stop, tmp_path):
    _, weights, *_ = whole
    begin(tokenizer_folder, tmp_path).run(until=stop)
    resumed = begin(tokenizer_folder, tmp_path)
    assert resumed.step == stop
    resumed.run()
    for name, weight in weights.items():
        assert torch.equal(resumed.weights[name], weight), name


def test_stopped_runs_with_pictures_end_in_the_same_weights(whole, tokenizer_folder, tmp_path):
    *_, joint = whole
    begin(tokenizer_folder, tmp_path).run()
    for stage, stop in ((PICTURES, 2), (PICTURES, None), (JOINT, 1), (JOINT, None)):
        text = begin(tokenizer_folder, tmp_path)
        run = PictureRun(PICTURES, text)
        if stage is JOINT:
            run = PictureRun(JOINT, text)
        run.run(until=stop, save_every=100)
    expected = joint.weights()
    for name, weight in run.weights().items():
        assert torch.equal(weight, expected[name]), name


def test_only_the_projector_learns_before_a_frozen_language_model(whole, tokenizer_folder, tmp_path):
    _, weights, projector, _ = whole
    frozen = dict(projector.model.model.language_model.named_parameters())
    for name, weight in weights.items():
        if "up_proj" in name or "down_proj" in name:  # neurons may have changed their sign, and nothing else
            assert torch.equal(frozen[name].abs(), weight.abs()), name
        else:
            assert torch.equal(frozen[name], weight), name
    begin(tokenizer_folder, tmp_path).run()
    fresh = PictureRun(PICTURES, begin(tokenizer_folder, tmp_path))
    before = fresh.model.model.multi_modal_projector.linear_1.weight.detach().clone()
    fresh.run(until=1, save_every=100)
    assert not torch.equal(before, fresh.model.model.multi_modal_projector.linear_1.weight)


def test_cut_rows_hide_the_picture_from_the_answer_alone(whole):
    *_, joint = whole
    stream = random.Random("cut")
    rows = joint._rows([0, 1], stream, 0.0)
    picture = rows.ids[0] == joint.model.config.image_token_index
    questions = rows.weights[0] == ANSWER_WEIGHT
    ends = torch.nonzero(questions & (rows.labels[0] == joint.tokenizer.eos_token_id))[:, 0]
    for end in ends.tolist():
        assert not rows.mask[0, end, picture].any()
    assert all(rows.mask[1, index, picture].all() for index in range(70, int((rows.ids[1] > 0).sum())))


def test_lens_labels_say_what_is_at_each_patch(whole):
    text, *_ = whole
    run = PictureRun(replace(JOINT, name="lens", lens=0.4), text)
    rows = run._rows([2], random.Random("lens"), 0.0)
    tale = training_scene(2)
    where = torch.nonzero(rows.ids[0] == run.model.config.image_token_index)[:, 0]
    words = [text.tokenizer.convert_ids_to_tokens(label) for label in rows.labels[0, where].tolist()]
    for index, thing in enumerate(tale.placed):
        inside = tale.patches(index).nonzero()[0]
        assert len(inside)
        assert {words[patch] for patch in inside} == {
            text.tokenizer.tokenize(PIECES.get(thing.shape, thing.shape).split("|")[0])[0]
        }
        assert rows.weights[0, where[inside]].tolist() == pytest.approx([0.4] * len(inside))
    assert words.count(f"▁{tale.place}") > 20


def test_another_recipe_is_refused_and_a_moved_end_is_not(tokenizer_folder, tmp_path):
    begin(tokenizer_folder, tmp_path).run(until=1)
    with pytest.raises(InputError, match="another recipe"):
        begin(tokenizer_folder, tmp_path, replace(TEXT, rate=1.0))
    assert begin(tokenizer_folder, tmp_path, replace(TEXT, steps=9)).step == 1


def test_a_closed_gate_says_what_was_found():
    assert closed_gates("text", {"again": 0.2, "answers": 0.1}) == []
    assert closed_gates("text", {"again": 6.3, "answers": 0.1}) == ["again is 6.3 and should lie from 0 to 2"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_export_loads_in_plain_transformers_and_its_change_by_peft(whole, tmp_path):
    text, _, projector, joint = whole
    export(tmp_path, text, projector, joint)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    tale = lab.tales.scene(seed=1)
    content = [{"type": "image"}, {"type": "text", "text": "What do you see?"}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert chat == tale.prompt("What do you see?")
    inputs = processor(text=chat, images=tale.image, return_tensors="pt")
    assert inputs["input_ids"][0, :4].tolist() == [
        *text.tokenizer("USER:")["input_ids"],
        model.config.image_token_index,
    ]
    peft = pytest.importorskip("peft")
    with torch.no_grad():
        frozen = model(**inputs).logits
        tuned = peft.PeftModel.from_pretrained(model, tmp_path / "tuned").eval()(**inputs).logits
        again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
        add_change(again, tmp_path / "tuned")
        torch.testing.assert_close(again(**inputs).logits, tuned, atol=1e-4, rtol=1e-4)
    assert (tuned - frozen).abs().max() > 1e-3
