"""Ablation by the corrupted run."""

from dataclasses import dataclass
from typing import ClassVar

from mmlens.analysis.circuits.ablation import ABLATIONS, Ablation


@ABLATIONS.register("counterfactual")
@dataclass(frozen=True)
class CounterfactualAblation(Ablation):
    """The values of the corrupted run."""

    needs: ClassVar[frozenset[str]] = frozenset({"corrupted"})
