"""Ranking heads by how they look at the pictures of a data set."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.attention.shares import language_patterns
from mmlens.analysis.heads.method import HeadMethod
from mmlens.analysis.heads.methods import HeadMethodChoice
from mmlens.analysis.heads.ranking import HeadRanking
from mmlens.analysis.samples.sample import Data, batches
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Index, Several
from mmlens.core.rules import Positions, as_rule
from mmlens.hooks.nodes import Node
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.patch_geometry import RowGrid
from mmlens.inputs.row_reader import RowReader
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import run_identity


@checked
@torch.no_grad()
def rank_heads(
    model: HookedMultimodal,
    data: Data,
    *,
    method: HeadMethodChoice = "localisation",
    queries: Positions = "last",
    keys: Positions = "image",
    layers: Several[Index] | None = None,
    image: Index = 0,
    batch_size: Count = 8,
    progress: bool = True,
) -> HeadRanking:
    """Rank the language model's heads by how they look at pictures.

    Args:
        model: the hooked model.
        data: a batch, or samples with a picture and a question about it; those without a picture are left out.
        method: `"localisation"` (heads that look at one place of the picture), `"visual"` (heads that look at it), or settings.
        queries: who looks (see `mm.positions`): by default the last position of the prompt; of several their mean.
        keys: which patches of the picture count, e.g. `mm.positions.box(boxes)`, a box per sample of a batch; all by default.
        layers: which layers; all by default.
        image: which of each sample's pictures.
        batch_size: samples at a time.
        progress: show a progress bar.

    Returns:
        The ranking: `.top(3)`, `.to_frame()`, `.plot()`, `.save(path)`.

    Raises:
        InputError: for layers or queries that there are not, keys that are no patches, or no sample with a picture.
        NoPlaceError: where the language model sees no row that has a place in the picture (Q-Formers, cross-attention).

    Example:
        >>> import mmlens as mm
        >>> ranking = mm.rank_heads(model, batch, method="visual")
        >>> len(ranking.top(3))
        3
    """
    head_method = cast(HeadMethod, method)
    nodes = language_patterns(model, layers)
    readings: dict[str, list[torch.Tensor]] = {}
    chunks = (
        [data]
        if isinstance(data, MultimodalBatch)
        else (batch for _, batch in batches(model, data, batch_size=batch_size, progress=progress, desc="heads"))
    )
    for batch in chunks:
        for attention, raster in _looks(model, batch, nodes, queries, keys, image):
            for name, values in head_method.read(attention, raster).items():
                readings.setdefault(name, []).append(values)
    if not readings:
        raise InputError("No sample has a picture that heads could look at.")
    tensors = {name: torch.stack(values) for name, values in readings.items()}
    scores, ties = head_method.score(tensors)
    means = {name: values.nan_to_num(posinf=torch.nan).nanmean(0) for name, values in tensors.items()}
    identity = run_identity(model, True, method=head_method, queries=queries, keys=keys, image=image)
    return HeadRanking(
        scores.float(), ties.float(), {name: value.float() for name, value in means.items()},
        tuple(int(node.layer or 0) for node in nodes), str(head_method), len(next(iter(readings.values()))), identity,
    )  # fmt: skip


def _looks(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    nodes: list[Node],
    queries: Positions,
    keys: Positions,
    image: int,
) -> Iterator[tuple[Float[torch.Tensor, "layer head patch"], Float[torch.Tensor, "layer head row column"]]]:
    """Each sample's attention to its picture, as a list of patches and as the picture lies."""
    owners = [p.sample for p in batch.layout.places if p.image == image]
    if not owners:
        return
    grids = {sample: batch.layout.grid(sample=sample, image=image) for sample in dict.fromkeys(owners)}
    reader = RowReader(as_rule(queries), batch, nodes)
    row_masks = _counted(RowReader(as_rule(keys), batch, nodes).rows_at(nodes[0], None).rows, grids, keys)
    looks: dict[int, list[torch.Tensor]] = {sample: [] for sample in grids}

    @reads_only
    def keep(pattern: torch.Tensor, hook: Any) -> None:
        node = model.graph[hook.name]
        rows = reader.flat(node, pattern).float()  # [row head key]
        pieces = rows.split([len(pairs) for pairs in reader.resolved[node.name].rows])
        for sample, grid in grids.items():
            if len(pieces[sample]):
                looks[sample].append(pieces[sample].mean(0)[:, grid.rows.to(pattern.device)].cpu())

    model.run_with_hooks(batch, fwd_hooks=[([node.name for node in nodes], keep)])
    for sample, grid in grids.items():
        if looks[sample]:
            attention = torch.stack(looks[sample]) * row_masks[sample]
            raster = torch.zeros(*attention.shape[:2], *grid.shape)
            raster[:, :, grid.cells[:, 0], grid.cells[:, 1]] = attention
            yield attention, raster


def _counted(
    rows: Sequence[torch.Tensor], grids: Mapping[int, RowGrid], keys: Positions
) -> dict[int, Bool[torch.Tensor, "patch"]]:
    """Which patches of each sample's picture are among the rows of a rule, `(entry, row)` by sample.

    Raises:
        InputError: if none is, in any sample.
    """
    counted = {sample: torch.isin(grid.rows, rows[sample][:, 1]) for sample, grid in grids.items()}
    if not any(patches.any() for patches in counted.values()):
        raise InputError(f"keys={keys!r} name no patch of the picture; name some, e.g. mm.positions.box(...).")
    return counted
