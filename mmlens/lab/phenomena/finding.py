"""A figure of a phenomenon, with its interval, its controls and its target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mmlens.analysis.statistics.intervals import Interval
from mmlens.core.errors import InputError

_FEWEST = 4


@dataclass(frozen=True)
class TargetRange:
    """Where a figure should lie.

    Attributes:
        low: The least; None for no bound.
        high: The most; None for no bound.
        source: Whose finding it stands for; empty where it was set for the lab alone.
    """

    low: float | None = None
    high: float | None = None
    source: str = ""

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            text = f"{self.low:g} to {self.high:g}"
        else:
            text = f">= {self.low:g}" if self.low is not None else f"<= {self.high:g}"
        return text + (f" ({self.source})" if self.source else "")

    def holds(self, value: float) -> bool:
        """Whether a number lies there; NaN never does."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high) and value == value


@dataclass(frozen=True)
class Control:
    """What a figure is beside.

    Attributes:
        name: What it is.
        value: The same figure there; of random draws the interval in which 95% of them lie.
        target: Where it should lie; None where nothing is asked of it.
    """

    name: str
    value: Interval
    target: TargetRange | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.value}" + (f", target {self.target}" if self.target else "")


@dataclass(frozen=True)
class Finding:
    """One figure of a phenomenon.

    Attributes:
        name: What was measured.
        value: The figure; None where the lab has nothing to measure it on.
        unit: Of the figure.
        controls: What it is beside.
        target: Where it should lie; None where nothing is asked of it.
        note: What was trained in, which layer it was, or why there is no figure.
    """

    name: str
    value: Interval | None
    unit: str = "share"
    controls: tuple[Control, ...] = ()
    target: TargetRange | None = None
    note: str = ""

    @property
    def is_reached(self) -> bool | None:
        """Whether the figure and its controls lie where they should; None where nothing is asked."""
        bounds = [(self.value, self.target), *((control.value, control.target) for control in self.controls)]
        required = [(value, target) for value, target in bounds if target is not None]
        if not required:
            return None
        return all(value is not None and target.holds(value.mean) for value, target in required)

    @property
    def verdict(self) -> str:
        """What `is_reached` says, in a word."""
        if self.value is None:
            return "absent"
        return {True: "reached", False: "not reached", None: ""}[self.is_reached]

    def as_json(self) -> dict[str, Any]:
        """As plain data; NaN as None."""
        return _plain(asdict(self))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Finding:
        """From what `as_json` gave."""
        controls = [
            Control(part["name"], _interval(part["value"]), _target(part["target"])) for part in content["controls"]
        ]
        value = None if content["value"] is None else _interval(content["value"])
        return cls(
            content["name"], value, content["unit"], tuple(controls), _target(content["target"]), content["note"]
        )


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and on what.

    Attributes:
        scenes: Scenes for what is cheap; dearer phenomena take a share of them.
        seed: Of the scenes, drawn anew for every phenomenon, and of everything random.
    """

    scenes: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scenes < _FEWEST or self.seed < 0:
            raise InputError(
                f"scenes={self.scenes} and seed={self.seed} must be whole numbers of at least {_FEWEST} and 0: intervals are "
                "over scenes."
            )

    def share(self, part: float, *, least: int = 4) -> int:
        """A share of the scenes, as a number."""
        return max(least, round(self.scenes * part))

    def stream(self, phenomenon: int) -> int:
        """The seed of a phenomenon's own scenes."""
        return 8_000 + 40 * self.seed + phenomenon


@dataclass(frozen=True)
class Measured:
    """What was measured of one phenomenon.

    Attributes:
        findings: The figures.
        details: Curves over layers, and such, by name: plain data.
    """

    findings: Sequence[Finding]
    details: Mapping[str, Any] = field(default_factory=dict)


def absent(name: str, why: str, target: TargetRange | None = None) -> Finding:
    """A figure that a lab cannot have."""
    return Finding(name, None, target=target, note=why)


def median_interval(values: np.ndarray, groups: np.ndarray, *, seed: int = 0, draws: int = 2_000) -> Interval:
    """The median with its 95% percentile bootstrap interval, whole groups drawn."""
    values = np.asarray(values, dtype=float)
    _, label = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(label == group) for group in range(label.max() + 1)]
    rng = np.random.default_rng(seed)
    medians = [
        np.median(values[np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])])
        for _ in range(draws)
    ]
    low, high = np.quantile(medians, [0.025, 0.975])
    return Interval(float(np.median(values)), float(low), float(high), len(values))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _interval(content: Mapping[str, Any]) -> Interval:
    numbers = {name: float("nan") if content[name] is None else content[name] for name in ("mean", "low", "high")}
    return Interval(**numbers, count=content["count"])


def _target(content: Mapping[str, Any] | None) -> TargetRange | None:
    return None if content is None else TargetRange(**content)
