"""BLIP-2: a BLIP vision transformer, a Q-Former of learned queries alone, and a nested OPT language model.

OPT's blocks lay the rows of all samples in one sequence for their MLP, which has no module of its own. Checkpoints with
a T5 language model are declared by `other_languages`.

Source: Li et al., BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language
Models, 2023 (https://arxiv.org/abs/2301.12597).
"""

from dataclasses import replace

from mmlens.architectures.families.blocks import QFORMER_BLOCK, projected
from mmlens.architectures.families.instructblip import INSTRUCTBLIP
from mmlens.architectures.families.reading import text_config
from mmlens.declarations.family import Language
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Mlp, Norm, Stack

_OPT_BLOCK = Block(
    attn=projected("out_proj"),
    mlp=Mlp(down="fc2", up="fc1", act="activation_fn", branch="fc2", flat=True),
    ln1=Norm("self_attn_layer_norm", centred=True),
    ln2=Norm("final_layer_norm", centred=True),
)

BLIP_2 = register_family(
    replace(
        INSTRUCTBLIP,
        name="blip_2",
        classes=("Blip2ForConditionalGeneration",),
        projector=replace(
            INSTRUCTBLIP.projector,
            stack=Stack(
                "qformer.encoder.layer", replace(QFORMER_BLOCK, text_mlp=None), config=lambda c: c.qformer_config
            ),
        ),
        language=Language(
            stack=Stack("language_model.model.decoder.layers", _OPT_BLOCK, config=text_config),
            embed="language_model.model.decoder.embed_tokens",
            norm=Norm("language_model.model.decoder.final_layer_norm", centred=True),
            head="language_model.lm_head",
        ),
    )
)
