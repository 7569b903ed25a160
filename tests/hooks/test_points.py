"""Hooks of a point: each handle takes out its own, and the point stays in the path while any is left."""

import torch
from torch import nn

from mmlens.hooks.attachment import AtSite
from mmlens.hooks.point import Point
from mmlens.hooks.site import Site


def point_of(module: nn.Module) -> Point:
    return Point("hook_out", AtSite(Site(module, "out")))


def test_a_handle_removes_its_own_hook_and_no_other() -> None:
    module = nn.Identity()
    point = point_of(module)
    for direction in ("fwd", "bwd"):
        seen: list[str] = []
        for name in ("first", "second"):
            point.add_hook(lambda tensor, hook, name=name, seen=seen: seen.append(name), dir=direction)
        hooks = point.fwd_hooks if direction == "fwd" else point.bwd_hooks
        first, second = (handle.hook for handle in hooks)
        first.remove()
        left = point.fwd_hooks if direction == "fwd" else point.bwd_hooks
        assert [handle.hook for handle in left] == [second]
        assert point.attached
        module(torch.ones(2, requires_grad=True)).sum().backward()
        assert seen == ["second"]
        first.remove()  # twice is once
        second.remove()
        assert point.fwd_hooks == point.bwd_hooks == []
        assert not point.attached


def test_a_point_that_is_bound_anew_takes_its_hooks_along() -> None:
    old, new = nn.Identity(), nn.Identity()
    point, x = point_of(old), torch.ones(2)
    point.add_hook(lambda tensor, hook: 3 * tensor)
    point.rebind(point_of(new))
    assert torch.equal(old(x), x)
    assert torch.equal(new(x), 3 * x)
    point.remove_hooks()
    point.rebind(point_of(old))
    assert not point.attached
    assert torch.equal(new(x), x)


def test_what_stands_behind_the_hooks_stays_until_it_is_taken_out() -> None:
    module, x = nn.Identity(), torch.ones(2)
    point = point_of(module)
    undo = [point.then(lambda tensor: tensor + 1), point.then(lambda tensor: 2 * tensor)]
    assert point.attached
    point.add_hook(lambda tensor, hook: 3 * tensor)
    assert torch.equal(module(x), 2 * (3 * x + 1))
    point.remove_hooks()
    assert torch.equal(module(x), 2 * (x + 1))
    undo[0]()
    assert torch.equal(module(x), 2 * x)
    undo[1]()
    assert not point.attached
    assert torch.equal(module(x), x)
