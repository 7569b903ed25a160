"""Attention knock-out, swept over the layers: where does the answer need one set of positions to look at another?

Source: Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", EMNLP 2023
(https://arxiv.org/abs/2304.14767), section 5.
"""

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import torch

from mmlens.analysis.metrics import MetricLike, as_forced, metric_name, readings
from mmlens.analysis.patching.filling import Place, fill
from mmlens.analysis.patching.result import PatchSweep, summed
from mmlens.analysis.patching.units import layers_around
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.kinds import Count, Index, PathLike, Positive, Several
from mmlens.core.names import Part
from mmlens.core.rule_groups import Groups, named_rules
from mmlens.core.rules import Positions, Rule
from mmlens.execution import Cell, Change, CleanRun
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.interventions.attention_pairs import AttentionPairs, AttentionTo, cut_scores, mask_decides, score_points
from mmlens.interventions.head_choice import HeadChoice, head_masks
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import run_identity


@checked
@torch.no_grad()
def knock_out(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    queries: Positions,
    keys: Groups,
    metric: MetricLike,
    window: Count = 1,
    layers: Several[Index] | None = None,
    heads: HeadChoice = None,
    part: Part = "language",
    stack: str = "blocks",
    attention: AttentionTo = "self",
    budget: Positive | None = None,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> PatchSweep:
    """Cut attention from some positions to others, in a window of layers around each layer in turn.

    Args:
        model: the hooked model.
        batch: the run.
        queries: the positions that look (see `mm.positions`), e.g. `"last"`.
        keys: what they may no longer look at, e.g. `"image"`, several rules, or rules by name:
            `{"object": box, "rest": mm.positions.image - box}`.
        metric: of `mm.metrics`, or any function of logits `[batch vocab]` at the predicting position to `[batch]`.
        window: how many layers are cut together; fewer at the first and last ones.
        layers: the centres of the windows; every layer by default.
        heads: only these: numbers, in every layer of a window; or heads (`"L2.h3"`), in those that have some; all by default.
        part: the tower whose attention is cut.
        stack: which of its stacks of blocks, as hook names have it: `"encoder.blocks"` is an encoder that reads the prompt.
        attention: `"self"`, or `"cross"` for attention to another sequence, on which keys then are: the picture's rows, or the
            prompt that an encoder read.
        budget: memory for activations, in MiB; chosen by default.
        checkpoint: a file that keeps finished cells; an interrupted sweep that is called again goes on from there.
        progress: show a progress bar.

    Returns:
        A sweep with direction `"knock-out"`: a row per window, a column per set of keys; `effect` is against the clean run,
        and `corrupted` is the run in which the first set is cut in every layer.

    Raises:
        InputError: if layers or heads do not exist, queries see none of the keys anyway, or a query would be left with no
            key; before any forward pass.

    Example:
        >>> import mmlens as mm
        >>> sweep = knock_out(
        ...     model, batch, queries="last", keys="image", window=3, metric=mm.metrics.log_probability(5), progress=False
        ... )
        >>> sweep.points[:2], sweep.groups
        (['layers 0-1', 'layers 0-2'], ['image'])

    Source: Geva et al. 2023, section 5. *Departs*: effects are in the metric's unit, with the relative change of the
    probability as one choice of it; keys and queries may be any positions, of any tower.
    """
    points = partial(score_points, model, part, stack=stack, attention=attention)
    every = head_masks(model, points(None), heads, layers, verb="knock_out")
    windows = _windows(every, None if layers is None else points(layers), window)
    first, rules, forced = every[0][0], named_rules(keys), as_forced(metric, model, batch)
    cuts = {name: _cut(model, forced, first, queries, rule) for name, rule in rules.items()}
    by_mask = mask_decides(model, first)
    cells = Checkpoint(
        checkpoint,
        "knock-out sweep",
        lambda exact: run_identity(
            model,
            exact,
            the_batch=batch,
            windows=([[(node.name, mask) for node, mask in where] for where in (*windows, every)], by_mask),
            positions=cuts,
            metric=metric,
        ),
    )
    sweeps = []
    for number, reading in enumerate(readings(metric, model, batch.size, clean=batch)):
        full = reading.behind(model, batch)
        cell = partial(
            _cell, [*windows, every], [_cut(model, full, first, queries, rule) for rule in rules.values()], by_mask
        )
        run = CleanRun(model, full, n_rows=reading.n_rows)
        reading = reading.against(run.clean_logits)
        name = f"values {number}" if number else "values"
        shape = (len(windows) + 1, len(cuts))
        plan = fill(cells, run, shape, cell, reading, desc="knock-out", name=name, budget=budget, progress=progress)
        grid = cells.tensors[name]
        sweeps.append(
            PatchSweep(
                values=grid[:-1],
                points=[_window_name(where) for where in windows],
                groups=list(cuts),
                clean=reading.values(run.clean_logits).cpu(),
                corrupted=grid[-1, 0],
                direction="knock-out",
                metric=metric_name(metric),
                boxes=(None,) * len(cuts),
                plan=plan,
                identity=cells.identity,
            )
        )
    return summed(sweeps)


#: Points of attention scores that are cut together, and of each the heads that are; None for all.
_Window: TypeAlias = Sequence[tuple[Node, torch.Tensor | None]]


def _windows(every: _Window, centres: Sequence[Node] | None, width: int) -> list[_Window]:
    """The points around each centre, by default around each point."""
    by_layer = {node.layer: (node, mask) for node, mask in every if node.layer is not None}
    layers = sorted(by_layer) if centres is None else [node.layer for node in centres if node.layer is not None]
    return [[by_layer[i] for i in layers_around(layer, width) if i in by_layer] for layer in layers]


def _cut(model: HookedMultimodal, batch: MultimodalBatch, node: Node, queries: Positions, keys: Rule) -> torch.Tensor:
    """The pairs of positions that are cut, `[entry query key]`, checked."""
    pairs = AttentionPairs.of(model, batch, node, queries, keys)
    pairs.require()
    return pairs.prompt


def _window_name(window: _Window) -> str:
    first, last = window[0][0].layer, window[-1][0].layer
    return f"layer {first}" if first == last else f"layers {first}-{last}"


def _cell(windows: Sequence[_Window], cuts: Sequence[torch.Tensor], by_mask: bool, place: Place, sample: int) -> Cell:
    """The cut of one set of keys, `[entry query key]`, at one window's scores in one sample, in all or some of their heads."""
    window, cut = windows[place[0]], cuts[place[1]]
    pairs = cut[sample if len(cut) > 1 else 0]
    rows = pairs.any(-1).nonzero().flatten()
    masks = [(node, pairs[rows] if heads is None else pairs[rows] & heads[:, None, None]) for node, heads in window]
    return Cell(
        sample,
        tuple(
            Change(node.name, rows, partial(cut_scores, pairs=mask, node=node, by_mask=by_mask)) for node, mask in masks
        ),
    )
