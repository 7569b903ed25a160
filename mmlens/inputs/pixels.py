"""From rows to the pixels that they stand for, and back: the part of a token layout that looks at pictures."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int

from mmlens.core.contract import checked
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.kinds import Index
from mmlens.core.names import Part, require_part
from mmlens.core.regions import Box
from mmlens.core.sequence_rows import SequenceRows
from mmlens.inputs.patch_geometry import Places, RowGrid


def touched(boxes: Float[torch.Tensor, "row 4"], box: Box, size: tuple[int, int]) -> Bool[torch.Tensor, "row"]:
    """The patches that a box of a picture touches.

    Args:
        boxes: pixel boxes of the patches.
        box: (left, top, right, bottom).
        size: (height, width) of the picture.

    Raises:
        InputError: if the box is empty or lies outside the picture.
    """
    left, top, right, bottom = box
    height, width = size
    if not (left < right and top < bottom and right > 0 and bottom > 0 and left < width and top < height):
        raise InputError(
            f"box={box} covers no pixel of the picture ({width} wide, {height} high); a box is "
            "(left, top, right, bottom) with right and bottom outside."
        )
    # boxes are exact up to rounding of the resize factor, so a touch of less than 1e-6 pixels is none
    low = (boxes[:, 0] < right - 1e-6) & (boxes[:, 1] < bottom - 1e-6)
    return low & (boxes[:, 2] > left + 1e-6) & (boxes[:, 3] > top + 1e-6)


def covered(
    boxes: Float[torch.Tensor, "row 4"], mask: Bool[torch.Tensor, "height width"], size: tuple[int, int]
) -> Bool[torch.Tensor, "row"]:
    """The patches of which a mask covers at least half; if there are none, the one that it covers most.

    Args:
        boxes: pixel boxes of the patches.
        mask: True inside.
        size: (height, width) of the picture.

    Raises:
        InputError: if the mask is empty, or of another size.
    """
    if tuple(mask.shape) != size:
        raise InputError(
            f"mask is [{', '.join(map(str, mask.shape))}], but the picture is [height={size[0]} width={size[1]}]."
        )
    if not mask.any():
        raise InputError("The mask is empty: no pixel is True.")
    sums = torch.nn.functional.pad(mask.cpu().long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    left, top, right, bottom = boxes.round().long().unbind(1)
    (left, right), (top, bottom) = (
        [end.clamp(0, limit) for end in ends] for ends, limit in (((left, right), size[1]), ((top, bottom), size[0]))
    )
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    share = inside / ((right - left) * (bottom - top)).clamp(min=1)
    return share >= min(0.5, float(share.max()))


class Pixels:
    """What a token layout knows of pictures.

    Attributes:
        is_image: True where the language model reads a picture.
        places: where the rows of each picture, or of each frame of a video, are.
    """

    is_image: Bool[torch.Tensor, "batch pos"]
    places: tuple[Places, ...]

    @checked
    def place(self, sample: Index = 0, image: Index = 0, frame: int | None = None) -> Places:
        """The places of one picture, or of one frame of a video.

        Args:
            sample: which sample.
            image: which of its pictures or videos.
            frame: which frame of the video; None for a picture.

        Raises:
            InputError: if the sample has no such picture or frame, or it is a video and no frame is named.
        """
        matches = [places for places in self.places if (places.sample, places.image) == (sample, image)]
        if not matches:
            counts = [len({p.image for p in self.places if p.sample == s}) for s in range(len(self.is_image))]
            raise InputError(f"There is no picture {image} in sample {sample}; the samples have {counts} pictures.")
        count = 1 + max((number for places in matches for number in places.frames), default=-1)
        if frame is None and not count:
            return matches[0]
        if not count:
            raise InputError(
                f"frame={frame} was asked for, but picture {image} of sample {sample} is no video; leave it out."
            )
        for places in matches:
            if frame in places.frames:
                return places
        raise InputError(
            f"Picture {image} of sample {sample} is a video of {count} frames, and frame={frame} is none of them; pass "
            f"frame=0..{count - 1}. (layout.places lists which frames share their rows.)"
        )

    @checked
    def views(
        self, part: Part = "language", *, sample: Index = 0, image: Index = 0, frame: int | None = None
    ) -> tuple[RowGrid, ...]:
        """The views of one picture in a part: one, or several where the model also sees it cut into tiles.

        Raises:
            NoPlaceError: if the part's rows have no place in the picture; the message says why.
        """
        places = self.place(sample, image, frame)
        if require_part(part) in places.placeless:
            raise NoPlaceError(f"Rows of the part {part!r} were asked for their place: {places.placeless[part]}.")
        return places.views(part)

    @checked
    def grid(
        self,
        part: Part = "language",
        *,
        sample: Index = 0,
        image: Index = 0,
        view: int | None = None,
        frame: int | None = None,
    ) -> RowGrid:
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
        grids = views if view is None else (self.grid(part, sample=sample, image=image, view=view, frame=frame),)
        entries = {grid.index if not isinstance(grid.index, torch.Tensor) else "several" for grid in grids}
        if entries != {"several"} and len(entries) > 1:
            raise InputError(
                f"The part {part!r} sees the picture in {len(views)} views, which lie in different entries of its batch axis; "
                f"pass view=0..{len(views) - 1}. (layout.views(part) lists them.)"
            )
        return torch.cat([grid.rows for grid in grids]), torch.cat([grid.boxes for grid in grids])

    @checked
    def patches(
        self,
        box: Box,
        *,
        part: Part = "language",
        sample: Index = 0,
        image: Index = 0,
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
        rows, boxes = self._joined(part, sample, image, view, frame)
        inside = touched(boxes, box, self.place(sample, image, frame).size)
        return SequenceRows.of(rows[inside], part, sample=sample)

    @checked
    def patches_of_mask(
        self,
        mask: Bool[torch.Tensor, "height width"],
        *,
        part: Part = "language",
        sample: Index = 0,
        image: Index = 0,
        view: int | None = None,
        frame: int | None = None,
    ) -> Int[torch.Tensor, "row"]:
        """Rows of which at least half the pixels lie in a mask of the picture; else the one with the most.

        Args:
            mask: True inside, of the picture's size.
            part, sample, image, view, frame: as for `patches`.
        """
        rows, boxes = self._joined(part, sample, image, view, frame)
        inside = covered(boxes, torch.as_tensor(mask), self.place(sample, image, frame).size)
        return SequenceRows.of(rows[inside], part, sample=sample)

    @checked
    def boxes(
        self,
        rows: Sequence[int] | torch.Tensor,
        *,
        part: Part = "language",
        sample: Index = 0,
        image: Index = 0,
        view: int | None = None,
        frame: int | None = None,
    ) -> Float[torch.Tensor, "row 4"]:
        """Pixel boxes (left, top, right, bottom) of rows, in pixels of the user's picture.

        Raises:
            NoPlaceError: if a row stands for no part of the picture (text, class row, another picture).
        """
        row_numbers, boxes = self._joined(part, sample, image, view, frame)
        where = {int(row): i for i, row in enumerate(row_numbers)}
        if len(where) < len(row_numbers):
            raise InputError(
                f"In the part {part!r} the picture's tiles lie in different entries of the batch axis, so a row's number alone "
                "names no box; layout.grid(part, view=...) has .index, .rows and .boxes side by side."
            )
        numbers = [int(row) for row in rows]
        wrong = [row for row in numbers if row not in where]
        if wrong:
            low, high = int(row_numbers.min()), int(row_numbers.max())
            raise NoPlaceError(
                f"Rows {wrong} of the part {part!r} stand for no part of picture {image} of sample {sample}; "
                f"its rows lie in {low}..{high}."
            )
        return boxes[[where[row] for row in numbers]]

    @checked
    def raster(
        self,
        values: Float[torch.Tensor, "*entry pos"],
        *,
        part: Part = "language",
        sample: Index = 0,
        image: Index = 0,
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
        cells = values.detach().cpu()
        empty = len(grid.rows) < grid.shape[0] * grid.shape[1]
        picture = torch.full(grid.shape, float("nan") if empty else 0.0, dtype=values.dtype)
        picture[grid.cells[:, 0], grid.cells[:, 1]] = cells[grid.index, grid.rows] if in_tiles else cells[grid.rows]
        return picture
