"""A model's answers with interventions in force."""

from collections.abc import Sequence

from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.contrast.methods import ContrastChoice
from mmlens.models.hooked import WritingModel
from mmlens.models.runs import Intervention


def answers(
    model: WritingModel,
    batch: MultimodalBatch,
    interventions: Sequence[Intervention],
    *,
    max_new_tokens: int,
    contrast: ContrastChoice = None,
) -> list[str]:
    """What a model answers with interventions in force, one text per sample."""
    with model.intervene(*interventions):
        return model.trace_generation(batch, names="hook_logits", max_new_tokens=max_new_tokens, contrast=contrast).text
