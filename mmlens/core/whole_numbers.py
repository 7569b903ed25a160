"""Whole numbers in whatever type they come: Python's, numpy's, or a tensor's."""

from typing import Any

import numpy as np
import torch

from mmlens.core.errors import InputError


def whole_numbers(numbers: Any) -> list[int]:
    """Whole numbers as Python's own."""
    if isinstance(numbers, torch.Tensor):
        if numbers.dtype == torch.bool or numbers.is_floating_point():
            raise InputError(f"positions must be whole numbers, found {numbers.dtype}; use .nonzero() on a mask.")
        return [int(number) for number in numbers.reshape(-1).tolist()]
    return [whole_number(number, "positions") for number in numbers]


def whole_number(number: Any, name: str) -> int:
    """A whole number as Python's own; raises InputError for what is none."""
    if isinstance(number, torch.Tensor) and number.ndim == 0 and number.dtype != torch.bool:
        number = number.item()
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise InputError(f"{name} must be whole numbers, found {number!r}.")
    return int(number)
