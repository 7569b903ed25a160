"""Where the rows of a picture are, found by painting: one cell of the picture is changed at a time, and one row moves most.

Towers mix what patches hold, so that every row moves a little with every pixel; a row stands for the cell that moves it most,
beside what moves it otherwise. Rows are taken to lie in a raster of square cells, and are believed to only where every painted
cell moves its own row most.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmlens.architectures.modules import evaluated
from mmlens.core.errors import InputError
from mmlens.core.names import PARTS, Part
from mmlens.declarations.structure import Config
from mmlens.discover.pieces import NotFound
from mmlens.discover.runs import ExampleRuns, Seen
from mmlens.inputs.patch_geometry import Places, Sizes
from mmlens.inputs.patch_geometry.frame import picture_frame
from mmlens.inputs.patch_geometry.rows import RowGrid, cells_of, size_of

#: How many cells are painted at most: of larger rasters some, from the first to the last.
_CELLS = 64
_HIDDEN = "this model was discovered, and only rows of the language model were painted; ask for part='language'"

IsImage = Callable[[Config, Mapping[str, Any]], torch.Tensor]


class _Enough(Exception):
    """The stream in front of the language model's first block is known."""


@dataclass(frozen=True)
class PaintedPlaces:
    """The places of a discovered model's pictures: one raster, the same for every picture.

    Attributes:
        is_image: which positions stand for pictures.
        shape: (rows, columns) of the raster.
        target: (height, width) of the pixels that were painted.
    """

    is_image: IsImage
    shape: tuple[int, int]
    target: tuple[int, int]

    def __call__(self, config: Config, tensors: Mapping[str, Any], sizes: Sizes, processor: Any) -> list[Places]:
        """The places of a batch; pixels of another size than those that were painted have none.

        Raises:
            InputError: if a sample's image tokens do not add up to whole pictures.
        """
        pixels = tensors["pixel_values"]
        if pixels.ndim != 4 or tuple(pixels.shape[-2:]) != self.target:
            why = (
                f"this model was discovered with pixels {list(self.target)}, and these are {list(pixels.shape[-2:])}, whose rows "
                "nobody painted; declare a family with a places function"
            )
            return placeless(tensors, sizes, why)
        count, cells = self.shape[0] * self.shape[1], cells_of(*self.shape)
        side = self.target[0] / self.shape[0]
        boxes = torch.cat([cells.flip(-1) * side, (cells.flip(-1) + 1) * side], dim=-1)
        result = []
        for sample, mask in enumerate(self.is_image(config, tensors).cpu()):
            positions = mask.nonzero().flatten()
            if len(positions) % count:
                raise InputError(f"Sample {sample} has {len(positions)} image tokens, but a picture takes {count}.")
            for image, rows in enumerate(positions.split(count)):
                frame = picture_frame(processor, size_of(sizes, sample, image), self.target)
                grid = RowGrid(sample, rows, frame.to_original(boxes), cells, self.shape)
                hidden: dict[Part, str] = {part: _HIDDEN for part in PARTS if part != "language"}
                result.append(Places(sample, image, (frame.height, frame.width), {"language": grid}, hidden))
        return result


def placeless(tensors: Mapping[str, Any], sizes: Sizes, why: str) -> list[Places]:
    """The pictures of a batch, whose rows have no known place; (0, 0) stands for a size that tensors do not tell."""
    pixels = tensors.get("pixel_values")
    size = (0, 0)
    if isinstance(pixels, torch.Tensor) and pixels.ndim > 3:
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
    picture_sizes = sizes or [[size] for _ in range(len(tensors["input_ids"]))]
    return [
        Places(sample, image, size, {}, dict.fromkeys(PARTS, why))
        for sample, sample_sizes in enumerate(picture_sizes)
        for image, size in enumerate(sample_sizes)
    ]


@torch.no_grad()
def painted_places(runs: ExampleRuns, language: Seen, is_image: IsImage) -> PaintedPlaces:
    """Paint the first picture of the example, cell by cell.

    Args:
        runs: of the example.
        language: the language model's blocks.
        is_image: which positions stand for pictures.

    Raises:
        NotFound: if its rows are not those of one raster of square cells; says why.
    """
    pixels = runs.inputs.get("pixel_values")
    if not isinstance(pixels, torch.Tensor) or pixels.ndim != 4:
        raise NotFound("pixels are no pictures of one size, [picture channel height width]")
    mask = is_image(runs.model.config, runs.inputs)
    height, width = int(pixels.shape[-2]), int(pixels.shape[-1])
    count, rest = divmod(int(mask.sum()), len(pixels))
    shapes = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    shape = next((shape for shape in shapes if height * shape[1] == width * shape[0]), None)
    if rest or shape is None or int(mask[0].sum()) < count:
        raise NotFound(
            f"{int(mask.sum())} rows for {len(pixels)} pictures of {[height, width]} make no raster of square cells"
        )
    before = _stream(runs, language, pixels)[mask]
    side, cells = height / shape[0], cells_of(*shape)
    generator = torch.Generator().manual_seed(0)
    sample = torch.linspace(0, count - 1, min(count, _CELLS)).round().long()
    changes = []
    for number in sample.tolist():
        top, left = (int(cells[number][axis] * side) for axis in (0, 1))
        bottom, right = (round(float(cells[number][axis] + 1) * side) for axis in (0, 1))
        pixels_now = pixels.clone()
        area = pixels_now[0, :, top:bottom, left:right]
        noise = torch.randn(area.shape, generator=generator).to(area)
        pixels_now[0, :, top:bottom, left:right] = noise * 2 * pixels.float().std().clamp(min=0.5).to(area)
        change = _stream(runs, language, pixels_now)[mask][:count].float() - before[:count].float()
        changes.append(change.norm(dim=-1).cpu())
    shares = torch.stack(changes)
    shares = shares / shares.mean(0).clamp(min=1e-12)  # some rows move more than others with any cell
    wrong = (shares.argmax(1) != sample).nonzero().flatten().tolist()
    if wrong:
        number = int(sample[wrong[0]])
        raise NotFound(
            f"painting cell {number} of {list(shape)} moves row {int(shares[wrong[0]].argmax())} of the picture most"
        )
    return PaintedPlaces(is_image, shape, (height, width))


def _stream(runs: ExampleRuns, language: Seen, pixels: torch.Tensor) -> torch.Tensor:
    """What enters the language model's first block, `[batch pos d_model]`; the model runs no further."""
    first = language.blocks[0]
    shape = first.stream.shape if first.stream is not None else None
    streams: list[torch.Tensor] = []

    def stop(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        streams.extend(tensor.clone() for tensor in tensors if tensor.shape == shape and tensor.is_floating_point())
        raise _Enough

    handle = first.module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with evaluated(runs.model):
            runs.model(**{"use_cache": False, **runs.inputs, "pixel_values": pixels})
    except _Enough:
        pass
    finally:
        handle.remove()
    return streams[0]
