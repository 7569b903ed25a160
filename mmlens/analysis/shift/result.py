"""`ConceptShift`: how each concept moved, whether its samples agree, and how near that brings it to the tuned model's."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from scipy.stats import pearsonr

from mmlens.analysis.shift.fates import Fate
from mmlens.analysis.shift.measures import share_of
from mmlens.analysis.statistics.intervals import Interval, mean_interval
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index, Seed
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.interventions.steering_vector import SteeringVector

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

#: What is measured of each concept.
Quantity = Literal["recovery", "cosine_gain", "recovery_distance", "consistency", "magnitude"]
#: What shifts are compared with: random directions, or the shifts of other concepts, both of equal length.
Control = Literal["random", "shuffled"]


class Correlation(NamedTuple):
    """Pearson's r, its two-sided p, how many concepts it is from, and its 95% interval (Fisher's).

    NaN for fewer than three concepts (the interval for fewer than four), or without spread.
    """

    r: float
    p: float
    n_concepts: int
    low: float = float("nan")
    high: float = float("nan")

    def __str__(self) -> str:
        bounds = "no interval" if self.low != self.low else f"{self.low:.2f}, {self.high:.2f}"
        return f"{self.r:.2f} [{bounds}], p {self.p:.2g}, {self.n_concepts} concepts"


class MostActive(NamedTuple):
    """Per concept the samples (by hash) in which it is most active: before, shifted, and its match in the tuned model."""

    before: tuple[tuple[str, ...], ...]
    shifted: tuple[tuple[str, ...], ...]
    after: tuple[tuple[str, ...], ...]


@checked_result
@dataclass(frozen=True)
class ConceptShift(Viewable, Saved):
    """How concepts move from a base model to a tuned one (or from one dataset to another). NaN: not known.

    Attributes:
        vectors: `D_k`, the shift of each concept, in the unit of the point; NaN for a concept without samples.
        base: the concepts of the base model.
        tuned: those of the tuned model.
        match: per base concept its tuned one; -1 for none.
        consistency: the mean cosine over all pairs of a concept's shifts; NaN for fewer than two.
        n_samples: how many samples (of the base) each concept was the most active in.
        owner: per sample this concept; -1 where none was active.
        unit: how much of a concept its samples hold, on average: 1 for k-means, whose concepts are places; for dictionaries
            the mean code. In this unit the shift of their states is added to the concept.
        shifts: per sample how far its state moved; no rows where the samples are not paired.
        alpha: how much of a shift is added to a concept.
        fate: what becomes of each concept; see `mmlens.analysis.shift.fates`.
        appeared: tuned concepts that come from none of the base.
        most_active: samples by which concepts are compared; None where the two sets are of different samples.
        at: the hook point.
        matching, average: how concepts were matched and shifts averaged.
        source: the base model and the tuned one.

    Example:
        >>> import mmlens as mm
        >>> values = 9 * torch.eye(8)[torch.arange(40) % 3] + 0.1 * torch.randn(40, 8)
        >>> base = mm.store.States(values, "blocks.1.hook_resid_post", keys=tuple(map(str, range(40))))
        >>> tuned = mm.store.States(base.values + 1, base.at, keys=base.keys)
        >>> shift = mm.concept_shift(base, tuned, mm.extract_concepts(base, 3, method="kmeans"))
        >>> [round(size, 3) for size in shift.magnitude.tolist()], round(float(shift.consistency.min()), 3)
        ([2.828, 2.828, 2.828], 1.0)
    """

    vectors: Float[torch.Tensor, "concept d_model"] = field(repr=False)
    base: Float[torch.Tensor, "concept d_model"] = field(repr=False)
    tuned: Float[torch.Tensor, "other d_model"] = field(repr=False)
    match: Int[torch.Tensor, "concept"]
    consistency: Float[torch.Tensor, "concept"]
    n_samples: Int[torch.Tensor, "concept"]
    owner: Int[torch.Tensor, "sample"] = field(repr=False)
    unit: Float[torch.Tensor, "concept"] = field(repr=False)
    shifts: Float[torch.Tensor, "pair d_model"] = field(repr=False)
    alpha: float
    fate: tuple[Fate, ...]
    appeared: tuple[int, ...]
    most_active: MostActive | None = field(repr=False)
    at: str
    matching: str
    average: str
    source: tuple[str, str] = ("", "")

    def __repr__(self) -> str:
        pairs = f"{len(self.shifts)} pairs" if self.paired else f"{len(self.owner)} unpaired samples"
        counts = {name: self.fate.count(name) for name in dict.fromkeys(self.fate)}
        summary = ", ".join(f"{count} {name}" for name, count in counts.items())
        return (
            f"ConceptShift({len(self.vectors)} concepts at {self.at}, {pairs}; {self.average} of shifts; "
            f"recovery {self.mean('recovery')}, "
            f"consistency {self.mean('consistency')}; {summary}, {len(self.appeared)} appeared)"
        )

    @property
    def paired(self) -> bool:
        """Whether both models saw the same samples. If not, shifts end at the match, so that recovery tells nothing."""
        return self.most_active is not None

    @property
    def magnitude(self) -> Float[torch.Tensor, "concept"]:
        """The length of each shift, in the unit of the point."""
        return self.vectors.norm(dim=1)

    @property
    def shifted(self) -> Float[torch.Tensor, "concept d_model"]:
        """`u_k + alpha * D_k / unit`: where the shift takes each concept."""
        return self.base + self.alpha * self.vectors / self.unit[:, None]

    @property
    def matched(self) -> Float[torch.Tensor, "concept d_model"]:
        """The tuned concept that belongs to each; NaN for none."""
        return torch.where(self.match[:, None] >= 0, self.tuned[self.match.clamp_min(0)], torch.nan)

    @property
    def cosines(self) -> Float[torch.Tensor, "2 concept"]:
        """The cosine with the match: of the original concept, and of the shifted one."""
        pairs = [torch.nn.functional.cosine_similarity(vectors, self.matched) for vectors in (self.base, self.shifted)]
        return torch.stack(pairs)

    @property
    def distances(self) -> Float[torch.Tensor, "2 concept"]:
        """The distance from the match: of the original concept, and of the shifted one; in the unit of the point."""
        return torch.stack([(vectors - self.matched).norm(dim=1) for vectors in (self.base, self.shifted)])

    @property
    def cosine_gain(self) -> Float[torch.Tensor, "concept"]:
        """What the shift adds to the cosine with the match."""
        return self.cosines[1] - self.cosines[0]

    @property
    def recovery(self) -> Float[torch.Tensor, "concept"]:
        """The cosine gain as a share of the cosine before, as in the paper; NaN where that was not positive.

        A match that was almost at right angles makes it huge; look at `cosine_gain` then.
        """
        before, after = self.cosines
        return torch.where(before > 0, (after - before) / before, torch.nan)

    @property
    def recovery_distance(self) -> Float[torch.Tensor, "concept"]:
        """What the shift takes off the distance from the match, as a share of it: 1 arrives there, negative leads away."""
        before, after = self.distances
        return torch.where(before > 0, (before - after) / before, torch.nan)

    @property
    def sample_overlap(self) -> Float[torch.Tensor, "2 concept"]:
        """Share of the match's most active samples in which the original concept, and the shifted one, are most active too."""
        if self.most_active is None:
            return torch.full((2, len(self.vectors)), torch.nan)
        _, after_shift, after = self.most_active
        sides = (self.most_active.before, after_shift)
        shares = [[share_of(set(x), set(y)) for x, y in zip(side, after, strict=True)] for side in sides]
        overlap = torch.tensor(shares)
        overlap[1, ~self.magnitude.isfinite()] = torch.nan
        return overlap

    @checked
    def values(self, quantity: Quantity) -> Float[torch.Tensor, "concept"]:
        """One quantity of each concept, by name.

        Raises:
            InputError: for another name.
        """
        if quantity not in get_args(Quantity):
            raise InputError(
                f"There is no quantity {quantity!r}; there are {', '.join(map(repr, get_args(Quantity)))}."
            )
        values: torch.Tensor = getattr(self, quantity)
        return values

    @checked
    def mean(self, quantity: Quantity = "recovery") -> Interval:
        """The mean over concepts with its 95% interval; concepts for which it is not known are left out."""
        values = self.values(quantity).double()
        return mean_interval(values[~values.isnan()].numpy())

    @checked
    def correlation(self, first: Quantity = "consistency", second: Quantity = "recovery") -> Correlation:
        """Pearson's correlation of two quantities over concepts."""
        return correlation_of(self.values(first), self.values(second))

    @checked
    def control(self, kind: Control = "random", *, seed: Seed = 0) -> "ConceptShift":
        """The same with other shifts: does any shift bring concepts nearer, or these alone?

        Args:
            kind: `"random"`: directions drawn at random; `"shuffled"`: each concept gets the direction of another one's
                shift. Lengths stay.
            seed: of the draw.

        Returns:
            The shift with other vectors; samples, consistency and fates are those of the true one.

        Raises:
            InputError: for another kind.
        """
        generator = torch.Generator().manual_seed(seed)
        if kind == "random":
            others = torch.randn(self.vectors.shape, generator=generator, dtype=self.vectors.dtype)
        elif kind == "shuffled":
            # a step along a random circle gives every concept the shift of another one
            finite = self.magnitude.isfinite().nonzero().flatten()
            circle = finite[torch.randperm(len(finite), generator=generator)]
            others = self.vectors.clone()
            others[circle] = self.vectors[circle.roll(1)]
        else:
            raise InputError(f"kind={kind!r} must be 'random' or 'shuffled'.")
        vectors = torch.nn.functional.normalize(others, dim=1) * self.magnitude[:, None]
        return replace(self, vectors=vectors)

    @checked
    def steering_vector(self, concept: Index) -> SteeringVector:
        """The shift of one concept, to steer the base model with.

        Raises:
            InputError: if there is no such concept, or no sample tells its shift.
        """
        if not 0 <= concept < len(self.vectors):
            raise InputError(f"There are concepts 0..{len(self.vectors) - 1}, not {concept}.")
        provenance = {"method": "concept shift", "concept": concept, "source": self.source[0], "target": self.source[1]}
        return SteeringVector(self.vectors[concept], self.at, provenance)

    def to_frame(self) -> "pd.DataFrame":
        """A row per concept, with everything that is measured of it."""
        import pandas as pd

        columns = {
            "concept": range(len(self.vectors)),
            "match": self.match.tolist(),
            "n_samples": self.n_samples.tolist(),
            "fate": self.fate,
            **{name: self.values(name).tolist() for name in get_args(Quantity)},
        }
        pairs = {"cosine": self.cosines, "distance": self.distances, "sample_overlap": self.sample_overlap}
        for name, (original, after_shift) in pairs.items():
            columns |= {f"{name}_original": original.tolist(), f"{name}_shifted": after_shift.tolist()}
        return pd.DataFrame(columns)

    @checked
    def plot(self, *, quantity: Quantity = "consistency", figure: "Figure | SubFigure | None" = None) -> "Figure":
        """Recovery against consistency (or magnitude), a dot per concept.

        Args:
            quantity: on the x axis.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("shift.plot_shift")(self, quantity=quantity, figure=figure)


def correlation_of(first: Float[torch.Tensor, "concept"], second: Float[torch.Tensor, "concept"]) -> Correlation:
    """Pearson's correlation over the concepts for which both are known; also of several shifts, joined.

    Example:
        >>> found = correlation_of(torch.tensor([0.1, 0.2, 0.4, float("nan")]), torch.tensor([1.0, 3.0, 4.0, 9.0]))
        >>> round(found.r, 2), found.n_concepts
        (0.93, 3)
    """
    pair = torch.stack([first.double(), second.double()])
    finite = pair[:, pair.isfinite().all(0)]
    count = finite.shape[1]
    if count < 3 or bool((finite == finite[:, :1]).all(1).any()):
        return Correlation(float("nan"), float("nan"), count)
    result = pearsonr(*finite.numpy())
    low, high = result.confidence_interval(0.95) if count > 3 else (float("nan"), float("nan"))
    return Correlation(float(result.statistic), float(result.pvalue), count, float(low), float(high))
