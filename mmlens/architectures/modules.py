"""Modules of a model by their paths, and the widths of linears."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

from mmlens.core.errors import UnsupportedModelError
from mmlens.declarations.structure import Config


class HuggingFaceModel(nn.Module):
    """The attributes of a Hugging Face model that are used here, for annotations: nothing is made of this class."""

    config: Config
    generate: Callable[..., Any]
    save_pretrained: Callable[..., Any]


@contextmanager
def evaluated(root: nn.Module) -> Iterator[None]:
    """Have a model in evaluation mode inside the `with`; afterwards every module is in its own mode again."""
    training = [module for module in root.modules() if module.training]
    try:
        root.eval()
        yield
    finally:
        for module in training:
            module.training = True


def find_module(root: nn.Module, path: str) -> nn.Module | None:
    """The module at a path, or None."""
    module: Any = root
    for step in path.split("."):
        module = module[int(step)] if step.removeprefix("-").isdigit() else getattr(module, step, None)
        if module is None:
            return None
    return module


def submodule(root: nn.Module, path: str, family: str) -> nn.Module:
    """The module at a path.

    Raises:
        UnsupportedModelError: if the declaration names a module that this model does not have.
    """
    module: Any = root
    for step in path.split("."):
        child = find_module(module, step)
        if child is None:
            children = ", ".join(name for name, _ in module.named_children())
            raise UnsupportedModelError(
                f"The family {family!r} expects a module {path!r} in {type(root).__name__}, but {type(module).__name__} "
                f"has no {step!r}; it has {children}. The checkpoint's parts are not of the kinds that this family covers."
            )
        module = child
    return module


def in_features(linear: nn.Module) -> int:
    """Width of what a linear (or a convolution) receives."""
    return linear.in_channels if isinstance(linear, nn.Conv2d) else cast(nn.Linear, linear).in_features


def out_features(linear: nn.Module) -> int:
    """Width of what a linear (or a convolution) returns."""
    return linear.out_channels if isinstance(linear, nn.Conv2d) else cast(nn.Linear, linear).out_features
