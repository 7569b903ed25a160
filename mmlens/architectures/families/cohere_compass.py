"""North (Cohere Compass): Qwen3-VL's tower and DeepStack in front of parallel Cohere 2 blocks.

Attention and MLP of a language block read the same normed stream, so that there is no stream between them. Logits are the
unembedding's output times a number.

Source: Cohere, North Micro Vision model card, 2026 (https://huggingface.co/CohereLabs/North-Micro-Vision-Instruct).
"""

from dataclasses import replace

from mmlens.architectures.families.aya_vision import COHERE2_LANGUAGE
from mmlens.architectures.families.qwen3_vl import QWEN3_VL
from mmlens.declarations.registry import register_family

COHERE_COMPASS = register_family(
    replace(
        QWEN3_VL, name="cohere_compass", classes=("CohereCompassForConditionalGeneration",), language=COHERE2_LANGUAGE
    )
)
