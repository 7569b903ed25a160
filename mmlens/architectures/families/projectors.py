"""Projectors that are one module."""

from typing import Any

from mmlens.declarations.projector import Projector
from mmlens.declarations.structure import Mlp


def projector_at(
    path: str,
    argument: str = "image_features",
    *,
    down: str | None = None,
    up: str | None = None,
    act: str | None = None,
    **options: Any,
) -> Projector:
    """A projector that one module receives and returns the features of.

    Args:
        path: the module.
        argument: the name by which it receives the vision features.
        down, up, act: the linears and the activation of its hidden layer, if it has one; relative to the module.
        options: as for `Projector`.
    """
    if down is not None:
        up, act = (f"{path}.{end}" if end else None for end in (up, act))
        options["mlp"] = Mlp(down=f"{path}.{down}", up=up, act=act)
    return Projector(receives=(path, argument), returns=path, **options)


def two_layer_projector(path: str = "model.multi_modal_projector", *, argument: str = "image_features") -> Projector:
    """LLaVA's projector: two linears with an activation between them.

    Args:
        path: the projector.
        argument: the name by which it receives the vision features.
    """
    return projector_at(path, argument, down="linear_2", up="linear_1", act="act")
