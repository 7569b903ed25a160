"""The processes that share runs of a model."""

from mmlens.architectures.tensor_parallel import is_split
from mmlens.core.processes import Process, this_process
from mmlens.models.protocol import HookedModel


def process_of(model: HookedModel) -> Process:
    """This process among those that share runs of a model; alone where all processes together hold one model."""
    return Process() if is_split(model.base) else this_process()
