"""Edits of given rows without a goal: scaled, zeroed, with noise added."""

from collections.abc import Sequence

import torch
from jaxtyping import Float

from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.interventions.edits.edit import Edit, provenance
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.weight_rows import row_weights


def scale_neurons(model: HookedMultimodal, neurons: Sequence[Neuron], *, factor: float) -> Edit:
    """Multiply what neurons write: `delta = (factor - 1) * row`.

    Args:
        model: the hooked model.
        neurons: whose rows.
        factor: 0 takes them out, 1 changes nothing, 2 doubles them.

    Raises:
        InputError: if a row does not exist or cannot be edited.

    Example:
        >>> from mmlens import Neuron
        >>> scale_neurons(model, [Neuron(2, 7), Neuron(3, 1)], factor=2.0).size > 0
        True
    """
    deltas = (factor - 1) * read_rows(model, neurons)
    return Edit(tuple(neurons), deltas, provenance(model, "scale", settings={"factor": factor}))


def zero_neurons(model: HookedMultimodal, neurons: Sequence[Neuron]) -> Edit:
    """Take out what neurons write: `delta = -row`, so that the rows become exactly zero.

    Args:
        model: the hooked model.
        neurons: whose rows.

    Raises:
        InputError: if a row does not exist or cannot be edited.
    """
    return Edit(tuple(neurons), -read_rows(model, neurons), provenance(model, "zero"))


def noise_neurons(model: HookedMultimodal, neurons: Sequence[Neuron], *, sigma: float, seed: int) -> Edit:
    """Add noise to what neurons write: `delta = sigma * N(0, I)`.

    Args:
        model: the hooked model.
        neurons: whose rows.
        sigma: standard deviation per weight, in the unit of the weights.
        seed: of the draw.

    Raises:
        InputError: for a negative sigma; if a row does not exist or cannot be edited.

    Example:
        >>> from mmlens import Neuron
        >>> edit = noise_neurons(model, [Neuron(2, 7)], sigma=0.5, seed=0)
        >>> edit == noise_neurons(model, [Neuron(2, 7)], sigma=0.5, seed=0)
        True

    Source: the test of causal effect in Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers",
    Findings of ACL 2024 (https://arxiv.org/abs/2311.07470).
    """
    if sigma < 0:
        raise InputError(f"sigma={sigma} must not be negative.")
    rows = read_rows(model, neurons)
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))
    return Edit(tuple(neurons), sigma * noise, provenance(model, "noise", settings={"sigma": sigma}, seed=seed))


@torch.no_grad()
def read_rows(model: HookedMultimodal, neurons: Sequence[Neuron]) -> Float[torch.Tensor, "row d_model"]:
    """The rows of neurons as they are now, on the CPU, in at least float32; under a LoRA adapter the base layer's.

    Raises:
        InputError: if there are none, or one does not exist; all that are missing are listed.
        UnsupportedModelError: if they are quantised or offloaded.
    """
    if not neurons:
        raise InputError("No neurons were given to edit.")
    missing = [str(neuron) for neuron in neurons if not _exists(model, neuron)]
    if missing:
        shapes = ", ".join(
            f"{part}: {model.part(part).cfg.n_layers} layers of {model.part(part).cfg.d_mlp} neurons"
            for part in dict.fromkeys(neuron.part for neuron in neurons)
        )
        raise InputError(
            f"The model has no {', '.join(missing[:8])}{' ...' if len(missing) > 8 else ''}; it has {shapes}."
        )
    weights = row_weights(model, {(neuron.part, neuron.layer) for neuron in neurons})
    widths = {part: len(weight) for (part, _), weight in weights.items()}
    if len(set(widths.values())) > 1:
        raise InputError(
            f"One edit's rows have one width, but these parts' rows have {widths}; make an edit for each part."
        )
    rows = [weights[neuron.part, neuron.layer][:, neuron.index].detach().cpu() for neuron in neurons]
    return torch.stack(rows).to(torch.promote_types(rows[0].dtype, torch.float32))


def _exists(model: HookedMultimodal, neuron: Neuron) -> bool:
    if not 0 <= neuron.layer < len(model.part(neuron.part).blocks):
        return False
    mlp = model.part(neuron.part).blocks[neuron.layer].mlp
    return mlp is None or 0 <= neuron.index < mlp.d_mlp  # blocks without rows are refused with their reason later
