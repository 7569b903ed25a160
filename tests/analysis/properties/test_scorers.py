"""Scorers on tiny random checkpoints, against the published formulas written out slowly."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmlens import InputError, scorers
from tests.tiny import VOCAB, picture, redraw, tokenizer

REFERENCES = ["a red circle and a blue circle", "the small image"]
TEXTS = ["circle red", "green grass what the"]


def words() -> PreTrainedTokenizerFast:
    """The tiny tokenizer, with texts between a first and a last special token, padded on the right."""
    from tokenizers.processors import TemplateProcessing

    made = tokenizer()
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>",
        pair="<bos> $A <eos> $B:1 <eos>:1",
        special_tokens=[("<bos>", VOCAB["<bos>"]), ("<eos>", VOCAB["<eos>"])],
    )
    made.padding_side = "right"
    return made


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=len(VOCAB), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    redraw(BertModel(config)).save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    text = {
        "vocab_size": len(VOCAB), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vision = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    redraw(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))).save_pretrained(folder)
    words().save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def token_vectors(folder: Path, text: str, layer: int) -> torch.Tensor:
    """Unit vectors of one text's words, from the bare model, one text at a time."""
    model = BertModel.from_pretrained(folder).eval()
    ids = [VOCAB[word] for word in text.split()]
    with torch.no_grad():
        whole = torch.tensor([[1, *ids, 2]])
        states = model(input_ids=whole, output_hidden_states=True).hidden_states[layer][0, 1:-1]
    return states / states.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("layer", [-1, 1])
def test_bert_score_is_greedy_matching(bert: Path, layer: int) -> None:
    scores = scorers.BertScore(bert, layer).score(REFERENCES, TEXTS)
    for score, reference, text in zip(scores.tolist(), REFERENCES, TEXTS, strict=True):
        left, right = token_vectors(bert, reference, layer), token_vectors(bert, text, layer)
        recall = np.mean([max(float(a @ b) for b in right) for a in left])
        precision = np.mean([max(float(a @ b) for a in left) for b in right])
        assert score == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)
    assert scorers.BertScore(bert, layer).score(["red"], ["red"]).item() == pytest.approx(1, abs=1e-5)


def test_mover_score_is_the_cheapest_transport(bert: Path) -> None:
    # equally many tokens, equally heavy: the cheapest transport is the cheapest of all permutations
    reference, text = "a red circle and", "green grass what the"
    left, right = token_vectors(bert, reference, -1), token_vectors(bert, text, -1)
    costs = torch.cdist(left, right).numpy()
    cheapest = min(np.mean([costs[i, j] for i, j in enumerate(order)]) for order in permutations(range(4)))
    score = scorers.MoverScore(bert).score([reference], [text]).item()
    assert score == pytest.approx(1 - cheapest, abs=1e-5)
    # one token to two: half of it goes to each
    one, two = token_vectors(bert, "red", -1), token_vectors(bert, "blue green", -1)
    expected = 1 - float(torch.cdist(one, two).mean())
    assert scorers.MoverScore(bert).score(["red"], ["blue green"]).item() == pytest.approx(expected, abs=1e-5)


def test_clip_score_is_the_scaled_cosine(clip: Path) -> None:
    images = [Image.fromarray(picture(seed).numpy()) for seed in (0, 1)]
    cosines = scorers.ClipScore(clip, scaled=False).score(images, TEXTS)
    model = CLIPModel.from_pretrained(clip).eval()
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    spread = np.array([0.26862954, 0.26130258, 0.27577711])
    expected = []
    for image, text in zip(images, TEXTS, strict=True):
        pixels = torch.tensor(((np.asarray(image) / 255 - mean) / spread).transpose(2, 0, 1)[None], dtype=torch.float32)
        ids = torch.tensor([[1, *(VOCAB[word] for word in text.split()), 2]])
        with torch.no_grad():
            seen = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
            said = model.text_projection(model.text_model(input_ids=ids).pooler_output)[0]
        expected.append(float(seen @ said / seen.norm() / said.norm()))
    assert cosines.tolist() == pytest.approx(expected, abs=1e-4)
    scaled = scorers.ClipScore(clip).score(images, TEXTS).tolist()
    assert scaled == pytest.approx([2.5 * max(cosine, 0) for cosine in expected], abs=3e-4)


def test_regression_score_is_the_checkpoints_number(bert: Path, tmp_path: Path) -> None:
    config = BertConfig.from_pretrained(bert, num_labels=1)
    judge = redraw(BertForSequenceClassification(config), seed=3)
    judge.save_pretrained(tmp_path)
    pairs = PreTrainedTokenizerFast(
        tokenizer_object=words().backend_tokenizer,
        pad_token="<pad>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],  # as BERT's own has it
    )
    pairs.save_pretrained(tmp_path)
    scores = scorers.RegressionScore(tmp_path).score(REFERENCES, TEXTS)
    for score, reference, text in zip(scores.tolist(), REFERENCES, TEXTS, strict=True):
        first, second = ([VOCAB[word] for word in each.split()] for each in (reference, text))
        ids = torch.tensor([[1, *first, 2, *second, 2]])
        kinds = torch.tensor([[0] * (len(first) + 2) + [1] * (len(second) + 1)])
        with torch.no_grad():
            assert score == pytest.approx(judge(input_ids=ids, token_type_ids=kinds).logits.item(), abs=1e-5)


def test_scorers_refuse_what_they_cannot_read(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no checkpoint .* scorers read a local folder and download nothing"):
        scorers.ClipScore("openai/clip-vit-base-patch32").score([], [])
    with pytest.raises(InputError, match="is a BertModel, which does not encode both pictures and texts"):
        scorers.ClipScore(bert).score([], [])
    with pytest.raises(InputError, match=r"layer=7 does not exist: .* has hidden states 0..2"):
        scorers.BertScore(bert, layer=7).score(["a"], ["a"])
    BertForSequenceClassification(BertConfig.from_pretrained(bert, num_labels=3)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has 3 labels; a score needs a model with one"):
        scorers.RegressionScore(tmp_path).score(["a"], ["a"])
