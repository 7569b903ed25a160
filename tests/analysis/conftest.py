"""Planted models, wrapped: the neuron, direction or patch that decides the answer is known."""

from dataclasses import dataclass

import pytest

from mmlens import lab
from mmlens.inputs.batch import MultimodalBatch
from mmlens.lab.weight_built import Planted, Truth
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class Wrapped:
    """A planted model and its unplanted twin, wrapped."""

    planted: Planted
    model: HookedMultimodal
    twin: HookedMultimodal

    @property
    def truth(self) -> Truth:
        """What was planted."""
        return self.planted.truth

    def batch(self, present: bool = True, *, seed: int = 0, color: str | None = None) -> MultimodalBatch:
        """The question about a picture with or without the cause."""
        return self.model.prepare(self.planted.prompt, images=self.planted.image(present, color=color, seed=seed))


def _wrap(kind: str) -> Wrapped:
    planted = lab.planted(kind)  # type: ignore[arg-type]
    wrap = HookedMultimodal.from_hf
    return Wrapped(planted, wrap(planted.model, planted.processor), wrap(planted.twin, planted.processor))


@pytest.fixture(scope="session")
def planted_neuron() -> Wrapped:
    """One neuron writes "yes" when one patch is red."""
    return _wrap("neuron")


@pytest.fixture(scope="session")
def planted_patch() -> Wrapped:
    """One head carries the colour of one patch to the last position."""
    return _wrap("patch")
