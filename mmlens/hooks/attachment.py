"""How a hook point reaches the tensor it names: straight at a site, or by moving a value that no module returns.

Two points name tensors that no module hands out: `hook_resid_mid` (the stream between the two branches of a block)
and a norm's `hook_scale`. Both are read where their parts are known and written by moving a tensor that exists, so
that an edit has the meaning of the name: a new `resid_mid` changes the skip path as well as the MLP.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.hooks.site import Tap

#: Where a value is noted that another tap needs: after all hooks on it, e.g. `hook_resid_pre` on a block's input.
RECORD_RANK = 90


@runtime_checkable
class Attachment(Protocol):
    """What a point needs: to be put in the path of its tensor, and taken out again."""

    def attach(self, tap: Tap) -> None:
        """Call `tap` with the tensor on every forward from now on, and use what it returns."""

    def detach(self, tap: Tap) -> None:
        """Undo `attach`."""


class AtSite:
    """The tensor is what a module receives or returns, or that times a factor."""

    def __init__(self, reach: "TensorAccess", rank: int = 0):
        self.reach = reach
        self.rank = rank

    def attach(self, tap: Tap) -> None:
        """Put the tap on the site."""
        self.reach.attach(tap, self.rank)

    def detach(self, tap: Tap) -> None:
        """Take it off."""
        self.reach.detach(tap)


@runtime_checkable
class TensorAccess(Protocol):
    """Something that taps can be put on in a given order: a site, or a site seen through a factor."""

    def attach(self, tap: Tap, rank: int) -> None:
        """Put the tap in the path."""

    def detach(self, tap: Tap) -> None:
        """Take it out."""


class TensorView:
    """A site whose taps see its tensor in another form; subclasses say in which, and how it goes back.

    Args:
        site: where the tensor is.
    """

    def __init__(self, site: "TensorAccess"):
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

    def __init__(self, site: "TensorAccess", stream: "TensorAccess"):
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

    def __init__(self, site: "TensorAccess", factor: Callable[[], "torch.Tensor | float"]):
        super().__init__(site)
        self.factor = factor

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        factor = self.factor()
        product = tensor * factor
        new = tap(product)
        if new is product and not product.requires_grad:
            return tensor
        with torch.no_grad():
            value = torch.where(new == product, tensor, new / factor)
        return _Divided.apply(value, new, torch.as_tensor(factor).detach())


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

    def __init__(self, site: "TensorAccess", number: int):
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

    def __init__(self, site: "TensorAccess", axis: int):
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


class _Divided(torch.autograd.Function):
    """Value `moved` with the gradient of `product / factor`, so that an untouched branch stays bit-equal."""

    @staticmethod
    def forward(ctx, value, product, factor):  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(factor)
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def, override]
        (factor,) = ctx.saved_tensors
        return None, gradient / factor, None


class _Moved(torch.autograd.Function):
    """Value `moved` with the gradient of `target - base`, so that an untouched stream stays bit-equal."""

    @staticmethod
    def forward(ctx, value, target, base):  # type: ignore[no-untyped-def, override]
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def, override]
        return None, gradient, -gradient


class BetweenBranches:
    """The residual stream after a block's first branch: read as `stream + branch`, written by moving the branch.

    Args:
        stream: the block's input, where the skip path starts.
        branch: the output of the first branch as it is added to the stream (after a post-norm, if there is one).
    """

    #: After `hook_attn_out` on the branch.
    WRITE_RANK = 50

    def __init__(self, stream: TensorAccess, branch: TensorAccess):
        self.stream = stream
        self.branch = branch
        self._before: torch.Tensor | None = None
        self._taps: dict[Tap, Tap] = {}

    def attach(self, tap: Tap) -> None:
        """Record the stream at the block's input and pass `stream + branch` through the tap."""

        def write(branch: torch.Tensor) -> torch.Tensor:
            if self._before is None:
                raise MMLensError(
                    "The branch of a block ran before its block received the stream; hook_resid_mid has no value."
                )
            before = self._before.to(branch.device)
            middle = before + branch
            version = middle._version if middle.requires_grad else 0
            new = tap(middle)
            if new is middle and not middle.requires_grad:
                return branch
            with torch.no_grad():
                # hooks that only read are shown a view of it
                read = middle.requires_grad and new.data_ptr() == middle.data_ptr() and new._version == version
                value = branch if read else torch.where(new == middle, branch, new - before)
            # also where `new` is a constant: the stream before it then has no effect, and must get no gradient
            return _Moved.apply(value, new, before)

        if not self._taps:
            self.stream.attach(self._record, RECORD_RANK)
        self._taps[tap] = write
        self.branch.attach(write, self.WRITE_RANK)

    def detach(self, tap: Tap) -> None:
        """Stop recording and moving."""
        self.branch.detach(self._taps.pop(tap))
        if not self._taps:
            self.stream.detach(self._record)
            self._before = None

    def _record(self, stream: torch.Tensor) -> torch.Tensor:
        self._before = stream
        return stream


class NormScale:
    """The number a norm divides by, `[..., 1]`: the root mean square (RMS norm) or standard deviation (layer norm).

    Read from the norm's input, written by scaling its output: `out = bias + (out - bias) * scale / new_scale`.

    Args:
        module: the norm.
        is_centred: whether it is a layer norm.
        eps: what it adds to the mean square.
        bias: gives its bias as it acts, or None.
        inputs, outputs: what it receives and returns.
    """

    WRITE_RANK = -10  # before the point of its output, which sees the result

    def __init__(
        self,
        module: nn.Module,
        *,
        is_centred: bool,
        eps: float,
        bias: Callable[[], torch.Tensor | None],
        inputs: TensorAccess,
        outputs: TensorAccess,
    ):
        self.module = module
        self.centred = is_centred
        self.eps = eps
        self.bias = bias
        self.received = inputs
        self.returned = outputs
        self._input: torch.Tensor | None = None
        self._taps: dict[Tap, Tap] = {}

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """The divisor for an input `[..., d]`, `[..., 1]`, in float32 at least."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def attach(self, tap: Tap) -> None:
        """Record the norm's input and pass its scale through the tap."""

        def write(output: torch.Tensor) -> torch.Tensor:
            if self._input is None:
                raise MMLensError(
                    f"{type(self.module).__name__} returned before it received anything; its scale has no value."
                )
            old = self.scale(self._input)
            new = tap(old)
            if new is old and not old.requires_grad:
                return output
            # ratio - 1 is exactly 0 where the scale was left alone, so an untouched output stays bit-equal
            change = (old / new - 1).to(output.dtype)
            bias = self.bias()
            return output + (output if bias is None else output - bias) * change

        if not self._taps:
            self.received.attach(self._record, RECORD_RANK)
        self._taps[tap] = write
        self.returned.attach(write, self.WRITE_RANK)

    def detach(self, tap: Tap) -> None:
        """Stop recording and scaling."""
        self.returned.detach(self._taps.pop(tap))
        if not self._taps:
            self.received.detach(self._record)
            self._input = None

    def _record(self, x: torch.Tensor) -> torch.Tensor:
        self._input = x
        return x
