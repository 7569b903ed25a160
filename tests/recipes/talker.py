"""A tiny LLaVA-1.5 in the hub's layout that says what published studies need, and files of their data sets about its pictures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from mmlens.lab import Scene
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.readers import published
from tests.checkpoints.layouts import LLAVA

CAPTION, ASKED = "Describe the image in few words.", "{} Answer the question using a single word or phrase."
REQUEST = "The image shows a phrase of a product. How do I use it?"
#: Of a dark picture and a bright one; nouns, a colour, a place, a feeling, people.
SAID = (
    "a man and a white dog on a beach with a smile",
    "a person and a black cat in a city, sad",
)
ANSWERS = {
    "is there a dog": "yes",
    "is there a moon": "no",
    "how many dogs": "1",
    "how many cats": "3",
    "what color is the dog": "white",
    "what color is the cat": "black",
}
REPLIES = ("I cannot help", "open it")
_SHADES = {"d": (10, 10, 10), "b": (245, 245, 245)}
_STEPS = 45


def small_llava(folder: Path) -> HookedMultimodal:
    """The layout to the letter, with pictures of 16 patches and 64 channels, so that it learns in seconds."""

    def config(words: Any) -> dict[str, Any]:
        fields = LLAVA.config(words)
        vision, text = {**fields["vision_config"], "image_size": 56}, {**fields["text_config"], "hidden_size": 64}
        return {**fields, "vision_config": vision, "text_config": text}

    sizes = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    layout = replace(LLAVA, config=config, preprocessor={**LLAVA.preprocessor, **sizes})
    return HookedMultimodal.from_pretrained(layout.write(folder))


def taught(model: HookedMultimodal) -> HookedMultimodal:
    """The model once its language blocks and unembedding have learnt the texts by heart."""
    pairs = [
        (shade, prompt, text)
        for shade, said, reply in zip(_SHADES.values(), SAID, REPLIES, strict=True)
        for prompt, text in (
            (CAPTION, said), (REQUEST, reply), *((ASKED.format(question), word) for question, word in ANSWERS.items()),
        )
    ]  # fmt: skip
    pictures = [[Image.new("RGB", (32, 32), shade)] for shade, _, _ in pairs]
    end, encode = [model.tokenizer.eos_token_id], model.tokenizer.encode
    texts = [torch.tensor(encode(text, add_special_tokens=False) + end) for *_, text in pairs]
    tokens = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=-1)
    prompts = model.prepare([prompt for _, prompt, _ in pairs], images=pictures)
    batch = model.extend(prompts, tokens[:, :-1].clamp(min=0))
    with torch.no_grad():
        rows = model.run_with_cache(batch, names=["hook_embed"])[1]["hook_embed"]
    language, head = cast(Any, model.base).model.language_model, cast(Any, model.base).lm_head
    learning = [*language.layers.parameters(), *language.norm.parameters(), *head.parameters()]
    model.base.requires_grad_(False)
    for weight in learning:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(learning, lr=1e-2, weight_decay=0.0)
    for _ in range(_STEPS):
        run = language(inputs_embeds=rows, attention_mask=batch.inputs["attention_mask"], use_cache=False)
        states = run.last_hidden_state[:, -tokens.shape[1] :]
        loss = nn.functional.cross_entropy(head(states[tokens >= 0]), tokens[tokens >= 0])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
    model.base.requires_grad_(False)
    return model


def photographs(folder: Path, shades: str) -> Path:
    """Files of all data sets about pictures that are dark (`d`) or bright (`b`), in the forms that they are published in."""
    mask = np.zeros((32, 32), dtype=bool)
    mask[8:24, 8:24] = True
    words = list(ANSWERS.items())
    pictures = []
    for number, shade in enumerate(shades):
        image = Image.new("RGB", (32, 32), _SHADES[shade])
        image.putpixel((number % 32, number // 32), (128, 128, 128))  # no two are the same
        asked = [words[(3 * number + place) % len(words)] for place in range(3)]
        things = [SimpleNamespace(shape="dog", color=color, size="small", mask=mask) for color in ("white", "black")]
        questions = [SimpleNamespace(text=text, answer=answer) for text, answer in asked]
        caption = SAID["db".index(shade)]
        pictures.append(SimpleNamespace(image=image, caption=caption, objects=things, questions=questions))
    scenes = cast("Sequence[Scene]", pictures)
    published.coco_captions(scenes, folder)
    published.vqa_v2(scenes, folder)
    published.mm_safety_bench(scenes[:4], folder)
    return folder
