"""The token layout: which positions are picture, which are text, and which pixels a row stands for."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.core.units import Positions
from mmlens.inputs.patch_geometry import Places
from mmlens.inputs.pixels import Pixels


@dataclass(frozen=True)
class TokenLayout(Pixels):
    """Positions of a batch and their places in the pictures.

    Attributes:
        is_image: True where the language model reads a picture.
        is_token: True where there is a token, False in padding.
        places: where the rows of each picture, or of each frame of a video, are, in the order of the batch.

    Example:
        >>> batch.layout.last.shape == (batch.size,)
        True
        >>> rows = batch.layout.patches(box=(0, 0, 12, 12))
        >>> batch.layout.boxes(rows)[0].tolist()
        [0.0, 0.0, 12.0, 12.0]
    """

    is_image: Bool[torch.Tensor, "batch pos"]
    is_token: Bool[torch.Tensor, "batch pos"]
    places: tuple[Places, ...]

    def __repr__(self) -> str:
        images = [int(n) for n in self.is_image.sum(1)]
        texts = [int(n) for n in (self.is_token & ~self.is_image).sum(1)]
        return (
            f"TokenLayout: {len(images)} samples of {self.is_token.shape[1]} positions; image tokens {images}, "
            f"text tokens {texts}, {len({(p.sample, p.image) for p in self.places})} pictures"
        )

    @property
    def image(self) -> list[Int[torch.Tensor, "pos"]]:
        """Per sample, the positions of its image tokens."""
        return [row.nonzero().flatten() for row in self.is_image]

    @property
    def text(self) -> list[Int[torch.Tensor, "pos"]]:
        """Per sample, the positions of its text tokens, special ones included."""
        return [row.nonzero().flatten() for row in self.is_token & ~self.is_image]

    @property
    def last(self) -> Int[torch.Tensor, "batch"]:
        """Per sample, the last position that is not padding: the one that predicts the first new token."""
        length = self.is_token.shape[1]
        return length - 1 - self.is_token.flip(1).int().argmax(1)

    def length(self, sequence: str) -> int | None:
        """Number of positions of a sequence, or None where only a run tells."""
        if sequence == "language":
            return self.is_token.shape[1]
        if sequence in ("vision", "projector"):
            part: Part = "vision" if sequence == "vision" else "projector"
            grids = [grid for places in self.places for grid in places.views(part)]
            declared = [places.lengths[part] for places in self.places if part in places.lengths]
            return max([1 + int(grid.rows.max()) for grid in grids] + declared, default=None)
        return None

    def rows(self, positions: Positions, sequence: str, length: int | None = None) -> Int[torch.Tensor, "..."]:
        """Resolve a position rule to rows of a sequence.

        Args:
            positions: `"all"`, `"image"`, `"text"`, `"last"`, an index, several, a slice, or a tensor `[row]` or
                `[batch row]`; negative indices count from the end.
            sequence: what the positions run over: `"language"` (the prompt), `"decoder"` (what an encoder-decoder model
                writes), `"vision"`, `"projector"` or `"queries"`.
            length: number of positions in that sequence; the language model's by default.

        Returns:
            `[row]`, the same for all samples, or `[batch row]`.

        Raises:
            InputError: if a position is out of range, or samples differ in how many they have.
        """
        if length is None:
            length = self.is_token.shape[1]
        if isinstance(positions, str):
            return self._rows_by_word(positions, sequence, length)
        if isinstance(positions, slice):
            rows = torch.arange(length)[positions]
        else:
            rows = _as_tensor(positions)
            rows = rows if rows.numel() else rows.long()  # an empty list has no type of its own
            if rows.dtype == torch.bool or rows.is_floating_point():
                raise InputError(f"positions must be whole numbers, found {rows.dtype}; use .nonzero() on a mask.")
            rows = rows.reshape(1) if rows.ndim == 0 else rows
            if rows.ndim > 2 or (rows.ndim == 2 and len(rows) != len(self.is_token)):
                raise InputError(
                    f"positions must be [row], or [batch row] with a row for each of the {len(self.is_token)} samples, found "
                    f"shape {list(rows.shape)}."
                )
        wrong = rows[(rows < -length) | (rows >= length)]
        if len(wrong) or not rows.numel():
            raise InputError(
                f"positions={positions!r} "
                + (f"name {wrong.tolist()}, outside" if len(wrong) else "name none of")
                + f" the {length} positions of the {sequence} sequence."
            )
        return rows % length

    def _rows_by_word(self, word: str, sequence: str, length: int) -> torch.Tensor:
        if word == "all":
            return torch.arange(length)
        if word not in ("image", "text", "last"):
            raise InputError(f"positions={word!r} is unknown; the words are 'all', 'image', 'text' and 'last'.")
        if sequence == "decoder" and word in ("text", "last"):
            return torch.arange(length) if word == "text" else torch.tensor([length - 1])
        if sequence != "language":
            if word != "image":
                raise InputError(
                    f"positions={word!r} has no meaning on the {sequence} sequence, which holds only picture rows; use "
                    "'all', 'image' or indices, or choose language-model points."
                )
            return self._picture_rows(sequence, length)
        if word == "last":
            return self.last[:, None]
        rows = self.image if word == "image" else self.text
        return _rectangular(rows, word)

    def _picture_rows(self, sequence: str, length: int) -> torch.Tensor:
        if sequence == "queries":
            return torch.arange(length)
        if sequence not in ("vision", "projector"):
            kinds = sequence.split("+")
            holds = f"mixes {' and '.join(kinds)}" if len(kinds) > 1 else "holds no rows of pictures"
            raise InputError(
                f"positions='image' has no meaning on the sequence {sequence!r}, which {holds}; use indices."
            )
        part: Part = "vision" if sequence == "vision" else "projector"
        if not self.places:
            raise InputError("positions='image' names nothing: the batch has no picture.")
        grids = [grid for places in self.places for grid in places.views(part)]
        if any(grid.index is None for grid in grids):
            return torch.cat([grid.rows.unique() for grid in grids])
        held: dict[int, list[int]] = {}
        for grid in grids:
            entries = (
                grid.index if isinstance(grid.index, torch.Tensor) else torch.full_like(grid.rows, grid.index or 0)
            )
            for entry, row in zip(entries.tolist(), grid.rows.tolist(), strict=True):
                held.setdefault(entry, []).append(row)
        rows = [torch.tensor(held[entry]).unique() for entry in sorted(held)]
        if all(torch.equal(rows[0], other) for other in rows):
            return rows[0]
        return _rectangular(rows, "image")


def _as_tensor(positions: object) -> torch.Tensor:
    """Indices as a tensor.

    Raises:
        InputError: for what holds no numbers.
    """
    try:
        return torch.as_tensor(positions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"positions={positions!r} are none: give 'all', 'image', 'text' or 'last', whole numbers, a slice or a tensor."
        ) from error


def _rectangular(rows: list[torch.Tensor], word: str) -> torch.Tensor:
    """Stack rows per sample, `[batch row]`; all must have the same number."""
    counts = [len(r) for r in rows]
    if not any(counts):
        raise InputError(f"positions={word!r} names nothing: no sample has {word} positions.")
    if len(set(counts)) > 1:
        raise InputError(
            f"positions={word!r} cannot be stacked: the samples have {counts} {word} positions. Run samples of one kind "
            "together, or keep all positions and use batch.layout per sample."
        )
    return torch.stack(rows)
