"""Hooks see rows of one stream where modules hold maps, several streams, or rows in front of the batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.hooks.mixture import Unflattened
from mmlens.hooks.raster import OutOfWindows
from mmlens.hooks.site import Site
from mmlens.hooks.views import (
    Factored,
    OneRow,
    OneRowAxis,
    OneStream,
    RowsFirst,
    RowsOfMap,
    StreamShaped,
    TensorView,
    WithoutAxis,
)

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


@pytest.mark.parametrize(
    ("view", "held", "shown"),
    [
        (lambda site: WithoutAxis(site, 1), (4, 1, 5), (4, 5)),
        (lambda site: WithoutAxis(site, 0), (1, 4, 5), (4, 5)),
        (lambda site: WithoutAxis(site, 1), (4, 2, 5), (4, 2, 5)),
        (lambda site: WithoutAxis(site, 1), (4, 1), (4, 1)),
        (lambda site: WithoutAxis(site, 1), (2, 1, 4, 5), (2, 1, 4, 5)),
        (OneRow, (4, 5), (4, 1, 5)),
        (OneRow, (4, 2, 5), (4, 2, 5)),
        (OneRowAxis, (2, 3, 4, 5), (2, 12, 5)),
    ],
)
def test_the_shape_that_a_tap_sees(
    view: Callable[[Any], TensorView], held: tuple[int, ...], shown: tuple[int, ...]
) -> None:
    site, shapes = _Access(), []

    def tap(rows: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(rows.shape))
        return 2 * rows

    view(site).attach(tap, 0)
    tensor = torch.randn(held)
    assert torch.equal(site.taps[0](tensor), 2 * tensor)
    assert shapes == [shown]


class _Windows(nn.Module):
    """A block that cuts rasters as SAM's does, by hand."""

    window_size = 3

    def window_partition(self, raster: torch.Tensor, side: int) -> tuple[torch.Tensor, tuple[int, int]]:
        batch, rows, columns, width = raster.shape
        padded = nn.functional.pad(raster, (0, 0, 0, -columns % side, 0, -rows % side))
        tall, wide = padded.shape[1:3]
        cut = padded.reshape(batch, tall // side, side, wide // side, side, width).transpose(2, 3)
        return cut.reshape(-1, side, side, width), (tall, wide)

    def window_unpartition(
        self, windows: torch.Tensor, side: int, padded: tuple[int, int], shape: tuple[int, int]
    ) -> torch.Tensor:
        tall, wide = padded
        whole = windows.reshape(-1, tall // side, wide // side, side, side, windows.shape[-1]).transpose(2, 3)
        return whole.reshape(-1, tall, wide, windows.shape[-1])[:, : shape[0], : shape[1]]


def test_windows_are_shown_as_the_raster_that_they_were_cut_from() -> None:
    block, site, stream = _Windows(), _Access(), _Access()
    raster = torch.randn(2, 4, 6, 5)  # four rows fill up two windows of three, six columns are two
    windows = block.window_partition(raster, 3)[0]
    view, shown = OutOfWindows(site, stream, block), []

    def double(rows: torch.Tensor) -> torch.Tensor:
        shown.append(rows)
        return 2 * rows

    view.attach(double, 0)
    with pytest.raises(MMLensError, match="cut its windows before it received the stream"):
        site.taps[0](windows)
    stream.taps[0](raster)
    assert torch.equal(site.taps[0](windows), 2 * windows)
    assert torch.equal(shown[0], raster)
    view.detach(double)
    view.attach(look := (lambda rows: shown.append(rows) or rows), 0)
    stream.taps[0](raster)
    assert site.taps[0](windows) is windows
    # the rows that fill up are not the raster's: only gradients go back through it
    leaf = windows.clone().requires_grad_()
    site.taps[0](leaf).sum().backward()
    assert leaf.grad is not None
    assert torch.equal(block.window_unpartition(leaf.grad, 3, (6, 6), (4, 6)), torch.ones_like(raster))
    assert leaf.grad.sum() == raster.numel()
    view.detach(look)
    block.window_size = 0
    view.attach(double, 0)
    assert torch.equal(site.taps[0](raster), 2 * raster)


def test_rows_laid_out_in_one_axis_are_shown_by_sample() -> None:
    site, stream = _Access(), _Access()
    view, shown = Unflattened(site, stream), []
    view.attach(lambda rows: shown.append(rows.shape) or 2 * rows, 0)
    flat = torch.randn(6, 7)
    with pytest.raises(MMLensError, match="ran before its block received the stream"):
        site.taps[0](flat)
    stream.taps[0](torch.randn(2, 3, 5))
    assert torch.equal(site.taps[0](flat), 2 * flat)
    assert shown == [(2, 3, 7)]
    same = Unflattened(site, stream)
    same.attach(lambda rows: rows, 0)
    stream.taps[-1](torch.randn(2, 3, 5))
    assert site.taps[-1](flat) is flat
