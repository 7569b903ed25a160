"""Rules of positions in files: as JSON, and back."""

from dataclasses import fields
from typing import Any

from mmlens.core.errors import InputError
from mmlens.core.regions import Mask, Region
from mmlens.core.rules import Complement, Image, Index, Joined, Named, Row, Span, Word

_KINDS = (Named, Image, Span, Index, Row, Word, Region, Joined, Complement)


def as_json(rule: Any) -> Any:
    """A rule as JSON holds it; `from_json` reads it.

    Raises:
        InputError: for a mask, which is a picture and no text.
    """
    if isinstance(rule, Mask):
        raise InputError("A rule with a mask cannot be written down; name a box: positions.box(...).")
    if isinstance(rule, _KINDS):
        values = {field.name: as_json(getattr(rule, field.name)) for field in fields(rule)}
        return {"type": type(rule).__name__, **values}
    return [as_json(item) for item in rule] if isinstance(rule, tuple) else rule


def from_json(value: Any) -> Any:
    """The rule that `as_json` wrote."""
    if isinstance(value, dict):
        kinds = {kind.__name__: kind for kind in _KINDS}
        return kinds[value["type"]](**{name: from_json(item) for name, item in value.items() if name != "type"})
    return tuple(from_json(item) for item in value) if isinstance(value, list) else value
