"""Hooks see rows of one stream where modules hold maps, several streams, or rows in front of the batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mmlens.hooks.attachment import Factored, OneStream, RowsFirst, RowsOfMap, StreamShaped, TensorView
from mmlens.hooks.site import Site

#: How each form shows a tensor, by plain indexing: an element of what is shown, given that of what is held.
SHAPES = {"streams": (3, 2, 4, 5), "map": (2, 5, 3, 4), "rows first": (4, 2, 5)}


def reshown(form: str, module: nn.Module) -> TensorView:
    """A form over what a module returns."""
    site = Site(module, "out")
    return {"streams": OneStream(site, 1), "map": RowsOfMap(site), "rows first": RowsFirst(site)}[form]


def place(form: str, batch: int, row: int) -> tuple[int | slice, ...]:
    """Where the module holds a row of a sample."""
    if form == "streams":
        return (1, batch, row)
    return (batch, slice(None), row // 4, row % 4) if form == "map" else (row, batch)


def ran(
    module: nn.Module, form: str, tensor: torch.Tensor, tap: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """What the module returns with a tap on it."""
    reach = reshown(form, module)
    reach.attach(tap, 0)
    try:
        return module(tensor)
    finally:
        reach.detach(tap)


@pytest.mark.parametrize("form", SHAPES)
def test_a_tap_sees_batch_row_and_width_and_edits_that_row_alone(form: str) -> None:
    module, tensor = nn.Identity(), torch.randn(SHAPES[form])
    shown: list[torch.Tensor] = []

    def change(rows: torch.Tensor) -> torch.Tensor:
        shown.append(rows.clone())
        rows = rows.clone()
        rows[1, 3] = 7.0
        return rows

    out = ran(module, form, tensor, change)
    expected = tensor.clone()
    expected[place(form, 1, 3)] = 7.0
    assert torch.equal(out, expected)
    for batch, row in ((0, 0), (0, 3), (1, 2)):
        assert torch.equal(shown[0][batch, row], tensor[place(form, batch, row)])
    assert torch.equal(module(tensor), tensor)


@pytest.mark.parametrize("form", SHAPES)
def test_an_untouched_tensor_stays_bit_equal_and_what_was_shown_has_a_gradient(form: str) -> None:
    tensor = torch.randn(SHAPES[form], requires_grad=True)
    shown: list[torch.Tensor] = []

    def look(rows: torch.Tensor) -> torch.Tensor:
        shown.append(rows)
        return rows

    module, weights = nn.Identity(), torch.randn(SHAPES[form])
    out = ran(module, form, tensor, look)
    assert torch.equal(out, tensor)
    (gradient,) = torch.autograd.grad((out * weights).sum(), shown[0])
    assert torch.equal(gradient[1, 2], weights[place(form, 1, 2)])


@pytest.mark.parametrize("form", ["streams", "map"])
def test_a_tensor_that_holds_rows_already_is_shown_as_it_is(form: str) -> None:
    tensor = torch.randn(2, 4, 5)
    assert torch.equal(ran(nn.Identity(), form, tensor, lambda rows: rows + 1), tensor + 1)


def test_a_tensor_seen_through_a_factor_has_the_gradient_of_the_product() -> None:
    """What follows multiplies by the factor: the gradient is that of the same arithmetic written out in torch."""
    tensor, factor = torch.randn(2, 3, requires_grad=True), torch.tensor([0.5, 4.0, -2.0])
    module = nn.Identity()
    site = Factored(Site(module, "out"), lambda: factor)
    shown: list[torch.Tensor] = []

    def tap(product: torch.Tensor) -> torch.Tensor:
        shown.append(product)
        return 3 * product + 1

    site.attach(tap, 0)
    ((module(tensor) * factor).pow(2).sum()).backward()
    plain = tensor.detach().clone().requires_grad_()
    (3 * (plain * factor) + 1).pow(2).sum().backward()
    torch.testing.assert_close(shown[0], tensor * factor)
    torch.testing.assert_close(tensor.grad, plain.grad)


class _Access:
    """Something that taps can be put on, which notes which are."""

    def __init__(self) -> None:
        self.taps: list[Any] = []

    def attach(self, tap: Any, rank: int) -> None:
        self.taps.append(tap)

    def detach(self, tap: Any) -> None:
        self.taps.remove(tap)


def test_a_stream_is_watched_for_as_long_as_any_tap_needs_its_shape() -> None:
    site, stream = _Access(), _Access()
    view = StreamShaped(site, stream)
    first, second = (lambda tensor: tensor), (lambda tensor: 2 * tensor)
    for tap, (at_site, at_stream) in ((first, (1, 1)), (second, (2, 1))):
        view.attach(tap, 0)
        assert (len(site.taps), len(stream.taps)) == (at_site, at_stream)
    for tap, (at_site, at_stream) in ((first, (1, 1)), (second, (0, 0))):
        view.detach(tap)
        assert (len(site.taps), len(stream.taps)) == (at_site, at_stream)
