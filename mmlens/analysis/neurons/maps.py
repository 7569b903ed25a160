"""Where in a picture neurons, or features of sparse dictionaries, are active."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from mmlens.analysis.heatmap import HeatMap, map_of_rows
from mmlens.analysis.neurons.points import POINTS, ActivationPoint
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.names import PARTS, Part, require_part
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Feature, Neuron, Unit
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

#: What a map shows of an activation: itself, or its magnitude. Activations of gated neurons have either sign, and in the mean
#: of several neurons they cancel where the object is; magnitudes do not.
Shown = Literal["activation", "magnitude"]


def activation_map(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    neurons: UnitsLike,
    *,
    activation: ActivationPoint = "down_in",
    shown: Shown = "activation",
    sample: int = 0,
    image: int = 0,
    title: str = "",
) -> HeatMap:
    """The mean activation of some neurons at each picture position, as a map over the picture.

    Args:
        model: the hooked model.
        batch: what to run on.
        neurons: of one part of the model, or their names; or features of dictionaries that are attached.
        activation: as for `find_neurons`.
        shown: the mean of the activations (as published), or of their magnitudes.
        sample, image: which picture.
        title: kept in the map.

    Raises:
        NoPlaceError: if the rows that the neurons see have no place in the picture (Q-Formers).
        InputError: if there are no neurons, the model lacks one, or they are of several parts.
    """
    return activation_maps(
        model, batch, {title: neurons}, activation=activation, shown=shown, sample=sample, image=image
    )[title]


@torch.no_grad()
def activation_maps(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    sets: Mapping[str, UnitsLike],
    *,
    activation: ActivationPoint = "down_in",
    shown: Shown = "activation",
    sample: int = 0,
    image: int = 0,
) -> dict[str, HeatMap]:
    """One map for each of several sets of neurons, from a single run that keeps only these neurons.

    Args:
        model, batch, activation, shown, sample, image: as for `activation_map`.
        sets: neurons by title.

    Raises:
        NoPlaceError, InputError: as for `activation_map`.
    """
    units = {}
    for title, neurons in sets.items():
        kind = Feature if any(isinstance(unit, Feature) for unit in Units(neurons)) else Neuron
        units[title] = Units.of(neurons, model, kind=kind, verb=f"The map {title!r}" if title else "activation_map")
    readers: dict[str, list[Unit]] = {}
    for unit in sorted({unit for group in units.values() for unit in group}):
        readers.setdefault(unit.hook.replace(POINTS["down_in"], POINTS[activation]), []).append(unit)
    part = _part_of(model, readers)
    index = batch.layout.grid(
        part, sample=sample, image=image
    ).index  # refuses rows without a place before anything runs
    values_of: dict[Unit, torch.Tensor] = {}

    @reads_only
    def keep(values: torch.Tensor, hook: Any) -> None:
        selection = readers[hook.name]
        rows = (
            values[index] if isinstance(index, int) else values
        )  # packed towers have one sequence, tiles an entry each
        columns = rows[..., [neuron.index for neuron in selection]].float().cpu()  # layers may lie on several devices
        columns = columns.abs() if shown == "magnitude" else columns
        values_of.update(zip(selection, columns.unbind(-1), strict=True))

    model.run_with_hooks(batch, fwd_hooks=[(list(readers), keep)])
    maps = {}
    for title, group in units.items():
        mean = torch.stack([values_of[unit] for unit in group]).mean(0)
        maps[title] = map_of_rows(batch.layout, mean, part=part, sample=sample, image=image, title=title)
    return maps


def _part_of(model: HookedMultimodal, readers: Mapping[str, Sequence[Unit]]) -> Part:
    """The part whose rows the neurons see: that of the sequence they live on.

    Raises:
        InputError: if the model has no such points, or they live on several sequences.
        NoPlaceError: if their sequence holds no rows of pictures.
    """
    missing = [name for name in readers if name not in model.graph]
    if missing:
        raise InputError(f"{model.family.name} has no hook point {missing[0]}, so there is nothing to map.")
    sequences = sorted({model.graph[name].sequence for name in readers})
    if len(sequences) > 1:
        raise InputError(
            f"One map shows neurons that see the same rows; these see those of {' and '.join(sequences)}. Map them apart."
        )
    part = model.graph[next(iter(readers))].part
    if sequences[0] in PARTS:
        return require_part(sequences[0])
    if part == "language":
        raise NoPlaceError(
            f"Neurons that live on the {sequences[0]} sequence see no rows of the picture, so there is no map of them."
        )
    return part
