"""What is measured of neurons, and of which choice: quantities, single values, and the names of controls."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

#: The controls of a method, several draws each of as many neurons in each layer as the method chose there: any others, and
#: others that are as active where the noun is said.
ControlKind = Literal["random", "matched"]

KINDS: tuple[ControlKind, ...] = get_args(ControlKind)

#: How a method's control is called.
_CONTROL = "{kind}, like {method}"
_DRAW = re.compile(rf"((?:{'|'.join(KINDS)}), like .*), draw (\d+)")


def control_of(method: str, kind: ControlKind = "random") -> str:
    """How a method's control is called in tables."""
    return _CONTROL.format(kind=kind, method=method)


def control_name(method: str, draw: int, kind: ControlKind = "random") -> str:
    """How one draw of a method's control is called where it is measured; tables put the draws together."""
    return f"{control_of(method, kind)}, draw {draw}"


def choice_and_draw(method: str) -> tuple[str, int]:
    """Of what `control_name` gave, the control and the draw; another choice of neurons, and 0."""
    match = _DRAW.fullmatch(method)
    return (match[1], int(match[2])) if match else (method, 0)


def is_control(method: str) -> bool:
    """Whether a choice of neurons is a control."""
    return any(method.startswith(control_of("", kind)) for kind in KINDS)


@dataclass(frozen=True)
class Quantity:
    """Something measured.

    Attributes:
        name: as it stands in tables.
        unit: of its values.
        better: `"higher"`, `"lower"`, or `""` where neither is.
        control: the quantity to compare with, of the same neurons (another object, another noun's writing); "" if none.
        baseline: another choice that the quantity is known for and compared with (a centred blob); "" if none.
    """

    name: str
    unit: str
    better: str = "higher"
    control: str = ""
    baseline: str = ""


@dataclass(frozen=True)
class Value:
    """One number.

    Attributes:
        quantity: the name of what was measured.
        method: how the neurons were chosen.
        k: how many neurons.
        value: the number, NaN where it cannot be had.
        sample: number of the sample in the dataset; -1 where all pictures of the noun count together.
        noun: the noun.
    """

    quantity: str
    method: str
    k: int
    value: float
    sample: int
    noun: str
