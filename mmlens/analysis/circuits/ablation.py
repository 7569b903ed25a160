"""What an edge or node that is no part of a circuit carries: another run's values, nothing, or means.

    corrupted run (`"counterfactual"`)   0 (`"zero"`)   mean over rows (`"mean"`)   mean over each group's rows (`"group-mean"`)

Means are those of the clean batches that a verb is given, over all their samples, of tokens and never of padding.

Source: Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", ICML 2025 (https://arxiv.org/abs/2504.13151), ablations.
*Departs:* the released code divides a mean's last row by the length (a fault of its mask); these are means. Where MIB has a mean
of each position, which needs texts of one length, here groups of positions have one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import torch

from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts
from mmlens.core.registry import Method, Registry
from mmlens.core.rules import Rule
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.positions import resolve
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class Means:
    """Sums over rows of the groups of points, and how many rows they are of.

    Attributes:
        rules: of the groups; rows that none names are one more group, the last.
        sums, counts: by point, `[group ...]` and `[group]`.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, torch.Tensor] = field(default_factory=dict)

    def masks(self, batch: MultimodalBatch, node: Node, values: torch.Tensor) -> torch.Tensor:
        """The rows of each group, `[group *rows]`; padding is in none."""
        shape = values.shape[: node.position_axis + 1]
        is_row = _rows("all", batch, node, values, shape)
        number = torch.where(is_row, len(self.rules), -1)
        for index, rule in enumerate(self.rules.values()):
            number[_rows(rule, batch, node, values, shape) & is_row] = index
        return torch.stack([number == index for index in range(len(self.rules) + 1)])

    def add(self, batch: MultimodalBatch, node: Node, values: torch.Tensor) -> None:
        """Count the rows of a run."""
        masks = self.masks(batch, node, values).to(values.device)
        sums = torch.stack([values[mask].sum(0) for mask in masks]).double()
        self.sums[node.name] = self.sums.get(node.name, 0.0) + sums
        self.counts[node.name] = self.counts.get(node.name, 0) + masks.flatten(1).sum(1)

    def of(self, batch: MultimodalBatch, node: Node, values: torch.Tensor) -> torch.Tensor:
        """The means at the place of every row."""
        sums, counts = self.sums[node.name], self.counts[node.name]
        means = (sums / counts.clamp(min=1).reshape(-1, *[1] * (sums.ndim - 1))).to(values)
        result = torch.zeros_like(values)
        for mask, mean in zip(self.masks(batch, node, values).to(values.device), means, strict=True):
            result[mask] = mean
        return result


def _rows(rule: Any, batch: MultimodalBatch, node: Node, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Which rows a rule means; none where it has no meaning at the point."""
    try:
        rows = resolve(rule, batch, node, values.shape, required=False)
    except InputError:
        return torch.zeros(tuple(shape), dtype=torch.bool)
    return torch.ones(tuple(shape), dtype=torch.bool) if rows.whole else rows.mask.reshape(tuple(shape))


@dataclass(frozen=True)
class Ablation(Method):
    """What stands in the place of what an edge or node carries; `needs` may hold `"corrupted"`, batches without the answer."""

    def means(self) -> Means | None:
        """What has to be counted over the data first; None for nothing."""
        return None

    def values(self, batch: MultimodalBatch, node: Node, clean: torch.Tensor, means: Means | None) -> torch.Tensor:
        """What stands at a point in the place of the clean run's values."""
        raise NotImplementedError

    def require(self, pairs: Iterable[tuple[MultimodalBatch, MultimodalBatch | None]]) -> None:
        """Refuse pairs that lack what it needs.

        Raises:
            InputError: if one has no corrupted batch.
        """
        if "corrupted" in self.needs and any(corrupted is None for _, corrupted in pairs):
            raise InputError(
                f"ablation={self.name!r} takes the values of a corrupted batch, and there is a pair without one: give "
                f"(clean, corrupted), see mm.corrupt, or use {', '.join(map(repr, ABLATIONS.without('corrupted')))}."
            )


ABLATIONS: Registry[Ablation] = Registry("ablation in circuits", Ablation, verb="mm.find_circuit", argument="ablation")
#: An ablation by name, or its settings.
AblationChoice: TypeAlias = Annotated[str | Ablation, Accepts(Any), ABLATIONS.condition]


@dataclass(frozen=True)
class ReadyAblation:
    """An ablation with the means that it needs.

    Attributes:
        ablation: the ablation.
        means: what was counted.
    """

    ablation: Ablation
    means: Means | None = None

    @classmethod
    def of(
        cls, ablation: Ablation, model: HookedMultimodal, batches: Iterable[MultimodalBatch], points: Sequence[str]
    ) -> "ReadyAblation":
        """Count the means, by one run of each batch, if there are any.

        Args:
            ablation: the ablation.
            model: the hooked model.
            batches: the clean ones.
            points: whose values are ablated.
        """
        means = ablation.means()
        if means is None:
            return cls(ablation)
        for batch in batches:
            _, cache = model.run_with_cache(batch, names=list(points))
            for name in points:
                means.add(batch, model.graph[name], cache[name])
        return cls(ablation, means)

    @property
    def needs(self) -> frozenset[str]:
        """What the ablation needs."""
        return self.ablation.needs

    def values(self, batch: MultimodalBatch, node: Node, clean: torch.Tensor) -> torch.Tensor:
        """What stands at a point in the place of the clean run's values."""
        return self.ablation.values(batch, node, clean, self.means)
