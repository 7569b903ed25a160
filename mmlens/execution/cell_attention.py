"""What stands in for the attention function while cells run: it gives each cell the keys and values that are its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.execution.cells import Change
from mmlens.execution.inside import row_edit_of
from mmlens.execution.packed_attention import attend, attend_by_steps
from mmlens.execution.query_groups import QueryGroup, RowSpan
from mmlens.execution.recording import Attended
from mmlens.models.decoder import NotAloneError


class KeysKnown(MMLensError):
    """Raised out of a block once its keys and values are known."""


@dataclass
class KernelCall:
    """What the lent attention has to know about the call of a block that is under way.

    Attributes:
        layer: the block.
        queries, keys: per cell, the rows that run and those whose keys are its own.
        groups: the cells that are computed together.
        edits: cells whose scores or pattern change, by number.
        stash: keys and values that were found before; None if they come with the queries.
        only_keys: stop as soon as keys and values are known.
        served: samples and positions of rows whose queries, keys and values are the clean run's, and where they lie in the
            packed sequence; None if there are none.
    """

    layer: int
    queries: list[RowSpan]
    keys: list[RowSpan]
    groups: list[QueryGroup]
    edits: dict[int, list[tuple[str, Change]]] = field(default_factory=dict)
    stash: tuple[torch.Tensor, torch.Tensor] | None = None
    only_keys: bool = False
    served: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None


class PackedAttention:
    """The attention of packed rows.

    Args:
        attended: the attention of each block in the clean run.

    Attributes:
        call: of the block that is under way; None outside of blocks.
    """

    def __init__(self, attention: Sequence[Attended]):
        self.attended = attention
        self.call: KernelCall | None = None

    def attend(
        self,
        kernel: Callable[..., Any],
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Stands in for the attention function while cells run."""
        call = self.call
        if call is None:
            raise MMLensError(f"{type(module).__name__} ran outside the blocks of a packed run.")
        if key.shape[2] != query.shape[2]:
            raise NotAloneError(f"block {call.layer} has keys that are not its own rows'")
        if call.only_keys:
            call.stash = key[0], value[0]
            raise KeysKnown("keys and values are known")
        layer_attention = self.attended[call.layer]
        k, v = key[0], value[0]
        if call.served is not None:
            samples, rows, where = call.served
            query[0, :, where] = layer_attention.query[samples, :, rows].transpose(0, 1)
            k, v = (
                new.index_copy(1, where, clean[samples, :, rows].transpose(0, 1))
                for new, clean in ((k, layer_attention.key), (v, layer_attention.value))
            )
        if call.stash is not None:
            alone = sum(len(q.rows) for q, keys in zip(call.queries, call.keys, strict=True) if keys.rows is not q.rows)
            k = torch.cat([call.stash[0], k[:, alone:]], 1)
            v = torch.cat([call.stash[1], v[:, alone:]], 1)
        out = query.new_empty(query.shape[2], query.shape[1], v.shape[-1])
        for group in call.groups:
            attend(group, layer_attention, query[0], k, v, out)
        for number, changes in call.edits.items():
            span = call.queries[number]
            attend_by_steps(span, call.keys[number], layer_attention, query[0], k, v, out, row_edit_of(changes, span))
        return out[None]
