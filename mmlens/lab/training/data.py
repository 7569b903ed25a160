"""Training rows: many questions packed behind one picture.

A row is a prefix (the picture's tokens, or its written twin) followed by several segments, each a prompt with
its answer. A segment attends to the prefix and to itself, never to another segment, and counts its positions
from the end of the prefix: for the model it is as if each question had been asked alone, at the price of one
picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from transformers import LlavaProcessor

from mmlens.lab.language import CAPTION_PROMPT, rich_caption, written_scene
from mmlens.lab.scenery import Scene
from mmlens.lab.world import CANVAS, Question

KIND_WEIGHTS = {
    "color": 1.2, "shape": 1.2, "count": 0.8, "presence": 2.0, "place": 0.6, "mood": 0.4, "position": 2.6,
    "who": 1.2, "use": 1.6,
}  # fmt: skip
"""How often each kind is asked in training; the rarer kinds need more weight than their share."""

LOOKUPS = ("color", "shape", "presence", "position")
"""Kinds whose answer depends on one object that has to be found among the others; they are learned last."""

RICH_CAPTION_SHARE = 0.03
IGNORED = -100


@dataclass(frozen=True)
class PackedBatch:
    """A batch of packed rows.

    Attributes:
        ids: Token ids; a row with a picture holds placeholders where its image tokens go.
        labels: Per position the token to predict next, or -100.
        weights: How much that token counts in the loss.
        positions: Position of each token as its segment counts.
        mask: True where a query position may attend to a key position.
        pixels: Normalised pictures, or None for written rows.
    """

    ids: Int[Tensor, "batch pos"]
    labels: Int[Tensor, "batch pos"]
    weights: Float[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch 1 pos pos"]
    pixels: Float[Tensor, "batch rgb height width"] | None


class Packer:
    """Turns scenes with chosen questions into packed rows.

    Args:
        processor: The lab's processor; its tokenizer, image token count and pixel statistics are used.
    """

    def __init__(self, processor: LlavaProcessor) -> None:
        self._tokenizer = processor.tokenizer
        self._image_tokens = (CANVAS // processor.patch_size) ** 2
        self._image_id = processor.image_token_id
        images = processor.image_processor
        self._mean = torch.tensor(images.image_mean)[:, None, None]
        self._std = torch.tensor(images.image_std)[:, None, None]

    def pixels(self, pictures: UInt8[np.ndarray, "batch height width rgb"]) -> Float[Tensor, "batch rgb height width"]:
        """Normalise pictures of 96 x 96 pixels exactly as the processor does, all at once."""
        values = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255
        return (values - self._mean) / self._std

    def pack(
        self,
        rows: list[tuple[Scene, list[tuple[str, str]]]],
        pictures: UInt8[np.ndarray, "batch height width rgb"] | None,
        answer_weight: float | None = None,
        plain: float = 0.0,
    ) -> PackedBatch:
        """Pack scenes, each with (prompt, answer) pairs, behind their pictures or their written twins.

        Args:
            rows: Each scene with what is said about it.
            pictures: The scenes' pictures; None packs the written twins in their place.
            answer_weight: How many caption words an answer counts as in the loss, however long it is; None
                counts every token the same.
            plain: Share of the written rows, the first ones, in the caption's own words.

        Returns:
            The batch, padded on the right.
        """
        image = [self._image_id] * self._image_tokens
        rows_out = []
        for number, (scene, turns) in enumerate(rows):
            if pictures is not None:
                tokens_of_picture = image
            elif number < plain * len(rows):
                tokens_of_picture = self.encode(written_scene(scene.placed, scene.place, scene.mood, plain=True))
            else:
                tokens_of_picture = self.encode(scene.written())
            rows_out.append(self._row(tokens_of_picture, turns, answer_weight))
        length = max(len(ids) for ids, *_ in rows_out)
        count = len(rows_out)
        ids = np.full((count, length), self._tokenizer.pad_token_id)
        labels = np.full((count, length), IGNORED)
        weights = np.zeros((count, length), dtype=np.float32)
        positions = np.zeros((count, length), dtype=np.int64)
        segments = np.full((count, length), -1)
        for index, (row_ids, row_labels, row_weights, row_positions, row_segments) in enumerate(rows_out):
            end = len(row_ids)
            ids[index, :end], labels[index, :end] = row_ids, row_labels
            weights[index, :end] = row_weights
            positions[index, :end], segments[index, :end] = row_positions, row_segments
        query, key = segments[:, :, None], segments[:, None, :]
        mask = ((key == 0) | (key == query)) & np.tri(length, dtype=bool)
        # A padded query would attend to nothing and turn to NaN, so it may attend to itself.
        mask |= np.eye(length, dtype=bool)
        return PackedBatch(
            torch.from_numpy(ids),
            torch.from_numpy(labels),
            torch.from_numpy(weights),
            torch.from_numpy(positions),
            torch.from_numpy(mask[:, None]),
            None if pictures is None else self.pixels(pictures),
        )

    def encode(self, text: str) -> list[int]:
        """Give the token ids of a text, without special tokens of its own."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _row(
        self, picture_tokens: list[int], turns: list[tuple[str, str]], answer_weight: float | None
    ) -> tuple[list[int], list[int], list[float], list[int], list[int]]:
        prefix = self.encode("<bos> user :") + picture_tokens
        ids, labels = list(prefix), [IGNORED] * len(prefix)
        weights = [0.0] * len(prefix)
        positions, segments = list(range(len(prefix))), [0] * len(prefix)
        for number, (prompt, answer) in enumerate(turns, start=1):
            prompt_tokens = self.encode(f"{prompt} assistant :")
            answer_tokens = self.encode(f"{answer} <eos>")
            segment = prompt_tokens + answer_tokens[:-1]
            ids += segment
            labels += [IGNORED] * (len(prompt_tokens) - 1) + answer_tokens
            weight = 1.0
            if answer_weight is not None and prompt != CAPTION_PROMPT:
                weight = answer_weight / len(answer_tokens)
            weights += [0.0] * (len(prompt_tokens) - 1) + [weight] * len(answer_tokens)
            positions += range(len(prefix), len(prefix) + len(segment))
            segments += [number] * len(segment)
        return ids, labels, weights, positions, segments


def choose_questions(
    scene: Scene, count: int, rng: np.random.Generator, *, lookups: float = 1.0
) -> list[tuple[str, str]]:
    """Choose what is said about a scene in one training row: the caption and some of its questions.

    Args:
        scene: The scene.
        count: Number of questions, at most.
        rng: Decides which.
        lookups: Factor on the chance of the kinds in `LOOKUPS`.

    Returns:
        (prompt, answer) pairs, the caption first.
    """
    rich = rng.random() < RICH_CAPTION_SHARE
    text = rich_caption(scene.placed, scene.place, scene.mood) if rich else scene.caption
    questions: tuple[Question, ...] = scene.questions
    kinds = [question.kind for question in questions]
    chance = {kind: weight * (lookups if kind in LOOKUPS else 1.0) for kind, weight in KIND_WEIGHTS.items()}
    weights = np.array([chance[kind] / kinds.count(kind) for kind in kinds])
    count = min(count, len(questions))
    indices = rng.choice(len(questions), size=count, replace=False, p=weights / weights.sum())
    return [(CAPTION_PROMPT, text), *((questions[i].text, questions[i].answer) for i in indices)]
