"""Batches and points written out by hand, for what is told of their rows."""

from collections.abc import Sequence
from typing import Any

import torch

from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.layout import TokenLayout
from mmlens.inputs.patch_geometry import Places, RowGrid

#: Three samples: two paddings on the left, a picture of two tokens, and one on the right.
TOKENS = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]).bool()


def node(part: str, sequence: str, axes: str = "batch pos d_model") -> Node:
    """A point; its words are equal to others and not the same objects."""
    return Node(f"{part}.point", "".join(list(part)), None, "point", axes, 4, "".join(list(sequence)))  # type: ignore[arg-type]


def grid(index: Any, rows: Sequence[int]) -> RowGrid:
    """Rows of an entry (or each of its own), with boxes that nobody asks for."""
    count = len(rows)
    entries = torch.tensor(index) if isinstance(index, list) else index
    return RowGrid(
        entries, torch.tensor(rows, dtype=torch.long), torch.zeros(count, 4), torch.zeros(count, 2), (1, count)
    )


def place(sample: int, image: int = 0, lengths: Any = None, **grids: Any) -> Places:
    """A picture's places."""
    return Places(sample, image, (1, 1), grids, {}, lengths or {})  # type: ignore[arg-type]


def batch_of(*places: Places, tokens: torch.Tensor = TOKENS, **more: Any) -> MultimodalBatch:
    """A batch with these places."""
    inputs = {"input_ids": tokens.long(), **more.pop("inputs", {})}
    return MultimodalBatch(inputs, TokenLayout(torch.zeros_like(tokens), tokens, places), **more)


def two_samples(**more: Any) -> dict[str, Any]:
    """What a batch of two samples is made with."""
    return {"tokens": torch.ones(2, 3, dtype=torch.bool), **more}
