"""Causal tracing: noise on the input, and clean states put back, point by point: which of them carry the answer?

Source: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022 (https://arxiv.org/abs/2202.05262),
section 2.
"""

from dataclasses import replace

import torch

from mmlens.analysis.metrics import MetricLike, as_forced
from mmlens.analysis.patching.groups import groups_of
from mmlens.analysis.patching.result import PatchSweep
from mmlens.analysis.patching.sweep import patch
from mmlens.core.contract import checked
from mmlens.core.kinds import Count, Positive, Seed, SeveralDistinct
from mmlens.core.progress import progress_over
from mmlens.core.rule_groups import Groups
from mmlens.core.rules import Positions
from mmlens.hooks.nodes import Points
from mmlens.inputs.batch import BatchLike
from mmlens.interventions.corruptions import noise
from mmlens.interventions.corruptions.pixels import Regions
from mmlens.models.hooked import HookedMultimodal


@checked
def causal_trace(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    metric: MetricLike,
    at: Points = "blocks.*.hook_resid_post",
    positions: Groups | None = None,
    window: Count = 1,
    noised: Positions = "image",
    region: Regions = None,
    noise_at: str = "hook_embed",
    sigma: Positive = 3.0,
    seeds: SeveralDistinct[Seed] = (0, 1, 2),
    budget: Positive | None = None,
    progress: bool = True,
) -> PatchSweep:
    """Noise what goes in, put clean states back, and see how much of the answer returns.

    Args:
        model: the hooked model.
        batch: the clean run.
        metric: of `mm.metrics`, or any function of logits `[batch vocab]` at the predicting position to `[batch]`.
        at: the points whose clean states are put back.
        positions: at which positions, as for `mm.patch`.
        window: how many neighbouring layers are put back together; Meng et al. take 10 for attention and MLP outputs.
        noised: the rows that get noise: the picture's by default, or a subject's tokens, e.g. `mm.positions.word("moon")`.
        region: or those of a region of the picture.
        noise_at: where the noise is added.
        sigma: its standard deviation, in units of the embeddings' spread.
        seeds: one corrupted run each; values are means over them.
        budget: memory for activations, in MiB; chosen by default.
        progress: show a progress bar.

    Returns:
        A sweep whose `corrupted` and `values` are means over the seeds.

    Raises:
        InputError: as `mm.corrupt.noise` and `mm.patch`; or for no or repeated seeds.

    Example:
        >>> import mmlens as mm
        >>> trace = causal_trace(
        ...     model, batch, metric=mm.metrics.log_probability(5), positions=["image", "last"], seeds=[0], progress=False
        ... )
        >>> trace.values.shape[0] == model.cfg.n_layers
        True

    Source: Meng et al. 2022, section 2.1. *Departs*: noise is on the picture's rows by default; the spread is measured
    there, on the batch at hand.
    """
    groups_of(
        as_forced(metric, model, batch), model.graph.select(at), positions
    )  # what cannot be is refused before anything runs
    rows = []
    for seed in progress_over(seeds, desc="causal trace", disable=not progress):
        corrupted = noise(model, batch, sigma=sigma, at=noise_at, positions=noised, region=region, seed=seed)
        rows.append(
            patch(
                model,
                batch,
                corrupted,
                at=at,
                positions=positions,
                window=window,
                metric=metric,
                budget=budget,
                progress=False,
            )
        )
    return replace(
        rows[0],
        values=torch.stack([sweep.values for sweep in rows]).mean(0),
        corrupted=torch.stack([sweep.corrupted for sweep in rows]).mean(0),
    )
