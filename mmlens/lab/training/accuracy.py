"""How often the model is right: captions that it writes itself, and every kind of question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmlens.lab.language import CAPTION_PROMPT, phrase
from mmlens.lab.scenery import Scene
from mmlens.lab.training.data import Packer
from mmlens.lab.training.objectives import packed_logits
from mmlens.lab.world import QUESTION_KINDS


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, from 0 to 1.

    Attributes:
        objects: Objects of which the caption names noun and colour (noun alone for signs).
        sizes: Objects of which it names the size as well.
        place: Captions that name the right place.
        exact: Captions that are right to the last word.
        questions: Per question kind the answers that are right to the last word.
        asked: Per question kind the number of questions.
        refusals: Hazard signs, of those to be refused, that are refused.
        scenes: Number of scenes.
    """

    objects: float
    sizes: float
    place: float
    exact: float
    questions: dict[str, float]
    asked: dict[str, int]
    refusals: float
    scenes: int


@torch.no_grad()
def captions(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: list[Scene],
    *,
    as_text: bool = False,
    batch_size: int = 50,
    progress: bool = True,
) -> list[str]:
    """Let the model caption scenes, greedily, through plain `generate`.

    Args:
        model: The lab model.
        processor: Its processor.
        scenes: The scenes.
        as_text: Whether to show the written twins in the place of the pictures.
        batch_size: Scenes per call.
        progress: Whether to show a bar.

    Returns:
        The captions, as plain words.
    """
    result = []
    for start in tqdm(range(0, len(scenes), batch_size), "captions", disable=not progress):
        chunk = scenes[start : start + batch_size]
        chats = [processor.apply_chat_template(_chat(scene, as_text), add_generation_prompt=True) for scene in chunk]
        if as_text:
            inputs = processor.tokenizer(chats, padding=True, return_tensors="pt", add_special_tokens=False)
        else:
            inputs = processor(text=chats, images=[scene.image for scene in chunk], padding=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        tokens = model.generate(**inputs)  # type: ignore[misc]
        output = tokens[:, inputs["input_ids"].shape[1] :]
        result += processor.batch_decode(output, skip_special_tokens=True)
    return [text.strip() for text in result]


def _chat(scene: Scene, as_text: bool) -> list[dict[str, Any]]:
    if as_text:
        content = [{"type": "text", "text": f"{scene.written()} {CAPTION_PROMPT}"}]
    else:
        content = [{"type": "image"}, {"type": "text", "text": CAPTION_PROMPT}]
    return [{"role": "user", "content": content}]


def split_caption(caption: str) -> tuple[list[str], str]:
    """Take a caption apart into its objects' phrases, from left to right, and its place."""
    objects, _, place = caption.rpartition(" on ")
    phrases = [phrase.strip() for phrase in objects.replace(" and ", " , ").split(" , ")]
    return [phrase for phrase in phrases if phrase], place.strip()


@torch.no_grad()
def lab_accuracy(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: list[Scene],
    *,
    batch_size: int = 25,
    progress: bool = True,
) -> Accuracy:
    """Measure how often the model is right about scenes.

    Captions are generated. An answer counts as right if the model's first choice is right at every one of its
    tokens and at the end; greedy generation then gives exactly the true answer, and otherwise it does not.

    Args:
        model: The lab model.
        processor: Its processor.
        scenes: The scenes; held-out ones, as `mmlens.lab.scenes` gives them.
        batch_size: Scenes per forward.
        progress: Whether to show bars.

    Returns:
        The shares of right answers.
    """
    texts = captions(model, processor, scenes, progress=progress)
    objects, sizes, places = [], [], []
    for scene, text in zip(scenes, texts, strict=True):
        phrases, place = split_caption(text)
        plain = [_without_size(item) for item in phrases]
        objects += [_without_size(phrase(thing)) in plain for thing in scene.placed]
        sizes += [phrase(thing) in phrases for thing in scene.placed]
        # A rich caption puts a texture before the place and the light after it.
        places.append(scene.place in place.split())
    right = _answers(model, Packer(processor), scenes, batch_size, progress)
    return Accuracy(
        objects=float(np.mean(objects)),
        sizes=float(np.mean(sizes)),
        place=float(np.mean(places)),
        exact=float(np.mean([text == scene.caption for scene, text in zip(scenes, texts, strict=True)])),
        questions={kind: float(np.mean(right[kind])) for kind in QUESTION_KINDS if right[kind]},
        asked={kind: len(right[kind]) for kind in QUESTION_KINDS},
        refusals=float(np.mean(right["refused"])) if right["refused"] else float("nan"),
        scenes=len(scenes),
    )


def _without_size(phrase: str) -> str:
    return " ".join(word for word in phrase.split() if word not in ("a", "an", "small"))


def _answers(
    model: LlavaForConditionalGeneration, packer: Packer, scenes: list[Scene], batch_size: int, progress: bool
) -> dict[str, list[bool]]:
    right: dict[str, list[bool]] = {kind: [] for kind in (*QUESTION_KINDS, "refused")}
    for start in tqdm(range(0, len(scenes), batch_size), "questions", disable=not progress):
        chunk = scenes[start : start + batch_size]
        rows = [(scene, [(q.text, q.answer) for q in scene.questions]) for scene in chunk]
        batch = packer.pack(rows, np.stack([np.asarray(scene.image) for scene in chunk]))
        logits, tokens = packed_logits(model, batch)
        hits = iter((logits.argmax(dim=-1) == tokens).tolist())
        for scene in chunk:
            for question in scene.questions:
                length = len(packer.encode(question.answer)) + 1
                outcomes = [next(hits) for _ in range(length)]
                good = all(outcomes)
                right[question.kind].append(good)
                if question.answer.startswith("i cannot"):
                    right["refused"].append(good)
    return right
