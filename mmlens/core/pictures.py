"""Results draw themselves: where the layers below `viz` ask it for a picture, by name, and only when one is wanted."""

import importlib
from collections.abc import Callable
from typing import Any


def drawn_by(name: str) -> Callable[..., Any]:
    """The function of `mmlens.viz` that draws a result; drawing libraries are imported now and not before.

    Args:
        name: module and function, e.g. `"lens.plot_lens"`.
    """
    module, function = name.rsplit(".", 1)
    return getattr(importlib.import_module(f"mmlens.viz.{module}"), function)
