"""Heat maps over a picture: one value per patch, smooth map and mask, laid over the picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image

from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Percentile
from mmlens.core.names import Part
from mmlens.core.palette import OVER_PICTURE
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.inputs.images import Picture, load_image
from mmlens.inputs.layout import TokenLayout

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

#: The longer side of a picture in a figure, in pixels.
FIGURE_SIDE = 1600


@checked_result
@dataclass(frozen=True)
class HeatMap(Viewable, Saved):
    """One value per patch of a picture.

    Attributes:
        values: `[row column]`, as the picture lies, in the unit of what was measured.
        size: (height, width) of the picture in pixels.
        box: the part of the picture that the patches cover (left, top, right, bottom); a centre crop leaves margins.
        title: what it shows.
        centres: of the patches, in pixels from the top and from the left; evenly spaced in the box if None. Between tiles that
            are no multiple of patches there are gaps.
    """

    values: Float[torch.Tensor, "row column"]
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    title: str = ""
    centres: tuple[Float[torch.Tensor, "row"], Float[torch.Tensor, "column"]] | None = None

    def __post_init__(self) -> None:
        if not self.values.numel():
            raise InputError(f"A heat map must hold patches, found values of shape {list(self.values.shape)}.")
        object.__setattr__(self, "values", self.values.detach())

    def __repr__(self) -> str:
        rows, columns = self.values.shape
        known = self.values[self.values.isfinite()]
        span = f"{float(known.min()):.3g} to {float(known.max()):.3g}" if known.numel() else "no finite value"
        return f"HeatMap({self.title}: {rows} x {columns} patches, {span})"

    @checked
    def smooth(self, size: tuple[int, int] | None = None) -> Float[torch.Tensor, "height width"]:
        """The map over the picture: bilinear between patch centres, the least value outside the patches.

        Args:
            size: (height, width) to draw it at; the picture's own by default.
        """
        size = self.size if size is None else size
        weights = [self._weights(axis, size[axis]) for axis in (0, 1)]
        known = self.values[self.values.isfinite()].float()  # a cell that no row shows has no value
        minimum, maximum = (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)
        heat = weights[0] @ self.values.float().nan_to_num(minimum, maximum, minimum) @ weights[1].T
        # a row of weights adds up to 0 outside the patches, and to 1 inside
        coverage = weights[0].sum(1)[:, None] * weights[1].sum(1)[None]
        return torch.where(coverage > 0.5, heat, minimum)

    def _centres(self, axis: int) -> Float[torch.Tensor, "patch"]:
        """Centres of the patches along an axis, in pixels."""
        if self.centres is not None:
            return self.centres[axis].double()
        first, last, count = self.box[1 - axis], self.box[3 - axis], self.values.shape[axis]
        return first + (torch.arange(count, dtype=torch.float64) + 0.5) * (last - first) / count

    def _weights(self, axis: int, length: int) -> Float[torch.Tensor, "pixel patch"]:
        """How much each patch along an axis adds to each pixel of a picture drawn with so many pixels."""
        first, last = self.box[1 - axis], self.box[3 - axis]
        count = self.values.shape[axis]
        centres = self._centres(axis)
        factor = length / self.size[axis]
        pixels = torch.arange(length, dtype=torch.float64) + 0.5
        place = torch.from_numpy(np.interp(pixels / factor, centres.numpy(), np.arange(count)))
        low = place.floor().long()
        weights = torch.zeros(length, count, dtype=torch.float64)
        weights.scatter_add_(1, low[:, None], (1 - place + low)[:, None])
        weights.scatter_add_(1, (low + 1).clamp(max=count - 1)[:, None], (place - low)[:, None])
        inside = (pixels > round(first * factor)) & (pixels < max(round(last * factor), round(first * factor) + 1))
        return (weights * inside[:, None]).float()

    @checked
    def mask(self, percentile: Percentile = 95.0) -> Bool[torch.Tensor, "height width"]:
        """The pixels above a percentile of the smooth map (Pan et al., 2024: the 95th).

        Args:
            percentile: 0 to 100.

        Raises:
            InputError: for a percentile outside that range.
        """
        return _above(self.smooth(), percentile)

    @checked
    def overlay(
        self,
        image: Picture,
        *,
        alpha: float = 0.5,
        percentile: Percentile | None = None,
        longest: Count | None = FIGURE_SIDE,
    ) -> Image.Image:
        """The map over the picture in colours, or the mask as a bright region.

        Args:
            image: the picture, of the map's size: whatever `prepare` takes.
            alpha: weight of the colours.
            percentile: show the mask above this percentile in place of the colours.
            longest: the longer side of what is drawn, in pixels: larger pictures are drawn smaller, as figures show them.
                None draws at the picture's own size.

        Raises:
            InputError: if the picture cannot be read or has another size.
        """
        picture = load_image(image)
        if (picture.height, picture.width) != self.size:
            raise InputError(
                f"The map belongs to a picture of [height={self.size[0]} width={self.size[1]}], found "
                f"[height={picture.height} width={picture.width}]."
            )
        if longest is not None and max(picture.size) > longest:
            picture.thumbnail((longest, longest), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, dtype=np.float32) / 255
        smooth_map = self.smooth((picture.height, picture.width))
        if percentile is not None:
            inside = _above(smooth_map, percentile).numpy()[..., None]
            composite = np.where(inside, pixels, pixels * 0.25)
            return Image.fromarray((composite * 255).round().astype(np.uint8))
        from matplotlib import colormaps

        smooth = smooth_map.numpy()
        spread = float(smooth.max() - smooth.min())
        intensity = (smooth - smooth.min()) / spread if spread else np.zeros_like(smooth)
        colors = colormaps[OVER_PICTURE](intensity)[..., :3]
        return Image.fromarray(((pixels * (1 - alpha) + colors * alpha) * 255).round().astype(np.uint8))

    @checked
    def plot(
        self, image: Picture | None = None, *, percentile: Percentile = 95.0, figure: "Figure | SubFigure | None" = None
    ) -> "Figure":
        """The picture, the map over it in colours, and its mask.

        Args:
            image: the picture, of the map's size; without it the map lies on grey.
            percentile: of the mask.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        picture = None if image is None else load_image(image)
        return drawn_by("maps.plot_maps")(picture, [self], percentile=percentile, figure=figure)

    def to_frame(self) -> "pd.DataFrame":
        """One row per patch: its row and column, the pixel (x, y) in its middle, and its value."""
        import pandas as pd

        y, x = (self._centres(axis) for axis in (0, 1))
        cells = torch.cartesian_prod(*map(torch.arange, self.values.shape)).reshape(-1, 2)
        rows, columns = cells.T
        return pd.DataFrame(
            {
                "row": rows.numpy(),
                "column": columns.numpy(),
                "x": x[columns].numpy(),
                "y": y[rows].numpy(),
                "value": self.values.flatten().float().numpy(),
            }
        )


def _above(smooth: torch.Tensor, percentile: float) -> torch.Tensor:
    """The pixels `[height width]` of a smooth map above one of its percentiles.

    Raises:
        InputError: for a percentile outside 0..100.
    """
    if not 0 <= percentile <= 100:
        raise InputError(f"percentile={percentile} must lie in 0..100.")
    return smooth > torch.from_numpy(np.percentile(smooth.numpy(), [percentile])).to(smooth.dtype)


def map_of_rows(
    layout: TokenLayout,
    values: Float[torch.Tensor, "*entry pos"],
    *,
    part: Part = "language",
    sample: int = 0,
    image: int = 0,
    frame: int | None = None,
    title: str = "",
) -> HeatMap:
    """One value per position of a part's sequence, as a map over a picture.

    Args:
        layout: says which positions are which patches.
        values: one number per position; those of text are not read. As for `layout.raster` where tiles lie in several
            entries of the part's batch axis.
        part: whose sequence.
        sample, image: which picture.
        frame: which frame, if it is a video.
        title: what the map shows.

    Raises:
        NoPlaceError: if the part's rows have no place (Q-Formers).
    """
    grid = layout.grid(part, sample=sample, image=image, frame=frame)
    low, high = grid.boxes[:, :2].min(0).values.tolist(), grid.boxes[:, 2:].max(0).values.tolist()
    raster = layout.raster(values, part=part, sample=sample, image=image, frame=frame)
    middle = (grid.boxes[:, :2] + grid.boxes[:, 2:]) / 2
    lines = [grid.cells[:, axis].unique() for axis in (0, 1)]  # without those of which no patch shows the picture
    centres = [
        torch.stack([middle[grid.cells[:, axis] == line, 1 - axis].mean() for line in lines[axis]]) for axis in (0, 1)
    ]
    part_of_raster = raster[lines[0]][:, lines[1]]
    return HeatMap(
        part_of_raster, layout.place(sample, image, frame).size, (*low, *high), title, (centres[0], centres[1])
    )


def iou(mask: Bool[torch.Tensor, "height width"], truth: Bool[torch.Tensor, "height width"]) -> float:
    """Intersection over union of two masks, 0 to 1; 0 if both are empty.

    Raises:
        InputError: if the masks have different shapes.
    """
    if mask.shape != truth.shape:
        raise InputError(f"Masks differ in shape: {list(mask.shape)} and {list(truth.shape)} [height width].")
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 0.0


def centred_blob(size: tuple[int, int], share: float) -> Bool[torch.Tensor, "height width"]:
    """A disc in the middle of a picture that covers a share of it: the control for smooth maps with a centre bias.

    Args:
        size: (height, width) in pixels.
        share: 0 to 1.
    """
    height, width = size
    y = (torch.arange(height) + 0.5) / height - 0.5
    x = (torch.arange(width) + 0.5) / width - 0.5
    distance = (y[:, None] ** 2 + x[None, :] ** 2).flatten()
    count = max(1, round(share * height * width))
    mask = torch.zeros(height * width, dtype=torch.bool)
    mask[distance.argsort(stable=True)[:count]] = True
    return mask.reshape(height, width)
