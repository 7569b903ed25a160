"""CLIP: a vision tower and a text tower, each ending in one row times a matrix, and the cosine of both as score.

The vision tower's embedding is made of its class row, the text tower's of its last token, the end of the text; texts are
padded on the right, behind it. MetaCLIP 2 and the two towers of CLIPSeg are built alike.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021
(https://arxiv.org/abs/2103.00020).
"""

import torch

from mmlens.architectures.families.dual_encoder import LEFT, clip_tower, no_pictures, picture_rows, text_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family, Score
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config


def _end_of_text(config: Config, ids: torch.Tensor) -> torch.Tensor:
    """The row of the first end of text; in the first checkpoints, whose configuration names another token, of the highest id."""
    end = config.text_config.eos_token_id
    return ids.int().argmax(-1) if end == 2 else (ids == end).int().argmax(-1)


CLIP = register_family(
    Family(
        name="clip",
        classes=("CLIPModel", "MetaClip2Model", "CLIPSegModel"),
        vision=clip_tower(norm_pooled=True),
        projector=projector_at("visual_projection", "input", one_row=True, width=lambda c: c.projection_dim),
        language=text_tower("text_projection", looks_ahead=False),
        places=picture_rows(class_rows=1),
        is_image=no_pictures,
        writes_placeholders=True,
        placeholder="",
        left_padding=LEFT,
        score=Score(last=_end_of_text),
    )
)
