"""Choosing by where vectors point."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mmlens.analysis.steering.method import SELECTION_METHODS, Selection, SelectionMethod, Validation
from mmlens.core.errors import InputError
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.runs import Intervention


@SELECTION_METHODS.register("proximity")
@dataclass(frozen=True)
class Proximity(SelectionMethod):
    """The vectors that point most nearly where another one does: scores are cosines.

    Attributes:
        reference: where they should lead: the coarse vector from source to target, or a target word's direction.

    Source: Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
    (https://arxiv.org/abs/2501.03012), section on steering.
    *Departs:* the paper compares with the target concept; here with a direction, so that a component that all states share does
    not make all of them look alike.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})

    reference: SteeringVector

    def check(
        self, model: HookedMultimodal, interventions: Mapping[Any, Intervention], validation: Validation | None
    ) -> None:
        super().check(model, interventions, validation)
        points = {steer.common_vector.at for steer in interventions.values() if isinstance(steer, Steer)}
        elsewhere = sorted(points - {self.reference.at})
        if elsewhere:
            raise InputError(
                f"The reference is a direction at {self.reference.at}, but vectors are of {', '.join(elsewhere)}."
            )

    def select(
        self, model: HookedMultimodal, interventions: Mapping[Any, Intervention], validation: Validation | None, k: int
    ) -> Selection:
        directions = {
            key: steer.common_vector.direction for key, steer in interventions.items() if isinstance(steer, Steer)
        }
        cosines = {
            key: float(torch.cosine_similarity(direction, self.reference.direction, dim=0))
            for key, direction in directions.items()
        }
        order = sorted(cosines, key=lambda key: -cosines[key])
        return Selection({key: cosines[key] for key in order}, tuple(order[:k]), str(self))
