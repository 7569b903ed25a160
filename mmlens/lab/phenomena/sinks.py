"""Sinks, massive activations and registers: rows that many heads look at, or that are far larger than others.

Source: Gu et al., "When Attention Sink Emerges in Language Models", ICLR 2025 (https://arxiv.org/abs/2410.10781): the share of
heads whose mean attention to the first token exceeds 0.3; Sun et al., "Massive Activations in Large Language Models", COLM 2024
(https://arxiv.org/abs/2402.17762): coordinates a thousand times the median; Darcet et al., "Vision Transformers Need Registers",
ICLR 2024 (https://arxiv.org/abs/2309.16588): patches of the ground whose norm stands far out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, TargetRange
from mmlens.lab.phenomena.subject import Subject
from mmlens.lab.phenomena.world import LabScene

_EPSILON = 0.3
#: A row whose norm is so many times the median stands out.
_OUTLIER = 3.0


@torch.no_grad()
def sinks(subject: Subject, sizes: Sizes) -> Measured:
    """Measure attention to the first token beside that to the others before the picture, large coordinates, and norms."""
    model = subject.model
    scenes = subject.world.scenes(sizes.share(0.1, least=6), sizes.stream(3))
    rows = [_rows_of(subject, scene) for scene in scenes]
    attention = torch.stack([row.attention for row in rows])
    heads = model.cfg.n_heads
    means = (attention > _EPSILON).float().mean((1, 2))
    other = 1 + int(means[:, 1:].mean(0).argmax())
    control = f"to {rows[-1].words[other]!r}"
    first = attention[..., 0]
    strongest = int(first.mean(0).argmax())
    at_strongest = [attention[..., token].flatten(1)[:, strongest].numpy() for token in (0, other)]
    massive, image = (torch.stack([getattr(row, name) for row in rows]) for name in ("massive", "image"))
    outliers = np.array([row.outliers for row in rows], dtype=float)
    findings = [
        Finding(
            f"heads whose attention to the first token exceeds {_EPSILON:g}", mean_interval(means[:, 0].numpy()),
            "share of heads",
            (Control(f"{control}, the most of the others", mean_interval(means[:, other].numpy())),),
            TargetRange(0.1, source="Gu et al.: most heads of real models"),
        ),
        Finding(
            "attention to the first token, head with the most", mean_interval(at_strongest[0]), "attention",
            (Control(f"{control}, the same head", mean_interval(at_strongest[1])),),
            note=f"L{strongest // heads}.h{strongest % heads}; evenly it were {1 / rows[-1].length:.3f}",
        ),
        Finding(
            "largest coordinate over the median, largest layer", mean_interval(massive.amax(1).numpy()), "ratio",
            target=TargetRange(1000, source="Sun et al."),
        ),
        Finding(
            "patches that stand out before the projector", mean_interval(outliers),
            f"share of patches above {_OUTLIER:g} x the median norm", target=TargetRange(0.01, 0.1, source="Darcet et al.: 2%"),
        ),
        Finding(
            "image tokens that stand out in the language model, layer with the most",
            mean_interval(image[:, int(image.mean(0).argmax())].numpy()),
            f"share of tokens above {_OUTLIER:g} x the median norm",
        ),
    ]  # fmt: skip
    by_layer = first.mean((0, 2))
    return Measured(findings, {"attention to the first token by layer": [round(float(v), 4) for v in by_layer]})


@dataclass(frozen=True)
class _SceneRows:
    """The rows of one scene.

    Attributes:
        attention: what the picture and later text give to each of the tokens before, on average over queries:
            `[layer head token]`.
        massive: by layer, the largest coordinate over the median.
        outliers: share of the vision encoder's rows that stand out.
        image: by layer, share of image tokens that stand out.
        length: rows of the prompt.
        words: the tokens before the picture.
    """

    attention: torch.Tensor
    massive: torch.Tensor
    outliers: float
    image: torch.Tensor
    length: int
    words: list[str]


def _rows_of(subject: Subject, scene: LabScene) -> _SceneRows:
    model = subject.model
    batch = model.prepare([subject.world.caption_request], images=[[scene.image]])
    names = ["blocks.*.attn.hook_pattern", "blocks.*.hook_resid_post", "projector.hook_in"]
    _, cache = model.run_with_cache(batch, names=names)
    layers = range(model.cfg.n_layers)
    patterns = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in layers])
    states = torch.stack([cache[f"blocks.{layer}.hook_resid_post"][0] for layer in layers]).abs()
    first_image = int(batch.layout.image[0][0])
    handed_on = cache["projector.hook_in"].reshape(-1, cache["projector.hook_in"].shape[-1]).norm(dim=-1)
    image = states[:, batch.layout.image[0]].norm(dim=-1)
    return _SceneRows(
        patterns[..., first_image:, :first_image].mean(-2),
        states.flatten(1).amax(1) / states.flatten(1).median(1).values,
        float((handed_on > _OUTLIER * handed_on.median()).float().mean()),
        (image > _OUTLIER * image.median(1, keepdim=True).values).float().mean(1),
        patterns.shape[-1],
        [model.to_string(token).strip() for token in batch["input_ids"][0, :first_image]],
    )
