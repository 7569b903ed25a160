"""All calls by topic, and how many there are of each kind."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.contracts.transformer_lens.call import NOTEBOOKS, Call
from tests.contracts.transformer_lens.calls import (
    cache,
    config,
    hooks,
    matrices,
    names,
    other,
    patching,
    runs,
    tokens,
    tools,
    weights,
)

TOPICS: dict[str, list[Call]] = {
    "Runs": runs.CALLS,
    "Hooks": hooks.CALLS,
    "Names of points": names.CALLS,
    "The cache": cache.CALLS,
    "Weights and labels": weights.CALLS,
    "Configuration": config.CALLS,
    "Tokens": tokens.CALLS,
    "Factored matrices": matrices.CALLS,
    "Activation patching": patching.CALLS,
    "Tools": tools.CALLS,
    "Loading and other models": other.CALLS,
}
CALLS = [call for calls in TOPICS.values() for call in calls]


@dataclass(frozen=True)
class Counts:
    """How many calls there are of each kind.

    Attributes:
        calls: all.
        equal: those whose value is the bridge's.
        right: those whose value is another than the bridge's, and right by the bare model.
        refused: those that are errors here and not on the bridge.
        nowhere: those that the bridge refuses too.
    """

    calls: int
    equal: int
    right: int
    refused: int
    nowhere: int

    @property
    def running(self) -> int:
        """Those that give a value."""
        return self.equal + self.right

    @classmethod
    def of(cls, calls: Iterable[Call]) -> "Counts":
        """The counts of some calls."""
        calls = list(calls)
        refused, nowhere = (
            sum(map(bool, each)) for each in zip(*((c.refused, c.both_refuse) for c in calls), strict=True)
        )
        right = sum(bool(call.differs) for call in calls if not call.refused)
        return cls(len(calls), len(calls) - refused - nowhere - right, right, refused, nowhere)


def of_notebooks(letters: str = "".join(NOTEBOOKS)) -> list[Call]:
    """The calls that some notebooks have."""
    return [call for call in CALLS if set(call.notebooks) & set(letters)]
