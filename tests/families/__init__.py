"""Tiny random models of every declared family beyond those of `tests.tiny`, one file per group of families.

Each module has a list `TINY`; `tests/contracts/test_families.py` holds all of them to the contracts.
"""

from importlib import import_module
from pkgutil import iter_modules

from tests.tiny import Tiny

FAMILIES: list[Tiny] = [
    tiny for module in iter_modules(__path__, f"{__name__}.") for tiny in import_module(module.name).TINY
]
