"""A site's tensor in another form: hooks see rows of one stream where modules hold maps, several streams, or rows in front.

Each view says in which form taps see the tensor, and how what they make of it goes back.
"""

from collections.abc import Callable
from functools import partial

import torch

from mmlens.hooks.attachment import RECORD_RANK, TensorAccess
from mmlens.hooks.gradients import WithGradientOf
from mmlens.hooks.site import Tap


class TensorView:
    """A site whose taps see its tensor in another form; subclasses say in which, and how it goes back.

    Args:
        site: where the tensor is.
    """

    def __init__(self, site: TensorAccess):
        self.site = site
        self._taps: dict[Tap, Tap] = {}

    def attach(self, tap: Tap, rank: int) -> None:
        """Put the tap in the path."""
        self._taps[tap] = partial(self._through, tap)
        self.site.attach(self._taps[tap], rank)

    def detach(self, tap: Tap) -> None:
        """Take the tap out."""
        self.site.detach(self._taps.pop(tap))

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        """Show the tap the tensor in its form, and give back what it makes of it in the site's own."""
        raise NotImplementedError


class StreamShaped(TensorView):
    """A site whose taps see its tensor in the layout of a stream, whose shape is noted as it passes.

    Args:
        site: where the tensor is.
        stream: the stream.
    """

    def __init__(self, site: TensorAccess, stream: TensorAccess):
        super().__init__(site)
        self.stream = stream
        self._shape: torch.Size | None = None

    def attach(self, tap: Tap, rank: int) -> None:
        """Put the tap in the path, and watch the stream."""
        if not self._taps:
            self.stream.attach(self._record, RECORD_RANK)
        super().attach(tap, rank)

    def detach(self, tap: Tap) -> None:
        """Take the tap out; the last one no longer watches."""
        super().detach(tap)
        if not self._taps:
            self.stream.detach(self._record)
            self._shape = None

    def _record(self, stream: torch.Tensor) -> torch.Tensor:
        self._shape = stream.shape
        return stream


class Factored(TensorView):
    """A site whose tensor is multiplied by something before it is used; taps see the product.

    Args:
        site: where the tensor is.
        factor: gives what it is multiplied by (a gate, a layer scale), read at every forward.
    """

    def __init__(self, site: TensorAccess, factor: Callable[[], torch.Tensor | float]):
        super().__init__(site)
        self.factor = factor

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        factor = self.factor()
        product = tensor * factor
        new = tap(product)
        if new is product and not product.requires_grad:
            return tensor
        quotient = new / (factor.detach() if isinstance(factor, torch.Tensor) else factor)
        with torch.no_grad():
            value = torch.where(new == product, tensor, quotient)
        return WithGradientOf.apply(value, quotient)


class OneRowAxis(TensorView):
    """A site whose tensor has several axes of rows (pictures, tiles, patches); taps see one, `[batch row ...]`.

    Args:
        site: where the tensor is.
    """

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        # back through the same views even if untouched, so that what a hook was shown has a gradient
        return tap(tensor.flatten(1, -2)).reshape(tensor.shape)


class RowsOfMap(TensorView):
    """A site whose tensor is a map, `[batch d row column]`; taps see its rows in raster order, `[batch row d]`.

    Args:
        site: where the tensor is; one that holds rows already is shown as it is.
    """

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim != 4:
            return tap(tensor)
        return tap(tensor.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(tensor.shape)


class OneStream(TensorView):
    """A site whose tensor holds several streams, `[stream batch pos d]`; taps see one, `[batch pos d]`.

    Args:
        site: where the tensor is; one that holds a single stream is shown as it is.
        number: which stream.
    """

    def __init__(self, site: TensorAccess, number: int):
        super().__init__(site)
        self.number = number

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim != 4:
            return tap(tensor)
        stream = tensor[self.number]
        new = tap(stream)
        if new is stream and not new.requires_grad:
            return tensor
        return torch.cat([tensor[: self.number], new[None], tensor[self.number + 1 :]])


class RowsFirst(TensorView):
    """A site whose tensor has its rows in front, `[row batch d]`; taps see `[batch row d]`.

    Args:
        site: where the tensor is.
    """

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        return tap(tensor.transpose(0, 1)).transpose(0, 1)


class WithoutAxis(TensorView):
    """A site whose tensor has an axis of length one among three; taps see it without.

    Args:
        site: where the tensor is.
        axis: that axis; a tensor that lacks it is shown as it is.
    """

    def __init__(self, site: TensorAccess, axis: int):
        super().__init__(site)
        self.axis = axis

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim != 3 or tensor.shape[self.axis] != 1:
            return tap(tensor)
        return tap(tensor.squeeze(self.axis)).unsqueeze(self.axis)


class OneRow(TensorView):
    """A site whose tensor holds one row of each sample, `[batch d]`; taps see `[batch 1 d]`.

    A tensor that has an axis of rows already is shown as it is.
    """

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        return tap(tensor) if tensor.ndim != 2 else tap(tensor.unsqueeze(1)).squeeze(1)
