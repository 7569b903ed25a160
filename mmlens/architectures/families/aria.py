"""Aria: Idefics3's tower, learned queries that look at its patches once, and a mixture-of-experts language model.

How many queries there are depends on the size of the picture. Their attention is torch's own `MultiheadAttention`,
which has no hook points inside: its output is `projector.hook_mixer_out`. In the language model some experts are shared
by all rows and always run: their neurons are `mlp.shared`; the routed experts' neurons exist in no module.

Source: Li et al., Aria: An Open Multimodal Native Mixture-of-Experts Model, 2024 (https://arxiv.org/abs/2410.05993).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import LLAMA_BLOCK, SHARED_MIXTURE, clip_vision, llama_language
from mmlens.architectures.families.projectors import projector_at
from mmlens.core.names import Part
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry import Frame, Places, RowGrid, Sizes, boxes_of, cells_of, mixed_rows, owners_of

_BLOCK = replace(LLAMA_BLOCK, mlp=replace(SHARED_MIXTURE, router="mlp.router"))


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places of the tower's rows, for pictures that are not cut: they lie in the upper left of a square."""
    pixels = tensors["pixel_values"]
    side, square = config.vision_config.patch_size, pixels.shape[-1]
    columns = square // side
    queries = config.projector_patch_to_query_dict[columns**2]
    count = len(pixels) if sizes is None else sum(map(len, sizes))
    entries = len(pixels) // max(count, 1)
    cut = (
        f"the image processor cut the picture into {entries} crops, each fitted into a square of its own; process it "
        "whole (split_image=False) to have places"
    )
    places = []
    for number, (sample, image, _) in enumerate(owners_of(tensors, config.image_token_id, [entries * queries] * count)):
        mask = tensors["pixel_mask"][number] if "pixel_mask" in tensors else torch.ones(square, square)
        area = (int(mask[:, 0].sum()), int(mask[0].sum()))
        size = area if sizes is None else sizes[sample][image]
        grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {}
        why = mixed_rows(f"{queries} queries of the projector")
        if entries == 1:
            # a patch is seen where any of its pixels is not padding
            shape = (-(-area[0] // side), -(-area[1] // side))
            cells = cells_of(*shape)
            boxes = Frame(*size, (area[0] / size[0], area[1] / size[1])).to_original(boxes_of(cells, side))
            grids["vision"] = RowGrid(number, cells[:, 0] * columns + cells[:, 1], boxes, cells, shape)
        else:
            why["vision"] = cut
        places.append(Places(sample, image, size, grids, why, {"vision": columns**2}))
    return places


ARIA = register_family(
    Family(
        name="aria",
        classes=("AriaForConditionalGeneration",),
        vision=clip_vision(),
        projector=projector_at(
            "model.multi_modal_projector",
            "key_value_states",
            down="feed_forward.linear_out",
            up="feed_forward.linear_in",
            act="feed_forward.act",
            mixer="model.multi_modal_projector.cross_attn",
            queries=True,
            receives_rows="vision",
        ),
        language=llama_language(block=_BLOCK),
        places=_places,
        placeholder="<|img|>",
    )
)
