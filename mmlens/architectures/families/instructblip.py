"""InstructBLIP: a BLIP vision transformer, a Q-Former that reads the instruction, a nested Llama (Vicuna) or T5.

The Q-Former's learned queries mix all patches: the image tokens that the language model sees have no place in the
picture. Vision rows do.

InstructBlipVideo is the same with several frames per sample (`pixel_values [batch frame channel row column]`), each an
entry of the tower's batch axis; a frame is a picture here, and every sample has as many. Its own processor needs
torchvision, and is used apart: pass its tensors.

Source: Dai et al., InstructBLIP, 2023 (https://arxiv.org/abs/2305.06500).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import BLIP_BLOCK, QFORMER_BLOCK, llama_language, vision_tower
from mmlens.architectures.families.encoder_decoders import decoder_start, t5_language
from mmlens.declarations.family import Family
from mmlens.declarations.projector import Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Stack
from mmlens.inputs.patch_geometry import Places, Sizes, mixed_rows, query_places, vision_places

INSTRUCTBLIP = register_family(
    Family(
        name="instructblip",
        classes=("InstructBlipForConditionalGeneration",),
        vision=vision_tower("vision_model.encoder.layers", BLIP_BLOCK),
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


def _is_frame(config: Config, tensors: Any) -> torch.Tensor:
    """The positions that the queries of all frames take."""
    return tensors["input_ids"] == config.video_token_id


def _frame_places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places of the tower's rows in each frame."""
    samples, frames = tensors["pixel_values"].shape[:2]
    entries = [(sample * frames + frame, sample, frame) for sample in range(samples) for frame in range(frames)]
    placeless = mixed_rows(f"{config.num_query_tokens} queries of the Q-Former")
    return vision_places(config, tensors, sizes, processor, placeless, entries=entries)


INSTRUCTBLIPVIDEO = register_family(
    replace(
        INSTRUCTBLIP,
        name="instructblipvideo",
        classes=("InstructBlipVideoForConditionalGeneration",),
        places=_frame_places,
        is_image=_is_frame,
    )
)
