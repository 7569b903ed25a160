"""Where in the picture attention goes: one query's (or several queries') attention to each patch, as a map.

With A[l, h, i, j] the share of its attention that query i pays to key j in head h of layer l:

    map[j] = mean over layers, heads and queries of A[l, h, i, j],    j a position of the picture

Attention says where a head looks, and not what of it counts: `mm.knock_out` cuts it and measures what becomes of the answer.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from mmlens.analysis.heatmap import HeatMap, map_of_rows
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.names import part_prefix
from mmlens.core.units import Positions
from mmlens.hooks.nodes import Node
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

#: The parts whose queries see rows of the picture themselves.
Looking = Literal["language", "vision"]


@torch.no_grad()
def attention_map(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    *,
    queries: Positions = "last",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    part: Looking = "language",
    sample: int = 0,
    image: int = 0,
) -> HeatMap:
    """Attention from some positions to each patch of a picture; works in every family, whatever its own kernel.

    Only the named layers compute their patterns, and of these only the rows asked for are kept. For the word that the model
    says next, `queries="last"`; for a later one put what was said before it behind the prompt:
    `model.extend(batch, trace.tokens[:, :step])`.

    Args:
        model: the hooked model.
        batch: what to run on.
        queries: who looks: positions of the part's sequence; in a vision tower, a row of it (0 is CLIP's class row).
        layers: blocks to average over; all by default. Layers differ: look at them one by one before averaging.
        heads: heads to average over; all by default.
        part: `"language"`, or `"vision"` for the tower's own attention.
        sample, image: which picture.

    Returns:
        The map, in shares of attention (0 to 1): what its sum lacks to 1 goes to text and to other rows. `.overlay(image)`
        lays it over the picture.

    Raises:
        InputError: for layers, heads or queries that do not exist; before any forward pass where the sequence's length is known.
        NoPlaceError: where the queries see no row of the picture that has a place in it (Q-Formers, cross-attention, decoders).

    Example:
        >>> import mmlens as mm
        >>> heat = mm.attention_map(model, batch, layers=[2])
        >>> heat.values.shape, heat.overlay(scene.image).size == scene.image.size
        (torch.Size([8, 8]), True)
    """
    if part not in get_args(Looking):
        raise InputError(f"part={part!r} must be one of {', '.join(map(repr, get_args(Looking)))}.")
    nodes = _patterns(model, part, layers)
    chosen = _heads(model, part, nodes, heads)
    index = batch.layout.grid(part, sample=sample, image=image).index  # refuses rows without a place
    length = batch.layout.length(part)
    if length is not None:
        batch.layout.rows(queries, part, length)
    shares: list[torch.Tensor] = []

    @reads_only
    def keep(pattern: torch.Tensor, hook: Any) -> None:
        rows = batch.layout.rows(queries, part, pattern.shape[-2])
        rows = (rows[sample] if rows.ndim == 2 else rows).to(pattern.device)
        # packed towers have one sequence, tiles an entry each
        own = pattern[index] if isinstance(index, int) else pattern
        own = own if chosen is None else own.index_select(-3, chosen.to(pattern.device))
        shares.append(own.index_select(-2, rows).float().mean((-3, -2)).cpu())

    model.run_with_hooks(batch, fwd_hooks=[([node.name for node in nodes], keep)])
    title = f"attention of {part} layer{'s' if len(nodes) > 1 else ''} {_listed([node.layer for node in nodes])}"
    title += "" if heads is None else f", head{'s' if len(heads) > 1 else ''} {_listed(heads)}"
    return map_of_rows(batch.layout, torch.stack(shares).mean(0), part=part, sample=sample, image=image, title=title)


def _patterns(model: HookedMultimodal, part: Looking, layers: Sequence[int] | None) -> list[Node]:
    """The attention patterns of the layers asked for."""
    kind = "attn.pattern"
    found = {node.layer: node for node in model.graph if (node.part, node.kind, node.stack) == (part, kind, "blocks")}
    if not found:
        raise InputError(f"The part {part!r} of {model.family.name} has no attention pattern that can be reached.")
    wanted = list(found) if layers is None else list(layers)
    missing = [layer for layer in wanted if layer not in found]
    if missing or not wanted:
        raise InputError(f"layers={wanted} must name some of the {part} layers {_listed(list(found))}.")
    nodes = [found[layer] for layer in wanted]
    if nodes[0].sequence != part:
        raise NoPlaceError(
            f"{part_prefix(part)}blocks of {model.family.name} look at the {nodes[0].sequence} sequence, which holds no rows "
            "of the picture; read their cross-attention: run_with_cache(batch, names='blocks.*.cross_attn.hook_pattern')."
        )
    return nodes


def _heads(
    model: HookedMultimodal, part: Looking, nodes: Sequence[Node], heads: Sequence[int] | None
) -> torch.Tensor | None:
    """The heads to average over; None for all."""
    if heads is None:
        return None
    blocks = model.part(part).blocks
    count = min(blocks[node.layer or 0].attn.heads for node in nodes)  # type: ignore[union-attr]
    if not len(heads) or any(not 0 <= head < count for head in heads):
        raise InputError(f"heads={list(heads)} must name some of the {count} heads, 0..{count - 1}.")
    return torch.tensor(list(heads))


def _listed(numbers: Sequence[int | None]) -> str:
    """Numbers in words; a run of them by its ends."""
    several = [number for number in numbers if number is not None]
    if len(several) > 2 and several == list(range(several[0], several[-1] + 1)):
        return f"{several[0]} to {several[-1]}"
    return ", ".join(map(str, several))
