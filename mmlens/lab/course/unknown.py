"""The model of the capstone: planted, and shown without what was planted."""

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from mmlens.core.contract import checked
from mmlens.core.kinds import Seed
from mmlens.lab.weight_built import Planted, Truth, build_pair
from mmlens.lab.world import PlantedKind
from mmlens.models.hooked import HookedMultimodal

#: What was planted in the models that were shown, so that each is judged by its own truth.
_SHOWN: WeakKeyDictionary[HookedMultimodal, Planted] = WeakKeyDictionary()
_KINDS: tuple[PlantedKind, ...] = ("neuron", "direction", "patch")


@dataclass(frozen=True)
class UnknownModel:
    """A model whose answer hangs on something that is to be found.

    Attributes:
        model: the model, ready for hooks.
        prompt: the only question that it knows.
    """

    model: HookedMultimodal
    prompt: str
    _planted: Planted = field(repr=False)

    @property
    def kind(self) -> PlantedKind:
        """What was planted: for the grader."""
        return self._planted.kind

    @property
    def truth(self) -> Truth:
        """What there is to find: for the grader."""
        return self._planted.truth

    @checked
    def image(self, seed: Seed) -> Image.Image:
        """A picture of nine coloured patches; different seeds show different colours.

        Args:
            seed: decides the colours; half of the pictures give one answer, half another.
        """
        return self._planted.image(present=seed % 2 == 0, seed=seed)

    def __repr__(self) -> str:
        return f"UnknownModel(prompt={self.prompt!r})"


def _kind(seed: int) -> PlantedKind:
    return _KINDS[0 if seed == 0 else int(np.random.default_rng(seed).integers(len(_KINDS)))]


def unknown_model(seed: int = 0) -> UnknownModel:
    """A planted model of a kind that is not said; see `mmlens.lab.unknown`."""
    pair = build_pair(_kind(seed), seed=seed)
    model = HookedMultimodal(pair.model, pair.processor)
    _SHOWN[model] = pair
    return UnknownModel(model, pair.prompt, pair)


def shown_model(model: HookedMultimodal) -> UnknownModel:
    """The unknown model that a hooked model is of; the first of them for all other models."""
    pair = _SHOWN.get(model)
    return unknown_model() if pair is None else UnknownModel(model, pair.prompt, pair)
