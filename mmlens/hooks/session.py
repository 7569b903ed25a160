"""Attach many hooks, and remove exactly those: also after an exception, also when sessions nest."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, cast

import torch
from transformer_lens.hook_points import HookPoint, LensHandle

from mmlens.core.names import Names, match_names
from mmlens.hooks.point import Point

#: `fn(activation, hook) -> new activation or None`.
HookFunction: TypeAlias = Callable[..., torch.Tensor | None]
#: What run methods take: a hook name, glob, list or predicate, and the function.
HookPair: TypeAlias = tuple[Names, HookFunction]
#: With the activation, or with the gradient.
Direction: TypeAlias = Literal["fwd", "bwd"]


def resolve_hooks(
    points: Mapping[str, HookPoint], fwd_hooks: Sequence[HookPair], bwd_hooks: Sequence[HookPair]
) -> list[tuple[HookPoint, HookFunction, Direction]]:
    """Find the points that hooks name, before any is attached.

    Raises:
        UnknownNameError: for a name or glob that matches nothing.
        InputError: for a pair that is not (names, function).
    """
    resolved: list[tuple[HookPoint, HookFunction, Direction]] = []
    directions: tuple[tuple[Direction, Sequence[HookPair]], ...] = (("fwd", fwd_hooks), ("bwd", bwd_hooks))
    for direction, pairs in directions:
        for pair in pairs:
            names, function = pair
            point_names = [names] if isinstance(names, str) and names in points else match_names(names, list(points))
            resolved += [(points[name], function, direction) for name in point_names]
    return resolved


@contextmanager
def attached(
    points: Mapping[str, HookPoint],
    fwd_hooks: Sequence[HookPair] = (),
    bwd_hooks: Sequence[HookPair] = (),
    *,
    first: bool = False,
) -> Iterator[list[LensHandle]]:
    """Have hooks attached inside the `with`; on leaving, exactly these are removed, whatever happened.

    Args:
        points: the model's points by name.
        fwd_hooks: pairs (names, function) called with the activation.
        bwd_hooks: pairs (names, function) called with the gradient.
        first: run before the hooks that are there already, not after them; among themselves in the order given.
    """
    resolved = resolve_hooks(points, fwd_hooks, bwd_hooks)
    handles: list[LensHandle] = []
    try:
        for point, function, direction in reversed(resolved) if first else resolved:
            handles.append(point.add_hook(cast(Any, function), dir=direction, prepend=first))
        yield handles
    finally:
        for handle in reversed(handles):
            handle.hook.remove()


@contextmanager
def suspended(points: Iterable[Point], kept: Container[int] = ()) -> Iterator[None]:
    """Have hooks on activations out of action inside the `with`; afterwards all act again, in their order.

    Args:
        points: whose hooks.
        kept: ids of functions that go on acting.
    """
    restores = [point.without(kept) for point in points if point.fwd_hooks]
    try:
        yield
    finally:
        for restore in restores:
            restore()
