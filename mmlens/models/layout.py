"""The token layout: which positions are picture, which are text, and which pixels a row stands for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.names import Part, require_part
from mmlens.core.places import Positions
from mmlens.models.places import Grid, Places

Box = tuple[float | int, float | int, float | int, float | int]


@dataclass(frozen=True)
class TokenLayout:
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

    def place(self, sample: int = 0, image: int = 0, frame: int | None = None) -> Places:
        """The places of one picture, or of one frame of a video.

        Args:
            sample: which sample.
            image: which of its pictures or videos.
            frame: which frame of the video; None for a picture.

        Raises:
            InputError: if the sample has no such picture or frame, or it is a video and no frame is named.
        """
        found = [places for places in self.places if (places.sample, places.image) == (sample, image)]
        if not found:
            counts = [len({p.image for p in self.places if p.sample == s}) for s in range(len(self.is_image))]
            raise InputError(f"There is no picture {image} in sample {sample}; the samples have {counts} pictures.")
        count = 1 + max((number for places in found for number in places.frames), default=-1)
        if frame is None and not count:
            return found[0]
        if not count:
            raise InputError(
                f"frame={frame} was asked for, but picture {image} of sample {sample} is no video; leave it out."
            )
        for places in found:
            if frame in places.frames:
                return places
        raise InputError(
            f"Picture {image} of sample {sample} is a video of {count} frames, and frame={frame} is none of them; pass "
            f"frame=0..{count - 1}. (layout.places lists which frames share their rows.)"
        )

    def views(
        self, part: Part = "language", *, sample: int = 0, image: int = 0, frame: int | None = None
    ) -> tuple[Grid, ...]:
        """The views of one picture in a part: one, or several where the model also sees it cut into tiles.

        Raises:
            NoPlaceError: if the part's rows have no place in the picture; the message says why.
        """
        places = self.place(sample, image, frame)
        if require_part(part) in places.placeless:
            raise NoPlaceError(f"Rows of the part {part!r} were asked for their place: {places.placeless[part]}.")
        return places.views(part)

    def grid(
        self,
        part: Part = "language",
        *,
        sample: int = 0,
        image: int = 0,
        view: int | None = None,
        frame: int | None = None,
    ) -> Grid:
        """The rows of a part that stand for one picture, with their boxes and cells.

        Args:
            part, sample, image: as for `patches`.
            view: which view of the picture; the one with the most rows by default.
            frame: which frame, if it is a video.

        Raises:
            NoPlaceError: if the part's rows have no place in the picture; the message says why.
            InputError: if there is no such view.
        """
        views = self.views(part, sample=sample, image=image, frame=frame)
        if view is None:
            return max(views, key=lambda grid: len(grid.rows))
        if not 0 <= view < len(views):
            shapes = ", ".join(f"{n}: {rows} x {columns}" for n, (rows, columns) in enumerate(g.shape for g in views))
            raise InputError(
                f"view={view} does not exist in the part {part!r}, which sees the picture in views {shapes}."
            )
        return views[view]

    def _joined(
        self, part: Part, sample: int, image: int, view: int | None, frame: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and boxes of one view, or of all where these lie in one entry of the batch axis.

        Raises:
            InputError: if a row's number alone does not say which row is meant.
        """
        views = self.views(part, sample=sample, image=image, frame=frame)
        chosen = views if view is None else (self.grid(part, sample=sample, image=image, view=view, frame=frame),)
        entries = {grid.index if not isinstance(grid.index, torch.Tensor) else "several" for grid in chosen}
        if entries != {"several"} and len(entries) > 1:
            raise InputError(
                f"The part {part!r} sees the picture in {len(views)} views, which lie in different entries of its batch axis; "
                f"pass view=0..{len(views) - 1}. (layout.views(part) lists them.)"
            )
        return torch.cat([grid.rows for grid in chosen]), torch.cat([grid.boxes for grid in chosen])

    def patches(
        self,
        box: Box,
        *,
        part: Part = "language",
        sample: int = 0,
        image: int = 0,
        view: int | None = None,
        frame: int | None = None,
    ) -> Int[torch.Tensor, "row"]:
        """Rows whose pixels a box of the picture touches.

        Args:
            box: (left, top, right, bottom) in pixels of the user's picture; right and bottom are outside.
            part: whose rows; the language model's positions by default.
            sample, image: which picture.
            view: which view, where the model sees the picture as a whole and cut into tiles; all of them by default.
            frame: which frame, if it is a video.

        Returns:
            Rows along the part's position axis, in the order of the picture. Where tiles lie in different entries of the
            batch axis, `layout.grid(part, view=...).index` says in which.

        Raises:
            InputError: if the box is empty or lies outside the picture.
            NoPlaceError: if the part's rows have no place.
        """
        rows, b = self._joined(part, sample, image, view, frame)
        left, top, right, bottom = box
        height, width = self.place(sample, image, frame).size
        if not (left < right and top < bottom and right > 0 and bottom > 0 and left < width and top < height):
            raise InputError(
                f"box={box} covers no pixel of the picture ({width} wide, {height} high); a box is "
                "(left, top, right, bottom) with right and bottom outside."
            )
        # boxes are exact up to rounding of the resize factor, so a touch of less than 1e-6 pixels is none
        touched = (
            (b[:, 0] < right - 1e-6) & (b[:, 2] > left + 1e-6) & (b[:, 1] < bottom - 1e-6) & (b[:, 3] > top + 1e-6)
        )
        return rows[touched]

    def patches_of_mask(
        self,
        mask: Bool[torch.Tensor, "height width"],
        *,
        part: Part = "language",
        sample: int = 0,
        image: int = 0,
        view: int | None = None,
        frame: int | None = None,
    ) -> Int[torch.Tensor, "row"]:
        """Rows of which at least half the pixels lie in a mask of the picture; else the one with the most.

        Args:
            mask: True inside, of the picture's size.
            part, sample, image, view, frame: as for `patches`.
        """
        rows, boxes = self._joined(part, sample, image, view, frame)
        size = self.place(sample, image, frame).size
        mask = torch.as_tensor(mask)
        if tuple(mask.shape) != size:
            raise InputError(
                f"mask is [{', '.join(map(str, mask.shape))}], but the picture is [height={size[0]} width={size[1]}]."
            )
        if not mask.any():
            raise InputError("The mask is empty: no pixel is True.")
        shares = []
        for left, top, right, bottom in boxes.round().long().tolist():
            inside = mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
            shares.append(float(inside.float().mean()) if inside.numel() else 0.0)
        share = torch.tensor(shares)
        return rows[share >= min(0.5, float(share.max()))]

    def boxes(
        self,
        rows: Sequence[int] | torch.Tensor,
        *,
        part: Part = "language",
        sample: int = 0,
        image: int = 0,
        view: int | None = None,
        frame: int | None = None,
    ) -> Float[torch.Tensor, "row 4"]:
        """Pixel boxes (left, top, right, bottom) of rows, in pixels of the user's picture.

        Raises:
            NoPlaceError: if a row stands for no part of the picture (text, class row, another picture).
        """
        known, boxes = self._joined(part, sample, image, view, frame)
        where = {int(row): i for i, row in enumerate(known)}
        if len(where) < len(known):
            raise InputError(
                f"In the part {part!r} the picture's tiles lie in different entries of the batch axis, so a row's number alone "
                "names no box; layout.grid(part, view=...) has .index, .rows and .boxes side by side."
            )
        asked = [int(row) for row in rows]
        wrong = [row for row in asked if row not in where]
        if wrong:
            low, high = int(known.min()), int(known.max())
            raise NoPlaceError(
                f"Rows {wrong} of the part {part!r} stand for no part of picture {image} of sample {sample}; "
                f"its rows lie in {low}..{high}."
            )
        return boxes[[where[row] for row in asked]]

    def raster(
        self,
        values: Float[torch.Tensor, "*entry pos"],
        *,
        part: Part = "language",
        sample: int = 0,
        image: int = 0,
        view: int | None = None,
        frame: int | None = None,
    ) -> Float[torch.Tensor, "row column"]:
        """Arrange one value per position as a map over the picture, whatever the order of the rows.

        Args:
            values: one number per position of the part's whole sequence (for the batch entry of this picture); with the
                batch axis in front, `[batch pos]`, for a view whose tiles lie in different entries.
            part, sample, image: as for `patches`.
            view: which view; the one with the most rows by default.
            frame: which frame, if it is a video.

        Returns:
            The map, one number per patch, as the picture lies; NaN where the view has no row.
        """
        grid = self.grid(part, sample=sample, image=image, view=view, frame=frame)
        in_tiles = isinstance(grid.index, torch.Tensor)
        if values.ndim != 1 + in_tiles or values.shape[-1] <= int(grid.rows.max()):
            raise InputError(
                f"values must be [{'batch ' if in_tiles else ''}pos] with a value for each of the {part} part's positions "
                f"(more than {int(grid.rows.max())}), found shape {list(values.shape)}."
            )
        held = values.detach().cpu()
        empty = len(grid.rows) < grid.shape[0] * grid.shape[1]
        picture = torch.full(grid.shape, float("nan") if empty else 0.0, dtype=values.dtype)
        picture[grid.cells[:, 0], grid.cells[:, 1]] = held[grid.index, grid.rows] if in_tiles else held[grid.rows]
        return picture

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
            rows = torch.as_tensor(positions)
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
