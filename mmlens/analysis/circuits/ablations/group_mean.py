"""Ablation by means over the rows of groups of positions."""

from dataclasses import dataclass

from mmlens.analysis.circuits.ablation import ABLATIONS, Means
from mmlens.analysis.circuits.ablations.mean import MeanAblation
from mmlens.core.rule_groups import Groups, named_rules


@ABLATIONS.register("group-mean")
@dataclass(frozen=True)
class GroupMeanAblation(MeanAblation):
    """The mean over the rows of the same group of positions in the clean batches.

    Attributes:
        groups: rules, or rules by name (see `mm.positions`); rows that none names are a group of their own, and at points where
            a rule has no meaning (text in a vision tower) it names none.
    """

    groups: Groups = ("image", "text", "last")

    def means(self) -> Means | None:
        return Means(named_rules(self.groups))
