"""InstructBLIP: a BLIP vision transformer, a Q-Former that reads the instruction, a nested Llama (Vicuna) or T5.

The Q-Former's learned queries mix all patches: the image tokens that the language model sees have no place in the
picture. Vision rows do.

Source: Dai et al., InstructBLIP, 2023 (https://arxiv.org/abs/2305.06500).
"""

from mmlens.models.families.blocks import BLIP_BLOCK, QFORMER_BLOCK, decoder_start, llama_language, t5_language
from mmlens.models.family import Family, Projector, Stack, Vision, register_family
from mmlens.models.places import query_places

INSTRUCTBLIP = register_family(
    Family(
        name="instructblip",
        classes=("InstructBlipForConditionalGeneration",),
        vision=Vision(
            stack=Stack("vision_model.encoder.layers", BLIP_BLOCK, config=lambda c: c.vision_config),
            read=lambda c: [c.vision_config.num_hidden_layers - 1],
        ),
        projector=Projector(
            receives=("qformer", "encoder_hidden_states"),
            returns="language_projection",
            stack=Stack("qformer.encoder.layer", QFORMER_BLOCK, config=lambda c: c.qformer_config),
            queries=True,
            receives_rows="vision",
        ),
        language=llama_language("language_model.model", head="language_model.lm_head"),
        other_languages=(t5_language("language_model", head="language_model.lm_head"),),
        places=query_places,
        writes_placeholders=True,
        placeholder="",
        extra_inputs=decoder_start,
    )
)
