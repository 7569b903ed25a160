"""The token layout: which positions are picture, which are text, and which pixels a row stands for."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int

from mmlens.core.contract import checked, checked_result
from mmlens.core.names import Part
from mmlens.core.sequence_rows import SequenceRows
from mmlens.core.view import Display
from mmlens.inputs.patch_geometry import Places
from mmlens.inputs.pixels import Pixels


@checked_result
@dataclass(frozen=True)
class TokenLayout(Pixels, Display):
    """Positions of a batch and their places in the pictures.

    The rows that it hands out know their sequence and sample: as `positions=` they are those rows, and are refused on another
    sequence. Rules (`mm.positions`) hold on every sequence.

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
        return _rows(self.is_image)

    @property
    def text(self) -> list[Int[torch.Tensor, "pos"]]:
        """Per sample, the positions of its text tokens, special ones included."""
        return _rows(self.is_token & ~self.is_image)

    @property
    def last(self) -> Int[torch.Tensor, "batch"]:
        """Per sample, the last position that is not padding: the one that predicts the first new token."""
        length = self.is_token.shape[1]
        return SequenceRows.of(length - 1 - self.is_token.flip(1).int().argmax(1), "language", per_sample=True)

    @checked
    def length(self, sequence: str) -> int | None:
        """Number of positions of a sequence, or None where only a run tells."""
        if sequence == "language":
            return self.is_token.shape[1]
        if sequence in ("vision", "projector"):
            part: Part = "vision" if sequence == "vision" else "projector"
            grids = [grid for places in self.places for grid in places.views(part)]
            lengths = [places.lengths[part] for places in self.places if part in places.lengths]
            return max([1 + int(grid.rows.max()) for grid in grids] + lengths, default=None)
        return None


def _rows(mask: torch.Tensor) -> list[Int[torch.Tensor, "pos"]]:
    """Per sample, the positions at which a mask is True."""
    return [
        SequenceRows.of(sample_mask.nonzero().flatten(), "language", sample=sample)
        for sample, sample_mask in enumerate(mask)
    ]
