"""Interventions on activations: ablate neurons or heads, replace a point's values at some positions.

Each is a value: it says what it would do, and `with model.intervene(...)` does it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mmlens.core.axes import position_axis
from mmlens.core.errors import InputError
from mmlens.core.places import Head, Neuron
from mmlens.hooks.session import HookPair
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class Ablate:
    """Set neurons or heads to a constant, at every position and in every step of a generation.

    Args:
        units: the neurons or heads.
        value: what they are set to; 0 takes away what they write.

    Example:
        >>> from mmlens import Neuron
        >>> with model.intervene(Ablate([Neuron(0, 3), Neuron(1, 5)])):
        ...     logits = model(batch)
    """

    units: Sequence[Neuron | Head]
    value: float = 0.0

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per point that holds some of the units.

        Raises:
            InputError: if there are no units, or the model lacks one of them; all that are missing are listed.
        """
        if not self.units:
            raise InputError("Ablate was given no neurons or heads.")
        missing = [str(unit) for unit in self.units if not _exists(model, unit)]
        if missing:
            depth = {unit.part: model.part(unit.part).cfg for unit in self.units}
            shapes = ", ".join(
                f"{p}: {c.n_layers} layers of {c.d_mlp} neurons and {c.n_heads} heads" for p, c in depth.items()
            )
            raise InputError(
                f"The model has no {', '.join(missing[:8])}{' ...' if len(missing) > 8 else ''}; it has {shapes}."
            )
        by_point: dict[str, list[int]] = defaultdict(list)
        for unit in self.units:
            by_point[unit.hook].append(unit.index)
        return [(name, _setter(model.graph[name].axes, indices, self.value)) for name, indices in by_point.items()]


def _exists(model: HookedMultimodal, unit: Neuron | Head) -> bool:
    if unit.hook not in model.graph or unit.index < 0:
        return False
    cfg = model.part(unit.part).cfg
    return unit.index < (cfg.n_heads if isinstance(unit, Head) else model.graph[unit.hook].width or 0)


def _setter(axes: str, indices: list[int], value: float) -> Callable[..., torch.Tensor]:
    axis = axes.split().index("head" if "head" in axes.split() else "neuron")

    def set_units(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return activation.index_fill(axis, torch.tensor(indices, device=activation.device), value)

    return set_units


@dataclass(frozen=True)
class Replace:
    """Put given values in the place of a point's activation at some positions.

    Args:
        at: hook name.
        values: a whole activation of that point, of the same shape as in the run to come.
        rows: positions along the point's position axis: `[row]`, or `[batch row]` per sample; None for all.
    """

    at: str
    values: torch.Tensor = field(repr=False)
    rows: torch.Tensor | None = None

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """The one hook.

        Raises:
            InputError: if positions lie outside the values, or the width does not fit.
        """
        node = model.graph[self.at]
        axis = position_axis(node.axes)
        if self.values.ndim != len(node.axes.split()) or (
            node.width is not None and self.values.shape[-1] != node.width
        ):
            raise InputError(
                f"values for {self.at} must be [{node.axes}] with {node.width} last, found {list(self.values.shape)}."
            )
        if self.rows is not None and int(self.rows.max()) >= self.values.shape[axis]:
            raise InputError(
                f"rows go up to {int(self.rows.max())}, but {self.at} has {self.values.shape[axis]} positions."
            )
        return [(node.name, self._set(axis))]

    def _set(self, axis: int) -> Callable[..., torch.Tensor]:
        def replace(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            values = self.values.to(activation)
            if values.shape != activation.shape:
                raise InputError(
                    f"values for {self.at} are {list(values.shape)}, the run's activation {list(activation.shape)}."
                )
            if self.rows is None:
                return values
            return torch.where(_row_mask(activation, axis, self.rows), values, activation)

        return replace


def _row_mask(activation: torch.Tensor, axis: int, rows: torch.Tensor) -> torch.Tensor:
    """True at the given rows, broadcastable to the activation."""
    length = activation.shape[axis]
    per_sample = rows if rows.ndim == 2 else rows[None]
    mask = torch.zeros(len(per_sample), length, dtype=torch.bool, device=activation.device)
    mask.scatter_(1, per_sample.to(activation.device), True)
    shape = [1] * activation.ndim
    shape[axis] = length
    if rows.ndim == 2:
        shape[0] = len(rows)
    return mask.reshape(shape)
