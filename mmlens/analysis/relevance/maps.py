"""Which parts of a picture an answer depends on, as maps; and what such maps are worth beside those of other pictures."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from mmlens.analysis.attention.shares import Looking, pictures_of, shares_by_entry
from mmlens.analysis.attribution.gradients import gradients_at, require_gradient
from mmlens.analysis.heatmap import HeatMap, map_of_rows
from mmlens.analysis.metrics import readings
from mmlens.analysis.relevance.method import RelevanceMethod
from mmlens.analysis.relevance.methods import RelevanceChoice
from mmlens.analysis.samples.sample import Dataset
from mmlens.analysis.scores.score import Run, ScoreTable
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index, Several
from mmlens.core.rules import Positions, as_rule
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import BatchLike
from mmlens.inputs.patch_geometry import RowGrid
from mmlens.inputs.row_reader import RowReader
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.predicting import last_rows


@checked
def relevance_map(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    method: RelevanceChoice = "relevancy",
    word: str | Sequence[str] | None = None,
    queries: Positions | None = None,
    part: Looking | None = None,
    layers: Several[Index] | None = None,
    image: Index = 0,
    frame: Index | None = None,
) -> list[HeatMap | None]:
    """Which parts of its picture an answer depends on, for every sample of a batch.

    Args:
        model: the hooked model.
        batch: what to run on.
        method: `"relevancy"` (Chefer et al.), `"rollout"` (attention alone), `"grad_cam"` (of the tower), or settings.
        word: whose logit at the predicting position is explained, by its first token; one for all, or one each. By default the
            token that the model predicts. Rollout explains none.
        queries: from where relevance is read (see `mm.positions`): by default the predicting position, in the tower all rows
            (`0` is CLIP's class row). Grad-CAM has none.
        part: `"language"`, by default; `"vision"` for the tower's own attention, by default of Grad-CAM.
        layers: which blocks; all by default.
        image: which of each sample's pictures.
        frame: which frame, if it is a video.

    Returns:
        One map per sample, without a unit: larger is more. None for samples without such a picture.

    Raises:
        InputError: for words that the tokenizer does not know, layers or queries that there are not, and words or queries that
            the method does not read.
        NoPlaceError: where the rows have no place in the picture (Q-Formers, cross-attention, decoders).

    Example:
        >>> import mmlens as mm
        >>> (heat,) = mm.lenses.relevance_map(model, batch, word="red")
        >>> heat.values.shape
        torch.Size([8, 8])
    """
    map_method = cast(RelevanceMethod, method)
    needs_gradient = "gradients" in map_method.needs
    if word is not None and not needs_gradient:
        raise InputError(f"method={map_method.name!r} explains no word; leave word= out, or use 'relevancy'.")
    if queries is not None and not map_method.between_rows:
        raise InputError(f"method={map_method.name!r} has a value of each row, and no queries; leave queries= out.")
    where: Looking = part or ("language" if map_method.between_rows else "vision")
    nodes = map_method.points(model, where, layers)
    grids = pictures_of(batch, where, image, frame)
    rule = as_rule(("last" if where == "language" else "all") if queries is None else queries)
    reader = RowReader(rule, batch, nodes) if map_method.between_rows else None
    values, gradients = _read(model, batch, nodes, needs_gradient, word)
    maps: list[HeatMap | None] = [None] * batch.size
    title = f"{map_method}, {where}" + ("" if word is None else f", {word!r}")
    relevance = map_method.relevance(values, gradients).detach().float().cpu() if reader is not None else None
    for sample, grid in grids.items():
        if reader is None or relevance is None:
            rows = _of_picture(map_method, values, gradients, grid)
        else:
            pairs = reader.rows_at(nodes[0], values[nodes[0].name].shape).rows[sample]
            is_flat = relevance.ndim == 2
            by_query = relevance[pairs[:, 1]] if is_flat else relevance[pairs[:, 0], pairs[:, 1]]
            rows = shares_by_entry(by_query, pairs[:, 0], grid.index, 1 if is_flat else len(relevance))
        place: dict[str, Any] = {"part": where, "sample": sample, "image": image, "frame": frame}
        maps[sample] = map_of_rows(batch.layout, rows, title=title, **place)
    return maps


def _of_picture(
    method: RelevanceMethod, values: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor], grid: RowGrid
) -> torch.Tensor:
    """The relevance of one picture's rows, as `map_of_rows` takes it: no other picture's rows, and no class row, are in it."""
    place = (grid.rows,) if grid.index is None else (grid.index, grid.rows)
    sample_values = [
        {name: tensor[place].detach().float().cpu() for name, tensor in side.items()} for side in (values, gradients)
    ]
    like = next(iter(values.values()))
    result = torch.zeros(like.shape[:-1])
    result[place] = method.relevance(*sample_values)
    return result[grid.index] if isinstance(grid.index, int) else result


def _read(
    model: HookedMultimodal, batch: BatchLike, nodes: list[Node], needs_gradient: bool, word: str | Sequence[str] | None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the points hold, and the gradient of the word's logit there."""
    names = [node.name for node in nodes]
    if not needs_gradient:
        with torch.no_grad():
            return dict(model.run_with_cache(batch, names=names)[1].items()), {}
    if word is None:
        with torch.no_grad():
            tokens = last_rows(model, model(batch), batch).argmax(-1).cpu()
    else:
        words = [word] * batch.size if isinstance(word, str) else list(word)
        if len(words) != batch.size:
            raise InputError(f"word= names {len(words)} words for {batch.size} samples; give one for all, or one each.")
        tokens = torch.tensor([model.to_word_tokens(text)[0] for text in words])

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits.gather(1, tokens.to(logits.device)[:, None])[:, 0]

    require_gradient(metric, model, batch)
    (reading,) = readings(metric, model, batch.size)
    values, gradients, _ = gradients_at(model, batch, names, reading)
    return values, gradients


@checked
def score_maps(maps: Sequence[HeatMap | None], dataset: Dataset, *, noun: str | None = None) -> ScoreTable:
    """What maps are worth: how much of each lies on what is annotated, beside the same map laid over another picture's.

    `inside` is the share of a map's mass on the object, `pointing` whether its highest patch is, `area` the object's share of
    the picture: what an even map has inside. `shuffled` are `inside` and `pointing` by the objects of the next sample: a map
    that looks at the same place whatever the picture has no more than that.

    Args:
        maps: one per sample; those without a map are left out.
        dataset: the same samples, with `regions` or `boxes`.
        noun: of which objects; all by default.

    Raises:
        InputError: for another number of samples, or samples without the object.
    """
    run = Run(dataset, [""] * len(maps), "maps")
    run.require(lambda sample: bool(sample.regions or sample.boxes), "regions or boxes")
    regions = [_region(sample, heat, noun) for sample, heat in zip(run.samples, maps, strict=True)]
    weights = np.array([heat is not None for heat in maps], dtype=float)
    other_regions = [regions[(n + 1) % len(regions)] for n in range(len(regions))]

    def column(name: str, unit: str, values: list[float]) -> Any:
        return run.score(name, unit, np.array(values) * weights, weights)

    cases = [(regions, ""), (other_regions, ", shuffled")]
    scores = []
    for masks, title in cases:
        pairs = list(zip(maps, masks, strict=True))
        scores.append(column(f"inside{title}", "share of the map", [_inside(heat, mask) for heat, mask in pairs]))
        scores.append(column(f"pointing{title}", "share of maps", [_pointing(heat, mask) for heat, mask in pairs]))
    scores.append(column("area", "share of the picture", [float(mask.mean()) for mask in regions]))
    return ScoreTable("maps", tuple(scores))


def _region(sample: Any, heat: HeatMap | None, noun: str | None) -> np.ndarray:
    """The object's pixels, drawn at one size for all samples so that they can be exchanged."""
    masks = [mask for name, mask in sample.regions.items() if noun in (None, name)]
    height, width = heat.size if heat is not None else (sample.pictures[0].height, sample.pictures[0].width)
    for name, boxes in ({} if masks else sample.boxes).items():
        for left, top, right, bottom in boxes if noun in (None, name) else ():
            mask = np.zeros((height, width), dtype=bool)
            mask[round(top) : round(bottom), round(left) : round(right)] = True
            masks.append(mask)
    if not masks:
        raise InputError(f"The sample {sample.name or sample.key} has no {noun!r}; it has {', '.join(sample.regions)}.")
    union = np.logical_or.reduce(masks)
    rows = (np.arange(_SIDE) * union.shape[0]) // _SIDE
    columns = (np.arange(_SIDE) * union.shape[1]) // _SIDE
    return union[rows][:, columns].astype(float)


#: Maps and regions are compared on so many rows and columns.
_SIDE = 96


def _inside(heat: HeatMap | None, mask: np.ndarray) -> float:
    if heat is None:
        return 0.0
    values = heat.smooth((_SIDE, _SIDE)).numpy().astype(float)
    values = np.clip(values, 0, None)
    total = values.sum()
    return float((values * mask).sum() / total) if total > 0 else float(mask.mean())


def _pointing(heat: HeatMap | None, mask: np.ndarray) -> float:
    if heat is None:
        return 0.0
    values = heat.smooth((_SIDE, _SIDE)).numpy()
    return float(mask.flatten()[int(values.argmax())])
