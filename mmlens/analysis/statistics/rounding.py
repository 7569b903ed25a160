"""How far sums may be off by rounding, in the precision that a model runs in."""

import torch

_SHARE = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF_SHARE = 5e-2


def off_by_rounding(dtype: torch.dtype) -> float:
    """The share of a stream's length by which a sum of what was written to it may be off; more is no rounding.

    Args:
        dtype: of the stream. In half precision every branch is rounded once more when it is added; under `torch.autocast`
            branches are half precision, whatever the stream is.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return _HALF_SHARE
    return _SHARE.get(dtype, _HALF_SHARE)
