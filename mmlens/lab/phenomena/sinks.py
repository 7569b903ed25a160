"""Sinks, massive activations and registers: rows that many heads look at, or that are far larger than others.

Source: Gu et al., "When Attention Sink Emerges in Language Models", ICLR 2025 (https://arxiv.org/abs/2410.10781): the share of
heads whose mean attention to the first token exceeds 0.3; Sun et al., "Massive Activations in Large Language Models", COLM 2024
(https://arxiv.org/abs/2402.17762): coordinates a thousand times the median; Darcet et al., "Vision Transformers Need Registers",
ICLR 2024 (https://arxiv.org/abs/2309.16588): patches of the ground whose norm stands far out.
"""

from __future__ import annotations

import numpy as np
import torch

from mmlens.analysis.statistics import mean_interval
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, Target
from mmlens.lab.phenomena.subject import Subject

_EPSILON = 0.3
#: A row whose norm is so many times the median stands out.
_OUTLIER = 3.0


@torch.no_grad()
def sinks(subject: Subject, sizes: Sizes) -> Measured:
    """Measure attention to the first token beside that to the second, the largest coordinates, and norms of image tokens."""
    model = subject.model
    scenes = subject.world.scenes(sizes.share(0.1, least=6), sizes.stream(3))
    to_first, to_second, massive, outliers, rows = [], [], [], [], []
    for scene in scenes:
        batch = model.prepare([subject.world.caption_request], images=[[scene.image]])
        names = ["blocks.*.attn.hook_pattern", "blocks.*.hook_resid_post", "projector.hook_in"]
        _, cache = model.run_with_cache(batch, names=names)
        patterns = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in range(model.cfg.n_layers)])
        length = patterns.shape[-1]
        # what later queries give to each of the first two tokens, on average
        to_first.append(patterns[..., 2:, 0].mean(-1))
        to_second.append(patterns[..., 2:, 1].mean(-1))
        states = torch.stack([cache[f"blocks.{layer}.hook_resid_post"][0] for layer in range(model.cfg.n_layers)]).abs()
        massive.append(states.flatten(1).amax(1) / states.flatten(1).median(1).values)
        handed_on = cache["projector.hook_in"].reshape(-1, cache["projector.hook_in"].shape[-1]).norm(dim=-1)
        outliers.append((handed_on > _OUTLIER * handed_on.median()).float().mean())
        image = states[:, batch.layout.image[0]].norm(dim=-1)
        rows.append((image > _OUTLIER * image.median(1, keepdim=True).values).float().mean(1))
    first, second = torch.stack(to_first), torch.stack(to_second)
    heads = model.cfg.n_heads
    strongest = int(first.mean(0).argmax())
    findings = [
        Finding(
            f"heads whose attention to the first token exceeds {_EPSILON:g}",
            mean_interval((first > _EPSILON).float().mean((1, 2)).numpy()),
            "share of heads",
            (Control("to the second token", mean_interval((second > _EPSILON).float().mean((1, 2)).numpy())),),
            Target(0.1, source="Gu et al.: most heads of real models"),
        ),
        Finding(
            "attention to the first token, head with the most",
            mean_interval(first.flatten(1)[:, strongest].numpy()),
            "attention",
            (Control("to the second token, the same head", mean_interval(second.flatten(1)[:, strongest].numpy())),),
            note=f"L{strongest // heads}.h{strongest % heads}; evenly it were {1 / length:.3f}",
        ),
        Finding(
            "largest coordinate over the median, largest layer",
            mean_interval(torch.stack(massive).amax(1).numpy()),
            "ratio",
            target=Target(1000, source="Sun et al."),
        ),
        Finding(
            "patches that stand out before the projector",
            mean_interval(np.array(outliers, dtype=float)),
            f"share of patches above {_OUTLIER:g} x the median norm",
            target=Target(0.01, 0.1, source="Darcet et al.: 2%"),
        ),
        Finding(
            "image tokens that stand out in the language model, layer with the most",
            mean_interval(torch.stack(rows)[:, int(torch.stack(rows).mean(0).argmax())].numpy()),
            f"share of tokens above {_OUTLIER:g} x the median norm",
        ),
    ]
    by_layer = first.mean((0, 2))
    return Measured(findings, {"attention to the first token by layer": [round(float(v), 4) for v in by_layer]})
