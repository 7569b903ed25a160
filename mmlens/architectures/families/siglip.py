"""SigLIP: as CLIP, with a learned query that pools the picture's patches, and a bias behind the cosine.

Attention of the query is torch's own, which lets nobody in: its output is a point, its pattern is none. Every text is padded
to the tower's full length, tokens see each other both ways and padding too, and the embedding is made of the last row, which
is padding in all but the longest texts: so the model was trained.

SigLIP 2 reads pictures of any shape: the patches of each, padded to one number, with a mask. (Its checkpoints of one shape are
of SigLIP's class.)

Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023 (https://arxiv.org/abs/2303.15343).
Source: Tschannen et al., SigLIP 2, 2025 (https://arxiv.org/abs/2502.14786).
"""

from dataclasses import replace
from typing import Any

from mmlens.architectures.families.dual_encoder import (
    LEFT,
    PLACELESS,
    clip_tower,
    no_pictures,
    picture_rows,
    text_tower,
)
from mmlens.architectures.families.projectors import projector_at
from mmlens.core.names import Part
from mmlens.declarations.family import Family, Score
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry import Frame, Places, Raster, RowGrid, Sizes


def _whole_length(config: Config) -> dict[str, Any]:
    """Texts padded to the tower's full length."""
    return {"padding": "max_length", "max_length": config.text_config.max_position_embeddings}


SIGLIP = register_family(
    Family(
        name="siglip",
        classes=("SiglipModel",),
        vision=clip_tower(norm_pooled=False),
        projector=projector_at(
            "vision_model.head",
            "hidden_state",
            down="mlp.fc2",
            up="mlp.fc1",
            act="mlp.activation_fn",
            mixer="vision_model.head.attention",
            one_row=True,
            width=lambda c: c.vision_config.hidden_size,
            receives_rows="vision",
        ),
        language=text_tower("text_model.head", looks_ahead=True),
        places=picture_rows(class_rows=0),
        is_image=no_pictures,
        writes_placeholders=True,
        placeholder="",
        left_padding=LEFT,
        score=Score(linear=("language",), text_options=_whole_length),
    )
)


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    side = config.vision_config.patch_size
    places = []
    for number, (rows, columns) in enumerate(tensors["spatial_shapes"].tolist()):
        raster = Raster.of((rows, columns), side)
        size = (rows * side, columns * side) if sizes is None else sizes[number][0]
        height, width = size
        frame = Frame(height, width, scale=(rows * side / size[0], columns * side / size[1]))
        grid = RowGrid(number, raster.rows, frame.to_original(raster.boxes), raster.cells, raster.shape)
        lengths: dict[Part, int] = {"vision": tensors["pixel_values"].shape[1]}
        places.append(Places(number, 0, size, {"vision": grid}, PLACELESS, lengths))
    return places


SIGLIP2 = register_family(
    replace(
        SIGLIP,
        name="siglip2",
        classes=("Siglip2Model",),
        places=_places,
        image_options=lambda c: {"patch_size": c.vision_config.patch_size},
    )
)
