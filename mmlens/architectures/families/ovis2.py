"""Ovis 2: an AIMv2 tower whose patches become mixtures of visual words, embedded by a table like text.

The tower ends in a distribution over a visual vocabulary; a picture token is the mean of the table's rows under it. The
table is also looked up for the tokens around a picture, and the softmax is no module, so that the visual words
themselves have no points: `projector.hook_in` is what they are computed from, `projector.hook_out` their mean.

Source: Lu et al., Ovis: Structural Embedding Alignment for Multimodal Large Language Model, 2024
(https://arxiv.org/abs/2405.20797).
"""

from mmlens.architectures.families.blocks import gated_mlp, llama_language, projected, vision_tower
from mmlens.declarations.family import Family
from mmlens.declarations.projector import FeatureMethod, Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Config, Norm
from mmlens.inputs.patch_geometry.marked import marked_places

_AIM_BLOCK = Block(
    attn=projected("out_proj", "attention"),
    mlp=gated_mlp("ffn", branch="ffn"),
    ln1=Norm("rms_norm1"),
    ln2=Norm("rms_norm2"),
)


def _marks(config: Config) -> tuple[int, int]:
    """The tokens that begin and end a picture."""
    ids = config.visual_indicator_token_ids
    return ids[0], ids[-1]


def _tiles(config: Config, between: list[int]) -> tuple[int, int]:
    """(rows, columns) of tiles: a token stands between columns, another between rows."""
    _, _, column, row, _ = config.visual_indicator_token_ids
    rows = 1 + between.count(row)
    return rows, 1 + between.count(column) // rows


OVIS2 = register_family(
    Family(
        name="ovis2",
        classes=("Ovis2ForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.transformer.encoder.layers", _AIM_BLOCK),
        projector=Projector(
            receives=("model.vision_tower.transformer.rms_norm", None),
            returns=FeatureMethod("model", "get_image_features", "pooler_output"),
            receives_rows="vision",
        ),
        language=llama_language(),
        places=marked_places(
            marks=_marks, tiles=_tiles, merge=lambda c: c.vision_config.hidden_stride, whole_first=True
        ),
        placeholder="<image>",
    )
)
