"""What attention does to queries, keys and values between their linears and the product, and where each can be seen.

Names are TransformerLens's: `hook_q` is what the linear returns, `hook_rot_q` what enters the product after rotary positions,
`hook_q_normed` what enters it after a norm of its own where no rotation follows.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from mmlens.architectures.forward_code import codes_of, names_used
from mmlens.architectures.modules import find_module, out_features
from mmlens.declarations.structure import Attention
from mmlens.hooks.heads import HeadProjection

Letter: TypeAlias = Literal["q", "k", "v"]
LETTERS: tuple[Letter, ...] = ("q", "k", "v")
_WORDS: dict[Letter, str] = {"q": "q|query|qk", "k": "k|key|qk", "v": "v|value"}
_ROTATION = re.compile(r"rotary|rotate|(?<![a-z])rope(?![a-z])")


@dataclass(frozen=True)
class Treatment:
    """What is done to queries, keys or values behind their linear.

    Attributes:
        rotated: they get rotary positions, or would in another block of their kind: some leave the rotation out in some layers.
        normed: they pass through a norm.
        norm_last: after the rotation.
        scaled: queries are multiplied by a number before the kernel has them, which is told to scale by 1.
    """

    rotated: bool = False
    normed: bool = False
    norm_last: bool = False
    scaled: bool = False


def treatment_of(kernel: nn.Module, attention: Attention, letter: Letter, *, crosses: bool) -> Treatment:
    """What an attention module does to queries, keys or values, read off its code and its norms.

    Args:
        kernel: the module that calls the attention function.
        attention: its declaration.
        letter: which of the three.
        crosses: whether it looks at another sequence, where rows have no common positions.
    """
    if attention.latent or attention.over_channels:
        return Treatment()
    norm_name = re.compile(rf"^(?:{_WORDS[letter]})_(?:layer_?)?norm$")
    norms = [
        name for name, child in kernel.named_children() if norm_name.match(name) and not isinstance(child, nn.Identity)
    ]
    codes = list(codes_of(kernel))
    names = next((names_used(code) for code in codes if any(map(_ROTATION.search, code.co_names))), ())
    is_rotated = letter != "v" and bool(names) and not crosses and bool(getattr(kernel, "use_rope", True))
    turn = max((at for at, name in enumerate(names) if name != "use_rope" and _ROTATION.search(name)), default=0)
    norm_last = is_rotated and any(name in names[turn:] for name in norms)
    is_scaled = letter == "q" and any(
        type(value) is float and value == 1.0 for code in codes for value in code.co_consts
    )
    return Treatment(is_rotated, bool(norms), norm_last, is_scaled)


def product_name(letter: Letter, treatment: Treatment) -> str:
    """The name of the point where queries, keys or values enter the product."""
    if treatment.rotated and not treatment.norm_last:
        return f"hook_rot_{letter}"
    return f"hook_{letter}_normed" if treatment.normed else f"hook_{letter}"


def projection_of(
    block: nn.Module, attention: Attention, letter: Letter, *, heads: int, d_head: int
) -> HeadProjection | None:
    """Where queries, keys or values are made; None where no linear of their own makes them, row by row.

    Args:
        block: the block.
        attention: where its linears are.
        letter: which of the three.
        heads: number of query heads.
        d_head: their width.
    """
    path = getattr(attention, letter) or attention.qkv
    linear = find_module(block, path) if path else None
    if (
        linear is None
        or isinstance(linear, nn.Conv2d)
        or attention.latent
        or attention.over_channels
        or (attention.joined and letter != "q")
    ):
        return None
    width = out_features(linear)
    if getattr(attention, letter) is not None:
        return HeadProjection(linear, 0, width, d_head, 2 if attention.gated and letter == "q" else 1)
    queries = heads * d_head
    ends = (0, queries, queries + (width - queries) // 2, width)
    number = "qkv".index(letter)
    return HeadProjection(linear, ends[number], ends[number + 1], d_head)
