"""Points whose tensor no module hands out: read from one that is recorded, written by moving another that comes later.

An edit has the meaning of the name: a new `hook_resid_mid` (the stream between the two branches of a block) changes the skip
path as well as the MLP, and a new `hook_scale` of a norm what the norm returns.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.hooks.attachment import RECORD_RANK, TensorAccess
from mmlens.hooks.gradients import WithGradientOf
from mmlens.hooks.site import Tap


class IndirectAttachment(ABC):
    """An attachment to a value between two tensors of a run.

    Args:
        source: the tensor that comes first and is recorded while there are taps.
        target: the tensor that is moved so that the value becomes what taps make of it.
    """

    WRITE_RANK: ClassVar[int]

    def __init__(self, source: TensorAccess, target: TensorAccess):
        self.source = source
        self.target = target
        self._source: torch.Tensor | None = None
        self._taps: dict[Tap, Tap] = {}

    def attach(self, tap: Tap) -> None:
        """Record the source, and pass the value through the tap where the target is."""
        if not self._taps:
            self.source.attach(self._record, RECORD_RANK)
        self._taps[tap] = partial(self._write, tap)
        self.target.attach(self._taps[tap], self.WRITE_RANK)

    def detach(self, tap: Tap) -> None:
        """Stop moving, and with the last tap recording."""
        self.target.detach(self._taps.pop(tap))
        if not self._taps:
            self.source.detach(self._record)
            self._source = None

    def _record(self, source: torch.Tensor) -> torch.Tensor:
        self._source = source
        return source

    @abstractmethod
    def _write(self, tap: Tap, target: torch.Tensor) -> torch.Tensor:
        """The target, moved by what the tap makes of the value."""


class BetweenBranches(IndirectAttachment):
    """The residual stream after a block's first branch: read as `stream + branch`, written by moving the branch.

    Its source is the block's input, where the skip path starts; its target the output of the first branch as it is added to the
    stream (after a post-norm, if there is one).
    """

    #: After `hook_attn_out` on the branch.
    WRITE_RANK = 50

    def _write(self, tap: Tap, target: torch.Tensor) -> torch.Tensor:
        if self._source is None:
            raise MMLensError(
                "The branch of a block ran before its block received the stream; hook_resid_mid has no value."
            )
        before = self._source.to(target.device)
        middle = before + target
        version = middle._version if middle.requires_grad else 0
        new = tap(middle)
        if new is middle and not middle.requires_grad:
            return target
        change = new - before
        with torch.no_grad():
            # hooks that only read are shown a view of it
            read = middle.requires_grad and new.data_ptr() == middle.data_ptr() and new._version == version
            value = target if read else torch.where(new == middle, target, change)
        # also where `new` is a constant: the stream before it then has no effect, and must get no gradient
        return WithGradientOf.apply(value, change)


class NormScale(IndirectAttachment):
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
        super().__init__(inputs, outputs)
        self.module = module
        self.is_centred = is_centred
        self.eps = eps
        self.bias = bias

    def deviations(self, x: torch.Tensor) -> torch.Tensor:
        """What is divided for an input `[..., d]`: itself, in layer norms less its mean; in float32 at least."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x - x.mean(-1, keepdim=True) if self.is_centred else x

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """The divisor for an input `[..., d]`, `[..., 1]`, in float32 at least."""
        return (self.deviations(x).pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def _write(self, tap: Tap, target: torch.Tensor) -> torch.Tensor:
        if self._source is None:
            raise MMLensError(
                f"{type(self.module).__name__} returned before it received anything; its scale has no value."
            )
        old = self.scale(self._source)
        new = tap(old)
        if new is old and not old.requires_grad:
            return target
        # ratio - 1 is exactly 0 where the scale was left alone, so an untouched output stays bit-equal
        change = (old / new - 1).to(target.dtype)
        bias = self.bias()
        return target + (target if bias is None else target - bias) * change


class BeforeGain(IndirectAttachment):
    """The input of a norm divided by its scale (centred, in layer norms), `[... d_model]`: `hook_normalized`.

    Read from the norm's input, written by moving its output: the gain is what the norm makes of a row of ones.

    Args:
        norm: the norm's scale, which knows its input, its output, and how the two are related.
    """

    #: Behind `hook_scale`, in front of the output's point.
    WRITE_RANK = -5

    def __init__(self, norm: NormScale):
        super().__init__(norm.source, norm.target)
        self.norm = norm

    def _write(self, tap: Tap, target: torch.Tensor) -> torch.Tensor:
        if self._source is None:
            raise MMLensError(f"{type(self.norm.module).__name__} returned before it received anything.")
        old = (self.norm.deviations(self._source) / self.norm.scale(self._source)).to(target.dtype)
        new = tap(old)
        if new is old and not old.requires_grad:
            return target
        return target + (new - old) * self._gain(target)

    def _gain(self, output: torch.Tensor) -> torch.Tensor:
        """What every entry is multiplied by: the norm of rows whose own scale is known, without its bias."""
        width = output.shape[-1]
        # one row of ones and minus ones has mean zero and scale sqrt(1 + eps); an odd last entry is left at zero
        signs = torch.ones(width, dtype=output.dtype, device=output.device)
        signs[1::2] = -1
        signs[width - width % 2 :] = 0
        rows = torch.stack([signs, signs.roll(1) if width % 2 else -signs])
        bias = self.norm.bias()
        outputs = self.norm.module.forward(rows)
        outputs = outputs if bias is None else outputs - bias
        ratio = outputs * self.norm.scale(rows).to(outputs) / torch.where(rows == 0, 1, rows)
        return torch.where(rows[0] == 0, ratio[1], ratio[0])
