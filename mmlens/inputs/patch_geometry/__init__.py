"""Which rows of every part stand for which pixels, by how a family cuts its pictures: one file per way of cutting."""

from mmlens.inputs.patch_geometry.frame import Frame, fitted_frame, picture_frame
from mmlens.inputs.patch_geometry.grid import (
    Raster,
    grid_places,
    mixed_rows,
    patches_of,
    query_places,
    raster_places,
    vision_places,
)
from mmlens.inputs.patch_geometry.rows import Places, RowGrid, Sizes, VideoSizes, boxes_of, cells_of, owners_of, size_of

__all__ = [
    "Frame",
    "Places",
    "Raster",
    "RowGrid",
    "Sizes",
    "VideoSizes",
    "boxes_of",
    "cells_of",
    "fitted_frame",
    "grid_places",
    "mixed_rows",
    "owners_of",
    "patches_of",
    "picture_frame",
    "query_places",
    "raster_places",
    "size_of",
    "vision_places",
]
