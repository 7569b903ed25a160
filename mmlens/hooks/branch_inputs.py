"""Entrances: where one branch reads the residual stream, apart from the skip path and from all other branches.

`hook_resid_pre` and `hook_resid_mid` are the stream itself: an edit there reaches the branch and everything behind it, and a
gradient there is that of all of it. An entrance is the input of the norm in front of one branch, so an edit changes what this
branch reads and nothing else, and a gradient is the branch's alone. Their names are TransformerLens's:

    blocks.2.hook_attn_in     blocks.2.hook_mlp_in     ln_final.hook_in

Queries, keys and values of each head can be given streams of their own too (`SplitReading`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.core.names import into_product
from mmlens.hooks.attachment import AtSite
from mmlens.hooks.attention import kernel_of
from mmlens.hooks.indirect import NormScale
from mmlens.hooks.point import Point
from mmlens.hooks.session import attached

Kind: TypeAlias = Literal["q", "k", "v"]
KINDS: tuple[Kind, ...] = ("q", "k", "v")
_ENTRANCES = {
    "ln1.hook_scale": "hook_attn_in",
    "ln2.hook_scale": "hook_mlp_in",
    "ln_final.hook_scale": "ln_final.hook_in",
}


def entrances(points: Mapping[str, Point]) -> dict[str, Point]:
    """The entrances of a model, by name; they are no points of its graph, and are used with `attached`.

    Args:
        points: the model's points; a branch has an entrance if there is a norm in front of it.

    Example:
        >>> list(entrances(model.hook_dict))[-2:]
        ['blocks.5.hook_mlp_in', 'ln_final.hook_in']
    """
    inputs = {}
    for name, point in points.items():
        suffix = next((suffix for suffix in _ENTRANCES if name.endswith(suffix)), None)
        if suffix is not None and isinstance(point.attachment, NormScale):
            input_name = name.removesuffix(suffix) + _ENTRANCES[suffix]
            inputs[input_name] = Point(input_name, AtSite(point.attachment.source))
    return inputs


@dataclass(frozen=True)
class Reading:
    """What is added to the stream for some heads of an attention branch.

    Attributes:
        added: of the stream's shape.
        heads: by kind, which heads read the sum; grouped heads count once for keys and values.
    """

    added: torch.Tensor
    heads: Mapping[Kind, Sequence[int]]


@dataclass
class SplitReading:
    """Lets the queries, keys and values of an attention branch read streams of their own.

    For each stream the branch's own norm and attention module are called once more, on the arguments of the real call; the
    queries, keys or values of the heads that read it are taken from there. Nothing is computed again by rules of our own.

    Args:
        points: the model's points.
        attn: what the branch's hook points begin with, e.g. `blocks.2.attn`.
        head_axis: of its queries, keys and values.
        branch_norm: the norm in front of the branch; the block's first if None, an identity where there is none.
        memory: the argument of the attention module that keys and values are made of, in cross-attention.

    Attributes:
        norm: the norm in front of the branch.
    """

    points: Mapping[str, Point]
    attn: str
    head_axis: int
    branch_norm: nn.Module | None = None
    memory: str | None = None
    norm: nn.Module = field(init=False)
    _input: torch.Tensor | None = None
    _again: bool = False
    _captured: dict[str, torch.Tensor] = field(default_factory=dict)
    _taken: list[tuple[Kind, Sequence[int], torch.Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.branch_norm is not None:
            self.norm = self.branch_norm
        else:
            scale = self.points.get(f"{self.attn.rpartition('.')[0]}.ln1.hook_scale")
            if scale is None or not isinstance(scale.attachment, NormScale):
                raise MMLensError(f"{self.attn} has no norm in front of it.")
            self.norm = scale.attachment.module

    @property
    def kernel(self) -> nn.Module:
        """The module that computes queries, keys and values."""
        kernel = kernel_of(self.points, self.attn)
        if kernel is None:
            raise MMLensError(f"{self.attn} has no points in the path of an attention computation.")
        return kernel

    @contextmanager
    def reading(self, readings: Callable[[], Sequence[Reading]]) -> Iterator[None]:
        """Inside the `with`, heads read what `readings` says at the moment when the branch runs."""

        def receive(module: nn.Module, args: tuple[Any, ...]) -> None:
            if not self._again:
                self._input = args[0]

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._again:
                if isinstance(self.norm, nn.Identity):
                    self._input = kwargs.get("hidden_states", args[0] if args else None)
                self._taken = [entry for reading in readings() for entry in self._read(reading, args, kwargs)]

        with ExitStack() as stack:
            stack.callback(self._forget)
            stack.callback(self.norm.register_forward_pre_hook(receive).remove)
            stack.callback(self.kernel.register_forward_pre_hook(before, with_kwargs=True).remove)
            pairs = [(into_product(self.points, self.attn, kind), self._heads(kind)) for kind in KINDS]
            stack.enter_context(attached(dict(self.points), pairs))
            yield

    def _forget(self) -> None:
        self._input, self._again = None, False
        self._captured, self._taken = {}, []

    def _read(
        self, reading: Reading, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[tuple[Kind, Sequence[int], torch.Tensor]]:
        """Queries, keys and values of some heads, computed from another stream."""
        if self._input is None:
            raise MMLensError(f"{self.attn} ran before the norm in front of it.")
        self._again = True
        try:
            if self.memory is not None and "q" not in reading.heads:
                old = kwargs[self.memory]
                self.kernel(*args, **{**kwargs, self.memory: old + reading.added.reshape(old.shape).to(old.device)})
            else:
                # past the hooks of the norm: the branches that share it have received what it returned
                change = reading.added.reshape(self._input.shape).to(self._input.device)
                norm_output = self.norm.forward(self._input + change)
                if "hidden_states" in kwargs:
                    self.kernel(*args, **{**kwargs, "hidden_states": norm_output})
                else:
                    self.kernel(norm_output, *args[1:], **kwargs)
        finally:
            self._again = False
        return [(kind, heads, self._captured[kind]) for kind, heads in reading.heads.items()]

    def _heads(self, kind: Kind) -> Callable[..., torch.Tensor | None]:
        def put(activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
            if self._again:
                self._captured[kind] = activation
                return None
            for letter, heads, values in self._taken:
                if letter == kind:
                    index = torch.tensor(list(heads), device=activation.device)
                    activation = activation.index_copy(
                        self.head_axis, index, values.index_select(self.head_axis, index)
                    )
            return activation

        return put
