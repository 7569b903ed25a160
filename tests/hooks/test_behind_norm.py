"""The input of a shared norm, as one of the modules behind it receives it."""

from typing import Any

import torch
from torch import nn

from mmlens.hooks.behind_norm import BehindNorm
from mmlens.hooks.point import Point, reads_only
from mmlens.hooks.session import attached


class Parallel(nn.Module):
    """A block whose two branches read the same normed stream."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.left, self.right = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        return x + self.left(normed) + self.right(input=normed)


def test_one_branch_reads_another_stream_and_nothing_else_changes() -> None:
    block, x = Parallel(), torch.randn(2, 6, requires_grad=True)
    points = {name: Point(name, BehindNorm(block.norm, [getattr(block, name)])) for name in ("left", "right")}
    delta = torch.randn(2, 6)
    for name in points:
        with attached(points, [(name, lambda stream, hook: stream + delta)]):
            found = block(x)
        moved = [block.norm(x + delta) if name == which else block.norm(x) for which in ("left", "right")]
        torch.testing.assert_close(found, x + block.left(moved[0]) + block.right(moved[1]))
        assert not torch.allclose(found, block(x), atol=1e-2)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())


def test_reading_changes_no_bit_and_gradients_are_the_branch_s_own() -> None:
    block, x = Parallel(), torch.randn(2, 6, requires_grad=True)
    points = {name: Point(name, BehindNorm(block.norm, [getattr(block, name)])) for name in ("left", "right")}
    seen: dict[str, torch.Tensor] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        seen[hook.name] = activation

    with attached(points, [(["left", "right"], keep)]):
        found = block(x)
        with torch.no_grad():
            assert torch.equal(block(x), found)
    assert torch.equal(found, block(x))
    with attached(points, [(["left", "right"], keep)]):
        left, right, whole = torch.autograd.grad(block(x).pow(2).sum(), [seen["left"], seen["right"], x])
    skip = 2 * block(x).detach()
    torch.testing.assert_close(whole, skip + left + right)
    expected = torch.autograd.grad(block.left(block.norm(x)), x, skip)[0]
    torch.testing.assert_close(left, expected)
    assert not torch.allclose(left, right, atol=1e-3)
