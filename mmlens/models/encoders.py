"""Encoders from local checkpoints that scorers compare pictures and texts with. Nothing is downloaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from mmlens.core.errors import InputError


def _folder(path: str | Path) -> Path:
    """The folder of a local checkpoint.

    Raises:
        InputError: if there is none.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{path} holds no checkpoint (no config.json); scorers read a local folder and download nothing."
        )
    return folder


class ImageTextEncoder:
    """A CLIP-like model: pictures and texts as unit vectors of one space.

    Args:
        path: folder of a checkpoint with an image processor and a tokenizer.

    Raises:
        InputError: if there is none, or its model has not both encoders.
    """

    def __init__(self, path: str | Path):
        folder = _folder(path)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        if not hasattr(self.model, "get_image_features") or not hasattr(self.model, "get_text_features"):
            raise InputError(f"{path} is a {type(self.model).__name__}, which does not encode both pictures and texts.")
        self.images_in = AutoImageProcessor.from_pretrained(folder, local_files_only=True, use_fast=False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Float[torch.Tensor, "image d_model"]:
        """Unit vectors of pictures."""
        inputs = self.images_in(images=[image.convert("RGB") for image in images], return_tensors="pt")
        return _unit(self.model.get_image_features(**inputs))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[torch.Tensor, "text d_model"]:
        """Unit vectors of texts, cut at the model's longest."""
        return _unit(self.model.get_text_features(**_tokenized(self.tokenizer, self.model, list(texts))))


class TextEncoder:
    """A BERT-like model: a unit vector for each token of a text, special tokens left out.

    Args:
        path: folder of a checkpoint with a tokenizer.
        layer: which hidden states, counted as Hugging Face does (0 are the embeddings); -1 the last.

    Raises:
        InputError: if there is none, or it has no such layer.
    """

    def __init__(self, path: str | Path, layer: int = -1):
        folder = _folder(path)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.layer = layer
        depth = int(self.model.config.num_hidden_layers) + 1
        if not -depth <= layer < depth:
            raise InputError(f"layer={layer} does not exist: {path} has hidden states 0..{depth - 1}.")

    @torch.no_grad()
    def tokens(self, texts: Sequence[str]) -> list[Float[torch.Tensor, "token d_model"]]:
        """Per text the unit vectors of its tokens."""
        inputs = _tokenized(self.tokenizer, self.model, list(texts), special=True)
        special = inputs.pop("special_tokens_mask").bool()
        states = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer]
        is_text = inputs["attention_mask"].bool() & ~special
        return [_unit(row[keep]) for row, keep in zip(states, is_text, strict=True)]


class PairRegressor:
    """A model that reads two texts and gives one number, as BLEURT does.

    Args:
        path: folder of a sequence-classification checkpoint with one label.

    Raises:
        InputError: if there is none, or it has several labels.
    """

    def __init__(self, path: str | Path):
        folder = _folder(path)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
        if self.model.config.num_labels != 1:
            raise InputError(f"{path} has {self.model.config.num_labels} labels; a score needs a model with one.")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def score(self, references: Sequence[str], texts: Sequence[str]) -> Float[torch.Tensor, "text"]:
        """One number per pair."""
        inputs = _tokenized(self.tokenizer, self.model, list(references), pairs=list(texts))
        return self.model(**inputs).logits[:, 0]


def _tokenized(
    tokenizer: Any, model: nn.Module, texts: list[str], *, pairs: list[str] | None = None, special: bool = False
) -> dict[str, torch.Tensor]:
    config: Any = model.config
    longest = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
    return dict(
        tokenizer(
            texts,
            pairs,
            padding=True,
            truncation=longest is not None,
            max_length=longest,
            return_special_tokens_mask=special,
            return_tensors="pt",
        )
    )


def _unit(output: Any) -> torch.Tensor:
    vectors = output if isinstance(output, torch.Tensor) else output.pooler_output
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
