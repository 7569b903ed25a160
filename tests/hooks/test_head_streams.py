"""Each head's own output: the sum of heads is what the linear returns, and a hook moves it by what it changes."""

import pytest
import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.hooks.head_streams import HeadResults
from mmlens.hooks.site import Site

HEADS, WIDTH, MODEL = 3, 2, 5


def test_results_of_heads_are_read_and_written() -> None:
    linear, z = nn.Linear(HEADS * WIDTH, MODEL), torch.randn(2, 4, HEADS * WIDTH)
    weight = linear.weight.T.reshape(HEADS, WIDTH, MODEL)
    point, shown = HeadResults(linear, Site(linear, "out"), HEADS, lambda: weight), []

    def double_last(results: torch.Tensor) -> torch.Tensor:
        shown.append(results)
        results = results.clone()
        results[..., 2, :] *= 2
        return results

    by_hand = torch.stack([z[..., 2 * h : 2 * h + 2] @ weight[h] for h in range(HEADS)], -2)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            plain = linear(z)
            point.attach(double_last)
            out = linear(z)
            point.detach(double_last)
            torch.testing.assert_close(shown[-1], by_hand)
            torch.testing.assert_close(out, plain + by_hand[..., 2, :])
            assert torch.equal(linear(z), plain)
    torch.testing.assert_close(by_hand.sum(-2) + linear.bias, plain)


def test_results_left_alone_leave_the_output_to_the_bit_and_have_gradients() -> None:
    linear, z = nn.Linear(HEADS * WIDTH, MODEL), torch.randn(2, 4, HEADS * WIDTH)
    weight, kept = linear.weight.T.reshape(HEADS, WIDTH, MODEL), []
    point = HeadResults(linear, Site(linear, "out"), HEADS, lambda: weight)

    def keep(results: torch.Tensor) -> torch.Tensor:
        kept.append(results.view_as(results))  # as a point shows it, whose gradient is its own
        return kept[-1] if results.requires_grad else results

    point.attach(keep)
    with torch.no_grad():
        plain = nn.functional.linear(z, linear.weight, linear.bias)
        assert torch.equal(linear(z), plain)
    out = linear(z)
    assert torch.equal(out, plain)
    gradient = torch.randn_like(out)
    (found,) = torch.autograd.grad((out * gradient).sum(), kept[-1])
    torch.testing.assert_close(found, gradient.unsqueeze(-2).expand(*gradient.shape[:-1], HEADS, -1))
    point.detach(keep)


def test_a_linear_that_received_nothing_has_no_heads() -> None:
    linear = nn.Linear(HEADS * WIDTH, MODEL)
    point = HeadResults(nn.Identity(), Site(linear, "out"), HEADS, lambda: linear.weight)
    point.attach(lambda results: results)
    with pytest.raises(MMLensError, match="returned before it received anything"):
        linear(torch.randn(1, HEADS * WIDTH))
