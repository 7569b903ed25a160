"""Ovis 2: an AIMv2 tower whose patches become mixtures of visual words, embedded by a table like text.

The tower ends in a distribution over a visual vocabulary; a picture token is the mean of the table's rows under it. The
table is also looked up for the tokens around a picture, and the softmax is no module, so that the visual words
themselves have no points: `projector.hook_in` is what they are computed from, `projector.hook_out` their mean.

Source: Lu et al., Ovis: Structural Embedding Alignment for Multimodal Large Language Model, 2024
(https://arxiv.org/abs/2405.20797).
"""

from mmlens.architectures.families.blocks import llama_language
from mmlens.declarations.family import Family, Method, Projector, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Attention, Block, Config, Mlp, Norm, Stack
from mmlens.inputs.patch_geometry.marked import marked_places

_AIM_BLOCK = Block(
    attn=Attention(
        kernel="attention",
        branch="attention",
        q="attention.q_proj",
        k="attention.k_proj",
        v="attention.v_proj",
        o="attention.out_proj",
    ),
    mlp=Mlp(down="ffn.down_proj", up="ffn.up_proj", gate="ffn.gate_proj", act="ffn.act_fn", branch="ffn"),
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
        vision=Vision(
            stack=Stack("model.vision_tower.transformer.encoder.layers", _AIM_BLOCK, config=lambda c: c.vision_config),
            read=lambda c: [c.vision_config.num_hidden_layers - 1],
        ),
        projector=Projector(
            receives=("model.vision_tower.transformer.rms_norm", None),
            returns=Method("model", "get_image_features", "pooler_output"),
            receives_rows="vision",
        ),
        language=llama_language("model.language_model", head="lm_head"),
        places=marked_places(
            marks=_marks, tiles=_tiles, merge=lambda c: c.vision_config.hidden_stride, whole_first=True
        ),
        placeholder="<image>",
    )
)
