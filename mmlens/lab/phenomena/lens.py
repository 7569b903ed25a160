"""Readable image tokens: whether the logit lens names a thing at the patches that show it, layer by layer.

Source: Neo et al., "Towards Interpreting Visual Information Processing in Vision-Language Models", ICLR 2025
(https://arxiv.org/abs/2410.07149), section 4: image tokens name what they show, more so with depth. *Departs:* the truth of every
patch is known here; the picture with its patches in another order and patches of the ground alone stand beside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

import mmlens as mm
from mmlens.analysis.statistics.intervals import Interval, mean_interval
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, TargetRange
from mmlens.lab.phenomena.patches import background, sources, things
from mmlens.lab.phenomena.subject import Subject
from mmlens.lab.phenomena.world import LabScene

_POINTS = ("blocks.0.hook_resid_pre", "blocks.*.hook_resid_post")
_READABLE, _SHUFFLED, _BACKGROUND = TargetRange(0.3), TargetRange(high=0.05), TargetRange(high=0.15)


def lens(subject: Subject, sizes: Sizes) -> Measured:
    """Measure how often the most probable token at a patch begins the noun of what it shows.

    The best layer is chosen on half of the scenes and measured on the others.
    """
    world = subject.world
    curves, groups = _hits(subject, list(world.scenes(sizes.share(0.5), sizes.stream(1))), sizes.seed)
    best = int(curves["thing"][groups["thing"] % 2 == 0].mean(0).argmax())

    def at(name: str, layer: int, *, half: bool) -> Interval:
        scenes = groups[name] % 2 == 1 if half else groups[name] >= 0
        return mean_interval(curves[name][scenes, layer], groups=groups[name][scenes])

    def beside(layer: int, *, half: bool) -> tuple[Control, ...]:
        return (
            Control("shuffled picture", at("shuffled", layer, half=half), _SHUFFLED),
            Control("ground alone, any noun of the scene", at("background", layer, half=half), _BACKGROUND),
        )

    place = f"after layer {best - 1}" if best else "at the input"
    later = curves["thing"][:, curves["thing"].shape[1] // 2 :].mean(1) - curves["thing"][:, 0]
    findings = [
        Finding("noun top-1 at its patches, input", at("thing", 0, half=False), controls=beside(0, half=False)),
        Finding(
            "noun top-1 at its patches, best layer", at("thing", best, half=True), controls=beside(best, half=True),
            target=_READABLE, note="; ".join(filter(None, (place, world.trained_in.get("lens")))),
        ),
        Finding("noun, colour or size top-1, the same layer", at("word", best, half=True)),
        Finding(
            "noun top-1, later half of the layers minus input", mean_interval(later, groups=groups["thing"]), "change in share",
            target=TargetRange(0.0, source="rises with depth: Neo et al."),
        ),
    ]  # fmt: skip
    layers = {name: [round(float(value), 4) for value in values.mean(0)] for name, values in curves.items()}
    return Measured(findings, {"top-1 by layer, from the input": layers})


def _hits(
    subject: Subject, scenes: Sequence[LabScene], seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Shares of patches whose most probable token is among the true ones, `[thing point]`, and the scene of each thing."""
    model, world = subject.model, subject.world
    words = {noun: subject.first_tokens(noun) for noun in world.nouns}
    colors = {color: subject.first_tokens(color) for color in world.colors}
    hits: dict[str, list[tuple[int, np.ndarray]]] = {"thing": [], "word": [], "shuffled": [], "background": []}

    def add(name: str, scene: int, tokens: np.ndarray, among: set[int]) -> None:
        hits[name].append((scene, _among(tokens, among).mean(1)))

    for first in range(0, len(scenes), 16):
        part = scenes[first : first + 16]
        batch = model.prepare([world.caption_request] * len(part), images=[[scene.image] for scene in part])
        shuffled_batch = mm.corrupt.shuffle(model, batch, at="pixels", seed=seed)
        tops, tops_shuffled = (_top(subject, run) for run in (batch, shuffled_batch))
        for thing in things(batch, part):
            top_tokens, scene = tops[thing.sample][:, thing.rows], first + thing.sample
            add("thing", scene, top_tokens, words[thing.noun])
            # a patch of the thing that came to lie where it was is no control
            elsewhere = thing.rows[~np.isin(sources(batch, shuffled_batch, thing.sample)[thing.rows], thing.rows)]
            if len(elsewhere):
                add("shuffled", scene, tops_shuffled[thing.sample][:, elsewhere], words[thing.noun])
            add("word", scene, top_tokens, words[thing.noun] | colors[thing.color] | subject.first_tokens(thing.size))
        for sample, rows in enumerate(background(batch, part)):
            if len(rows):
                nouns = set().union(*(words[thing.shape] for thing in part[sample].objects))
                add("background", first + sample, tops[sample][:, rows], nouns)
    curves = {name: np.array([values for _, values in pairs]) for name, pairs in hits.items()}
    return curves, {name: np.array([scene for scene, _ in pairs]) for name, pairs in hits.items()}


def _top(subject: Subject, batch: mm.MultimodalBatch) -> np.ndarray:
    """The most probable token at every point and image token, `[sample point row]`."""
    lens = mm.logit_lens(subject.model, batch, at=list(_POINTS), positions="image", k=1, progress=False)
    return lens.top_tokens[..., 0].numpy()


def _among(tokens: np.ndarray, words: set[int]) -> np.ndarray:
    return np.isin(tokens, torch.tensor(sorted(words)).numpy())
