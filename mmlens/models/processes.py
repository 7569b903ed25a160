"""The processes that share runs of a model."""

from mmlens.core.processes import Process, this_process
from mmlens.models.protocol import HookedModel


def process_of(model: HookedModel) -> Process:
    """This process among those that share runs of a model."""
    return this_process()
