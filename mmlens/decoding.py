"""Contrastive decoding: `model.answer(image, question, contrast="vcd")`, and its methods with their settings."""

from mmlens.models.contrast.methods import *  # noqa: F403
from mmlens.models.contrast.methods import CONTRAST_METHODS
from mmlens.models.contrast.methods import __all__ as _methods

__all__ = [*_methods]  # noqa: PLE0604

__getattr__ = CONTRAST_METHODS.by_class_name  # methods that were registered since
