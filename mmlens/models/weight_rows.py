"""Rows of the weights that MLP neurons write with: where they are, and a run as if something were added to them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import nn

from mmlens.architectures.weights import plain_weight
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.core.units import Neuron

if TYPE_CHECKING:
    from mmlens.models.hooked import HookedMultimodal

#: A block: which part, which layer.
Place: TypeAlias = tuple[Part, int]


def by_place(rows: Sequence[Neuron]) -> dict[Place, tuple[Int[torch.Tensor, "_"], Int[torch.Tensor, "_"]]]:
    """Neurons sorted by block: per (part, layer) their indices there, and their numbers in the sequence."""
    numbers: dict[Place, list[int]] = {}
    for number, neuron in enumerate(rows):
        numbers.setdefault((neuron.part, neuron.layer), []).append(number)
    return {place: (torch.tensor([rows[n].index for n in some]), torch.tensor(some)) for place, some in numbers.items()}


def row_weights(
    model: "HookedMultimodal", places: Iterable[Place]
) -> dict[Place, Float[torch.Tensor, "d_model neuron"]]:
    """The real parameters whose column i is the row of neuron i; under LoRA adapters the base layers'.

    Args:
        model: the hooked model.
        places: blocks, as (part, layer).

    Raises:
        InputError: if there is no such block, or it has no rows.
        UnsupportedModelError: if they are quantised or offloaded.
    """
    return {
        place: plain_weight(module, f"W_out of layer {place[1]} of {place[0]}", to="edit")
        for place, module in _down_projections(model, places).items()
    }


def _down_projections(model: "HookedMultimodal", places: Iterable[Place]) -> dict[Place, nn.Module]:
    """The real modules whose weights hold the rows that the neurons of blocks write."""
    blocks: dict[Part, Any] = {}
    found = {}
    for part, layer in places:
        if part not in blocks:
            blocks[part] = model.part(part).blocks
        if not 0 <= layer < len(blocks[part]):
            raise InputError(
                f"The model has no layer {layer} in the part {part!r}; it has {len(blocks[part])} layers there."
            )
        mlp = blocks[part][layer].mlp
        if mlp is None:
            raise InputError(
                f"Layer {layer} of the part {part!r} is no plain MLP (a mixture of experts, or another mixer): its neurons have "
                "no rows that could be edited. Choose neurons of other layers."
            )
        found[part, layer] = mlp.down
    return found


def check_rows(
    place: Place, rows: Int[torch.Tensor, "row"], width: int, weight: Float[torch.Tensor, "d_model neuron"]
) -> None:
    """Refuse rows that a block does not have, and deltas of another width.

    Raises:
        InputError: says which, and what there is.
    """
    d_model, neurons = weight.shape
    missing = [row for row in rows.tolist() if not 0 <= row < neurons]
    if missing:
        raise InputError(
            f"The edit names neurons {missing[:8]} of layer {place[1]} of {place[0]}, which has {neurons} neurons."
        )
    if width != d_model:
        raise InputError(
            f"The edit's deltas are {width} wide, but rows of layer {place[1]} of {place[0]} have d_model={d_model}."
        )


@contextmanager
def rows_added(
    model: "HookedMultimodal", rows: Sequence[Neuron], deltas: Callable[[], Float[torch.Tensor, "row d_model"]]
) -> Iterator[None]:
    """Run as if deltas were added to rows, differentiably, without writing to a weight.

    A block's MLP then writes `sum_i q_i (row_i + delta_i)`, at every position; a gradient can flow to the deltas.

    Args:
        model: the hooked model.
        rows: neurons.
        deltas: called once per forward and block; gives what is added now.

    Raises:
        InputError: if a row cannot be edited, before anything is attached.
    """
    order = by_place(rows)
    modules, weights = _down_projections(model, order), row_weights(model, order)
    for place, (indices, _) in order.items():
        check_rows(place, indices, len(weights[place]), weights[place])
    handles = []
    try:
        for place, (indices, numbers) in order.items():
            hook = _added(indices, numbers, deltas)
            # before Hugging Face's recorders and our points, which must see the sum
            handles.append(modules[place].register_forward_hook(hook, prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _added(indices: torch.Tensor, numbers: torch.Tensor, deltas: Callable[[], torch.Tensor]) -> Callable[..., Any]:
    def add(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        active = args[0][..., indices.to(args[0].device)]
        added = deltas()[numbers.to(deltas().device)].to(active)
        return output + active @ added

    return add
