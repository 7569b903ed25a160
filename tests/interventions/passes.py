"""Whether a model's forward pass was entered: what is refused is refused before that."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmlens.models.hooked import HookedMultimodal


@contextmanager
def never_entered(model: HookedMultimodal) -> Iterator[None]:
    """Fail if a forward pass of the Hugging Face model begins inside the `with`."""
    entered: list[bool] = []
    handle = model.hf_model.register_forward_pre_hook(lambda module, args: entered.append(True))
    try:
        yield
    finally:
        handle.remove()
        assert not entered, "a forward pass began"
