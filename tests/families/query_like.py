"""Tiny models whose pictures pass through learned queries or pooling: BLIP-2, Kosmos-2, Aria, Molmo 2."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AriaProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    Kosmos2Processor,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
)
from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmlens.architectures.families.molmo2 import MOLMO2
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests.tiny import QFORMER, VISION, VOCAB, Tiny, redraw, tokenizer

_TOKENS = {
    "vocab_size": len(VOCAB),
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def blip_2(text: dict[str, Any] | None = None) -> HookedMultimodal:
    """BLIP-2 with OPT, or the language model that `text` says."""
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=dict(QFORMER),
        text_config={
            "model_type": "opt",
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 32,
            **_TOKENS,
        }
        if text is None
        else text,
        num_query_tokens=4,
        image_token_index=VOCAB["<image>"],
    )
    model = redraw(Blip2ForConditionalGeneration(config))
    words = tokenizer()
    words.image_token = AddedToken("<image>", normalized=False, special=True)  # this processor asks for its .content
    pictures = BlipImageProcessorPil(size={"height": 32, "width": 32})
    return HookedMultimodal.from_hf(model, Blip2Processor(pictures, words, num_query_tokens=4))


def kosmos2() -> HookedMultimodal:
    """Kosmos-2 with four latent queries."""
    config = Kosmos2Config(
        vision_config=VISION,
        text_config={
            "embed_dim": 32,
            "ffn_dim": 48,
            "layers": 3,
            "attention_heads": 4,
            **_TOKENS,
            "vocab_size": len(VOCAB) + 20,
        },
        latent_query_num=4,
    )
    model = redraw(Kosmos2ForConditionalGeneration(config))
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = Kosmos2Processor(pictures, tokenizer(), num_patch_index_tokens=4)
    processor.num_image_tokens = 4
    return HookedMultimodal.from_hf(model, processor)


def aria() -> HookedMultimodal:
    """Aria: 25 patches, four queries, four routed experts of which two are chosen, one shared."""
    image = "<|img|>"
    config = AriaConfig(
        vision_config={**VISION, "model_type": "idefics3_vision", "image_size": 980, "patch_size": 196},
        text_config={
            "hidden_size": 32,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "moe_num_experts": 4,
            "moe_topk": 2,
            "moe_num_shared_experts": 1,
            **_TOKENS,
            "vocab_size": len(VOCAB) + 1,
        },
        projector_patch_to_query_dict={25: 4},
        image_token_index=len(VOCAB),
    )
    model = redraw(AriaForConditionalGeneration(config))
    processor = AriaProcessor(AriaImageProcessorPil(), tokenizer(image, more=[image]), size_conversion={980: 4})
    return HookedMultimodal.from_hf(model, processor)


class _Crops:
    """What Molmo 2's image processor makes of pictures, which transformers has for torchvision alone.

    Crops of five patches of 8 pixels, of which the outer ones overlap: a canvas of `n` crops has `3 n + 2` patches a side.
    Pictures are as large as their canvas, so that nothing but the squeezed whole is resized.
    """

    side, crop = 8, 5

    def __call__(self, images: list[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
        """Patches of all crops, the patches of each window, and the shapes."""
        patches: list[torch.Tensor] = []
        pooled: list[torch.Tensor] = []
        grids: list[list[int]] = []
        for picture in images:
            edge = self.side * self.crop
            whole = self._pixels(picture.resize((edge, edge), Image.Resampling.BOX))
            canvas = self._pixels(picture)
            tiles = [(length // self.side - 2) // 3 for length in canvas.shape[:2]]
            first = len(patches) * self.crop**2
            index = torch.arange(self.crop**2).view(self.crop, self.crop) + first
            patches.append(self._patches(whole))
            first += self.crop**2
            owner, local = zip(*(self._read(3 * count + 2, count) for count in tiles), strict=True)
            crops = owner[0][:, None] * tiles[1] + owner[1]
            canvas_index = first + crops * self.crop**2 + local[0][:, None] * self.crop + local[1]
            for row in range(tiles[0]):
                for column in range(tiles[1]):
                    top, left = 3 * self.side * row, 3 * self.side * column
                    patches.append(self._patches(canvas[top : top + edge, left : left + edge]))
            windows = [self._windows(index), self._windows(canvas_index)]
            pooled += [each.flatten(0, 1) for each in windows]
            grids.append([length for each in windows for length in each.shape[:2]])
        return {
            "pixel_values": torch.stack(patches),
            "image_token_pooling": torch.cat(pooled),
            "image_grids": torch.tensor(grids),
        }

    def _pixels(self, picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(picture).copy()).float() / 127.5 - 1

    def _patches(self, pixels: torch.Tensor) -> torch.Tensor:
        cut = pixels.unfold(0, self.side, self.side).unfold(1, self.side, self.side)
        return cut.permute(0, 1, 3, 4, 2).flatten(2).flatten(0, 1)

    def _read(self, length: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Along one side: the crop that each patch is read from, and its place there."""
        places = torch.arange(length)
        owner = ((places - 1) // 3).clamp(0, count - 1)
        return owner, places - 3 * owner

    def _windows(self, index: torch.Tensor) -> torch.Tensor:
        """`[row column patch]`, with nothing (-1) below and on the right where the number of patches is odd."""
        rows, columns = (length % 2 for length in index.shape)
        padded = torch.nn.functional.pad(index, (0, columns, 0, rows), value=-1)
        return padded.unfold(0, 2, 2).unfold(1, 2, 2).flatten(2)


_MOLMO2_MARKS = ("<|image|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<im_end>")


def _molmo2_text(config: Any, tensors: dict[str, Any]) -> list[str]:
    """The text that stands for each picture: both views, row by row."""
    return [
        "".join(
            start + ("<im_patch>" * columns + "<im_col>") * rows + "<im_end>"
            for start, (rows, columns) in (("<low_res_im_start>", shape[:2]), ("<im_start>", shape[2:]))
        )
        for shape in tensors["image_grids"].tolist()
    ]


def molmo2(*, post_norm: bool = False) -> HookedMultimodal:
    """Molmo 2, with norms in front of the language model's branches or behind them."""
    ids = {mark: len(VOCAB) + number for number, mark in enumerate(_MOLMO2_MARKS)}
    config = Molmo2Config(
        vision_config={
            **VISION,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "image_size": [40, 40],
        },
        adapter_config={
            "vision_feature_layer": [-1, 0],
            "hidden_size": 24,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "intermediate_size": 28,
            "text_hidden_size": 32,
        },
        text_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "norm_after": post_norm,
            "qk_norm_type": "olmo" if post_norm else "qwen3",
            "additional_vocab_size": 4,
            **_TOKENS,
            "vocab_size": len(VOCAB) + len(ids),
        },
        image_patch_id=ids["<im_patch>"],
        image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"],
    )
    model = redraw(Molmo2ForConditionalGeneration(config))
    with torch.no_grad():
        # no norm stands in front of the pooling: with queries of the usual size every window would read one patch alone
        model.model.multi_modal_projector.image_pooling_2d.q_proj.weight.mul_(0.02)
    words = tokenizer("<|image|>", more=_MOLMO2_MARKS)
    processor = ComposedProcessor(_Crops(), words, replace(MOLMO2, expand=_molmo2_text), model.config)
    processor.image_token = "<|image|>"
    return HookedMultimodal.from_hf(model, processor)


TINY = [
    Tiny("blip_2", blip_2, has_places=False, several=False),
    Tiny("kosmos2", kosmos2, has_places=False, several=False),
    Tiny("molmo2", molmo2, sizes=((40, 64), (64, 40)), reach=2),
    Tiny("molmo2_post_norm", lambda: molmo2(post_norm=True), sizes=((40, 40), (64, 64)), reach=2),
    Tiny("aria", aria, has_places=False, sizes=((980, 980), (392, 980))),
]
