"""What a norm makes of its input before it is multiplied by the gain, `hook_normalized`: no module returns it."""

import torch

from mmlens.core.errors import MMLensError
from mmlens.hooks.attachment import RECORD_RANK, NormScale
from mmlens.hooks.site import Tap


class BeforeGain:
    """The input of a norm divided by its scale (centred, in layer norms), `[... d_model]`.

    Read from the norm's input, written by moving its output: the gain is what the norm makes of a row of ones.

    Args:
        scale: the norm's scale, which knows its input, its output, and how the two are related.
    """

    #: Behind `hook_scale`, in front of the output's point.
    WRITE_RANK = -5

    def __init__(self, scale: NormScale):
        self.scale = scale
        self._input: torch.Tensor | None = None
        self._taps: dict[Tap, Tap] = {}

    def attach(self, tap: Tap) -> None:
        """Record the norm's input and pass what it makes of it through the tap."""

        def write(output: torch.Tensor) -> torch.Tensor:
            if self._input is None:
                raise MMLensError(f"{type(self.scale.module).__name__} returned before it received anything.")
            x = self._input.to(torch.promote_types(self._input.dtype, torch.float32))
            old = ((x - x.mean(-1, keepdim=True) if self.scale.centred else x) / self.scale.scale(self._input)).to(
                output.dtype
            )
            new = tap(old)
            if new is old and not old.requires_grad:
                return output
            return output + (new - old) * self._gain(output)

        if not self._taps:
            self.scale.received.attach(self._record, RECORD_RANK)
        self._taps[tap] = write
        self.scale.returned.attach(write, self.WRITE_RANK)

    def detach(self, tap: Tap) -> None:
        """Stop recording and moving."""
        self.scale.returned.detach(self._taps.pop(tap))
        if not self._taps:
            self.scale.received.detach(self._record)
            self._input = None

    def _record(self, x: torch.Tensor) -> torch.Tensor:
        self._input = x
        return x

    def _gain(self, output: torch.Tensor) -> torch.Tensor:
        """What every entry is multiplied by: the norm of rows whose own scale is known, without its bias."""
        width = output.shape[-1]
        # one row of ones and minus ones has mean zero and scale sqrt(1 + eps); an odd last entry is left at zero
        signs = torch.ones(width, dtype=output.dtype, device=output.device)
        signs[1::2] = -1
        signs[width - width % 2 :] = 0
        rows = torch.stack([signs, signs.roll(1) if width % 2 else -signs])
        bias = self.scale.bias()
        made = self.scale.module.forward(rows)
        made = made if bias is None else made - bias
        ratio = made * self.scale.scale(rows).to(made) / torch.where(rows == 0, 1, rows)
        return torch.where(rows[0] == 0, ratio[1], ratio[0])
