"""Places for models whose tower sees every frame of a video alone, as an entry of its batch axis."""

from collections.abc import Callable
from typing import Any

import torch

from mmlens.core.names import Part
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.frame import Frame, picture_frame
from mmlens.inputs.patch_geometry.rows import Places, RowGrid, VideoSizes, boxes_of, cells_of, owners_of

#: The cells that become one row, as boxes `[row 4]` in patches, and the (rows, columns) of these rows, given the
#: configuration and the (rows, columns) of patches.
Joined = Callable[[Config, tuple[int, int]], tuple[torch.Tensor, tuple[int, int]]]


def each_patch(config: Config, patches: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
    """Every patch is a row."""
    return boxes_of(cells_of(*patches), 1), patches


def frame_places(
    *,
    projector_cells: Joined = each_patch,
    token_cells: Joined,
    class_rows: Callable[[Config], int] = lambda config: 0,
    token: Callable[[Config], int] = lambda config: config.video_token_id,
    pixels: str = "pixel_values_videos",
    closing: int = 0,
) -> Callable[..., list[Places]]:
    """Places for towers that see frames one by one; each frame has its own tokens.

    Args:
        projector_cells: the rows of the projector.
        token_cells: the rows that become tokens, those of a frame in raster order.
        class_rows: rows of the tower before its patches, given the configuration.
        token: the token of these positions, given the configuration.
        pixels: the tensor that holds the frames.
        closing: how many tokens without a place end a video.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: VideoSizes, reader: Any | None) -> list[Places]:
        *_, height, width = tensors[pixels].shape
        side = config.vision_config.patch_size
        side = side if isinstance(side, int) else side[0]
        patches = (height // side, width // side)
        rows = {"vision": each_patch(config, patches), "projector": projector_cells(config, patches)}
        cells, shape = token_cells(config, patches)
        lengths = _frame_counts(tensors[pixels], sizes)
        owners = owners_of(tensors, token(config), [count * len(cells) + closing for count in lengths])
        places = []
        entry = 0
        for (sample, video, positions), count in zip(owners, lengths, strict=True):
            _, *original = (count, height, width) if sizes is None else sizes[sample][video]
            frame = picture_frame(reader, (original[0], original[1]), (height, width))
            for number in range(count):
                tokens = positions[number * len(cells) : (number + 1) * len(cells)]
                grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {
                    "vision": _grid(frame, *rows["vision"], side, entry, class_rows(config)),
                    "projector": _grid(frame, *rows["projector"], side, entry, 0),
                    "language": RowGrid(sample, tokens, frame.to_original(cells * side), cells_of(*shape), shape),
                }
                places.append(Places(sample, video, (frame.height, frame.width), grids, {}, frames=(number,)))
                entry += 1
        return places

    return places


def _frame_counts(pixels: torch.Tensor, sizes: VideoSizes) -> list[int]:
    """The number of frames of each video."""
    if sizes is not None:
        return [frames for sample in sizes for frames, _, _ in sample]
    return [pixels.shape[1]] * len(pixels)


def _grid(frame: Frame, boxes: torch.Tensor, shape: tuple[int, int], side: int, entry: int, before: int) -> RowGrid:
    rows = torch.arange(len(boxes)) + before
    return RowGrid(entry, rows, frame.to_original(boxes * side), cells_of(*shape), shape)
