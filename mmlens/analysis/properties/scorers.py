"""How well words fit a picture or a text: scorers that read a local checkpoint.

    scorers = [ClipScore("checkpoints/clip-vit-base-patch32"), BertScore("checkpoints/roberta-large")]
    mm.properties.neuron_report(model, dataset, scorers=scorers)

Any object with a name, a unit, what it compares with, and `score` is a scorer too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.sparse import identity, kron, vstack

from mmlens.core.contract import checked
from mmlens.core.kinds import PathLike
from mmlens.models.encoders import ImageTextEncoder, PairRegressor, TextEncoder

#: What words are compared with: the picture, or a caption of it.
Against = Literal["picture", "text"]


@runtime_checkable
class Scorer(Protocol):
    """Compares texts with pictures or with other texts.

    Attributes:
        name: as it stands in tables.
        unit: of the scores.
        against: what it compares with.
    """

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def against(self) -> Against: ...

    def score(self, references: Sequence[Any], texts: Sequence[str]) -> Float[torch.Tensor, "text"]:
        """One number per pair of a reference (a PIL picture, or a text) and a text."""


@checked
@dataclass(frozen=True)
class ClipScore:
    """Cosine of picture and text in CLIP's space; scaled: `2.5 * max(cos, 0)`.

    Args:
        path: folder of a CLIP-like checkpoint.
        scaled: as published (True), or the cosine itself.

    Source: Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", EMNLP 2021
    (https://arxiv.org/abs/2104.08718), equation 1.
    """

    path: PathLike
    scaled: bool = True
    against: Against = field(default="picture", init=False)

    @property
    def name(self) -> str:
        """`CLIPScore`, or `CLIP cosine`."""
        return "CLIPScore" if self.scaled else "CLIP cosine"

    @property
    def unit(self) -> str:
        """Its range."""
        return "0 to 2.5" if self.scaled else "cosine"

    @cached_property
    def _encoder(self) -> ImageTextEncoder:
        return ImageTextEncoder(self.path)

    @checked
    def score(self, references: Sequence[Any], texts: Sequence[str]) -> Float[torch.Tensor, "text"]:
        """Score texts against pictures, pair by pair."""
        cosine = (self._encoder.images(references) * self._encoder.texts(texts)).sum(-1)
        return 2.5 * cosine.clamp(min=0) if self.scaled else cosine


@checked
@dataclass(frozen=True)
class TokenVectors:
    """The token vectors of texts, by a BERT-like encoder.

    Args:
        path: folder of the checkpoint.
        layer: whose hidden states.
    """

    path: PathLike
    layer: int = -1
    against: Against = field(default="text", init=False)

    @cached_property
    def _encoder(self) -> TextEncoder:
        return TextEncoder(self.path, self.layer)

    def _pairs(self, references: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self._encoder.tokens(references), self._encoder.tokens(texts), strict=True)


@checked
@dataclass(frozen=True)
class BertScore(TokenVectors):
    """F1 of greedily matched token vectors: each token with the most similar one of the other text.

    Args:
        path: folder of a BERT-like checkpoint.
        layer: whose hidden states.

    Source: Zhang et al., "BERTScore: Evaluating Text Generation with BERT", ICLR 2020 (https://arxiv.org/abs/1904.09675),
    section 3, without weights by rarity and without rescaling.
    """

    name: str = field(default="BERTScore", init=False)
    unit: str = field(default="F1", init=False)

    @checked
    def score(self, references: Sequence[Any], texts: Sequence[str]) -> Float[torch.Tensor, "text"]:
        """Score texts against reference texts, pair by pair; 0 where one of them has no tokens."""
        return torch.stack([_greedy_f1(*pair) for pair in self._pairs(references, texts)])


def _greedy_f1(reference: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    if not len(reference) or not len(text):
        return torch.tensor(0.0)
    similar = reference @ text.T
    recall, precision = similar.amax(1).mean(), similar.amax(0).mean()
    return 2 * precision * recall / (precision + recall)


@checked
@dataclass(frozen=True)
class MoverScore(TokenVectors):
    """One minus what it costs to move one text's token vectors onto the other's, each text's tokens weighing alike.

    Args:
        path: folder of a BERT-like checkpoint.
        layer: whose hidden states.

    Source: Zhao et al., "MoverScore", EMNLP 2019 (https://arxiv.org/abs/1909.02622), equation 1 for single words.
    *Departs:* even weights in place of inverse document frequencies, one layer in place of a mean of five; the transport is
    solved exactly, over Euclidean distances of unit vectors.
    """

    name: str = field(default="MoverScore-style", init=False)
    unit: str = field(default="1 - cost", init=False)

    @checked
    def score(self, references: Sequence[Any], texts: Sequence[str]) -> Float[torch.Tensor, "text"]:
        """Score texts against reference texts, pair by pair; NaN where one of them has no tokens."""
        return torch.tensor([1 - _transport_cost(*pair) for pair in self._pairs(references, texts)])


def _transport_cost(reference: torch.Tensor, text: torch.Tensor) -> float:
    """The least mean distance over which one cloud of points, evenly weighed, becomes the other."""
    n, m = len(reference), len(text)
    if not n or not m:
        return float("nan")
    costs = torch.cdist(reference.double(), text.double()).numpy().ravel()
    # flow[i, j] >= 0 with rows summing to 1/n and columns to 1/m
    rows = kron(identity(n), np.ones((1, m)))
    columns = kron(np.ones((1, n)), identity(m))
    demand = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    solution = linprog(costs, A_eq=vstack([rows, columns]).tocsr(), b_eq=demand, method="highs")
    return float(solution.fun)


@checked
@dataclass(frozen=True)
class RegressionScore:
    """A trained judge of pairs of texts, such as BLEURT.

    Args:
        path: folder of a sequence-classification checkpoint with one label.

    Source: Sellam et al., "BLEURT: Learning Robust Metrics for Text Generation", ACL 2020
    (https://arxiv.org/abs/2004.04696); any such checkpoint that transformers loads will do.
    """

    path: PathLike
    name: str = field(default="BLEURT-style", init=False)
    unit: str = field(default="score", init=False)
    against: Against = field(default="text", init=False)

    @cached_property
    def _judge(self) -> PairRegressor:
        return PairRegressor(self.path)

    @checked
    def score(self, references: Sequence[Any], texts: Sequence[str]) -> Float[torch.Tensor, "text"]:
        """Score texts against reference texts, pair by pair."""
        return self._judge.score(references, texts)
