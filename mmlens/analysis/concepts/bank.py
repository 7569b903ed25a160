"""`ConceptBank`: the concepts that were found in states, and how much of each every state holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int

from mmlens.analysis.concepts.coders import Centred, Coder, Nearest, NonNegative
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.store.mapped import MappedStates
from mmlens.analysis.store.states import States
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.core.packing import saved_as
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd

#: How activations are ranked: by size (the paper), or by value (the published code). They differ for signed codes alone.
By = Literal["absolute", "signed"]
_ROWS = 4096  # states that are encoded at a time


@checked_result
@dataclass(frozen=True)
class ConceptBank(Viewable, Saved):
    """A dictionary of concepts at one hook point.

    Attributes:
        coder: encodes and decodes.
        codes: how much of each concept a state holds.
        activation: graded, for ranking samples; the codes themselves unless these only say yes or no (k-means, simple).
        at: the hook point.
        method: how the concepts were found.
        reconstruction_error: what is left of the states, `||Z - UV||^2 / ||Z||^2`; 1 is no better than nothing, NaN
            without states.
        keys, tokens, captions: of the states; see `States`.
        source: the model that the states come from.
        objective: what was minimised, after each step; empty where scikit-learn did it.
        settings: of the method.

    Example:
        >>> import mmlens as mm
        >>> store = mm.collect(model, mm.lab.scenes(16), at="blocks.4.hook_resid_post", token=mm.lab.NOUNS, progress=False)
        >>> bank = mm.extract_concepts(store, 4)
        >>> bank.vectors.shape, bank.codes.shape, bool((bank.codes >= 0).all())
        (torch.Size([4, 192]), torch.Size([16, 4]), True)
    """

    coder: Coder = field(repr=False, metadata=saved_as(NonNegative | Nearest | Centred | SparseDictionary))
    codes: Float[torch.Tensor, "sample concept"]
    activation: Float[torch.Tensor, "sample concept"]
    at: str
    method: str
    reconstruction_error: float
    keys: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    source: str = ""
    objective: tuple[float, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vectors(self) -> Float[torch.Tensor, "concept d_model"]:
        """The concepts, in the unit of the point."""
        return self.coder.vectors

    def __repr__(self) -> str:
        words = ", ".join(sorted(set(self.tokens))[:4])
        return (
            f"ConceptBank({len(self)} concepts by {self.method} at {self.at}, of {len(self.codes)} states"
            f"{' of ' + words if words else ''}; {self.reconstruction_error:.1%} of their energy left)"
        )

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    @checked
    def of(
        cls,
        coder: Coder,
        states: States | MappedStates,
        *,
        method: str,
        settings: Mapping[str, Any] | None = None,
        objective: tuple[float, ...] = (),
        codes: Float[torch.Tensor, "sample concept"] | None = None,
    ) -> "ConceptBank":
        """The bank of a coder and the states that it is judged by.

        Args:
            coder: encodes and decodes.
            states: the states.
            method, settings, objective: how the coder was found.
            codes: of the states, where they are known already.
        """
        pieces, activations = [], []
        rest = energy = 0.0
        for start in range(0, len(states), _ROWS):
            values = states.values[start : start + _ROWS].float()
            code = coder.encode(values) if codes is None else codes[start : start + _ROWS].to(values.device)
            rest += float((values - coder.decode(code)).double().square().sum())
            energy += float(values.double().square().sum())
            pieces.append(code.cpu())
            activations.append(coder.activations(values, code).cpu())
        return cls(
            coder,
            torch.cat(pieces),
            torch.cat(activations),
            states.at,
            method,
            rest / energy if energy else float("nan"),
            states.keys,
            states.tokens,
            states.captions,
            states.source,
            objective,
            settings or {},
        )

    @classmethod
    @checked
    def from_sae(cls, sae: SparseDictionary, *, states: States | None = None) -> "ConceptBank":
        """The concepts of a sparse autoencoder that was trained elsewhere.

        Args:
            sae: from `mm.load_sae(folder)`, which obeys its configuration.
            states: states to encode; their codes rank samples.

        Raises:
            InputError: for a transcoder, one whose codes alone do not decide what they stand for (states that are normed one by
                one), or states that do not fit.
        """
        if sae.is_transcoder or sae.scales:
            why = f"reads {sae.at_in}" if sae.is_transcoder else "gives each state its own norm back"
            raise InputError(
                f"Concepts are directions that add up to states, and {sae!r} {why}; use it as features: mm.features."
            )
        if states is None:
            no_codes = torch.zeros(0, len(sae))
            return cls(sae, no_codes, no_codes, sae.at, "sae", float("nan"))
        _require_fit(states, sae.at, sae.d_out)
        return cls.of(sae, states, method="sae")

    @checked
    def encode(self, states: States | Float[torch.Tensor, "sample d_model"]) -> Float[torch.Tensor, "sample concept"]:
        """How much of each concept some states hold; the states of another model may be asked about, of another point not.

        Raises:
            InputError: for states of another point or width.
        """
        return self.coder.encode(self._values(states))

    @checked
    def activations(
        self, states: States | Float[torch.Tensor, "sample d_model"]
    ) -> Float[torch.Tensor, "sample concept"]:
        """How strongly each concept is active in some states; graded also where codes are 0 or 1."""
        return self.coder.activations(self._values(states))

    @checked
    def decode(self, codes: Float[torch.Tensor, "sample concept"]) -> Float[torch.Tensor, "sample d_model"]:
        """The states that codes stand for.

        Raises:
            InputError: for codes of another number of concepts.
        """
        if codes.ndim != 2 or codes.shape[1] != len(self):
            raise InputError(f"codes must be [sample concept={len(self)}], found {list(codes.shape)}.")
        return self.coder.decode(codes)

    def _values(self, states: States | torch.Tensor) -> torch.Tensor:
        if isinstance(states, States):
            _require_fit(states, self.at, self.vectors.shape[1])
            return states.values.float()
        if states.ndim != 2 or states.shape[1] != self.vectors.shape[1]:
            raise InputError(f"States must be [sample d_model={self.vectors.shape[1]}], found {list(states.shape)}.")
        return states.float()

    @checked
    def strengths(self, by: By = "absolute") -> Float[torch.Tensor, "sample concept"]:
        """The activations as samples are ranked by them: by size (as the paper says), or by value (as its code does).

        Raises:
            InputError: for another word.
        """
        if by not in ("absolute", "signed"):
            raise InputError(f"by={by!r} must be 'absolute' or 'signed'.")
        return self.activation.abs() if by == "absolute" else self.activation

    @checked
    def top(self, k: Count = 5, *, by: By = "absolute") -> list[list[int]]:
        """Per concept, the k states in which it is most active, strongest first; only those in which it is active at all.

        Args:
            k: how many.
            by: as for `strengths`.
        """
        if k < 1:
            raise InputError(f"k={k} must be at least 1.")
        best = self.strengths(by).topk(min(k, len(self.codes)), dim=0)
        pairs = zip(best.values.T.tolist(), best.indices.T.tolist(), strict=True)
        return [[row for value, row in zip(values, rows, strict=True) if value > 0] for values, rows in pairs]

    @checked
    def dominant(self, *, by: By = "absolute") -> Int[torch.Tensor, "sample"]:
        """Per state, the concept that is most active (the `A_k` of Khayatan et al. are the states with the same one)."""
        return self.strengths(by).argmax(1)

    def to_frame(self) -> "pd.DataFrame":
        """A row per concept: length, mean activation, share of states in which it is active, and in which it dominates."""
        import pandas as pd

        count = max(len(self.codes), 1)
        counts = torch.bincount(self.dominant(), minlength=len(self)) if len(self.codes) else torch.zeros(len(self))
        columns = {
            "concept": range(len(self)),
            "norm": self.vectors.norm(dim=1).tolist(),
            "mean_activation": (self.activation.sum(0) / count).tolist(),
            "active": ((self.codes != 0).sum(0) / count).tolist(),
            "dominant": (counts / count).tolist(),
        }
        return pd.DataFrame(columns)


def _require_fit(states: States, at: str, width: int) -> None:
    """Refuse states of another point or width."""
    if states.at != at or states.values.ndim != 2 or states.values.shape[1] != width:
        raise InputError(
            f"The concepts are directions at {at} [sample d_model={width}], but the states are of {states.at} "
            f"{list(states.values.shape)}; collect states there."
        )


def word_overlap(words: Sequence[Sequence[str]]) -> float:
    """How far concepts say the same: the mean share of a concept's words that another one has too; 0 is best.

        overlap = 1/K sum_k 1/(K-1) sum_{l != k} |T_l and T_k| / |T_k|

    Args:
        words: per concept; an empty list counts as 0.

    Raises:
        InputError: for fewer than two concepts.

    Example:
        >>> word_overlap([["red", "blue"], ["red", "green"], ["dog", "cat"]])
        0.16666666666666666

    Source: Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), section 4, "Overlap".
    """
    sets = [set(row) for row in words]
    if len(sets) < 2:
        raise InputError(f"Overlap is between concepts; found {len(sets)}, it takes two.")
    shares = [
        len(first & second) / len(first) if first else 0.0
        for k, first in enumerate(sets)
        for other, second in enumerate(sets)
        if other != k
    ]
    return sum(shares) / len(shares)
