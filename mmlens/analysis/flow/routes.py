"""Routes from the picture to the answer: attention between named sets of positions, cut in windows of layers."""

import torch

from mmlens.analysis.metrics import MetricLike
from mmlens.analysis.patching.knockout import knock_out
from mmlens.analysis.patching.result import PatchSweep
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.core.positions import image, last
from mmlens.core.rules import Positions, Rule, as_rule
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


@checked
def information_flow(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    metric: MetricLike,
    objects: Positions | None = None,
    question: Positions | None = None,
    window: Count = 9,
    progress: bool = True,
) -> PatchSweep:
    """By which way what a picture shows reaches the answer: each route between picture, question and last position, cut.

    Args:
        model: the hooked model.
        batch: prompts whose answer is right without a cut; each with one picture in front of its question.
        metric: of the answer: `mm.metrics.probability(words)`, whose relative change `effect / clean` the paper reports.
        objects: the object that is asked about: `mm.positions.box([...])`; then picture -> question is parted into the object's
            patches and the others.
        question: the words of the question; by default the text behind the picture but for the last position.
        window: how many layers are cut together; the paper has 9 of 32 or 40.
        progress: show progress bars.

    Returns:
        A sweep: a row per window of layers, a column per route.

    Raises:
        InputError: for prompts without a picture, or without words behind it.

    Example:
        >>> import mmlens as mm
        >>> question = model.prepare(["what color is the moon"], images=[[scene.image]])
        >>> flow = mm.patching.information_flow(
        ...     model, question, metric=mm.metrics.probability("red"), window=2, progress=False
        ... )
        >>> flow.groups
        ['image -> question', 'image -> last', 'question -> last']

    Source: Zhang et al., "Cross-modal Information Flow in Multimodal Large Language Models", CVPR 2025
    (https://arxiv.org/abs/2411.18620), section 3; github.com/FightingFighting/cross-modal-information-flow-in-MLLM.
    """
    words: Rule = as_rule(_behind_pictures(batch) if question is None else question)
    picture: dict[str, Rule] = {"image": image}
    if objects is not None:
        area = as_rule(objects)
        picture = {"object": area, "other patches": image - area}
    routes = [(words, "question", picture), (last, "last", {"image": image, "question": words})]
    sweeps = []
    for queries, target, keys in routes:
        rules = {f"{source} -> {target}": rule for source, rule in keys.items()}
        sweeps.append(
            knock_out(model, batch, queries=queries, keys=rules, metric=metric, window=window, progress=progress)
        )
    first = sweeps[0]
    return PatchSweep(
        torch.cat([sweep.values for sweep in sweeps], dim=1), first.points, [g for sweep in sweeps for g in sweep.groups],
        first.clean, first.corrupted, "knock-out", first.metric, boxes=(None,) * sum(len(s.groups) for s in sweeps),
        identity=first.identity,
    )  # fmt: skip


def _behind_pictures(batch: MultimodalBatch) -> list[torch.Tensor]:
    """Each sample's own positions of text behind its picture, but the last one."""
    found = []
    for sample, is_token in enumerate(batch.layout.is_token):
        is_picture = batch.layout.is_image[sample][is_token]
        numbers = torch.arange(len(is_picture))
        behind = numbers[
            (numbers > numbers[is_picture].max())
            if is_picture.any()
            else torch.zeros(len(is_picture), dtype=torch.bool)
        ][:-1]
        if not len(behind):
            raise InputError(
                f"Sample {sample} has no words behind a picture but its last position; give question=, or prompts with a "
                "picture in front of a question."
            )
        found.append(behind)
    return found
