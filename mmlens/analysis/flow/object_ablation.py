"""Object tokens ablated: the rows of an object, with rings of neighbours, in the place of which stands the mean image row."""

from collections.abc import Sequence

import torch
from jaxtyping import Float

from mmlens.analysis.metrics import MetricLike, metric_name
from mmlens.analysis.metrics.measure import measure
from mmlens.analysis.patching.result import PatchSweep
from mmlens.analysis.samples.sample import Dataset, batches
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, CountOrZero, Index, Seed, SeveralDistinct
from mmlens.core.rules import Positions, as_rule
from mmlens.core.tensor_kinds import Vector
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.inputs.positions import resolve
from mmlens.interventions.activations import Replace
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import run_identity


@checked
@torch.no_grad()
def mean_image_row(
    model: HookedMultimodal, dataset: Dataset, *, at: str = "hook_embed", batch_size: Count = 8, progress: bool = True
) -> Float[torch.Tensor, "d_model"]:
    """The mean of image rows over many pictures: what stands in the place of ablated ones.

    Args:
        model: the hooked model.
        dataset: pictures; see `mmlens.analysis.samples.sample.Dataset`.
        at: the hook point.
        batch_size: samples at a time.
        progress: show a progress bar.

    Raises:
        InputError: for a dataset without pictures.
    """
    total, count = torch.zeros(model.graph[at].width or 0, dtype=torch.double), 0
    for _, batch in batches(model, dataset, batch_size=batch_size, progress=progress, desc="mean image row"):
        _, cache = model.run_with_cache(batch, names=at)
        rows = cache[at][batch.layout.is_image.to(cache[at].device)].double().cpu()
        total, count = total + rows.sum(0), count + len(rows)
    if not count:
        raise InputError("The dataset holds no pictures.")
    return (total / count).float()


@checked
@torch.no_grad()
def ablate_object(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    objects: Positions,
    mean: Vector,
    metric: MetricLike,
    rings: SeveralDistinct[CountOrZero] = (0, 1, 2),
    at: str = "hook_embed",
    image: Index = 0,
    seeds: SeveralDistinct[Seed] = (0, 1, 2),
) -> PatchSweep:
    """Put the mean image row in the place of an object's rows and of rings around them, beside as many other rows.

    Args:
        model: the hooked model.
        batch: the run.
        objects: the object of each sample: `mm.positions.box([...])`, `mm.positions.object(...)`.
        mean: what stands there: `mean_image_row(model, pictures)`.
        metric: of what is said: `mm.metrics.log_probability("moon")`.
        rings: how many rings of neighbouring patches are ablated with it.
        at: the hook point.
        image: which of each sample's pictures.
        seeds: of random rows that lie outside of the object, as many as it has with so many rings; their mean is a column.

    Returns:
        A sweep of one row: columns `"object + 0 rings"`, ..., `"random, as many as + 0"`, ..., `"registers"` (rows whose norm
        exceeds the mean by two standard deviations); NaN in samples where so few patches lie outside of the object, or no row is
        a register. `corrupted` is the run with all image rows ablated.

    Raises:
        InputError: for objects that no row shows, or a mean of another width.
        NoPlaceError: where image rows have no place in the picture.

    Source: Neo et al., "Towards Interpreting Visual Information Processing in Vision-Language Models", ICLR 2025
    (https://arxiv.org/abs/2410.07149), section 3; github.com/clemneo/llava-interp. *Departs:* any grid of patches; the published
    code has 24 x 24, leaves a cropped box its width, counts an empty answer as right, and explains the token in front of "Yes".
    """
    node = model.graph[at]
    if len(mean) != node.width:
        raise InputError(
            f"mean= has {len(mean)} entries, and {at} has {node.width}; make it there: mean_image_row(..., at=...)."
        )
    positions = resolve(as_rule(objects), batch, node)
    if positions.empty:
        raise InputError(
            f"objects={objects!r} name no row in samples {list(positions.empty)}; give each an object that is shown."
        )
    patches = [_Patches(batch, sample, image) for sample in range(batch.size)]
    inside = [patch.numbers_among(numbers) for patch, numbers in zip(patches, positions.numbers, strict=True)]
    groups = _groups(patches, inside, rings, seeds)
    _, cache = model.run_with_cache(batch, names=at)
    groups["registers"] = [[patch.registers(cache[at][sample]) for sample, patch in enumerate(patches)]]
    groups = {name: draws for name, draws in groups.items() if any(map(len, draws[0]))}
    values = mean.float().expand(cache[at].shape)

    def without(rows: Positions) -> torch.Tensor:
        with model.intervene(Replace(at, values, positions=rows)):
            return measure(model, batch, metric=metric).float().cpu()

    columns = []
    for draws in groups.values():
        column = torch.stack([without(rows) for rows in draws]).mean(0)
        columns.append(column.masked_fill(torch.tensor([not len(own) for own in draws[0]]), torch.nan))
    clean, corrupted = measure(model, batch, metric=metric).float().cpu(), without("image")
    identity = run_identity(model, True, the_batch=batch, metric=metric, objects=objects, mean=mean, rings=tuple(rings))
    return PatchSweep(
        torch.stack(columns)[None], [at], list(groups), clean, corrupted, "noise", metric_name(metric),
        boxes=(None,) * len(groups), identity=identity,
    )  # fmt: skip


def _groups(
    patches: Sequence["_Patches"], inside: Sequence[torch.Tensor], rings: Sequence[int], seeds: Sequence[int]
) -> dict[str, list[list[torch.Tensor]]]:
    """By column, one or several draws of the own positions that are ablated in each sample; none where there are too few."""
    grown = {ring: [patch.grown(cells, ring) for patch, cells in zip(patches, inside, strict=True)] for ring in rings}
    groups = {f"object + {ring} rings": [rows] for ring, rows in grown.items()}
    for ring, rows in grown.items():
        several = list(zip(patches, inside, rows, strict=True))
        groups[f"random, as many as + {ring}"] = [
            [patch.others(cells, len(own), seed) for patch, cells, own in several] for seed in seeds
        ]
    return groups


class _Patches:
    """The patches of one sample's picture: their cells, and their numbers among the sample's own tokens."""

    def __init__(self, batch: MultimodalBatch, sample: int, image: int):
        grid = batch.layout.grid(sample=sample, image=image)
        numbers = batch.layout.is_token[sample].cumsum(0) - 1
        self.rows, self.numbers, self.cells, self.shape = grid.rows, numbers[grid.rows], grid.cells, grid.shape

    def numbers_among(self, numbers: torch.Tensor) -> torch.Tensor:
        """True at the patches that are among some own positions."""
        return torch.isin(self.numbers, numbers)

    def grown(self, inside: torch.Tensor, rings: int) -> torch.Tensor:
        """The own positions of patches, and of those at most so many cells away."""
        raster = torch.zeros(1, 1, *self.shape)
        raster[0, 0, self.cells[inside, 0], self.cells[inside, 1]] = 1.0
        if rings:
            raster = torch.nn.functional.max_pool2d(raster, 2 * rings + 1, stride=1, padding=rings)
        return self.numbers[raster[0, 0, self.cells[:, 0], self.cells[:, 1]] > 0]

    def others(self, inside: torch.Tensor, count: int, seed: int) -> torch.Tensor:
        """So many random own positions of patches that the object does not cover; none where these are fewer."""
        outside = self.numbers[~inside]
        order = torch.randperm(len(outside), generator=torch.Generator().manual_seed(seed))
        return outside[order[:count] if count <= len(outside) else order[:0]].sort().values

    def registers(self, states: Float[torch.Tensor, "pos d_model"]) -> torch.Tensor:
        """The own positions of patches that are far longer than the others."""
        lengths = states[self.rows.to(states.device)].float().norm(dim=-1).cpu()
        return self.numbers[lengths > lengths.mean() + 2 * lengths.std()]
