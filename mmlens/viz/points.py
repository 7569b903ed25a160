"""Hook points as they stand in figures: kind, layer and unit, short enough for an axis."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmlens.core.names import HookName

_UNIT = re.compile(r"^(?P<name>.+?)(?:\[(?P<unit>.+)\])?$")


@dataclass(frozen=True)
class PointLabel:
    """A hook point taken apart.

    Attributes:
        kind: the part, if it is not the language model, and what the point is: `vision resid_pre`.
        layer: its block, or None.
        unit: what stands in brackets behind the name, e.g. `h3`; empty for none.
    """

    kind: str
    layer: int | None
    unit: str = ""

    @property
    def head(self) -> int | None:
        """The number of the head, if the unit is one."""
        return int(self.unit[1:]) if re.fullmatch(r"h\d+", self.unit) else None


def parse_point(name: str) -> PointLabel:
    """Take a hook name apart, with the unit behind it.

    Example:
        >>> parse_point("vision.blocks.3.attn.hook_z[h2]")
        PointLabel(kind='vision attn.z', layer=3, unit='h2')
    """
    unit_match = _UNIT.match(name)
    parts = HookName.parse(unit_match["name"] if unit_match else name)
    part = "" if parts.part == "language" else parts.part
    stack = "" if parts.stack in (None, "blocks") else str(parts.stack)
    kind = " ".join(word for word in (part, stack, parts.rest.replace("hook_", "")) if word)
    return PointLabel(kind, parts.layer, (unit_match["unit"] or "") if unit_match else "")


def label_of(point: PointLabel) -> str:
    """A point in a list: the part, the layer, the kind, the unit.

    Example:
        >>> label_of(parse_point("vision.blocks.3.attn.hook_z[h2]")), label_of(parse_point("hook_embed"))
        ('vision 3 attn.z[h2]', 'embed')
    """
    unit = f"[{point.unit}]" if point.unit else ""
    part, space, kind = point.kind.rpartition(" ")
    return f"{part}{space}" + ("" if point.layer is None else f"{point.layer} ") + kind + unit


def point_rows(names: Sequence[str]) -> tuple[list[str], str]:
    """Labels of points below each other, and of their axis: the layers alone where all are of one kind.

    Example:
        >>> point_rows(["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"])
        (['0', '1'], 'layer (resid_post)')
        >>> point_rows(["hook_embed", "blocks.1.hook_resid_post"])
        (['embed', '1 resid_post'], '')
    """
    points = [parse_point(name) for name in names]
    alike = len({point.kind for point in points}) == 1
    if alike and all(point.layer is not None and not point.unit for point in points):
        return [str(point.layer) for point in points], f"layer ({points[0].kind})"
    return [label_of(point) for point in points], ""
