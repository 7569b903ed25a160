"""Flow: by which way what a picture shows reaches the answer, from knock-outs of attention in windows of layers.

Source: Zhang et al., "Cross-modal Information Flow in Multimodal Large Language Models", CVPR 2025
(https://arxiv.org/abs/2411.18620): from the picture to the question in lower layers, from the question to the last position in
later ones, hardly from the picture to the last position; windows of 9 of 32 layers, the relative change of the answer's
probability. *Departs:* the deepest window is chosen on half of the questions and measured on the others; as many tokens of the
ground stand beside each set of keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

import mmlens as mm
from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.core.rules import Positions
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, TargetRange, absent
from mmlens.lab.phenomena.patches import background
from mmlens.lab.phenomena.questions import look_ups
from mmlens.lab.phenomena.subject import Subject
from mmlens.lab.phenomena.world import Case

_SOURCE = "Zhang et al."
_TARGETS = {
    "image -> question": TargetRange(0.3, source=_SOURCE),
    "question -> last": TargetRange(0.3, source=_SOURCE),
    "image -> last": TargetRange(high=0.15, source=_SOURCE),
}
_WINDOW, _UNIT, _GROUND = 9 / 32, "share of p lost", ", ground alone"


def flow(subject: Subject, sizes: Sizes) -> Measured:
    """Measure the share of p that each cut costs, of questions for a colour whose answer the picture decides."""
    scenes = subject.world.scenes(sizes.scenes, sizes.stream(2))
    cases = look_ups(((s, subject.world.questions(s)) for s in scenes), sizes.share(0.4, least=8), sizes.seed)
    elsewhere = [subject.sample(cases[n - 1][0], question) for n, (_, question) in enumerate(cases)]
    is_right = subject.is_right([subject.sample(*case) for case in cases], tokens=6)
    words_alone = [Sample((), question.text, answer=question.answer) for _, question in cases]
    # what the words alone tell, or another picture, needs no flow from this one
    by_picture = is_right & ~subject.is_right(elsewhere, tokens=6) & ~subject.is_right(words_alone, tokens=6)
    right = [case for case, is_decided in zip(cases, by_picture, strict=True) if is_decided]
    if len(right) < 4:
        return Measured([absent("flow", f"the picture decides only {len(right)} of {len(cases)} answers for a colour")])
    window = max(1, round(_WINDOW * subject.model.cfg.n_layers))
    losses: dict[str, list[np.ndarray]] = {}
    for first in range(0, len(right), 16):
        for name, values in _cuts(subject, right[first : first + 16], window).items():
            losses.setdefault(name, []).append(values)
    curves = {name: np.concatenate(parts, axis=1) for name, parts in losses.items()}
    findings = []
    for leg, everywhere in curves.items():
        if leg.endswith(_GROUND):
            continue
        beside = Control("as many tokens of the ground", mean_interval(curves[leg + _GROUND][-1]))
        findings.append(
            Finding(
                f"{leg}, cut in every layer",
                mean_interval(everywhere[-1]),
                _UNIT,
                (beside,),
                _TARGETS.get(leg),
                subject.world.trained_in.get("flow", ""),
            )
        )
        if leg not in _TARGETS:
            continue
        even = np.arange(everywhere.shape[1]) % 2 == 0
        best = int(everywhere[:-1, even].mean(1).argmax())
        low, high = max(0, best - window // 2), min(subject.model.cfg.n_layers - 1, best + (window - 1) // 2)
        note = f"layers {low}-{high}, window of {window}"
        findings.append(Finding(f"{leg}, deepest window", mean_interval(everywhere[best, ~even]), _UNIT, note=note))
    layer_means = {name: [round(float(value), 4) for value in values.mean(1)] for name, values in curves.items()}
    return Measured(findings, {"share of p lost by window, the last: every layer": layer_means})


@torch.no_grad()
def _cuts(subject: Subject, cases: Sequence[Case], window: int) -> dict[str, np.ndarray]:
    """The share of p lost by leg and window, `[window sample]`, the last row cut in every layer."""
    model = subject.model
    ((_, batch),) = subject.batches([subject.sample(scene, question) for scene, question in cases], len(cases))
    layout, metric = batch.layout, mm.metrics.probability([question.answer for _, question in cases])
    last = layout.last.tolist()
    question = [
        rows[(rows > image[-1]) & (rows < end)]
        for rows, image, end in zip(layout.text, layout.image, last, strict=True)
    ]
    empty = background(batch, [scene for scene, _ in cases])
    least_rows = min(map(len, question))
    ground = [image[torch.from_numpy(rows)] for image, rows in zip(layout.image, empty, strict=True)]
    rows_and_last = [torch.cat([rows, rows.new_tensor([end])]) for rows, end in zip(question, last, strict=True)]
    ground_rows = [rows[torch.linspace(0, len(rows) - 1, least_rows).long()] for rows in ground]
    legs: dict[str, tuple[Positions, Positions, Positions]] = {
        "image -> question": (question, "image", ground),
        "question -> last": ("last", question, ground_rows),
        "image -> last": ("last", "image", ground),
        "image -> question and last": (rows_and_last, "image", ground),
    }
    cut = partial(mm.knock_out, model, batch, metric=metric, progress=False)
    losses = {}
    for leg, (queries, keys, others) in legs.items():
        layers = None if leg in _TARGETS else [0]
        for name, sweep in (
            (leg, cut(queries=queries, keys={"keys": keys}, window=window, layers=layers)),
            (leg + _GROUND, cut(queries=queries, keys={"ground": others}, layers=[0])),
        ):
            values = torch.cat([sweep.values[:, 0], sweep.corrupted[None]])
            losses[name] = (1 - values / sweep.clean.clamp(min=math.exp(-20))).numpy()
    return losses
