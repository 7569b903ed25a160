"""Edits of given rows without a goal: scaled, zeroed, with noise added."""

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Positive, Seed
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Neuron
from mmlens.interventions.edits.edit import Edit, provenance
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.weight_rows import row_widths, written_rows


@checked
def scale_neurons(model: HookedMultimodal, neurons: UnitsLike, *, factor: float) -> Edit:
    """Multiply what neurons write: `delta = (factor - 1) * row`.

    Args:
        model: the hooked model.
        neurons: whose rows: neurons or their names, one or several.
        factor: 0 takes them out, 1 changes nothing, 2 doubles them.

    Raises:
        InputError: if a row does not exist or cannot be edited, as those of heads.

    Example:
        >>> scale_neurons(model, ["L2.u7", "L3.u1"], factor=2.0).size > 0
        True
    """
    rows = Units.of(neurons, model, kind=Neuron, verb="scale_neurons")
    deltas = (factor - 1) * read_rows(model, rows)
    about = provenance(model, "scale", settings={"factor": factor})
    return Edit(rows, deltas, about, lambda others: scale_neurons(model, others, factor=factor))


@checked
def zero_neurons(model: HookedMultimodal, neurons: UnitsLike) -> Edit:
    """Take out what neurons write: `delta = -row`, so that the rows become exactly zero.

    Args:
        model: the hooked model.
        neurons: whose rows: neurons or their names, one or several.

    Raises:
        InputError: if a row does not exist or cannot be edited, as those of heads.
    """
    rows = Units.of(neurons, model, kind=Neuron, verb="zero_neurons")
    return Edit(rows, -read_rows(model, rows), provenance(model, "zero"), lambda others: zero_neurons(model, others))


@checked
def noise_neurons(model: HookedMultimodal, neurons: UnitsLike, *, sigma: Positive, seed: Seed) -> Edit:
    """Add noise to what neurons write: `delta = sigma * N(0, I)`.

    Args:
        model: the hooked model.
        neurons: whose rows: neurons or their names, one or several.
        sigma: standard deviation per weight, in the unit of the weights.
        seed: of the draw.

    Raises:
        InputError: for a negative sigma; if a row does not exist or cannot be edited.

    Example:
        >>> edit = noise_neurons(model, "L2.u7", sigma=0.5, seed=0)
        >>> edit == noise_neurons(model, "L2.u7", sigma=0.5, seed=0)
        True

    Source: the test of causal effect in Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers",
    Findings of ACL 2024 (https://arxiv.org/abs/2311.07470).
    """
    rows = Units.of(neurons, model, kind=Neuron, verb="noise_neurons")
    noise = torch.randn(read_rows(model, rows).shape, generator=torch.Generator().manual_seed(seed))
    about = provenance(model, "noise", settings={"sigma": sigma}, seed=seed)
    return Edit(rows, sigma * noise, about, lambda others: noise_neurons(model, others, sigma=sigma, seed=seed))


@torch.no_grad()
def read_rows(model: HookedMultimodal, neurons: UnitsLike) -> Float[torch.Tensor, "row d_model"]:
    """The rows of neurons as they are now, on the CPU, in at least float32; under adapters, as they act; dequantised.

    Raises:
        InputError: if there are none, or one does not exist; all that are missing are listed.
        UnsupportedModelError: if they are offloaded.
    """
    units = Units.of(neurons, model, kind=Neuron, verb="An edit of rows")
    widths = row_widths(model, units.by_point())
    if len(set(widths.values())) > 1:
        widths_text = ", ".join(f"{width} at {point}" for point, width in widths.items())
        raise InputError(f"One edit's rows have one width, but these are {widths_text}; make an edit for each width.")
    rows = written_rows(model, units).detach().cpu()
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
