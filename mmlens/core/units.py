"""Units of a model as values: neurons, attention heads and features of sparse dictionaries, named by what they print."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import total_ordering
from operator import index as whole_number
from typing import ClassVar, SupportsIndex, TypeVar

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.names import PARTS, Part, part_prefix, require_part

_NAME = re.compile(
    r"(?:(?P<part>vision|projector)\.)?(?:(?:(?P<stack>[a-z_]\w*(?:\.\w+)*)\.)?L(?P<layer>\d+)\.)?"
    r"(?:(?P<branch>[a-z_]+(?:\.[a-z_]+)*)\.)?(?P<letter>[a-z])(?P<index>\d+)"
)
_HOOK = re.compile(
    r"(?:(?P<part>vision|projector)\.)?(?:(?P<stack>[\w.]+)\.(?P<layer>\d+)\.)?(?P<branch>[a-z_]+(?:\.[a-z_]+)*)\.hook_\w+"
)
#: How a unit is written, for messages.
EXAMPLES = "mm.Neuron(2, 7), mm.Head(2, 3), or a string as units print themselves: 'L2.u7', 'vision.L0.h3', 'L3.f1027'"

KindT = TypeVar("KindT", bound="Unit")


@total_ordering
@dataclass(frozen=True, repr=False)
class Unit:
    """One unit of a branch of a block; `Neuron`, `Head` and `Feature` are the kinds.

    It prints itself as `[part.][stack.]L<layer>.[branch.]<letter><index>`, without what is usual (the language model, the stack
    `blocks`, the kind's own branch), and `Unit.parse` reads that back. Units sort by part, stack, layer, kind and index.

    Attributes:
        layer: block number within the stack.
        index: position along the kind's axis of its hook point.
        part: the tower.
        stack: which list of blocks the layer counts in; empty outside of blocks (the layer is 0 there).
        branch: the module of the block that it belongs to, as in hook names.

    Raises:
        InputError: for a layer or index that is no whole number from 0 on, or a part that is none.

    Example:
        >>> Unit.parse("vision.L0.h3") == Head(0, 3, "vision"), Unit.parse("encoder.blocks.L3.u1").hook
        (True, 'encoder.blocks.3.mlp.hook_post')
    """

    layer: int
    index: int
    part: Part = "language"
    stack: str = "blocks"
    branch: str = ""

    #: The kind's name, and the hook point and axis that hold its units.
    kind: ClassVar[str] = ""
    point: ClassVar[str] = ""
    axis: ClassVar[str] = ""
    #: The letter of units of each branch that has one of its own, the usual branch first.
    letters: ClassVar[Mapping[str, str]] = {}
    _kinds: ClassVar[list[type["Unit"]]] = []

    def __init_subclass__(cls) -> None:
        Unit._kinds.append(cls)

    def __post_init__(self) -> None:
        if not self.letters:
            raise InputError(f"Unit is the base of all kinds of units; write {EXAMPLES}.")
        for name in ("layer", "index"):
            value = getattr(self, name)
            if type(value) is not int:
                object.__setattr__(self, name, _whole(value, f"{name} of a {self.kind}"))
            elif value < 0:
                raise InputError(f"The {name} of a {self.kind} counts from 0, found {value}.")
        if self.part not in PARTS:
            require_part(self.part)
        if not isinstance(self.branch, str):
            raise InputError(
                f"The branch of a {self.kind} is a module of its block, such as 'mlp'; found {self.branch!r}."
            )
        if not isinstance(self.stack, str) or (not self.stack and self.layer):
            raise InputError(
                f"The stack of a {self.kind} is a name such as 'blocks' or 'encoder.blocks', or '' for one outside of blocks, "
                f"whose layer is 0; found stack={self.stack!r}, layer={self.layer}."
            )

    @property
    def block(self) -> str:
        """The block that holds it, as it is printed: `L3`, `encoder.blocks.L0`; of a projector's own layer the part alone."""
        return block_name(self.part, self.stack, self.layer)

    @property
    def hook(self) -> str:
        """Name of the hook point that holds it."""
        block = f"{self.stack}.{self.layer}." if self.stack else ""
        return f"{part_prefix(self.part)}{block}{self.branch}.{self.point}"

    def __str__(self) -> str:
        block = f"{self.block}." if self.block else ""
        if self.branch in self.letters:
            return f"{block}{self.letters[self.branch]}{self.index}"
        return f"{block}{self.branch}.{next(iter(self.letters.values()))}{self.index}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __lt__(self, other: "Unit") -> bool:
        return self._key < other._key if isinstance(other, Unit) else NotImplemented

    @property
    def _key(self) -> tuple[int, str, int, str, str, int]:
        return PARTS.index(self.part), self.stack, self.layer, self.kind, self.branch, self.index

    @staticmethod
    def parse(name: str) -> "Unit":
        """The unit that prints itself as `name`.

        Raises:
            InputError: if no unit does.
        """
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        for kind in Unit._kinds if match else ():
            for branch, letter in kind.letters.items():
                if match and letter == match["letter"]:
                    stack = "" if match["layer"] is None else match["stack"] or "blocks"
                    part = require_part(match["part"] or "language")
                    return kind(int(match["layer"] or 0), int(match["index"]), part, stack, match["branch"] or branch)
        letters = ", ".join(f"{next(iter(kind.letters.values()))}<index> for a {kind.kind}" for kind in Unit._kinds)
        raise InputError(
            f"{name!r} names no unit; names read [part.][stack.]L<layer>.<letter><index>, with {letters}: 'L2.u7', "
            "'vision.L0.h3'."
        )

    @classmethod
    @checked
    def at(cls: type[KindT], hook: str, index: int) -> KindT:
        """The unit of this kind at an index of any hook point of its branch.

        Raises:
            InputError: for a name that is no hook point inside of a branch.

        Example:
            >>> Head.at("vision.blocks.2.attn.hook_q", 1)
            Head(vision.L2.h1)
        """
        match = _HOOK.fullmatch(hook)
        if match is None:
            raise InputError(f"{hook!r} is no hook point of {cls.kind}s.")
        part = require_part(match["part"] or "language")
        return cls(int(match["layer"] or 0), index, part, match["stack"] or "", match["branch"])


@dataclass(frozen=True, repr=False)
class Neuron(Unit):
    """One hidden neuron of an MLP: a row of `W_out` and the multiplier that `mlp.hook_post` holds for it.

    Example:
        >>> print(Neuron(3, 127), Neuron(3, 127).hook)
        L3.u127 blocks.3.mlp.hook_post
        >>> print(Neuron(0, 5, "projector", stack=""), Neuron(0, 5, "projector", stack="").hook)
        projector.u5 projector.mlp.hook_post
    """

    branch: str = "mlp"

    kind: ClassVar[str] = "neuron"
    point: ClassVar[str] = "hook_post"
    axis: ClassVar[str] = "neuron"
    letters: ClassVar[Mapping[str, str]] = {"mlp": "u"}


@dataclass(frozen=True, repr=False)
class Head(Unit):
    """One attention head: what it hands to `W_O`, `attn.hook_z`. Heads of cross-attention have the letter `x`.

    Example:
        >>> print(Head(1, 3), Head(0, 2, stack="cross_blocks", branch="cross_attn"))
        L1.h3 cross_blocks.L0.x2
    """

    branch: str = "attn"

    kind: ClassVar[str] = "head"
    point: ClassVar[str] = "hook_z"
    axis: ClassVar[str] = "head"
    letters: ClassVar[Mapping[str, str]] = {"attn": "h", "cross_attn": "x"}


@dataclass(frozen=True, repr=False)
class Feature(Unit):
    """One feature of a sparse dictionary, there while the dictionary is attached: `hook_sae_acts_post` holds its code.

    Its branch is the point whose states the dictionary gives back; the stream behind a block is the usual one.

    Example:
        >>> print(Feature(3, 1027), Feature(3, 1027).hook)
        L3.f1027 blocks.3.hook_resid_post.hook_sae_acts_post
        >>> print(Feature(0, 5, "projector", stack="", branch="hook_out"), Feature(2, 9, branch="mlp.hook_post"))
        projector.hook_out.f5 L2.mlp.hook_post.f9
    """

    branch: str = "hook_resid_post"

    kind: ClassVar[str] = "feature"
    point: ClassVar[str] = "hook_sae_acts_post"
    axis: ClassVar[str] = "feature"
    letters: ClassVar[Mapping[str, str]] = {"hook_resid_post": "f"}


def block_name(part: Part, stack: str, layer: int) -> str:
    """How a block is printed: `L3`, `vision.L0`, `encoder.blocks.L1`; without a stack the part alone."""
    if not stack:
        return part_prefix(part).rstrip(".")
    return f"{part_prefix(part)}{'' if stack == 'blocks' else f'{stack}.'}L{layer}"


def _whole(value: SupportsIndex, name: str) -> int:
    """A whole number from 0 on, whatever integer type it comes in."""
    try:
        number = -1 if isinstance(value, bool) else whole_number(value)
    except TypeError:
        number = -1
    if number < 0:
        raise InputError(f"The {name} must be a whole number from 0 on, found {value!r}.")
    return number
