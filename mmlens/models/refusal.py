"""What runs would refuse, told before anything runs."""

from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.contrast.method import ContrastMethod
from mmlens.models.dual_encoder import require_tensors
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.runs import Runs


def refuse_forward(model: HookedMultimodal, batch: MultimodalBatch, what: str) -> None:
    """Refuse a batch that the model's forward pass needs more for, as families do that read every text with a picture.

    Args:
        model: the hooked model.
        batch: which was made for it, without pictures.
        what: is done without pictures, for the message.

    Raises:
        InputError: if it does.
    """
    try:
        require_tensors(model.hf_model.forward, batch.inputs)
    except InputError as error:
        raise InputError(
            f"{what} run without pictures, which the family {model.family.name} cannot: {error}"
        ) from error


def refuse_generation(
    model: HookedMultimodal, batch: MultimodalBatch, *, contrast: ContrastMethod | None = None, max_new_tokens: int = 2
) -> None:
    """Refuse what `model.generate` would refuse of a batch with what is in force, and of a contrast.

    Raises:
        InputError: for positions that mean nothing in the batch, interventions that cannot happen in it, padding on the right, a
            contrast that has no second prompt.
    """
    Runs(model).rehearse(batch, contrast=contrast, max_new_tokens=max_new_tokens)
