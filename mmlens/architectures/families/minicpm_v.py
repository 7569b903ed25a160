"""MiniCPM-V 4.6 and 4.7, and MiniCPM-OCR: pictures cut into slices, a tower that merges squares halfway, a Qwen3.5.

The rows of all pictures and slices lie in one sequence. Behind block `insert_layer_id` the tower merges squares of four
patches (unless `downsample_mode` is "4x"): later blocks have a quarter of the rows, so that the tower's rows have no
places then. That merger, and the projector's MLP, which runs slice by slice, have no points inside. Pictures are seen as
a whole and, if they are large, in slices; the rows of slices are assembled into one grid over the picture.

Source: Yao et al., MiniCPM-V, 2024 (https://arxiv.org/abs/2408.01800).
Source: OpenBMB, MiniCPM-V 4.6, 2026 (https://huggingface.co/openbmb/MiniCPM-V-4.6).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import vision_tower
from mmlens.architectures.families.packed import token_modalities
from mmlens.architectures.families.qwen3_5 import QWEN3_5
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.family import Family
from mmlens.declarations.projector import FeatureMethod, Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.frame import Frame
from mmlens.inputs.patch_geometry.rows import Places, RowGrid, Sizes, boxes_of, cells_of, size_of


@dataclass(frozen=True)
class _Cut:
    """A picture as a whole, or one of its slices.

    Attributes:
        patches: (rows, columns) of patches.
        first: its first row in the tower, and among those that the projector returns.
        positions: its image tokens.
        opening: the token in front of these.
    """

    patches: tuple[int, int]
    first: tuple[int, int]
    positions: torch.Tensor
    opening: int


def _in_tower(config: Config) -> bool:
    """Whether the tower merges squares halfway."""
    return config.downsample_mode != "4x"


def _merge(config: Config) -> int:
    """The side in patches of the squares that a row stands for which the projector returns."""
    side = config.merge_kernel_size[0] ** config.merger_times
    return side * config.vision_config.window_kernel_size[0] if _in_tower(config) else side


def _cuts(config: Config, tensors: dict[str, Any]) -> Iterator[tuple[int, list[_Cut]]]:
    """The pictures of the batch in order, each with its sample; its whole first, then its slices.

    Raises:
        InputError: if a run of image tokens is not that of a whole cut.
    """
    merge = _merge(config)
    shapes = iter(tensors["target_sizes"].tolist())
    first = first_merged = 0
    for sample, ids in enumerate(tensors["input_ids"].cpu()):
        positions = (ids == config.image_token_id).nonzero().flatten()
        cuts: list[_Cut] = []
        while len(positions):
            rows, columns = next(shapes, (0, 0))
            count = rows * columns // merge**2
            tokens, positions = positions[:count], positions[count:]
            if not count or len(tokens) < count or int(tokens[-1] - tokens[0]) != count - 1:
                raise InputError(
                    f"The image tokens of sample {sample} do not come in runs as target_sizes says: a cut of {rows} x "
                    f"{columns} patches takes {count} tokens in a row. Pass the text that the processor made."
                )
            cut = _Cut((rows, columns), (first, first_merged), tokens, int(ids[tokens[0] - 1]))
            first, first_merged = first + rows * columns, first_merged + count
            # a sample's first cut is a whole picture, and so are all that open as it does
            if cuts and cut.opening == cuts[0].opening:
                yield sample, cuts
                cuts = []
            cuts.append(cut)
        if cuts:
            yield sample, cuts


def _lines(slices: Sequence[_Cut]) -> list[list[_Cut]]:
    """The slices line by line: within a line nothing but the two marks stands between them."""
    lines: list[list[_Cut]] = []
    end = None
    for cut in slices:
        if end is None or int(cut.positions[0]) - end > 3:
            lines.append([])
        lines[-1].append(cut)
        end = int(cut.positions[-1])
    return lines


def _grids(
    config: Config, lines: list[list[_Cut]], size: tuple[int, int] | None, sample: int
) -> tuple[tuple[int, int], dict[Part, RowGrid]]:
    """The picture's size, and its rows in each part, as seen in lines of cuts of the same size."""
    side, merge = config.vision_config.patch_size, _merge(config)
    height, width = lines[0][0].patches
    area: tuple[int, int] = (len(lines) * height * side, len(lines[0]) * width * side)
    original: tuple[int, int] = size or area
    frame = Frame(*original, (area[0] / original[0], area[1] / original[1]))
    cells_of_cuts = [(line, column, cut) for line, row in enumerate(lines) for column, cut in enumerate(row)]

    def grid(factor: int, index: int | None, rows: list[torch.Tensor]) -> RowGrid:
        within = (height // factor, width // factor)
        cells = torch.cat(
            [cells_of(*within) + torch.tensor([r * within[0], c * within[1]]) for r, c, _ in cells_of_cuts]
        )
        shape = (len(lines) * within[0], len(lines[0]) * within[1])
        return RowGrid(index, torch.cat(rows), frame.to_original(boxes_of(cells, side * factor)), cells, shape)

    grids: dict[Part, RowGrid] = {
        "projector": grid(merge, None, [cut.first[1] + torch.arange(len(cut.positions)) for *_, cut in cells_of_cuts]),
        "language": grid(merge, sample, [cut.positions for *_, cut in cells_of_cuts]),
    }
    if not _in_tower(config):
        grids["vision"] = grid(1, None, [cut.first[0] + torch.arange(height * width) for *_, cut in cells_of_cuts])
    return (frame.height, frame.width), grids


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    why = (
        "the tower merges squares of patches halfway, so its rows stand for patches in the first blocks and for squares in "
        "the later ones; ask for part='projector' or part='language'"
    )
    placeless: dict[Part, str] = {"vision": why} if _in_tower(config) else {}
    result: list[Places] = []
    for sample, (overview, *slices) in _cuts(config, tensors):
        image = sum(place.sample == sample for place in result)
        size, view = _grids(config, [[overview]], size_of(sizes, sample, image), sample)
        views = [view]
        lines = _lines(slices)
        if lines and len({cut.patches for cut in slices}) == len({len(line) for line in lines}) == 1:
            views.append(_grids(config, lines, size, sample)[1])
        grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {
            part: tuple(part_grids[part] for part_grids in views) for part in view
        }
        result.append(Places(sample, image, size, grids, placeless))
    return result


MINICPM_V_4_6 = register_family(
    Family(
        name="minicpm_v_4_6",
        classes=("MiniCPMV4_6ForConditionalGeneration", "MiniCPMOcrForConditionalGeneration"),
        vision=vision_tower("model.vision_tower.encoder.layers", packed=True, lone_axis=0),
        projector=Projector(
            receives=("model.merger", "hidden_states"),
            returns=FeatureMethod("model", "get_image_features", "pooler_output"),
            receives_rows="vision",
            lone_axis=0,
        ),
        language=QWEN3_5.language,
        places=_places,
        placeholder="<|image_pad|>\n",
    )
)

MINICPM_V_4_7 = register_family(
    replace(
        MINICPM_V_4_6,
        name="minicpm_v_4_7",
        classes=("MiniCPMV4_7ForConditionalGeneration",),
        extra_inputs=token_modalities,
    )
)
