"""Gates: steering that acts only where a concept is active.

    x_p -> x_p + alpha * s      where argmax_i |v_i(x_p)| is one of the concepts meant, with v the codes of x_p in a bank

Source: Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
(https://arxiv.org/abs/2501.03012): fine-grained steering acts on the samples that activate a concept.
Departs: the published code has no gate, and the paper does not say at which token a concept must be active; here it is decided
at every position, from the state that is about to be steered.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.concepts.bank import By, ConceptBank
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index, Several
from mmlens.hooks.nodes import Node


@checked
@dataclass(frozen=True)
class ActiveConcept:
    """A gate for `Steer(gate=...)`: open where one of some concepts is the most active one.

    Of states unlike all that the bank was made from, some concept is still the most active: make the bank from states of every
    kind of prompt that will be steered, the ends of questions among them, or give `at_least`.

    Args:
        bank: concepts of the point that is steered.
        concepts: the concept, or several.
        at_least: how active it must be as well, in the unit of `bank.activations`; for k-means `1 / (1 + distance)`. States that
            are far from all concepts are left alone with it.
        by: whether activations are compared by size (the paper) or by value (its code).

    Raises:
        InputError: for a concept that the bank does not have.

    Example:
        >>> import mmlens as mm
        >>> states = mm.store.States(torch.eye(192)[:3] * torch.tensor([[9.0], [5.0], [1.0]]), "blocks.4.hook_resid_post")
        >>> bank = mm.extract_concepts(states, 3, method="kmeans")
        >>> gate = ActiveConcept(bank, int(bank.dominant()[0]))
        >>> gate(states.values[None]).tolist()
        [[True, False, False]]
    """

    bank: ConceptBank
    concepts: Index | Several[Index]
    at_least: float | None = field(default=None, kw_only=True)
    by: By = field(default="absolute", kw_only=True)

    def __post_init__(self) -> None:
        indices = (self.concepts,) if isinstance(self.concepts, int) else tuple(self.concepts)
        wrong = [number for number in indices if not 0 <= number < len(self.bank)]
        if wrong or not indices:
            raise InputError(f"concepts={self.concepts!r} must be one or more of the bank's 0..{len(self.bank) - 1}.")
        if self.by not in ("absolute", "signed"):
            raise InputError(f"by={self.by!r} must be 'absolute' or 'signed'.")
        object.__setattr__(self, "concepts", indices)

    def __repr__(self) -> str:
        limit = "" if self.at_least is None else f", at_least={self.at_least:g}"
        return f"ActiveConcept({', '.join(map(str, self._asked))} of {len(self.bank)} at {self.bank.at}{limit})"

    @property
    def _asked(self) -> tuple[int, ...]:
        return (self.concepts,) if isinstance(self.concepts, int) else tuple(self.concepts)

    def check(self, node: Node) -> None:
        """Refuse a point that the concepts do not belong to.

        Raises:
            InputError: for any other point than the bank's.
        """
        if node.name != self.bank.at:
            raise InputError(
                f"The gate's concepts are directions at {self.bank.at}, but the steering acts at {node.name}; find concepts "
                "there, or steer where they are."
            )

    def __call__(self, states: Float[torch.Tensor, "batch pos d_model"]) -> Bool[torch.Tensor, "batch pos"]:
        """True where one of the concepts is the most active one."""
        active = self.bank.activations(states.flatten(0, 1).float())
        active = active.abs() if self.by == "absolute" else active
        strongest = active.max(dim=1)
        indices = torch.tensor(self._asked, device=active.device)
        is_open = torch.isin(strongest.indices, indices)
        if self.at_least is not None:
            is_open &= strongest.values >= self.at_least
        return is_open.reshape(states.shape[:2])
