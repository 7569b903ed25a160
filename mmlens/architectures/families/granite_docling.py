"""Granite Docling: a SigLIP-like tower on tiles, merged patches, DeepStack, and a Granite language model.

A page is stretched to a canvas of tiles, which is followed by its whole on one tile. The connector lays squares of
patches side by side; mergers do the same with what earlier blocks of the tower return, and their features are added
between language blocks. Granite multiplies every branch by a number before it is added, and the logits are what the
head returns (`hook_logits`) divided by another.

Declared is the coarse path of the connector, which is the processor's own choice; with `fine_route=True` the points of
its mergers do not fire.

Source: Nassar et al., SmolDocling, 2025 (https://arxiv.org/abs/2503.11576); IBM, Granite for Docling, 2026
(https://huggingface.co/ibm-granite/granite-for-docling-500m).
"""

from dataclasses import replace
from operator import attrgetter

from mmlens.architectures.families.blocks import LLAMA_BLOCK, llama_language, projected, vision_tower
from mmlens.declarations.family import Family
from mmlens.declarations.projector import DeepStack, Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Mlp
from mmlens.inputs.patch_geometry.tile import canvas_places

_CONNECTOR = "model.vision_model.connector"


#: What both branches of a language block are multiplied by.
_FACTOR = attrgetter("residual_multiplier")
_BLOCK = replace(
    LLAMA_BLOCK, attn=replace(projected("o_proj"), scale=_FACTOR), mlp=replace(LLAMA_BLOCK.mlp, scale=_FACTOR)
)


def _merge(config: Config) -> int:
    return int(config.vision_config.scale_factor)


GRANITE_DOCLING = register_family(
    Family(
        name="granite_docling",
        classes=("GraniteDoclingForConditionalGeneration",),
        vision=vision_tower("model.vision_model.encoder.layers"),
        projector=Projector(
            receives=(_CONNECTOR, "image_hidden_states"),
            # the connector itself returns the rows of all tiles in one sequence
            returns=f"{_CONNECTOR}.ln_out",
            mlp=Mlp(down=f"{_CONNECTOR}.mlp_fc2"),
            receives_rows="vision",
            deepstack=DeepStack(
                path=f"{_CONNECTOR}.coarse.deepstack_mergers",
                mlp=Mlp(down="linear_2", up="linear_1", act="act"),
                argument="image_features",
                side_by_side=lambda c: _merge(c) ** 2,
            ),
        ),
        language=llama_language("model.text_model", _BLOCK),
        places=canvas_places(merge=_merge),
        placeholder="<image>",
        nested_pictures=True,
    )
)
