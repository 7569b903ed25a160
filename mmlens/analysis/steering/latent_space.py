"""Steering of latent spaces: directions away from hallucination, in all layers of the language model and in all rows of a tower.

    text     of pairs of completions, true and false:  direction of h+ - h-, all layers in one vector
    vision   v_r = mean over draws of h_r(picture with nearly all patches blank) - h_r(picture),  r a row of the tower

Source: Liu, Ye and Zou, "Reducing Hallucinations in Vision-Language Models via Latent Space Steering", ICLR 2025
(https://arxiv.org/abs/2410.15778), section 4 (VTI), github.com/shengliu66/VTI. *Departs:* the published direction is the mean
plus a first principal component of length 1, which beside a mean seven times as long is decoration; here it is the mean, or a
component alone (`method="pca_center"`). Its vision directions are regrouped by a reshape that mixes rows; here each row
has its own.
"""

from collections.abc import Mapping
from typing import cast

import torch
from PIL import Image

from mmlens.analysis.samples.sample import Dataset, batches
from mmlens.analysis.steering.direction import DirectionChoice, DirectionMethod
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Fraction, Seed
from mmlens.hooks.nodes import Points
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.point_rows import GROWING, PointRows
from mmlens.interventions.corruptions.pixels import repaint
from mmlens.interventions.steering_table import SteeringTable
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal


@checked
def joint_vectors(tables: Mapping[str, SteeringTable], *, method: DirectionChoice = "mean") -> list[SteeringVector]:
    """One direction through several layers, of each sample's differences there, taken apart into a vector for each layer (VTI).

    Args:
        tables: by hook name, of the same samples: `contrastive_vectors(..., at="blocks.*.hook_resid_post")`.
        method: how the direction is found: `"mean"`, `"pca_center"`, `"pca_diff"`; the latter two have length 1 over all layers.

    Returns:
        A vector per layer: `model.intervene(*[mm.Steer(v, 0.1, scale="relative") for v in vectors])`.

    Raises:
        InputError: for tables of different samples, or fewer samples than the method needs.

    Example:
        >>> import mmlens as mm
        >>> tables = mm.steering.contrastive_vectors(
        ...     model, [scene], positive="yes", negative="no", at="blocks.[34].hook_resid_post", progress=False
        ... )
        >>> [vector.at for vector in joint_vectors(tables)]
        ['blocks.3.hook_resid_post', 'blocks.4.hook_resid_post']
    """
    parts = list(tables.values())
    if not parts or any(
        (t.by, t.keys, len(t.vectors)) != ("sample", parts[0].keys, len(parts[0].vectors)) for t in parts
    ):
        raise InputError(f"Tables must be of the same samples at several points, found {parts}.")
    differences = torch.cat([table.vectors for table in parts], dim=1).double()
    direction = cast(DirectionMethod, method).direction(torch.zeros_like(differences), differences)
    pieces = direction.split([table.width for table in parts])
    provenance = {**parts[0].provenance, "layers": len(parts), "direction": str(method)}
    return [SteeringVector(piece, table.at, provenance) for piece, table in zip(pieces, parts, strict=True)]


@checked
@torch.no_grad()
def blank_patch_vectors(
    model: HookedMultimodal,
    dataset: Dataset,
    *,
    at: Points,
    blank: Fraction = 0.99,
    draws: Count = 50,
    seed: Seed = 0,
    batch_size: Count = 8,
    progress: bool = True,
) -> dict[str, SteeringTable]:
    """A vector for each row of a tower: what blanking nearly all patches brings about there, over pictures and draws (VTI).

    Args:
        model: the hooked model.
        dataset: pictures of one size; see `mmlens.analysis.samples.sample.Dataset`.
        at: hook points of the tower, one row per patch: `"vision.blocks.*.hook_resid_post"`.
        blank: share of the patches that get the picture's mean colour.
        draws: how often, of each picture.
        seed: of the draws.
        batch_size: samples at a time.
        progress: show a progress bar.

    Returns:
        By hook name, the mean difference of each row, to be added with `mm.Steer(table, 0.09, scale="relative", at=...)`.

    Raises:
        InputError: for points of the language model, pictures of different sizes, or patches without a place.
    """
    nodes = model.graph.select(at)
    wrong = [node.name for node in nodes if node.sequence in GROWING]
    if wrong:
        raise InputError(f"{wrong[0]} holds tokens; name points of the tower: 'vision.blocks.*.hook_resid_post'.")
    names = [node.name for node in nodes]
    sums: dict[str, torch.Tensor] = {}
    count = 0
    generator = torch.Generator().manual_seed(seed)
    for samples, batch in batches(model, dataset, batch_size=batch_size, progress=progress, desc="vectors"):
        clean = _rows(model, batch, names)
        for _ in range(draws):
            masks = [_mask(batch, sample, blank, generator) for sample in range(len(samples))]
            for name, states in _rows(model, repaint(model, batch, _mean_color, masks, "blank"), names).items():
                difference = (states - clean[name]).sum(0)
                if name in sums and sums[name].shape != difference.shape:
                    raise InputError(
                        f"Pictures have {len(difference)} and {len(sums[name])} rows at {name}; give pictures of one size."
                    )
                sums[name] = sums[name] + difference if name in sums else difference
        count += len(samples) * draws
    if not count:
        raise InputError("The dataset holds no samples.")
    about = {"method": "blank patches", "blank": blank, "draws": draws, "seed": seed}
    return {name: SteeringTable((total / count).float(), name, "row", (), about) for name, total in sums.items()}


def _rows(model: HookedMultimodal, batch: MultimodalBatch, names: list[str]) -> dict[str, torch.Tensor]:
    """The states of each sample's picture, `[sample row d]`.

    Raises:
        InputError: if samples have different numbers of rows.
    """
    _, cache = model.run_with_cache(batch, names=names)
    result = {}
    for name in names:
        point = PointRows.of(batch, model.graph[name], cache[name].shape)
        if len(set(point.counts)) > 1:
            raise InputError(f"Pictures have {sorted(set(point.counts))} rows at {name}; give pictures of one size.")
        states = cache[name] if cache[name].ndim == 3 else cache[name][None]
        result[name] = torch.stack([states[own[:, 0], own[:, 1]].double().cpu() for own in point.known])
    return result


def _mean_color(picture: Image.Image, number: int) -> Image.Image:
    color = picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return Image.new("RGB", picture.size, color)


def _mask(batch: MultimodalBatch, sample: int, blank: float, generator: torch.Generator) -> torch.Tensor:
    """The pixels of the patches that are blanked in one draw."""
    boxes = batch.layout.grid("vision", sample=sample).boxes.round().int()
    width, height = batch.images[sample][0].size
    blanks = torch.randperm(len(boxes), generator=generator)[: max(1, round(blank * len(boxes)))]
    mask = torch.zeros(height, width, dtype=torch.bool)
    for left, top, right, bottom in boxes[blanks].tolist():
        mask[top:bottom, left:right] = True
    return mask
