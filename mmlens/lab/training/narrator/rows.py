"""Documents as rows of tokens: several to a row, each blind to the others, every turn behind its document's prefix."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mmlens.lab.tales.documents import ANSWER_MARKS, CAPTION_MARKS, Document, draw_document, unmarked
from mmlens.lab.tales.repeats import tokens_again

IGNORED = -100
TURN_WEIGHT, ANSWER_WEIGHT = 0.3, 4.0
"""What a token of a question counts in the loss, and one in ⟦ ⟧; a token of a text without turns, or in ⟪ ⟫, counts 1."""

_WEIGHTS = {ANSWER_MARKS[0]: ANSWER_WEIGHT, CAPTION_MARKS[0]: 1.0}
_CLOSING = {marks[1]: marks[0] for marks in (ANSWER_MARKS, CAPTION_MARKS)}
_MARKS = re.compile(f"([{ANSWER_MARKS}{CAPTION_MARKS}])")


@dataclass(frozen=True)
class Sequence:
    """One document as tokens.

    Attributes:
        ids: Token ids, prefix and turns one after the other.
        labels: Per token the one to predict, or -100.
        weights: What that prediction counts.
        positions: Position of each token, counted in every turn from the end of the prefix.
        segments: 0 for the prefix, from 1 up for turns.
    """

    ids: list[int]
    labels: list[int]
    weights: list[float]
    positions: list[int]
    segments: list[int]


@dataclass(frozen=True)
class PackedRows:
    """A batch of rows.

    Attributes:
        ids: Token ids.
        labels: Per position the token to predict, or -100.
        weights: What that counts in the loss.
        positions: Position in its document.
        mask: Which positions (keys) each position (query) may attend to.
    """

    ids: Int[Tensor, "batch pos"]
    labels: Int[Tensor, "batch pos"]
    weights: Float[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos pos"]


class LineEncoder:
    """Turns documents into sequences of tokens.

    Args:
        tokenizer: The narrator's.
        limit: The most tokens of a sequence; turns that do not fit are left out, a long prefix is cut.
        turn_weight: What a token of a question counts in the loss.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, limit: int, *, turn_weight: float = TURN_WEIGHT) -> None:
        self.limit, self._turn_weight = limit, turn_weight
        self._backend = tokenizer.backend_tokenizer
        self._specials = len(tokenizer.all_special_ids)
        self._entries = len(tokenizer)
        self._begin = tokenizer.bos_token_id

    def draw(self, rng: random.Random) -> Sequence:
        """Draw one document of the mix."""
        document = draw_document(rng)
        if document is not None:
            return self.encode(document)
        ids, start = tokens_again(rng, self._specials + 96, self._entries - 1)
        ids = [self._begin, *ids]
        weights = [0.0] * start + [ANSWER_WEIGHT] * start + [0.0]
        return Sequence(ids, [*ids[1:], IGNORED], weights, list(range(len(ids))), [0] * len(ids))

    def encode(self, document: Document) -> Sequence:
        """Encode a document; the tokens are those of prefix and turn written as one text."""
        texts, ranges = zip(*(_plain(document.prefix + turn) for turn in document.turns or ("",)), strict=True)
        end = len(_plain(document.prefix)[0])
        result = Sequence([], [], [], [], [])
        for number, encoding in enumerate(self._backend.encode_batch(list(texts)), start=1):
            ids, offsets = encoding.ids[: self.limit], encoding.offsets
            light = document.prefix_weight if not document.turns else self._turn_weight
            start = sum(stop <= end for _, stop in offsets) if document.turns else len(ids)
            if number == 1:
                weights = [document.prefix_weight] * start
                if not document.turns:
                    weights = [_weight(offset, ranges[0], light) for offset in offsets[:start]]
                _append(result, ids[:start], weights, 0, 0)
            if len(result.ids) + len(ids) - start > self.limit:
                continue
            if document.turns:
                weights = [_weight(offset, ranges[number - 1], light) for offset in offsets[start:]]
                _append(result, ids[start:], weights, start, number)
        return result


def make_rows(encoder: LineEncoder, rng: random.Random, batch: int) -> PackedRows:
    """Draw documents and pack them to full rows, the longest first where they fit best.

    Args:
        encoder: Draws and encodes; its limit is the rows' length.
        rng: Decides everything.
        batch: How many rows.

    Returns:
        The rows; what fits nowhere is left out.
    """
    length = encoder.limit
    sequences, total = [], 0
    while total < batch * length:
        sequences.append(encoder.draw(rng))
        total += len(sequences[-1].ids)
    room = [length] * batch
    rows: list[list[Sequence]] = [[] for _ in range(batch)]
    for sequence in sorted(sequences, key=lambda sequence: -len(sequence.ids)):
        rooms = [(room[row], row) for row in range(batch) if room[row] >= len(sequence.ids)]
        if rooms:
            _, row = min(rooms)
            rows[row].append(sequence)
            room[row] -= len(sequence.ids)
    return pack(rows, length)


def pack(rows: list[list[Sequence]], length: int) -> PackedRows:
    """Lay sequences side by side in rows and fill up with padding that attends to itself alone."""
    shape = (len(rows), length)
    ids, positions, segments = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    labels, documents = np.full(shape, IGNORED), np.full(shape, -1)
    weights = np.zeros(shape, dtype=np.float32)
    for row, sequences in enumerate(rows):
        start = 0
        for number, sequence in enumerate(sequences):
            part = slice(start, start + len(sequence.ids))
            ids[row, part], labels[row, part] = sequence.ids, sequence.labels
            weights[row, part], positions[row, part] = sequence.weights, sequence.positions
            segments[row, part], documents[row, part] = sequence.segments, number
            start = part.stop
    same_document = (documents[:, :, None] == documents[:, None, :]) & (documents >= 0)[:, :, None]
    query, key = segments[:, :, None], segments[:, None, :]
    mask = same_document & ((key == 0) | (key == query)) & np.tri(length, dtype=bool) | np.eye(length, dtype=bool)
    return PackedRows(*(torch.from_numpy(value) for value in (ids, labels, weights, positions, mask)))


def _plain(text: str) -> tuple[str, list[tuple[int, int, float]]]:
    """Take out the marks, and say which stretches they enclosed and what these count."""
    ranges = []
    length = start = 0
    for part in _MARKS.split(text):
        if part in _WEIGHTS:
            start = length
        elif part in _CLOSING:
            ranges.append((start, length, _WEIGHTS[_CLOSING[part]]))
        else:
            length += len(part)
    return unmarked(text), ranges


def _weight(offset: tuple[int, int], ranges: list[tuple[int, int, float]], light: float) -> float:
    return next((weight for start, stop, weight in ranges if start < offset[1] <= stop), light)


def _append(result: Sequence, ids: list[int], weights: list[float], start: int, segment: int) -> None:
    """Add a stretch; each of its tokens but the last predicts the next one."""
    result.ids.extend(ids)
    result.labels.extend([*ids[1:], IGNORED] if ids else [])
    result.weights.extend([*weights[1 : len(ids)], 0.0] if ids else [])
    result.positions.extend(range(start, start + len(ids)))
    result.segments.extend([segment] * len(ids))
