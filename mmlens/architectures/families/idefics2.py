"""Idefics2: a SigLIP-like tower for pictures of any shape, a gated projection, and a perceiver.

The perceiver's latents look at the projected patches and at themselves, with grouped heads. They mix all patches, so
the image tokens that the language model sees have no place; the tower's rows do. Pictures of a batch are padded on the
right and below; a patch that reaches into the padding is read by nothing and has no place. A picture may be cut into
four quarters, which then come before the whole.

Source: Laurençon et al., What matters when building vision-language models?, 2024 (https://arxiv.org/abs/2405.02246).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import LLAMA_BLOCK, gated_mlp, llama_language, projected, vision_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.core.errors import InputError
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Config, Norm, Stack
from mmlens.inputs.patch_geometry import Frame, Places, RowGrid, Sizes, boxes_of, cells_of, mixed_rows, owners_of

_PERCEIVER_BLOCK = Block(
    cross=replace(projected("o_proj"), joined=True),
    mlp=LLAMA_BLOCK.mlp,
    ln1=Norm("input_latents_norm"),
    ln2=Norm("post_attention_layernorm"),
)


def _seen(pixels: torch.Tensor, mask: torch.Tensor | None) -> list[tuple[int, int]]:
    """(height, width) in processed pixels of every picture that the tower sees; pictures of zeros are padding."""
    real = (pixels != 0).flatten(2).any(-1)
    if mask is None:
        return [(pixels.shape[-2], pixels.shape[-1])] * int(real.sum())
    return [(int(padding[:, 0].sum()), int(padding[0].sum())) for padding in mask[real].cpu()]


def _quarters(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the four quarters of a picture, in raster order."""
    rows, columns = ((0, height // 2), (height // 2, height)), ((0, width // 2), (width // 2, width))
    return [(top, start, below - top, right - start) for top, below in rows for start, right in columns]


def _put_together(
    pieces: list[tuple[int, int, int, int]], areas: list[tuple[int, int]], side: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, int]]:
    """One view of a picture: the grid that its pieces give together.

    Args:
        pieces: (top, left, height, width) of each piece in the picture's pixels; one, or four in raster order.
        areas: (height, width) of each in processed pixels.
        side: of a patch in processed pixels.
        columns: patches in a row of the padded pictures.

    Returns:
        Pieces `[n]`, rows `[n]`, boxes `[n 4]` and cells `[n 2]`, and the shape of the grid.
    """
    grids = [(height // side, width // side) for height, width in areas]
    high, broad = max(grid[0] for grid in grids[:2]), max(grid[1] for grid in grids[::2])
    numbers, rows, boxes, cells = [], [], [], []
    for number, ((top, start, height, width), area, grid) in enumerate(zip(pieces, areas, grids, strict=True)):
        piece_cells = cells_of(*grid)
        frame = Frame(height, width, (area[0] / height, area[1] / width))
        numbers.append(torch.full((len(piece_cells),), number))
        rows.append(piece_cells[:, 0] * columns + piece_cells[:, 1])
        boxes.append(frame.to_original(boxes_of(piece_cells, side)) + torch.tensor([start, top, start, top]))
        cells.append(piece_cells + torch.tensor([number // 2 * high, number % 2 * broad]))
    lowest, rightmost = (int(end) + 1 for end in torch.cat(cells).max(0).values)
    return torch.cat(numbers), torch.cat(rows), torch.cat(boxes), torch.cat(cells), (lowest, rightmost)


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places of the tower's rows: of the whole picture, and of its quarters where it is cut."""
    pixels = tensors["pixel_values"]
    side, latents = config.vision_config.patch_size, config.perceiver_config.resampler_n_latents
    columns = pixels.shape[-1] // side
    length = pixels.shape[-2] // side * columns
    areas = _seen(pixels, tensors.get("pixel_attention_mask"))
    count = None if sizes is None else sum(map(len, sizes))
    entries = 1 if not count else len(areas) // count
    if (count and entries * count != len(areas)) or entries not in (1, 5):
        raise InputError(
            f"pixel_values hold {len(areas)} pictures or pieces for {count} pictures; pass what the image processor made of "
            "them, where each gives one, or five if it is cut into quarters."
        )
    placeless = mixed_rows(f"{latents} latents of the perceiver")
    places = []
    owners = owners_of(tensors, config.image_token_id, [entries * latents] * (len(areas) // entries))
    for number, (sample, image, _) in enumerate(owners):
        own_areas = areas[number * entries : (number + 1) * entries]
        size = own_areas[-1] if sizes is None else sizes[sample][image]
        cut = [_quarters(*size)] if entries > 1 else []
        views = []
        for start, pieces in [(entries - 1, [(0, 0, *size)]), *((0, quarters) for quarters in cut)]:
            numbers, rows, boxes, cells, shape = _put_together(
                pieces, own_areas[start : start + len(pieces)], side, columns
            )
            first = number * entries + start
            views.append(RowGrid(first + numbers if len(pieces) > 1 else first, rows, boxes, cells, shape))
        places.append(Places(sample, image, size, {"vision": tuple(views)}, placeless, {"vision": length}))
    return places


IDEFICS2 = register_family(
    Family(
        name="idefics2",
        classes=("Idefics2ForConditionalGeneration",),
        vision=vision_tower("model.vision_model.encoder.layers"),
        projector=projector_at(
            "model.connector",
            "image_hidden_states",
            mlp=gated_mlp("model.connector.modality_projection"),
            mlp_first=True,
            stack=Stack(
                "model.connector.perceiver_resampler.layers",
                _PERCEIVER_BLOCK,
                config=lambda c: c.perceiver_config,
                heads=lambda p: p.resampler_n_heads,
            ),
            queries=True,
            receives_rows="vision",
        ),
        language=llama_language("model.text_model"),
        places=_places,
        placeholder="<image>",
        nested_pictures=True,
    )
)
