"""What a block is called with besides the stream, cut to packed rows; and linears that are asked for some rows alone."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mmlens.execution.query_groups import RowSpan
from mmlens.models.decoder import NotAloneError


class RowsOf:
    """The entries of packed rows in tensors of the clean run; a tensor that several blocks get is cut once.

    Args:
        spans: the rows.
    """

    def __init__(self, spans: Sequence[RowSpan]):
        rows = torch.cat([span.rows for span in spans])
        samples = torch.tensor([span.sample for span in spans])
        samples = samples.repeat_interleave(torch.tensor([len(span.rows) for span in spans]))
        self._places: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {rows.device: (samples, rows)}
        self._cut: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def of_all(self, kwargs: Mapping[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
        """Keywords of a block, cut to the rows.

        Args:
            kwargs: what the block was called with.
            shape: batch and positions of that call.
        """
        return {name: None if name == "attention_mask" else self._of(value, shape) for name, value in kwargs.items()}

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples and positions of the rows, on a device: blocks may lie on several."""
        if device not in self._places:
            samples, rows = next(iter(self._places.values()))
            self._places[device] = samples.to(device), rows.to(device)
        return self._places[device]

    def _of(self, value: Any, shape: tuple[int, int]) -> Any:
        if isinstance(value, torch.Tensor):
            # the tensor is held beside its cut, so that its identity stays its own
            if id(value) not in self._cut:
                self._cut[id(value)] = (value, self._tensor(value, shape))
            return self._cut[id(value)][1]
        if isinstance(value, tuple | list):
            return type(value)(self._of(item, shape) for item in value)
        if isinstance(value, Mapping):
            return {key: self._of(item, shape) for key, item in value.items()}
        return value

    def _tensor(self, value: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor | None:
        batch, length = shape
        sizes = value.shape
        samples, rows = self._on(value.device)
        if value.ndim == 4 and sizes[-1] == sizes[-2] == length:
            return None  # a mask, which the recorded attention holds
        for axis in range(value.ndim - 1):
            if sizes[axis + 1] == length and sizes[axis] in (1, batch):
                indices = samples if sizes[axis] == batch else torch.zeros_like(samples)
                # both axes in front of those that stay, and the rows back to where they were
                cut = value.movedim((axis, axis + 1), (0, 1))[indices, rows]
                return cut.movedim(0, axis).unsqueeze(axis)
        if value.ndim == 1 and sizes[0] == length:
            return value[rows]
        if value.ndim == 0 or batch == 1 or sizes[0] != batch:
            return value
        raise NotAloneError(f"its blocks are given a tensor {list(sizes)} that is no row's and differs by sample")


@contextmanager
def only_rows(linears: Sequence[nn.Module], rows: torch.Tensor | None) -> Iterator[None]:
    """Have linears compute some rows of `[1 row width]` alone inside the `with`, and return zeros for the others.

    Args:
        linears: whose other rows nobody reads.
        rows: which rows; None for all.
    """
    forwards = [] if rows is None else [(linear, vars(linear).get("forward"), linear.forward) for linear in linears]
    try:
        for linear, _, forward in forwards:

            def some(x: torch.Tensor, forward: Any = forward) -> torch.Tensor:
                output = forward(x[:, rows])
                return output.new_zeros(*x.shape[:-1], output.shape[-1]).index_copy_(1, rows, output)

            vars(linear)["forward"] = some
        yield
    finally:
        for linear, instance_forward, _ in forwards:
            if instance_forward is None:
                vars(linear).pop("forward", None)
            else:
                vars(linear)["forward"] = instance_forward
