"""Tiny models, one sample of each, and random transcoders of their MLPs."""

from dataclasses import replace
from functools import cache
from typing import Any

import torch

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.models.hooked import HookedMultimodal
from tests.families import FAMILIES
from tests.tiny import TINY, picture

PROMPT = "what color is the circle"
_TINY = {tiny.name: tiny for tiny in (*TINY, *FAMILIES)}


@cache
def made(name: str) -> tuple[HookedMultimodal, Any]:
    """A tiny model and one sample of it, made once."""
    model = _TINY[name].make()
    return model, model.prepare(PROMPT, images=picture(1))


def transcoder(model: HookedMultimodal, at: str, *, count: int = 40, **settings: Any) -> SparseDictionary:
    """A random transcoder of an MLP, which leads something past its features."""
    width, make = model.graph[at].width or 0, torch.Generator().manual_seed(len(at))
    W_enc = torch.randn(width, count, generator=make) / width**0.5
    W_dec = torch.nn.functional.normalize(torch.randn(count, width, generator=make), dim=1)
    b_enc, b_dec = torch.randn(count, generator=make) / 4, torch.randn(width, generator=make) / 4
    W_skip = torch.randn(width, width, generator=make) / width**0.5
    return SparseDictionary(
        W_enc, b_enc, W_dec, b_dec, at, at.replace("hook_mlp_out", "mlp.hook_in"), W_skip=W_skip, **settings
    )


def transcoders(model: HookedMultimodal, *, in_tower: bool = False, **settings: Any) -> list[SparseDictionary]:
    """Transcoders of the first two MLPs of the language model, and of the first of the vision encoder."""
    mlps = [node for node in model.graph if node.name.endswith("hook_mlp_out") and not node.dead]
    places = [node.name for node in mlps if node.part == "language"][:2]
    places += [node.name for node in mlps if node.part == "vision"][:1] if in_tower else []
    return [transcoder(model, at, **settings) for at in places]


def wide(dictionary: SparseDictionary) -> SparseDictionary:
    """The same in float64."""
    tensors = {name: value.double() for name, value in vars(dictionary).items() if isinstance(value, torch.Tensor)}
    return replace(dictionary, **tensors)
