"""Where in the picture attention goes: one query's (or several queries') attention to each patch, as a map.

With A[l, h, i, j] the share of its attention that query i pays to key j in head h of layer l:

    map[j] = mean over layers, heads and queries of A[l, h, i, j],    j a position of the picture

Attention says where a head looks, and not what of it counts: `mm.knock_out` cuts it and measures what becomes of the answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from mmlens.analysis.heatmap import HeatMap, map_of_rows
from mmlens.core.contract import checked
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.kinds import Index, Several
from mmlens.core.names import part_prefix
from mmlens.core.rules import Positions, as_rule
from mmlens.core.units import Head
from mmlens.hooks.nodes import Node
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.inputs.patch_geometry import RowGrid
from mmlens.inputs.row_reader import RowReader
from mmlens.interventions.head_choice import HeadChoice, head_masks
from mmlens.models.hooked import HookedMultimodal

#: The parts whose queries see rows of the picture themselves.
Looking = Literal["language", "vision"]


@checked
@torch.no_grad()
def attention_map(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    queries: Positions | None = None,
    layers: Several[Index] | None = None,
    heads: HeadChoice = None,
    part: Looking = "language",
    image: Index = 0,
    frame: int | None = None,
) -> list[HeatMap | None]:
    """Attention from some positions to each patch of a picture, for every sample of a batch, in one pass.

    Works in every family, whatever its own kernel. Only the named layers compute their patterns, and of these only the queries'
    rows are kept. For the word that the model says next, `queries="last"`; for a later one put what was said before it behind
    the prompt: `model.extend(batch, trace.tokens[:, :step])`.

    Args:
        model: the hooked model.
        batch: what to run on.
        queries: who looks (see `mm.positions`), e.g. `"moon"`, a word of the prompt. By default the last position of the prompt,
            and in the vision encoder all rows (`0` is CLIP's class row).
        layers: blocks to average over; all by default. Layers differ: look at them one by one before averaging.
        heads: heads to average over: numbers, in each of the layers; or heads (`"L2.h3"`), which bring their layers along; all by
            default.
        part: `"language"`, or `"vision"` for the tower's own attention.
        image: which of each sample's pictures.
        frame: which frame, if it is a video.

    Returns:
        One map per sample, in shares of attention (0 to 1): what its sum lacks to 1 goes to text and to other rows. None for
        samples without such a picture. `.overlay(image)` lays a map over its picture.

    Raises:
        InputError: for layers, heads or queries that do not exist; before any forward pass where the sequence's length is known.
        NoPlaceError: where the queries see no row of the picture that has a place in it (Q-Formers, cross-attention, decoders).

    Example:
        >>> import mmlens as mm
        >>> (heat,) = mm.attention_map(model, batch, layers=[2], queries="image")
        >>> heat.values.shape, heat.overlay(scene.image).size == scene.image.size
        (torch.Size([8, 8]), True)
    """
    masks = dict(head_masks(model, pattern_points(model, part, layers), heads, layers, verb="attention_map"))
    nodes = list(masks)
    pictures = pictures_of(batch, part, image, frame)
    rule = as_rule(("last" if part == "language" else "all") if queries is None else queries)
    reader = RowReader(rule, batch, nodes)
    shares: dict[int, torch.Tensor] = {}

    @reads_only
    def keep(pattern: torch.Tensor, hook: Any) -> None:
        node = model.graph[hook.name]
        attention = reader.flat(node, pattern)  # [row head key]
        mask = masks[node]
        attention = attention if mask is None else attention[:, mask.to(pattern.device)]
        mean = attention.float().mean(1).cpu()
        start = 0
        for sample, pairs in enumerate(reader.resolved[node.name].rows):
            pair_means = mean[start : start + len(pairs)]
            start += len(pairs)
            if sample in pictures and len(pairs):
                share = shares_by_entry(pair_means, pairs[:, 0], pictures[sample].index, len(pattern))
                shares[sample] = shares[sample] + share if sample in shares else share

    model.run_with_hooks(batch, fwd_hooks=[([node.name for node in nodes], keep)])
    title = f"attention of {part} layer{'s' if len(nodes) > 1 else ''} {_listed([node.layer for node in nodes])}"
    title += _titled(masks)
    where: dict[str, Any] = {"part": part, "image": image, "frame": frame, "title": title}
    return [
        map_of_rows(batch.layout, shares[sample] / len(nodes), sample=sample, **where) if sample in shares else None
        for sample in range(batch.size)
    ]


def pictures_of(batch: MultimodalBatch, part: Looking, image: int, frame: int | None) -> dict[int, RowGrid]:
    """The rows of each sample's picture, of the samples that have it.

    Raises:
        InputError: if none has.
        NoPlaceError: if they have no place in it.
    """
    owners = dict.fromkeys(places.sample for places in batch.layout.places if places.image == image)
    if not owners:
        batch.layout.place(0, image)  # says what there is
    return {sample: batch.layout.grid(part, sample=sample, image=image, frame=frame) for sample in owners}


def shares_by_entry(
    shares: torch.Tensor, entries: torch.Tensor, index: int | torch.Tensor | None, count: int
) -> torch.Tensor:
    """The mean share of the queries in each entry of the batch axis that holds the picture, as `map_of_rows` takes it.

    Args:
        shares: `[row key]`, of each query.
        entries: the entry that each query is in.
        index: the entries of the picture's rows: one, one per row, or None where all lie in one sequence.
        count: length of the batch axis.

    Raises:
        InputError: if no query is in an entry of the picture.
    """
    indices = (
        sorted({int(i) for i in index.tolist()}) if isinstance(index, torch.Tensor) else [0 if index is None else index]
    )
    result = torch.zeros(count if index is not None else 1, shares.shape[-1])
    present = [entry for entry in indices if (entries == entry).any()]
    if not present:
        raise InputError(
            "The queries are rows of another picture of the sample, which cannot see this one; name its own."
        )
    for entry in present:
        result[entry] = shares[entries == entry].mean(0)
    return result if isinstance(index, torch.Tensor) else result[indices[0]]


def pattern_points(model: HookedMultimodal, part: Looking, layers: Sequence[int] | None) -> list[Node]:
    """The attention patterns of the layers asked for."""
    kind = "attn.pattern"
    by_layer = {
        node.layer: node for node in model.graph if (node.part, node.kind, node.stack) == (part, kind, "blocks")
    }
    if not by_layer:
        raise InputError(f"The part {part!r} of {model.family.name} has no attention pattern that can be reached.")
    numbers = list(by_layer) if layers is None else list(layers)
    missing = [layer for layer in numbers if layer not in by_layer]
    if missing or not numbers:
        raise InputError(f"layers={numbers} must name some of the {part} layers {_listed(list(by_layer))}.")
    nodes = [by_layer[layer] for layer in numbers]
    if nodes[0].sequence != part:
        raise NoPlaceError(
            f"{part_prefix(part)}blocks of {model.family.name} look at the {nodes[0].sequence} sequence, which holds no rows "
            "of the picture; read their cross-attention: run_with_cache(batch, names='blocks.*.cross_attn.hook_pattern')."
        )
    return nodes


def language_patterns(model: HookedMultimodal, layers: Sequence[int] | None) -> list[Node]:
    """The attention patterns of some of the language model's layers, of all by default.

    Raises:
        InputError: for layers that there are not.
        NoPlaceError: if they look at no sequence that holds the picture.
    """
    return pattern_points(model, "language", layers)


def _titled(masks: Mapping[Node, torch.Tensor | None]) -> str:
    """The heads that a map is of, if they are not all: their numbers, the same in every layer, or their names."""
    numbers = {node: mask.nonzero().flatten().tolist() for node, mask in masks.items() if mask is not None}
    if not numbers:
        return ""
    first = next(iter(numbers.values()))
    if all(some == first for some in numbers.values()):
        return f", head{'s' if len(first) > 1 else ''} {_listed(first)}"
    return ", heads " + ", ".join(str(Head.at(node.name, index)) for node, some in numbers.items() for index in some)


def _listed(numbers: Sequence[int | None]) -> str:
    """Numbers in words; a run of them by its ends."""
    names = [number for number in numbers if number is not None]
    if len(names) > 2 and names == list(range(names[0], names[-1] + 1)):
        return f"{names[0]} to {names[-1]}"
    return ", ".join(map(str, names))
