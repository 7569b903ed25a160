"""Muse Glimmer and Spark: a packed tower with windows, squares of patches merged, norms around the language's branches.

In the tower patches lie window by window, single and not in squares; they are put back into raster order and merged
behind it. What the heads of a language block hand on passes a gate of the block's own between `hook_z` and the last
linear. Logits are the unembedding's output scaled and bounded. In Muse Spark a gate weighs the stream and what a branch
adds to it, feature by feature: the stream is no plain sum of its writers. It also hears, by a tower that has no points.

Source: Meta, Muse Glimmer 30B model card, 2026 (https://huggingface.co/meta-models/Muse-Glimmer-30B).
Source: Meta, Muse Spark model card, 2026 (https://huggingface.co/meta-models/Muse-Spark-Open-816B-A42B).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import GEMMA_SANDWICH_BLOCK, llama_language, projected, vision_tower
from mmlens.architectures.families.packed import PROJECTED_PACKED_BLOCK
from mmlens.declarations.family import Family
from mmlens.declarations.projector import Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Mlp
from mmlens.inputs.patch_geometry import cells_of
from mmlens.inputs.patch_geometry.packed import packed_places


def _order(config: Config, shape: tuple[int, int], merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches window by window in the tower, merged squares in raster order behind it."""
    side = config.vision_config.pos_emb_height
    patches = cells_of(shape[0] * merge, shape[1] * merge).tolist()
    cells = sorted(patches, key=lambda cell: (cell[0] // side, cell[1] // side, *cell))
    return torch.tensor(cells), cells_of(*shape)


def _merges(config: Config, tensors: dict[str, Any]) -> list[int]:
    return [config.vision_config.merge_size] * len(tensors["image_grid_thw"])


def _expand(config: Config, tensors: dict[str, Any]) -> list[str]:
    """A picture's tokens, with one in front of them and one behind."""
    square = config.vision_config.merge_size**2
    counts = (tensors["image_grid_thw"].prod(-1) // square).tolist()
    return [f"<|image_start|>{'<|patch|>' * count}<|image_end|>" for count in counts]


MUSE_GLIMMER = register_family(
    Family(
        name="muse_glimmer",
        classes=("MuseGlimmerForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.layers", PROJECTED_PACKED_BLOCK, packed=True),
        projector=Projector(
            receives=("model.vision_adapter", "x"),
            returns="model.perception_emb_norm",
            mlp=Mlp(down="model.vision_adapter.fc2", up="model.vision_adapter.fc1"),
            side_by_side=lambda c: c.vision_config.merge_size**2,
        ),
        language=llama_language(block=GEMMA_SANDWICH_BLOCK),
        places=packed_places(order=_order, merges=_merges),
        written_places=lambda c: 0,
        placeholder="<|patch|>",
        expand=_expand,
    )
)


def _share(gate: Any) -> torch.Tensor:
    """What a residual gate multiplies a branch's output by."""
    return torch.sigmoid(gate.gate / gate.temperature)


_DENSE = replace(
    GEMMA_SANDWICH_BLOCK,
    attn=replace(
        projected("o_proj", branch="post_attention_layernorm"),
        scale=lambda block: _share(block.post_attention_residual_gate),
    ),
    middle="post_attention_residual_gate",
    mlp=replace(GEMMA_SANDWICH_BLOCK.mlp, scale=lambda block: _share(block.post_feedforward_residual_gate)),
)
_SPARSE = replace(_DENSE, mlp=Mlp(branch=_DENSE.mlp.branch, router="mlp.gate", router_item=0, scale=_DENSE.mlp.scale))

MUSE_SPARK = register_family(
    replace(
        MUSE_GLIMMER,
        name="muse_spark",
        classes=("MuseSparkForConditionalGeneration",),
        language=llama_language(block=(_DENSE, _SPARSE)),
    )
)
