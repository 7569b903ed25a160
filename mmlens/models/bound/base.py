"""What all sides of a bound model share: the model and the batch."""

from typing import Any

from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.bound.elsewhere import NOT_HERE
from mmlens.models.protocol import HookedModel


class Bound:
    """A hooked model and the batch that it is bound to; attributes that it does not have are the model's.

    Args:
        model: the hooked model.
        batch: the batch to run on.
    """

    def __init__(self, model: HookedModel, batch: MultimodalBatch):
        self.model = model
        self.batch = batch

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "batch"):  # while it is copied they are not there yet
            raise AttributeError(name)
        if name in NOT_HERE:
            raise AttributeError(f"A bound model has no {name}: {NOT_HERE[name]}.")
        return getattr(self.model, name)
