"""Blocks, norms and the ends of a bound model as TransformerLens's code reaches into them: weights and hook points alike."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from mmlens.architectures.weights import bias_of, readable
from mmlens.core.errors import InputError
from mmlens.core.names import nearest
from mmlens.hooks.point import Point
from mmlens.models.part_view import BlockWeights


class PointsUnder:
    """The hook points under one prefix, by what follows it: `block.attn.hook_z`.

    Args:
        points: all points by name.
        prefix: what their names begin with, e.g. `blocks.1.attn.`.
        weights: what other attributes are looked up on; None if it has none.
    """

    def __init__(self, points: Mapping[str, Point], prefix: str, weights: object = None):
        self._points = points
        self._prefix = prefix
        self._weights = weights

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        point = self._points.get(self._prefix + name)
        if point is not None:
            return point
        if hasattr(type(self._weights), name):
            try:
                return getattr(self._weights, name)
            except InputError as error:  # TransformerLens's tools ask for what may be missing
                raise AttributeError(str(error)) from error
        names = [key.removeprefix(self._prefix) for key in self._points if key.startswith(self._prefix)]
        close = ", ".join(nearest(name, [*names, *(key for key in dir(self._weights) if not key.startswith("_"))]))
        raise AttributeError(f"{self._prefix}{name} does not exist here." + (f" Nearest: {close}." if close else ""))


class NormView(nn.Module):
    """A norm with its weights under TransformerLens's names.

    Attributes:
        module: the real norm.
    """

    def __init__(self, module: nn.Module, points: Mapping[str, Point], prefix: str):
        super().__init__()
        self.module = module
        self._under = PointsUnder(points, prefix)

    def forward(self, stream: Float[torch.Tensor, "*rows d_model"]) -> Float[torch.Tensor, "*rows d_model"]:
        """The normalised stream times the gain."""
        return self.module(stream)

    @property
    def w(self) -> Float[torch.Tensor, "d_model"]:
        """The weight as the module has it: of Gemma's norms, the gain's distance from 1 (`cfg.rmsnorm_uses_offset`)."""
        return readable(self.module, "A norm's weight")

    @property
    def weight(self) -> Float[torch.Tensor, "d_model"]:
        """The same under torch's name."""
        return self.w

    @property
    def b(self) -> Float[torch.Tensor, "d_model"]:
        """The bias.

        Raises:
            AttributeError: if the norm has none, as RMS norms.
        """
        bias = bias_of(self.module, "A norm's bias")
        if bias is None:
            raise AttributeError(f"{type(self.module).__name__} has no bias.")
        return bias

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_under"], name) if name.startswith("hook_") else super().__getattr__(name)


class EndView(nn.Module):
    """The embedding (`W_E`) or the unembedding (`W_U`, `b_U`), which is called as the real module is.

    Attributes:
        module: the real module.
    """

    def __init__(self, module: nn.Module, **weights: torch.Tensor):
        super().__init__()
        self.module = module
        self._weights = weights

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """What the real module makes of its input."""
        return self.module(rows)

    def __getattr__(self, name: str) -> Any:
        weights = self.__dict__.get("_weights", {})
        return weights[name] if name in weights else super().__getattr__(name)


class BlockView:
    """One block: `block.attn.W_Q`, `block.attn.hook_z`, `block.hook_resid_pre`, `block.ln1.w`.

    Attributes:
        weights: its weights.
        submodules: its branches and norms by TransformerLens's names, norms behind branches among them.
        hook_aliases: which of them a branch's output is read at.
        residual_contribution_scale: what branches are multiplied by before they are added, where that is a number.
    """

    def __init__(self, number: int, weights: BlockWeights, points: Mapping[str, Point]):
        prefix = f"blocks.{number}."
        self.weights = weights
        self._under = PointsUnder(points, prefix, weights)
        kind = weights.kind
        parts: dict[str, Any] = {}
        if weights.ln1 is not None:
            parts["ln1"] = NormView(weights.ln1, points, f"{prefix}ln1.")
        if weights.attn is not None:
            parts["attn"] = PointsUnder(points, f"{prefix}attn.", weights.attn)
        elif kind.mixer is not None:
            parts["mixer"] = weights.module.get_submodule(kind.mixer)
        if weights.ln2 is not None:
            parts["ln2"] = NormView(weights.ln2, points, f"{prefix}ln2.")
        parts["mlp"] = PointsUnder(points, f"{prefix}mlp.", weights.mlp)
        scale = None if kind.attn is None or kind.attn.scale is None else kind.attn.scale(weights.module)
        self.residual_contribution_scale = scale if isinstance(scale, int | float) else 1.0
        self.hook_aliases = {"hook_attn_out": "attn.hook_out"}
        behind = kind.attn is not None and not kind.attn.o.startswith(f"{kind.attn.branch}.")
        if behind or isinstance(scale, torch.Tensor):
            parts["ln1_post"] = weights.module if kind.attn is None else weights.module.get_submodule(kind.attn.branch)
            self.hook_aliases["hook_attn_out"] = "ln1_post.hook_out"
        self.submodules = parts

    def __getattr__(self, name: str) -> Any:
        parts = self.__dict__.get("submodules", {})
        return parts[name] if name in parts else getattr(self.__dict__["_under"], name)
