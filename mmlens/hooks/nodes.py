"""Nodes of the hook-point graph, and selections of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, overload

from mmlens.core.axes import position_axis
from mmlens.core.kinds import With
from mmlens.core.names import HookName, Names, Part

Role = Literal["reads", "writes", "stream"]


@dataclass(frozen=True)
class Node:
    """What a hook point is.

    Attributes:
        name: full hook name.
        part: the tower it lives in.
        layer: block number within its stack, or None outside the blocks.
        kind: the last piece of the name without `hook_`, with its module: `resid_post`, `mlp.post`, `attn.z`.
        axes: axis words of its tensor, e.g. `"batch pos d_model"`.
        width: size of the last axis, or None where it depends on the input (keys of a pattern).
        sequence: what the position axis runs over: `"vision"`, `"projector"`, `"queries"`, `"language"` (the prompt), or
            `"decoder"` (what an encoder-decoder model writes).
        role: whether it is the residual stream itself, is read from it, or is written to it; None for inner points.
        dead: why editing it cannot reach the logits, or None if it can.
        on_request: left out of a default cache because of its size (attention scores and patterns).
        stack: the stack that the layer counts in (`"blocks"`; parts with several name each), or None outside them.
        units: how many neurons (at `hook_post`) or heads (at `hook_z`) it holds; None elsewhere.
    """

    name: str
    part: Part
    layer: int | None
    kind: str
    axes: str
    width: int | None
    sequence: str
    role: Role | None = None
    dead: str | None = None
    on_request: bool = False
    stack: str | None = None
    units: int | None = None

    @property
    def position_axis(self) -> int:
        """Index of the axis that runs over positions."""
        return position_axis(self.axes)


class Selection(Sequence[Node]):
    """Nodes that were selected, in execution order. A value: it prints itself and can be passed as `at=`."""

    def __init__(self, nodes: Iterable[Node], description: str):
        self._nodes = tuple(nodes)
        self.description = description

    @property
    def names(self) -> list[str]:
        """The hook names, in execution order."""
        return [node.name for node in self._nodes]

    @overload
    def __getitem__(self, index: int) -> Node: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Node]: ...
    def __getitem__(self, index: int | slice) -> Node | Sequence[Node]:
        return self._nodes[index]

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def __repr__(self) -> str:
        lines = [f"{len(self)} hook points ({self.description})"]
        width = max((len(node.name) for node in self._nodes), default=0)
        for node in self._nodes[:20]:
            size = "" if node.width is None else f"  {node.width}"
            note = f"  dead: {node.dead}" if node.dead else ""
            lines.append(f"  {node.name:<{width}}  [{node.axes}]{size}{note}")
        if len(self) > 20:
            lines.append(f"  ... and {len(self) - 20} more")
        return "\n".join(lines)


def _of_the_model(arguments: Mapping[str, Any], value: Any, name: str) -> Any:
    """The value, if it names hook points of the model."""
    arguments["model"].graph.select(value)
    return value


#: Hook points of a model, as verbs take them: names, globs, a predicate, or a selection.
Points: TypeAlias = Annotated[Names | Selection, With(_of_the_model)]


def node_kind(name: str) -> str:
    """The kind of a point: its name within the block or part, without `hook_`.

    Example:
        >>> node_kind("vision.blocks.0.attn.hook_q"), node_kind("blocks.3.hook_resid_mid")
        ('attn.q', 'resid_mid')
    """
    return HookName.parse(name).rest.replace("hook_", "")
