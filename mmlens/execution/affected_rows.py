"""Which rows of which blocks a cell can change: its causal cone in the language model.

A change reaches, in a block, the rows that may look at a changed one; what the answer needs runs backwards in the same way,
from the rows that are read to all they may look at. Only the rows in both are computed. Both follow from the masks of the clean
run, so that bidirectional rows of a picture, sliding windows and padding need no rule of their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from mmlens.execution.recording import Attended
from mmlens.hooks.attention import allowed_by

#: Points of a block whose change alters the keys or values of a row, and so other rows in the same block.
_KEY_KINDS = ("ln1.scale", *(f"attn.{kind}" for kind in ("k", "k_normed", "rot_k", "v", "v_normed")))


@dataclass(frozen=True)
class ChangeLocation:
    """A change's place in the language model.

    Attributes:
        layer: the block; the number of blocks for points behind the last.
        stage: `"pre"` and `"post"` for the stream in front of and behind the block, `"keys"` and `"rows"` for points inside,
            whose change reaches other rows in the block or their own alone, `"final"` for points behind the last block.
    """

    layer: int
    stage: str


def place_of(kind: str, layer: int | None, depth: int) -> ChangeLocation:
    """Where a point of the language model is.

    Args:
        kind: the node's kind.
        layer: the node's block, or None.
        depth: number of blocks.
    """
    if layer is None:
        return ChangeLocation(0, "pre") if kind == "embed" else ChangeLocation(depth, "final")
    stage = {"resid_pre": "pre", "resid_post": "post"}.get(kind, "keys" if kind in _KEY_KINDS else "rows")
    return ChangeLocation(layer, stage)


@dataclass(frozen=True)
class BlockStep:
    """What is computed of one block for one cell; row tensors are sorted, and the same object where they are equal.

    Attributes:
        rows: rows for which the block runs.
        keys: rows whose keys and values are found first, by themselves, where far fewer rows are computed than differ; None
            where the rows that run are all that differ.
        differs: rows whose stream in front of the block differs.
        handed_on: rows whose stream behind the block differs and matters.
    """

    rows: torch.Tensor
    keys: torch.Tensor | None
    differs: torch.Tensor
    handed_on: torch.Tensor


@dataclass(frozen=True)
class Schedule:
    """What is computed for one cell.

    Attributes:
        steps: by block; blocks that are not named are not run.
        final: rows that pass through the final norm and the unembedding; None if the answer is the clean one.
    """

    steps: dict[int, BlockStep]
    final: torch.Tensor | None

    @property
    def most(self) -> int:
        """Rows in the block that has the most of them."""
        return max(
            (max(len(step.rows), 0 if step.keys is None else len(step.keys)) for step in self.steps.values()), default=0
        )


class AffectedRows:
    """The cones of cells on one batch.

    Args:
        attended: the attention of each block in the clean run.
        length: number of positions.
        read: rows whose logits are read, per sample.
    """

    def __init__(self, attention: Sequence[Attended], length: int, read: Sequence[torch.Tensor]):
        self.attended = attention
        self.length = length
        self.read = read
        self._pairs: dict[tuple[int, int], torch.Tensor] = {}
        self._needed: dict[int, list[torch.Tensor]] = {}
        self._known: dict[tuple, Schedule] = {}
        self._looking: dict[tuple[int, bytes], torch.Tensor] = {}
        self._rows: dict[bytes, torch.Tensor] = {}

    @cached_property
    def causal(self) -> bool:
        """Whether no row looks at a later one in any block."""
        return all(layer_attention.causal for layer_attention in self.attended)

    def pairs(self, layer: int, sample: int) -> torch.Tensor:
        """Which rows may look at which in a block, `[query key]`."""
        layer_attention = self.attended[layer]
        key = (-1 - layer_attention.causal, 0) if layer_attention.mask is None else (id(layer_attention.mask), sample)
        if key not in self._pairs:
            n = self.length
            if layer_attention.mask is None:
                all_pairs = torch.ones(n, n, dtype=torch.bool)
                self._pairs[key] = all_pairs.tril() if layer_attention.causal else all_pairs
            else:
                mask = layer_attention.mask
                sample_mask = mask[min(sample, mask.shape[0] - 1), 0, :, :n]
                self._pairs[key] = allowed_by(sample_mask).cpu().expand(n, n)
        return self._pairs[key]

    def needed(self, sample: int) -> list[torch.Tensor]:
        """Per block, the rows whose stream behind it can reach what is read, as booleans `[pos]`."""
        if sample not in self._needed:
            rows = _flags(self.read[sample], self.length)
            needs = []
            for layer in reversed(range(len(self.attended))):
                needs.append(rows)
                rows = rows | self.pairs(layer, sample)[rows].any(0)
            self._needed[sample] = needs[::-1]
        return self._needed[sample]

    def _lookers(self, layer: int, sample: int, rows: torch.Tensor) -> torch.Tensor:
        """Rows that may look at one of some rows, as booleans `[pos]`."""
        pairs = self.pairs(layer, sample)
        key = (id(pairs), rows.numpy().tobytes())
        if key not in self._looking:
            self._looking[key] = pairs[:, rows].any(1)
        return self._looking[key]

    def schedule(self, sample: int, changes: Iterable[tuple[ChangeLocation, torch.Tensor | None]]) -> Schedule:
        """What has to be computed for changes of a sample.

        Args:
            sample: which sample.
            changes: their places and rows; None for all rows.
        """
        changes = tuple(changes)
        key = (sample, *((where, None if rows is None else tuple(rows.tolist())) for where, rows in changes))
        if key not in self._known:
            self._known[key] = self._scheduled(sample, changes)
        return self._known[key]

    def _scheduled(self, sample: int, changes: Sequence[tuple[ChangeLocation, torch.Tensor | None]]) -> Schedule:
        depth, empty = len(self.attended), torch.zeros(self.length, dtype=torch.bool)
        at: dict[ChangeLocation, torch.Tensor] = {}
        for where, rows in changes:
            at[where] = at.get(where, empty) | (~empty if rows is None else _flags(rows, self.length))
        needs = self.needed(sample)
        steps: dict[int, BlockStep] = {}
        differs = empty
        for layer in range(depth):
            pre, keys, rows, post = (
                at.get(ChangeLocation(layer, stage), empty) for stage in ("pre", "keys", "rows", "post")
            )
            differs = differs | pre
            reach = differs | keys
            inside = keys | rows
            if not (reach | inside).any():
                differs = post & needs[layer]
                if post.any():
                    steps[layer] = BlockStep(self._held(empty), None, self._held(empty), self._held(differs))
                continue
            work = (self._lookers(layer, sample, reach) | reach | rows) & needs[layer]
            if not work.any() and not post.any():
                differs = empty
                continue
            alone = not (inside | post).any() and 2 * int(work.sum()) <= int(reach.sum())
            before, differs = differs, work | (post & needs[layer])
            ran = work if alone else work | reach | inside | post
            keys_first = self._held(reach) if alone else None
            steps[layer] = BlockStep(self._held(ran), keys_first, self._held(before), self._held(differs))
        final = at.get(ChangeLocation(depth, "final"), empty)
        read = _flags(self.read[sample], self.length)
        if not (differs & read).any() and not final.any():
            return Schedule({}, None)
        return Schedule(steps, self._held(read | final))

    def _held(self, flags: torch.Tensor) -> torch.Tensor:
        """The rows that are set, one tensor object for each set of rows."""
        key = flags.numpy().tobytes()
        if key not in self._rows:
            self._rows[key] = flags.nonzero().flatten()
        return self._rows[key]


def _flags(rows: torch.Tensor, length: int) -> torch.Tensor:
    return torch.zeros(length, dtype=torch.bool).index_fill_(0, rows.cpu().long(), True)
