"""Tiny models with weights set by hand, whose answer is known by construction.

In the bare model (`bare_model`) attention heads are made to carry the colour of a single patch to the last
position (`planting`). The kinds differ in what happens there:

- "patch": the colour itself is the answer;
- "neuron": one MLP neuron writes one word if the colour is the planted one;
- "direction": the colour lies along one direction of the residual stream that decides between two words;

and in the route that the colour takes, where it is the answer in both:

- "direct_flow": picture -> last position, in layer 1;
- "question_flow": picture -> the word of the question in layer 0, from there -> last position in layer 2;

and one in which the picture has a rival:

- "prior": a usual colour, the default word, is said louder than the picture's own, which is seen with half of a head's attention:
  the model hallucinates by a known prior, and what pays more attention to the picture, or takes the prior away, mends it.

The unplanted twin is the same model with only the planted weights taken out: it gives its default answer to
every picture.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, LlavaForConditionalGeneration, LlavaProcessor

from mmlens.core.contract import checked
from mmlens.core.kinds import Seed
from mmlens.lab.bare_model import ANSWERS, GRID, PATCH, PATCHES, PURE, SAID, bare_model, bare_processor
from mmlens.lab.planting import PATCH_INDEX, PLANTERS, PROMPT, TARGET, Hop
from mmlens.lab.world import PlantedKind, require


@dataclass(frozen=True)
class Truth:
    """What was planted.

    Attributes:
        layer: Language layer of the planted neuron, or after which the planted direction decides; for the others
            that of the last head.
        neuron: Number of the planted MLP neuron; None for the other kinds.
        direction: Unit vector in the residual stream that decides; None for the other kinds.
        route: The heads that carry the patch's colour to the last position, in their order.
        head_layer: Language layer of the last of them.
        head: Its number.
        patch: The one patch the answer depends on, counted row by row from 0.
        row: Its row in the grid of patches.
        column: Its column.
        box: Its pixels (left, top, right, bottom).
        color: Colour of that patch that is the cause.
        word: The answer with the cause.
        token: Its token id.
        default_word: The answer without the cause.
        default_token: Its token id.
    """

    layer: int
    neuron: int | None
    direction: Float[Tensor, " d_model"] | None
    route: tuple[Hop, ...]
    head_layer: int
    head: int
    patch: int
    row: int
    column: int
    box: tuple[int, int, int, int]
    color: str
    word: str
    token: int
    default_word: str
    default_token: int


@dataclass(frozen=True)
class Planted:
    """A model with a planted cause, its truth, and its unplanted twin.

    Attributes:
        kind: What was planted.
        model: The model, float32.
        twin: The same without what was planted; answers `truth.default_word` to every picture.
        processor: For both.
        truth: What was planted.
        prompt: The question to ask.
    """

    kind: PlantedKind
    model: LlavaForConditionalGeneration
    twin: LlavaForConditionalGeneration
    processor: LlavaProcessor
    truth: Truth
    prompt: str = PROMPT

    @checked
    def image(self, present: bool = True, *, color: str | None = None, seed: Seed = 0) -> Image.Image:
        """Paint a picture of nine patches.

        Args:
            present: Whether the planted patch has the planted colour; without it, it is black.
            color: Another colour for the planted patch.
            seed: Decides the colours of all other patches.

        Returns:
            24 x 24 pixels, RGB.

        Raises:
            InputError: There is no such colour.
        """
        if color is None:
            color = self.truth.color if present else "black"
        require(color, PURE, "pure colour")
        names = np.random.default_rng(seed).choice(list(PURE), size=PATCHES)
        names[self.truth.patch] = color
        grid = np.array([PURE[name] for name in names], dtype=np.uint8).reshape(GRID, GRID, 3)
        return Image.fromarray(grid.repeat(PATCH, axis=0).repeat(PATCH, axis=1))

    @checked
    def inputs(self, image: Image.Image) -> BatchFeature:
        """Give the keyword tensors for the model: the prompt about a picture, through the chat template."""
        content = [{"type": "image"}, {"type": "text", "text": self.prompt}]
        chat: list[dict[str, Any]] = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(chat, add_generation_prompt=True)
        return self.processor(text=text, images=image, return_tensors="pt")


@checked
def build_pair(kind: PlantedKind, *, seed: Seed = 0) -> Planted:
    """Build a planted model and its twin.

    Args:
        kind: "neuron", "direction", "patch", "direct_flow", "question_flow" or "prior".
        seed: Decides the noise in the language model's other weights, and the planted direction.

    Returns:
        The model, its twin and its truth.

    Raises:
        InputError: There is no such kind.
    """
    generator = torch.Generator().manual_seed(seed)
    processor = bare_processor()
    twin = bare_model(generator)

    def token(word: str) -> int:
        return processor.tokenizer.convert_tokens_to_ids(word)

    model = deepcopy(twin)
    with torch.no_grad():
        plan = PLANTERS[kind](model, generator, token)
        # The default answer stands in the last prompt token's own embedding, planted or not.
        for built_model in (model, twin):
            embedding = built_model.model.language_model.embed_tokens.weight
            embedding[token(":"), SAID.start + ANSWERS.index(plan.default_word)] = plan.default_size
    row, column = divmod(PATCH_INDEX, GRID)
    last = plan.route[-1]
    truth = Truth(
        layer=plan.layer,
        neuron=plan.neuron,
        direction=plan.direction,
        route=plan.route,
        head_layer=last.layer,
        head=last.head,
        patch=PATCH_INDEX,
        row=row,
        column=column,
        box=(column * PATCH, row * PATCH, (column + 1) * PATCH, (row + 1) * PATCH),
        color=TARGET,
        word=plan.word,
        token=token(plan.word),
        default_word=plan.default_word,
        default_token=token(plan.default_word),
    )
    return Planted(kind, model, twin, processor, truth)
