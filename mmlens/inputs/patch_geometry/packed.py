"""Places for packed towers, which lay the patches of all pictures out in one sequence and merge squares of them."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.frame import Frame
from mmlens.inputs.patch_geometry.rows import Places, RowGrid, Sizes, VideoSizes, boxes_of, cells_of, owners_of, size_of

#: The cells of one picture as (row, column): of the tower's rows `[patch 2]`, and of the merged rows `[row 2]` that the
#: projector returns; given the configuration, the shape of the merged grid, and how many patches a merged side has.
Order: TypeAlias = Callable[[Config, tuple[int, int], int], tuple[torch.Tensor, torch.Tensor]]


def by_square(config: Config, shape: tuple[int, int], merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Square by square in raster order, each with its patches in raster order."""
    squares = cells_of(*shape)
    return _patches_of(squares, merge), squares


def by_window(config: Config, shape: tuple[int, int], merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Window by window of the tower's windowed attention; within a window as `by_square`."""
    vision = config.vision_config
    side = vision.window_size // merge // vision.patch_size
    cells = sorted(cells_of(*shape).tolist(), key=lambda cell: (cell[0] // side, cell[1] // side, *cell))
    squares = torch.tensor(cells)
    return _patches_of(squares, merge), squares


def in_raster(config: Config, shape: tuple[int, int], merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches in raster order; they are merged by their place after the tower."""
    return cells_of(shape[0] * merge, shape[1] * merge), cells_of(*shape)


def _patches_of(squares: torch.Tensor, merge: int) -> torch.Tensor:
    """The patches of squares `[n 2]`, one square after the other."""
    return (squares[:, None] * merge + cells_of(merge, merge)[None]).flatten(0, 1)


def one_merge(config: Config, tensors: dict[str, Any]) -> list[int]:
    """The side of a merged square in patches, of every picture: the same for all."""
    return [config.vision_config.spatial_merge_size] * len(tensors["image_grid_thw"])


def resized(processor: Any | None, original: tuple[int, int], target: tuple[int, int]) -> Frame:
    """The frame of a picture that was resized as a whole; arguments as for `picture_frame`."""
    return Frame(*original, (target[0] / original[0], target[1] / original[1]))


def squares_alone(shape: tuple[int, int]) -> tuple[torch.Tensor, int]:
    """The rows of a picture's squares among those that are handed on of it: all of them."""
    count = shape[0] * shape[1]
    return torch.arange(count), count


def packed_places(
    *,
    order: Order = by_square,
    merges: Callable[[Config, dict[str, Any]], list[int]] = one_merge,
    frame_of: Callable[[Any | None, tuple[int, int], tuple[int, int]], Frame] = resized,
    among: Callable[[tuple[int, int]], tuple[torch.Tensor, int]] = squares_alone,
) -> Callable[..., list[Places]]:
    """Places for packed towers whose input comes with the shape of each picture, `image_grid_thw`.

    Args:
        order: in which order the rows of a picture run in the tower and in the projector. The language model's rows are
            merged squares in raster order.
        merges: the side of a merged square in patches, of every picture.
        frame_of: how a picture's pixels come to be those that the tower receives, given `(image processor, size, size that
            the tower receives)`.
        among: which of the rows that are handed on of a picture hold its squares, and how many there are, given the shape
            of the merged grid; the others (ends of lines) have no place.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
        side = config.vision_config.patch_size
        grids = tensors["image_grid_thw"].tolist()
        if any(t != 1 for t, _, _ in grids):
            raise InputError(
                f"image_grid_thw holds videos (t > 1): {grids}. Pictures have one time step; pass videos as "
                "pixel_values_videos and video_grid_thw, or use prepare(text, videos=...)."
            )
        factors = merges(config, tensors)
        shapes = [(height // merge, width // merge) for (_, height, width), merge in zip(grids, factors, strict=True)]
        owners = owners_of(tensors, config.image_token_id, [among(shape)[1] for shape in shapes])
        places = []
        first = first_merged = 0
        for (sample, image, positions), shape, merge in zip(owners, shapes, factors, strict=True):
            target: tuple[int, int] = (shape[0] * merge * side, shape[1] * merge * side)
            original = size_of(sizes, sample, image) or target
            own_rows, count = among(shape)
            parts = _grids(
                order(config, shape, merge),
                frame_of(processor, original, target),
                shape,
                (merge, side),
                (first, own_rows + first_merged),
                (sample, positions[own_rows]),
            )
            places.append(Places(sample, image, original, parts, {}, {"projector": first_merged + count}))
            first, first_merged = first + shape[0] * shape[1] * merge**2, first_merged + count
        return places

    return places


def _grids(
    cells: tuple[torch.Tensor, torch.Tensor],
    frame: Frame,
    shape: tuple[int, int],
    sides: tuple[int, int],
    rows: tuple[int, torch.Tensor],
    tokens: tuple[int, torch.Tensor],
) -> dict[Part, RowGrid | tuple[RowGrid, ...]]:
    """The grids of one picture, or of one group of frames.

    Args:
        cells: those of the tower's rows and of the merged rows; see `Order`.
        frame: from the picture's pixels to those that the tower receives.
        shape: (rows, columns) of merged squares.
        sides: of a square in patches, and of a patch in pixels.
        rows: its first row in the tower, and its merged rows.
        tokens: its sample, and the positions of its squares in raster order.
    """
    (patches, squares), (merge, side) = cells, sides
    raster = cells_of(*shape)
    patch_shape = (shape[0] * merge, shape[1] * merge)

    def boxes(of: torch.Tensor, length: int) -> torch.Tensor:
        return frame.to_original(boxes_of(of, length))

    return {
        "vision": RowGrid(None, torch.arange(len(patches)) + rows[0], boxes(patches, side), patches, patch_shape),
        "projector": RowGrid(None, rows[1], boxes(squares, side * merge), squares, shape),
        "language": RowGrid(tokens[0], tokens[1], boxes(raster, side * merge), raster, shape),
    }


def packed_video_places(
    *, order: Order = by_square, token: Callable[[Config], int] = lambda config: config.video_token_id
) -> Callable[..., list[Places]]:
    """Places for packed towers whose input comes with the shape of each video, `video_grid_thw`.

    A row of the tower stands for `temporal_patch_size` frames at once (the last group repeats the last frame if frames are
    missing), and the rows run group by group.

    Args:
        order: in which order the rows of a group run in the tower and in the projector.
        token: the token of the frames' positions, given the configuration.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: VideoSizes, reader: Any | None) -> list[Places]:
        vision = config.vision_config
        side, merge, together = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        grids = tensors["video_grid_thw"].tolist()
        owners = owners_of(tensors, token(config), [t * h * w // merge**2 for t, h, w in grids])
        places = []
        first = first_merged = 0
        for (sample, video, positions), (groups, height, width) in zip(owners, grids, strict=True):
            target = (height * side, width * side)
            count, *original = (groups * together, *target) if sizes is None else sizes[sample][video]
            size = (original[0], original[1])
            shape = (height // merge, width // merge)
            squares = shape[0] * shape[1]
            for group in range(groups):
                square_rows = torch.arange(squares) + group * squares
                parts = _grids(
                    order(config, shape, merge),
                    resized(reader, size, target),
                    shape,
                    (merge, side),
                    (first, square_rows + first_merged),
                    (sample, positions[square_rows]),
                )
                frames = tuple(range(group * together, min((group + 1) * together, count)))
                places.append(Places(sample, video, size, parts, {}, frames=frames))
                first += height * width
            first_merged += groups * squares
        return places

    return places
