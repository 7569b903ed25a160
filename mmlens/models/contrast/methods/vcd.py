"""Contrast with a noised picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias

import numpy as np
import torch

from mmlens.core.errors import InputError
from mmlens.core.kinds import Must, Seed
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.picture_tensors import PICTURE_TENSORS
from mmlens.models.contrast.method import CONTRAST_METHODS, ContrastMethod, refuse_corrupted
from mmlens.models.protocol import HookedModel

#: Steps of the diffusion, after which nothing of the picture is left.
_STEPS = 1000
Step: TypeAlias = Annotated[int, Must(f"from 1 to {_STEPS}", lambda value: 1 <= value <= _STEPS)]


@CONTRAST_METHODS.register("vcd")
@dataclass(frozen=True)
class VCD(ContrastMethod):
    """The same prompt with noise on the picture: what it still says comes from the language.

        x' = sqrt(a_t) x + sqrt(1 - a_t) e,    e ~ N(0, 1),    a_t = prod_{s <= t} (1 - b_s),
        b = sigmoid(linspace(-6, 6, 1000)) (0.5e-2 - 1e-5) + 1e-5,    x the processed pixels

    Attributes:
        alpha, beta: see `ContrastMethod`; the paper has 1 and 0.1, its scripts 1 and 0.2.
        step: of the diffusion, from 1 to 1000.
        seed: of the noise.

    Source: Leng et al., "Mitigating Object Hallucinations in Large Vision-Language Models through Visual Contrastive
    Decoding", CVPR 2024 (https://arxiv.org/abs/2311.16922), equations 2 to 5; github.com/DAMO-NLP-SG/VCD.
    *Departs:* the published code changes sampling alone, so that greedy decoding is left as it was; here the formula holds for
    every way of decoding. Pictures of one shape get the same noise, so that a sample's answer does not depend on its batch.
    *Limits:* Yin et al., 2025 (https://arxiv.org/abs/2504.10020) find that gains on yes-no benchmarks come in good part from
    more answers "yes" and from the bound `beta`; compare with `alpha=0`, and count the answers.
    """

    step: Step = 500
    seed: Seed = 0

    def second(self, model: HookedModel, batch: MultimodalBatch) -> MultimodalBatch:
        """The same batch with noise on its pixels."""
        names = [name for name in PICTURE_TENSORS if name in batch.inputs]
        if not names:
            raise InputError(
                "contrast='vcd' puts noise on the picture, and the batch has none; contrast='icd' needs none."
            )
        refuse_corrupted(batch, "vcd")
        share = float(torch.cumprod(1 - _betas(), 0)[self.step - 1])
        noisy_tensors = {}
        for name in names:
            pixels = batch[name]
            noise = self._noise(pixels, _rows_per_picture(batch, name)).to(pixels)
            noisy_tensors[name] = share**0.5 * pixels + (1 - share) ** 0.5 * noise
        return replace(batch, inputs={**batch.inputs, **noisy_tensors})

    def _noise(self, pixels: torch.Tensor, lengths: Sequence[int] | None) -> torch.Tensor:
        """Standard normal numbers that begin anew with every picture; drawn on the CPU, so that every device gets the same."""
        pieces = (
            [(1, *pixels.shape[1:])] * len(pixels) if lengths is None else [(n, *pixels.shape[1:]) for n in lengths]
        )
        draws = {shape: np.random.default_rng(self.seed).standard_normal(shape, np.float32) for shape in set(pieces)}
        return torch.from_numpy(np.concatenate([draws[shape] for shape in pieces]))


def _betas() -> torch.Tensor:
    return torch.sigmoid(torch.linspace(-6, 6, _STEPS, dtype=torch.float64)) * (0.5e-2 - 1e-5) + 1e-5


def _rows_per_picture(batch: MultimodalBatch, name: str) -> list[int] | None:
    """How many rows each picture has, where all lie in one sequence; None where the first axis has an entry for each."""
    grid = batch.inputs.get("video_grid_thw" if name.endswith("videos") else "image_grid_thw")
    lengths = [] if grid is None else grid.prod(-1).tolist()
    return lengths if sum(lengths) == len(batch[name]) and lengths else None
