"""LLaVA-NeXT and LLaVA-NeXT-Video (as far as it reads pictures): LLaVA on a squeezed picture and on tiles of a larger one.

Pictures differ in their number of tiles; the tiles of all pictures lie one after another along the vision batch axis.
After the projector the tiles are put together, bars are cut off, and each row of tokens ends with a learned newline.

Source: Liu et al., LLaVA-NeXT: Improved reasoning, OCR, and world knowledge, 2024
(https://llava-vl.github.io/blog/2024-01-30-llava-next/); Zhang et al., LLaVA-NeXT: A Strong Zero-shot Video
Understanding Model, 2024 (https://llava-vl.github.io/blog/2024-04-30-llava-next-video/).
"""

from mmlens.models.families.blocks import class_rows, clip_vision, llama_language, two_layer_projector
from mmlens.models.family import Family
from mmlens.models.places.anyres import anyres_places, anyres_tokens
from mmlens.models.registry import register_family

LLAVA_NEXT = register_family(
    Family(
        name="llava_next",
        classes=("LlavaNextForConditionalGeneration", "LlavaNextVideoForConditionalGeneration"),
        vision=clip_vision(),
        projector=two_layer_projector(),
        language=llama_language("model.language_model", head="lm_head"),
        places=anyres_places(class_rows=class_rows),
        expand=anyres_tokens(),
    )
)
