"""LFM2-VL: a SigLIP 2 tower of any picture size, pixel unshuffle, a language model of short convolutions and attention.

Small pictures are one entry of the tower's batch axis, padded to a common number of patches; large ones are cut into
tiles, and the whole follows in a smaller size. The projector runs once per entry, so that nothing inside it has a point:
`projector.hook_in` is what the tower hands on for all entries, `projector.hook_out` all tokens in one sequence.

Source: Liquid AI, LFM2 Technical Report, 2025 (https://arxiv.org/abs/2511.23404).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import llama_language, projected, vision_tower
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.family import Family
from mmlens.declarations.projector import FeatureMethod, Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Config, Mlp, Norm
from mmlens.inputs.patch_geometry import Places, RowGrid, Sizes, size_of
from mmlens.inputs.patch_geometry.marked import stretched
from mmlens.inputs.patch_geometry.tile_raster import TileRaster

#: The two kinds of blocks: one mixes positions by attention, the other by a short convolution.
ATTENTION_BLOCK = Block(
    attn=projected("out_proj"),
    mlp=Mlp(down="feed_forward.w2", up="feed_forward.w3", gate="feed_forward.w1", branch="feed_forward"),
    ln1=Norm("operator_norm"),
    ln2=Norm("ffn_norm"),
)
CONVOLUTION_BLOCK = replace(ATTENTION_BLOCK, attn=None, mixer="conv")


def _runs(positions: torch.Tensor, lengths: Iterator[int]) -> Iterator[list[torch.Tensor]]:
    """The tokens of one sample by picture and entry: at most one token stands between two entries of one picture.

    Args:
        positions: the sample's image tokens.
        lengths: number of tokens of each entry of the batch, from the sample's first on.

    Raises:
        InputError: if the tokens are not those of whole entries.
    """
    picture: list[torch.Tensor] = []
    while len(positions):
        length = next(lengths, None)
        if length is None or length > len(positions):
            raise InputError(
                f"The text has {len(positions)} image tokens left over for "
                f"{'no further picture' if length is None else f'an entry of {length}'}; use prepare(text, images=...)."
            )
        entry, positions = positions[:length], positions[length:]
        if picture and int(entry[0]) - int(picture[-1][-1]) > 2:
            yield picture
            picture = []
        picture.append(entry)
    if picture:
        yield picture


def _tiles(count: int, size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of so many tiles: those whose shape is nearest the picture's."""
    pairs = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    return min(pairs, key=lambda pair: abs(size[1] / size[0] - pair[1] / pair[0]))


@dataclass(frozen=True)
class _Picture:
    """How one picture lies in the batch.

    Attributes:
        patches: (rows, columns) of patches of its entries, which are tiles, the whole, or the tiles and then the whole.
        side: of a patch in pixels.
        factor: side of the squares of patches that become one token.
        size: (height, width) of the picture; those of its whole where tensors do not say.
        sample: the sample that it is in.
        first: its first entry.
        token: its first row behind the projector.
        positions: its image tokens.
    """

    patches: list[tuple[int, int]]
    side: int
    factor: int
    size: tuple[int, int]
    sample: int
    first: int
    token: int
    positions: torch.Tensor

    def merged(self, entry: int) -> tuple[int, int]:
        """(rows, columns) of tokens of an entry."""
        rows, columns = self.patches[entry]
        return rows // self.factor, columns // self.factor

    def view(self, tiles: tuple[int, int], entry: int) -> dict[Part, RowGrid]:
        """The grids of tiles that are put together, or of one entry.

        Args:
            tiles: (rows, columns) of tiles.
            entry: the first of them, counted from the picture's first.
        """
        within, square = self.patches[entry], self.side * self.factor
        tile = (within[0] * self.side, within[1] * self.side)
        patches, squares = TileRaster(tiles, tile, self.side), TileRaster(tiles, tile, square)
        frame = stretched(None, self.size, patches.size)
        skipped = sum(a * b for a, b in map(self.merged, range(entry)))
        tokens = skipped + squares.numbers * (squares.within[0] * squares.within[1]) + squares.rows
        where = self.first + entry + (patches.numbers if tiles != (1, 1) else 0)
        boxes, square_boxes = frame.to_original(patches.boxes), frame.to_original(squares.boxes)
        return {
            "vision": RowGrid(where, patches.rows, boxes, patches.cells, patches.shape),
            "projector": RowGrid(None, self.token + tokens, square_boxes, squares.cells, squares.shape),
            "language": RowGrid(self.sample, self.positions[tokens], square_boxes, squares.cells, squares.shape),
        }

    def views(self, *, has_whole: bool) -> list[dict[Part, RowGrid]]:
        """The whole first, then the tiles; a picture that is not cut has the first alone."""
        last = len(self.patches) - 1
        if not last:
            return [self.view((1, 1), 0)]
        tiles = self.view(_tiles(last if has_whole else last + 1, self.size), 0)
        return [self.view((1, 1), last), tiles] if has_whole else [tiles]


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    side, factor = config.vision_config.patch_size, config.downsample_factor
    patches = [(int(rows), int(columns)) for rows, columns in tensors["spatial_shapes"]]
    lengths = iter([(rows // factor) * (columns // factor) for rows, columns in patches])
    parts: tuple[Part, ...] = ("vision", "projector", "language")
    places = []
    first = token = 0
    for sample, ids in enumerate(tensors["input_ids"].cpu()):
        positions = (ids == config.image_token_id).nonzero().flatten()
        for image, runs in enumerate(_runs(positions, lengths)):
            shapes = patches[first : first + len(runs)]
            size = size_of(sizes, sample, image) or (shapes[-1][0] * side, shapes[-1][1] * side)
            picture = _Picture(shapes, side, factor, size, sample, first, token, torch.cat(runs))
            views = picture.views(has_whole=getattr(processor, "use_thumbnail", True))
            grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {
                part: tuple(view[part] for view in views) for part in parts
            }
            places.append(Places(sample, image, size, grids, {}))
            first, token = first + len(runs), token + len(picture.positions)
    if first != len(patches):
        raise InputError(
            f"The text has image tokens for {first} entries, but {len(patches)} were given; use prepare(text, images=...)."
        )
    return places


LFM2_VL = register_family(
    Family(
        name="lfm2_vl",
        classes=("Lfm2VlForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.encoder.layers"),
        projector=Projector(
            receives=("model.vision_tower.post_layernorm", None),
            returns=FeatureMethod("model", "get_image_features", "pooler_output"),
            receives_rows="vision",
            packed=True,
        ),
        language=llama_language(block=(ATTENTION_BLOCK, CONVOLUTION_BLOCK), norm=Norm("embedding_norm")),
        places=_places,
        placeholder="<image>",
        nested_pictures=True,
    )
)
