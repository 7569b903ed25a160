"""Tiny dual encoders: CLIP, SigLIP and SigLIP 2, which score pictures and texts and write nothing."""

from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from mmlens.models.hooked import HookedMultimodal
from tests.tiny import BOX, VISION, VOCAB, Tiny, redraw, tokenizer

#: A small text tower; the real ones have no keys shared by heads.
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": len(VOCAB) + 1,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
#: Ends every text and fills it up, as in CLIP: the token of the highest id.
_END = "<|endoftext|>"


def words(*, masked: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer that ends every text with its last token; without a mask of padding unless asked for."""
    made = tokenizer(more=[_END])
    made.eos_token = made.pad_token = _END
    made.padding_side = "right"
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"<bos> $A {_END}", special_tokens=[("<bos>", 1), (_END, len(VOCAB))]
    )
    made.model_input_names = ["input_ids", "attention_mask"] if masked else ["input_ids"]
    return made


def clip(end: int = 2) -> HookedMultimodal:
    """CLIP, whose text embedding is that of the first end of text; the first checkpoints name another token in their place, 2."""
    config = CLIPConfig(
        vision_config={**VISION},
        text_config={**_TEXT, "eos_token_id": end},
        projection_dim=20,
    )
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return HookedMultimodal.from_hf(redraw(CLIPModel(config)), CLIPProcessor(image_processor, words()))


def siglip() -> HookedMultimodal:
    """SigLIP, whose texts are padded to their full length without a mask."""
    config = SiglipConfig(vision_config={**VISION}, text_config={**_TEXT, "projection_size": 24})
    image_processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return HookedMultimodal.from_hf(redraw(SiglipModel(config)), SiglipProcessor(image_processor, words(masked=False)))


class _FewPatches(Siglip2Processor):
    """SigLIP 2's processor, which asks for 256 patches whatever the image processor says."""

    images_kwargs = {"max_num_patches": 24}  # noqa: RUF012 - as transformers has it


def siglip2() -> HookedMultimodal:
    """SigLIP 2, whose pictures keep their shape."""
    vision = {name: value for name, value in VISION.items() if name != "image_size"}
    config = Siglip2Config(vision_config={**vision, "num_patches": 16}, text_config={**_TEXT, "projection_size": 24})
    image_processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=24, resample=BOX)
    return HookedMultimodal.from_hf(redraw(Siglip2Model(config)), _FewPatches(image_processor, words(masked=False)))


TINY = [
    Tiny("clip", clip, has_places=False, several=False, writes=False),
    Tiny("clip_end", lambda: clip(len(VOCAB)), has_places=False, several=False, writes=False),
    Tiny("siglip", siglip, has_places=False, several=False, writes=False),
    Tiny("siglip2", siglip2, has_places=False, several=False, writes=False, sizes=((32, 32), (32, 48))),
]
