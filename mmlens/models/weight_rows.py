"""Rows of the weights that MLP neurons write with: where they are, and a run as if something were added to them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import nn

from mmlens.architectures.modules import out_features
from mmlens.architectures.weights import plain_weight, readable
from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units
from mmlens.core.units import Feature, Neuron, Unit
from mmlens.models.claims import claimed
from mmlens.models.protocol import HookedModel


def by_point(rows: Sequence[Unit]) -> dict[str, tuple[Int[torch.Tensor, "_"], Int[torch.Tensor, "_"]]]:
    """Neurons by the hook point that holds them: their indices there, and their numbers in the sequence."""
    numbers: dict[str, list[int]] = {}
    for number, neuron in enumerate(rows):
        numbers.setdefault(neuron.hook, []).append(number)
    return {
        point: (torch.tensor([rows[n].index for n in members]), torch.tensor(members))
        for point, members in numbers.items()
    }


def row_widths(model: HookedModel, points: Iterable[str]) -> dict[str, int]:
    """How wide the rows are that the neurons of hook points write with."""
    return {point: out_features(read_by(model, point)) for point in points}


def row_weights(model: HookedModel, points: Iterable[str]) -> dict[str, Float[torch.Tensor, "d_model neuron"]]:
    """The real parameters whose column i is the row of neuron i; under LoRA adapters the base layers'.

    Args:
        model: the hooked model.
        points: hook points that hold its neurons, e.g. `encoder.blocks.0.mlp.hook_post`.

    Raises:
        UnsupportedModelError: if weights are quantised or offloaded.
    """
    return {point: plain_weight(read_by(model, point), f"W_out behind {point}") for point in points}


def written_rows(model: HookedModel, neurons: Sequence[Unit]) -> Float[torch.Tensor, "row d_model"]:
    """What neurons write per unit of their activation, as it acts: rows of `W_out`, adapters included; dequantised.

    Args:
        model: the hooked model.
        neurons: neurons that the model has.

    Raises:
        UnsupportedModelError: if weights are offloaded.
    """
    rows: dict[int, torch.Tensor] = {}
    for point, (indices, numbers) in by_point(neurons).items():
        weight = readable(read_by(model, point), f"W_out behind {point}")
        rows |= dict(zip(numbers.tolist(), weight.T[indices.to(weight.device)], strict=True))
    return torch.stack([rows[number].to(rows[0].device) for number in range(len(neurons))])


def write_norms(model: HookedModel, point: str) -> Float[torch.Tensor, "unit"]:
    """How large the weights are that each neuron, head or feature of a point writes with: Frobenius norms.

    Raises:
        UnsupportedModelError: if weights are offloaded.
    """
    splice = model.spliced.get(point.removesuffix(f".{Feature.point}"))
    if splice is not None and point.endswith(Feature.point):
        return splice.dictionary.W_dec.norm(dim=1).cpu()
    weight = readable(read_by(model, point), f"The weight behind {point}").detach()
    return weight.T.unflatten(0, (model.graph.unit_counts[point], -1)).flatten(1).float().norm(dim=1).cpu()


def read_by(model: HookedModel, point: str) -> nn.Module:
    """The real linear that reads the neurons of a point."""
    model.follow()
    return cast(nn.Module, model.hook_dict[point].read_by)


def require_rows(model: HookedModel, rows: Iterable[Unit], width: int) -> None:
    """Refuse rows that a model does not have, and deltas of another width.

    Raises:
        InputError: says which, and what there is.
        UnsupportedModelError: if weights are quantised or offloaded.
    """
    neurons = Units.of(rows, model, kind=Neuron, verb="The edit")
    for point, weight in row_weights(model, neurons.by_point()).items():
        if width != len(weight):
            raise InputError(
                f"The edit's deltas are {width} wide, but the rows behind {point} have d_model={len(weight)}."
            )


@contextmanager
def rows_added(
    model: HookedModel, rows: Sequence[Unit], deltas: Callable[[], Float[torch.Tensor, "row d_model"]]
) -> Iterator[None]:
    """Run as if deltas were added to rows, differentiably, without writing to a weight.

    A block's MLP then writes `sum_i q_i (row_i + delta_i)`, at every position; a gradient can flow to the deltas. Rows may be
    quantised, which could not be written.

    Args:
        model: the hooked model.
        rows: neurons.
        deltas: called once per forward and block; gives what is added now.

    Raises:
        InputError: if there is no such row, before anything is attached.
    """
    Units.of(rows, model, kind=Neuron, verb="An edit")
    order = by_point(rows)
    with claimed(model, "An edit on trial"), ExitStack() as stack:
        for point, (indices, numbers) in order.items():
            hook = _added(indices, numbers, deltas)
            # before Hugging Face's recorders and our points, which must see the sum
            stack.callback(read_by(model, point).register_forward_hook(hook, prepend=True).remove)
        yield


def _added(indices: torch.Tensor, numbers: torch.Tensor, deltas: Callable[[], torch.Tensor]) -> Callable[..., Any]:
    def add(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        active = args[0][..., indices.to(args[0].device)]
        change = deltas()[numbers.to(deltas().device)].to(active)
        return output + active @ change

    return add
