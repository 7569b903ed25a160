"""Regions of a picture: masks or boxes by noun, drawn when they are looked at."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, TypeAlias

import numpy as np
from jaxtyping import Bool

from mmlens.core.kinds import Accepts, Must


class LazyMasks(Mapping[str, np.ndarray]):
    """Masks by noun that are made when the first is read: most analyses need none.

    Args:
        make: gives all masks, `[height width]` each.
        nouns: whose they are, where that is known before; read from the masks by default.
    """

    def __init__(self, make: Callable[[], Mapping[str, np.ndarray]], nouns: Iterable[str] | None = None):
        self._make, self._nouns = make, None if nouns is None else tuple(nouns)

    @cached_property
    def _masks(self) -> Mapping[str, np.ndarray]:
        return self._make()

    def __getitem__(self, noun: str) -> np.ndarray:
        return self._masks[noun]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks if self._nouns is None else self._nouns)

    def __len__(self) -> int:
        return len(self._masks if self._nouns is None else self._nouns)


def _are_masks(regions: Mapping[str, Any]) -> bool:
    return isinstance(regions, LazyMasks) or all(
        isinstance(mask, np.ndarray) and mask.dtype == bool and mask.ndim == 2 for mask in regions.values()
    )


#: Masks of what is in a picture, by noun.
Regions: TypeAlias = Annotated[
    Mapping[str, Bool[np.ndarray, "height width"]],
    Accepts(Mapping[str, object]),
    Must("a mapping from nouns to masks: boolean arrays [height width]", _are_masks, instead=True),
]
