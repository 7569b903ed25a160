"""The fixed axis words, and where the axes of positions, samples and units lie in a hook point's tensor."""

from mmlens.core.errors import InputError

#: Axis words used in every docstring, annotation and graph node.
AXIS_WORDS = frozenset(
    (
        *("batch", "pos", "d_model", "head", "query", "key", "d_head", "neuron", "d_vision", "patch", "row", "column"),
        *("layer", "sample", "concept", "vocab", "step", "expert", "one"),
        "feature",
    )
)

#: Axes that units lie along; an inner axis of heads' entries stands behind theirs.
UNIT_AXES = ("head", "neuron", "feature")
_POSITION_WORDS = ("pos", "patch", "query", "key", "row")


def position_axis(axes: str) -> int:
    """Index of the axis that runs over positions (tokens, patches or queries).

    Args:
        axes: axis words, e.g. `"batch pos d_model"` or `"batch head query key"`.

    Returns:
        The index of the first position-like axis; for attention scores and patterns that is `query`.

    Example:
        >>> position_axis("batch head query key")
        2
    """
    words = axes.split()
    for index, word in enumerate(words):
        if word in _POSITION_WORDS:
            return index
    raise InputError(f"The axes {axes!r} have no axis of positions; found none of {', '.join(_POSITION_WORDS)}.")


def batch_axis(axes: str) -> int | None:
    """Index of the batch axis, or None for packed towers, whose rows of all images lie in one sequence."""
    words = axes.split()
    return words.index("batch") if "batch" in words else None


def unit_axis(axes: str) -> int:
    """Index of the axis that a point's units lie along: heads where it has any, else neurons or features.

    Example:
        >>> unit_axis("batch query head d_head"), unit_axis("batch pos neuron")
        (2, 2)
    """
    words = axes.split()
    return next(words.index(word) for word in UNIT_AXES if word in words)
