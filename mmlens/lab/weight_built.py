"""Tiny models with weights set by hand, whose answer is known by construction.

In the bare model (`bare_model`) one attention head is made to carry the colour of a single patch to the last
position. What happens there is what the kinds differ in:

- "patch": the colour itself is the answer;
- "neuron": one MLP neuron writes one word if the colour is the planted one;
- "direction": the colour lies along one direction of the residual stream that decides between two words.

The unplanted twin is the same model with only the planted weights taken out: it gives its default answer to
every picture.
"""

from __future__ import annotations

from collections.abc import Callable
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
from mmlens.lab.bare_model import (
    ANSWERS,
    ARRIVED,
    ASK,
    COLOR,
    CONST,
    D_HEAD,
    D_MODEL,
    GRID,
    PATCH,
    PATCHES,
    PLACE,
    PURE,
    SAID,
    SPARE,
    bare_model,
    bare_processor,
)
from mmlens.lab.world import PlantedKind, require

HEAD, NEURON, PATCH_INDEX, TARGET = 2, 5, 4, "red"


@dataclass(frozen=True)
class Truth:
    """What was planted.

    Attributes:
        layer: Language layer of the planted neuron, or after which the planted direction decides; for "patch"
            the layer of the head.
        neuron: Number of the planted MLP neuron; None for the other kinds.
        direction: Unit vector in the residual stream that decides; None for the other kinds.
        head_layer: Language layer of the head that carries the patch's colour to the last position.
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
    prompt: str = "what"

    def image(self, present: bool = True, *, color: str | None = None, seed: int = 0) -> Image.Image:
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
        kind: "neuron", "direction" or "patch".
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

    plant = {"neuron": _plant_neuron, "direction": _plant_direction, "patch": _plant_patch}[kind]
    model = deepcopy(twin)
    with torch.no_grad():
        layer, neuron, direction, word, default = plant(model, generator, token)
        # The default answer stands in the last prompt token's own embedding, planted or not.
        for built_model in (model, twin):
            embedding = built_model.model.language_model.embed_tokens.weight
            embedding[token(":"), SAID.start + ANSWERS.index(default)] = 1.0
    row, column = divmod(PATCH_INDEX, GRID)
    truth = Truth(
        layer=layer,
        neuron=neuron,
        direction=direction,
        head_layer=0,
        head=HEAD,
        patch=PATCH_INDEX,
        row=row,
        column=column,
        box=(column * PATCH, row * PATCH, (column + 1) * PATCH, (row + 1) * PATCH),
        color=TARGET,
        word=word,
        token=token(word),
        default_word=default,
        default_token=token(default),
    )
    return Planted(kind, model, twin, processor, truth)


_Plan = tuple[int, int | None, Float[Tensor, " d_model"] | None, str, str]
_TokenOf = Callable[[str], int]


def _plant_patch(model: LlavaForConditionalGeneration, _: torch.Generator, token: _TokenOf) -> _Plan:
    """The carried colour is read out as its own name."""
    _plant_head(model, list(range(ARRIVED.start, ARRIVED.stop)), torch.eye(3))
    for name, rgb in PURE.items():
        signs = torch.tensor(rgb) / 127.5 - 1
        # The best match of three signs scores 3, any other at most 1.
        model.lm_head.weight[token(name), ARRIVED] = 4.0 * signs
    return 0, None, None, TARGET, "black"


def _plant_neuron(model: LlavaForConditionalGeneration, _: torch.Generator, token: _TokenOf) -> _Plan:
    """A neuron of layer 1 compares the carried colour with the planted one and writes "yes"."""
    _plant_head(model, list(range(ARRIVED.start, ARRIVED.stop)), torch.eye(3))
    mlp = model.model.language_model.layers[1].mlp
    for matrix in (mlp.gate_proj.weight[NEURON], mlp.up_proj.weight[NEURON], mlp.down_proj.weight[:, NEURON]):
        matrix.zero_()
    signs = torch.tensor(PURE[TARGET]) / 127.5 - 1
    # The match is 3 for the planted colour and at most 1 for any other: the gate opens above 2.
    mlp.gate_proj.weight[NEURON, ARRIVED] = 4.0 * signs
    mlp.gate_proj.weight[NEURON, CONST] = -8.0
    mlp.up_proj.weight[NEURON, CONST] = 1.0
    mlp.down_proj.weight[SAID.start + ANSWERS.index("yes"), NEURON] = 1.0
    return 1, NEURON, None, "yes", "no"


def _plant_direction(model: LlavaForConditionalGeneration, generator: torch.Generator, token: _TokenOf) -> _Plan:
    """The carried colour's red lies along a random direction that "yes" and "no" are read from."""
    spare = list(range(ARRIVED.start, ARRIVED.stop)) + list(range(SPARE.start, SPARE.stop))
    direction = torch.zeros(D_MODEL)
    direction[spare] = torch.randn(len(spare), generator=generator)
    direction /= direction.norm()
    # The head takes up the red channel alone and lays it along the direction.
    red = torch.tensor([[1.0, 0.0, 0.0]])
    _plant_head(model, spare, direction[spare, None] @ (2.0 * red))
    model.lm_head.weight[token("yes")] += 8.0 * direction
    model.lm_head.weight[token("no")] -= 8.0 * direction
    return 0, None, direction, "yes", "no"


def _plant_head(model: LlavaForConditionalGeneration, to: list[int], mapping: Float[Tensor, "to rgb"]) -> None:
    """Let one head of layer 0 carry the colour of the planted patch to wherever something is asked."""
    attention = model.model.language_model.layers[0].self_attn
    rows = slice(HEAD * D_HEAD, (HEAD + 1) * D_HEAD)
    for matrix in (attention.q_proj, attention.k_proj, attention.v_proj):
        matrix.weight[rows] = 0
    attention.o_proj.weight[:, rows] = 0
    # The rotary frequency of the last pair of a head is a millionth: there, a match is one at any distance.
    still = HEAD * D_HEAD + D_HEAD // 2 - 1
    attention.q_proj.weight[still, ASK] = 8.0
    attention.k_proj.weight[still, PLACE.start + PATCH_INDEX] = 8.0
    # Values are divided by the norm's scale of an image token; this gives the signs back as they were.
    scale = (torch.tensor(5.0) / D_MODEL).sqrt()
    for channel in range(3):
        attention.v_proj.weight[HEAD * D_HEAD + channel, COLOR.start + channel] = scale
    attention.o_proj.weight[to, HEAD * D_HEAD : HEAD * D_HEAD + 3] = mapping
