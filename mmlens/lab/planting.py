"""What is planted in the bare model: heads that carry a colour, and what is made of it where it arrives.

Coordinates of the residual stream have the meanings of `bare_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from mmlens.lab.bare_model import ANSWERS, ARRIVED, ASK, COLOR, CONST, D_HEAD, D_MODEL, PLACE, PURE, SAID, SPARE
from mmlens.lab.world import PlantedKind

HEAD, RELAY_HEAD, NEURON, PATCH_INDEX, TARGET, PROMPT = 2, 1, 5, 4, "red", "what"
#: Marks the token of the question; nobody's before.
_QUESTION = SPARE.start
#: The colour after its second hop.
_RELAYED = slice(SPARE.start + 1, SPARE.start + 4)
_COLORS = torch.eye(3)


@dataclass(frozen=True)
class Hop:
    """One head that carries the colour from some positions to others.

    Attributes:
        layer: Its language layer.
        head: Its number.
        source: Where it looks, as a rule of positions: "image", or the word of the question.
        target: From where it looks: that word, or "last".
    """

    layer: int
    head: int
    source: str
    target: str


@dataclass(frozen=True)
class Plan:
    """What was planted, and what is answered with and without the cause.

    Attributes:
        route: The heads that carry the colour to the last position, in their order.
        word: The answer with the cause.
        default_word: The answer without it.
        layer: Language layer of the neuron, or after which the direction decides; else that of the last head.
        neuron: Number of the MLP neuron.
        direction: Unit vector that decides.
        default_size: How strongly the default word is said, whatever is seen.
    """

    route: tuple[Hop, ...]
    word: str
    default_word: str
    layer: int
    neuron: int | None = None
    direction: Float[Tensor, " d_model"] | None = None
    default_size: float = 1.0


TokenOf = Callable[[str], int]
Planter = Callable[[LlavaForConditionalGeneration, torch.Generator, TokenOf], Plan]
_ARRIVED_ROWS = range(ARRIVED.start, ARRIVED.stop)


def _patch(model: LlavaForConditionalGeneration, _: torch.Generator, token: TokenOf) -> Plan:
    """The colour, carried in layer 0, is read out as its own name."""
    return _direct(model, token, layer=0)


def _direct_flow(model: LlavaForConditionalGeneration, _: torch.Generator, token: TokenOf) -> Plan:
    """The same in layer 1: the last position looks at the picture itself, and at nothing else."""
    return _direct(model, token, layer=1)


def _question_flow(model: LlavaForConditionalGeneration, _: torch.Generator, token: TokenOf) -> Plan:
    """The word of the question takes up the colour in layer 0; the last position gets it from there in layer 2."""
    model.model.language_model.embed_tokens.weight[token(PROMPT), _QUESTION] = 1.0
    route = (Hop(0, HEAD, "image", PROMPT), Hop(2, RELAY_HEAD, PROMPT, "last"))
    _plant_head(model, route[0], query=_QUESTION, key=PLACE.start + PATCH_INDEX, read=COLOR, to=_ARRIVED_ROWS)
    _plant_head(
        model, route[1], query=ASK, key=_QUESTION, read=ARRIVED, to=range(_RELAYED.start, _RELAYED.stop)
    )  # fmt: skip
    _name_color(model, token, _RELAYED)
    return Plan(route, TARGET, "black", layer=2)


def _neuron(model: LlavaForConditionalGeneration, _: torch.Generator, token: TokenOf) -> Plan:
    """A neuron of layer 1 compares the carried colour with the planted one and writes "yes"."""
    hop = _carry(model, 0, to=_ARRIVED_ROWS)
    mlp = model.model.language_model.layers[1].mlp
    for matrix in (mlp.gate_proj.weight[NEURON], mlp.up_proj.weight[NEURON], mlp.down_proj.weight[:, NEURON]):
        matrix.zero_()
    signs = torch.tensor(PURE[TARGET]) / 127.5 - 1
    # The match is 3 for the planted colour and at most 1 for any other: the gate opens above 2.
    mlp.gate_proj.weight[NEURON, ARRIVED] = 4.0 * signs
    mlp.gate_proj.weight[NEURON, CONST] = -8.0
    mlp.up_proj.weight[NEURON, CONST] = 1.0
    mlp.down_proj.weight[SAID.start + ANSWERS.index("yes"), NEURON] = 1.0
    return Plan((hop,), "yes", "no", layer=1, neuron=NEURON)


def _direction(model: LlavaForConditionalGeneration, generator: torch.Generator, token: TokenOf) -> Plan:
    """The carried colour's red lies along a random direction that "yes" and "no" are read from."""
    spare = [*_ARRIVED_ROWS, *range(SPARE.start, SPARE.stop)]
    direction = torch.zeros(D_MODEL)
    direction[spare] = torch.randn(len(spare), generator=generator)
    direction /= direction.norm()
    # The head takes up the red channel alone and lays it along the direction.
    red = torch.tensor([[1.0, 0.0, 0.0]])
    hop = _carry(model, 0, to=spare, mapping=direction[spare, None] @ (2.0 * red))
    model.lm_head.weight[token("yes")] += 8.0 * direction
    model.lm_head.weight[token("no")] -= 8.0 * direction
    return Plan((hop,), "yes", "no", layer=0, direction=direction)


def _prior(model: LlavaForConditionalGeneration, _: torch.Generator, token: TokenOf) -> Plan:
    """The colour is seen, by a head that pays the patch half of its attention; a usual colour is said louder."""
    hop = Hop(1, HEAD, "image", "last")
    _plant_head(model, hop, query=ASK, key=PLACE.start + PATCH_INDEX, read=COLOR, to=_ARRIVED_ROWS, strength=1.2)
    _name_color(model, token, ARRIVED)
    return Plan((hop,), TARGET, "green", layer=1, default_size=2.42)


PLANTERS: dict[PlantedKind, Planter] = {
    "neuron": _neuron,
    "direction": _direction,
    "patch": _patch,
    "direct_flow": _direct_flow,
    "question_flow": _question_flow,
    "prior": _prior,
}


def _direct(model: LlavaForConditionalGeneration, token: TokenOf, *, layer: int) -> Plan:
    hop = _carry(model, layer, to=_ARRIVED_ROWS)
    _name_color(model, token, ARRIVED)
    return Plan((hop,), TARGET, "black", layer=layer)


def _carry(
    model: LlavaForConditionalGeneration, layer: int, *, to: Sequence[int], mapping: Float[Tensor, "to rgb"] = _COLORS
) -> Hop:
    """Let one head carry the colour of the planted patch to wherever something is asked."""
    hop = Hop(layer, HEAD, "image", "last")
    _plant_head(model, hop, query=ASK, key=PLACE.start + PATCH_INDEX, read=COLOR, to=to, mapping=mapping)
    return hop


def _plant_head(
    model: LlavaForConditionalGeneration,
    hop: Hop,
    *,
    query: int,
    key: int,
    read: slice,
    to: Sequence[int],
    mapping: Float[Tensor, "to rgb"] = _COLORS,
    strength: float = 8.0,
) -> None:
    """Let one head look from tokens with one mark at those with another, and carry three coordinates of theirs."""
    attention = model.model.language_model.layers[hop.layer].self_attn
    first = hop.head * D_HEAD
    rows = slice(first, first + D_HEAD)
    for matrix in (attention.q_proj, attention.k_proj, attention.v_proj):
        matrix.weight[rows] = 0
    attention.o_proj.weight[:, rows] = 0
    # The rotary frequency of the last pair of a head is a millionth: there, a match is one at any distance.
    still = first + D_HEAD // 2 - 1
    attention.q_proj.weight[still, query] = strength
    attention.k_proj.weight[still, key] = strength
    # Values are divided by the norm's scale; what is looked at has five coordinates of one: the constant, its mark, the colour.
    scale = (torch.tensor(5.0) / D_MODEL).sqrt()
    for channel in range(3):
        attention.v_proj.weight[first + channel, read.start + channel] = scale
    attention.o_proj.weight[list(to), first : first + 3] = mapping


def _name_color(model: LlavaForConditionalGeneration, token: TokenOf, read: slice) -> None:
    """Read a carried colour out as its own name."""
    for name, rgb in PURE.items():
        signs = torch.tensor(rgb) / 127.5 - 1
        # The best match of three signs scores 3, any other at most 1.
        model.lm_head.weight[token(name), read] = 4.0 * signs
