"""Whether gradients can be had at all."""

import torch

from mmlens.core.errors import InputError


def require_autograd(task: str) -> None:
    """Refuse what needs gradients under inference mode, whose tensors never have any; `no_grad` can be lifted and is.

    Args:
        task: what needs them, for the message.

    Raises:
        InputError: under `torch.inference_mode()`.
    """
    if torch.is_inference_mode_enabled():
        raise InputError(
            f"{task} needs gradients, and nothing made under torch.inference_mode() can have any; use torch.no_grad() or "
            "torch.set_grad_enabled(False) in its place, which mmlens lifts where it needs gradients."
        )
