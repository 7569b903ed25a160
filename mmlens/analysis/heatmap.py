"""Heat maps over a picture: one value per patch, smooth map and mask, laid over the picture."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.core.palette import OVER_PICTURE
from mmlens.inputs.layout import TokenLayout


@dataclass(frozen=True)
class HeatMap:
    """One value per patch of a picture.

    Attributes:
        values: `[row column]`, as the picture lies, in the unit of what was measured.
        size: (height, width) of the picture in pixels.
        box: the part of the picture that the patches cover (left, top, right, bottom); a centre crop leaves margins.
        title: what it shows.
    """

    values: Float[torch.Tensor, "row column"]
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    title: str = ""

    def __repr__(self) -> str:
        rows, columns = self.values.shape
        low, high = float(self.values.min()), float(self.values.max())
        return f"HeatMap({self.title}: {rows} x {columns} patches, {low:.3g} to {high:.3g})"

    def smooth(self) -> Float[torch.Tensor, "height width"]:
        """The map at the picture's resolution: bilinear between patch centres, the least value outside the patches."""
        left, top, right, bottom = (round(v) for v in self.box)
        wanted = (max(bottom - top, 1), max(right - left, 1))
        inner = torch.nn.functional.interpolate(
            self.values[None, None].float(), size=wanted, mode="bilinear", align_corners=False
        )[0, 0]
        full = torch.full(self.size, float(self.values.min()))
        y, x = max(top, 0), max(left, 0)
        visible = inner[y - top : self.size[0] - top, x - left : self.size[1] - left]
        full[y : y + visible.shape[0], x : x + visible.shape[1]] = visible
        return full

    def mask(self, percentile: float = 95.0) -> Bool[torch.Tensor, "height width"]:
        """The pixels above a percentile of the smooth map (Pan et al., 2024: the 95th).

        Args:
            percentile: 0 to 100.

        Raises:
            InputError: for a percentile outside that range.
        """
        if not 0 <= percentile <= 100:
            raise InputError(f"percentile={percentile} must lie in 0..100.")
        smooth = self.smooth()
        return smooth > torch.from_numpy(np.percentile(smooth.numpy(), [percentile])).to(smooth.dtype)

    def overlay(self, image: Image.Image, *, alpha: float = 0.5, percentile: float | None = None) -> Image.Image:
        """The map over the picture in colours, or the mask as a bright region.

        Args:
            image: the picture, of the map's size.
            alpha: weight of the colours.
            percentile: show the mask above this percentile in place of the colours.

        Raises:
            InputError: if the picture has another size.
        """
        if (image.height, image.width) != self.size:
            raise InputError(
                f"The map belongs to a picture of [height={self.size[0]} width={self.size[1]}], found "
                f"[height={image.height} width={image.width}]."
            )
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
        if percentile is not None:
            inside = self.mask(percentile).numpy()[..., None]
            shown = np.where(inside, pixels, pixels * 0.25)
            return Image.fromarray((shown * 255).round().astype(np.uint8))
        from matplotlib import colormaps

        smooth = self.smooth().numpy()
        spread = float(smooth.max() - smooth.min())
        scaled = (smooth - smooth.min()) / spread if spread else np.zeros_like(smooth)
        colors = colormaps[OVER_PICTURE](scaled)[..., :3]
        return Image.fromarray(((pixels * (1 - alpha) + colors * alpha) * 255).round().astype(np.uint8))


def map_of_rows(
    layout: TokenLayout,
    values: Float[torch.Tensor, "*entry pos"],
    *,
    part: Part = "language",
    sample: int = 0,
    image: int = 0,
    title: str = "",
) -> HeatMap:
    """One value per position of a part's sequence, as a map over a picture.

    Args:
        layout: says which positions are which patches.
        values: one number per position; those of text are not read. As for `layout.raster` where tiles lie in several
            entries of the part's batch axis.
        part: whose sequence.
        sample, image: which picture.
        title: what the map shows.

    Raises:
        NoPlaceError: if the part's rows have no place (Q-Formers).
    """
    grid = layout.grid(part, sample=sample, image=image)
    low, high = grid.boxes[:, :2].min(0).values.tolist(), grid.boxes[:, 2:].max(0).values.tolist()
    raster = layout.raster(values, part=part, sample=sample, image=image)
    return HeatMap(raster, layout.place(sample, image).size, (*low, *high), title)


def iou(found: Bool[torch.Tensor, "height width"], truth: Bool[torch.Tensor, "height width"]) -> float:
    """Intersection over union of two masks, 0 to 1; 0 if both are empty.

    Raises:
        InputError: if the masks have different shapes.
    """
    if found.shape != truth.shape:
        raise InputError(f"Masks differ in shape: {list(found.shape)} and {list(truth.shape)} [height width].")
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 0.0


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
    chosen = torch.zeros(height * width, dtype=torch.bool)
    chosen[distance.argsort(stable=True)[:count]] = True
    return chosen.reshape(height, width)
