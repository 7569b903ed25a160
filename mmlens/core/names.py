"""The grammar of hook names: parts, layers, globs, and the nearest names to a wrong one.

A name reads `[part.]module.hook_kind`. The language model has no prefix (TransformerLens's bare names), the other
parts are `vision.` and `projector.`:

    vision.blocks.2.attn.hook_q     projector.hook_out     blocks.4.hook_resid_post     hook_logits

A part with several stacks of blocks gives each a name that ends in `blocks`: `encoder.blocks.0.hook_resid_pre`,
`vision.global_blocks.1.mlp.hook_post`, `vision.stages.2.blocks.0.hook_attn_out`.
"""

import difflib
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from mmlens.core.errors import InputError, UnknownNameError

Part: TypeAlias = Literal["vision", "projector", "language"]
PARTS: tuple[Part, ...] = ("vision", "projector", "language")

#: What every run method and analysis accepts where hook points are meant (`at=`, `names=`).
Names: TypeAlias = str | Sequence[str] | Callable[[str], bool]

_NAME = re.compile(
    r"^(?:(?P<part>vision|projector)\.)?(?:(?P<stack>(?:\w+\.)*?\w*blocks)\.(?P<layer>\d+)\.)?(?P<rest>.+)$"
)


@dataclass(frozen=True)
class HookName:
    """A hook name taken apart.

    Attributes:
        part: the tower it lives in.
        layer: block number within the part, or None for points outside the blocks.
        rest: what follows, e.g. `hook_resid_post` or `mlp.hook_post`.
        stack: the stack that the layer counts in, or None outside the blocks.
    """

    part: Part
    layer: int | None
    rest: str
    stack: str | None = None

    @classmethod
    def parse(cls, name: str) -> "HookName":
        """Take a full hook name apart.

        Example:
            >>> HookName.parse("vision.blocks.2.attn.hook_q")
            HookName(part='vision', layer=2, rest='attn.hook_q', stack='blocks')
        """
        match = _NAME.match(name)
        if match is None:
            raise InputError(f"{name!r} is no hook name; names read [part.][stack.N.]hook_kind.")
        part = cast(Part, match["part"] or "language")
        layer = None if match["layer"] is None else int(match["layer"])
        return cls(part, layer, match["rest"], match["stack"])

    def __str__(self) -> str:
        return part_prefix(self.part) + ("" if self.layer is None else f"{self.stack}.{self.layer}.") + self.rest


def part_prefix(part: Part) -> str:
    """The prefix that hook names of a part carry: empty for the language model."""
    return "" if part == "language" else f"{part}."


def require_part(part: str) -> Part:
    """Return `part` if it is one, else raise an InputError that lists the three."""
    if part not in PARTS:
        raise InputError(f"part={part!r} is not a part of the model; the parts are {', '.join(PARTS)}.")
    return part


#: The points where queries, keys and values enter the product, by what comes behind their projection.
_INTO_PRODUCT = {
    "q": ("hook_rot_q", "hook_q_normed", "hook_q"),
    "k": ("hook_rot_k", "hook_k_normed", "hook_k"),
    "v": ("hook_v_normed", "hook_v"),
}


def into_product(names: Container[str], attention: str, letter: Literal["q", "k", "v"]) -> str:
    """The name of the point where an attention's queries, keys or values enter the product.

    Args:
        names: those that there are.
        attention: what its names begin with, e.g. `blocks.2.attn`.
        letter: which of the three.

    Example:
        >>> into_product(["blocks.0.attn.hook_q", "blocks.0.attn.hook_rot_q"], "blocks.0.attn", "q")
        'blocks.0.attn.hook_rot_q'
    """
    candidates = [f"{attention}.{suffix}" for suffix in _INTO_PRODUCT[letter]]
    return next((name for name in candidates if name in names), candidates[-1])


def nearest(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like `name`, best first."""
    return difflib.get_close_matches(name, list(names), n=count, cutoff=0.4)


def nearest_hint(name: str, names: Iterable[str]) -> str:
    """The end of a message, ` Nearest: a, b.`, or nothing where no known name is like `name`."""
    close = nearest(name, names)
    return f" Nearest: {', '.join(close)}." if close else ""


_WILDCARDS = {"**": ".*", "*": "[^.]*", "?": "[^.]"}


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within one dotted segment, `**` crosses dots, `[0-3]` is a set; a lone `*` means everything."""
    if pattern == "*":
        pattern = "**"
    tokens = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    pieces = (_WILDCARDS.get(t) or (t if t.startswith("[") else re.escape(t)) for t in tokens)
    return re.compile("".join(pieces) + r"\Z")


def match_names(names: Names, points: Sequence[str], *, kind: str = "hook point") -> list[str]:
    """Resolve names, globs or a predicate to hook names, in the order of `points`.

    Args:
        names: a name, a glob (`*` within one dotted segment, `**` across), several of these, or a predicate.
        points: all names, in execution order.
        kind: the word for the things named, used in messages.

    Returns:
        The matching names, each once, in the order of `points`.

    Raises:
        UnknownNameError: if a name is unknown or a glob or predicate matches nothing; lists the nearest names.

    Example:
        >>> match_names("blocks.*.hook_post", ["blocks.0.mlp.hook_post", "blocks.0.hook_post"])
        ['blocks.0.hook_post']
    """
    if callable(names):
        matches = {name for name in points if names(name)}
        if not matches:
            raise UnknownNameError(f"The predicate given as {kind} names matched none of the {len(points)} names.")
    else:
        patterns = [names] if isinstance(names, str) else list(names)
        if not patterns:
            raise UnknownNameError(f"No {kind} was named: the list of names is empty.")
        exact = set(points)
        matches = set()
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise InputError(f"A {kind} name must be a string, found {type(pattern).__name__}: {pattern!r}.")
            if pattern in exact:
                matches.add(pattern)
                continue
            expression = _glob(pattern)
            hits = {name for name in points if expression.match(name)}
            if not hits:
                raise UnknownNameError(_unknown(pattern, points, kind))
            matches |= hits
    return [name for name in points if name in matches]


def _unknown(pattern: str, points: Sequence[str], kind: str) -> str:
    is_glob = any(sign in pattern for sign in "*?[")
    problem = f"The glob {pattern!r} matches no {kind}" if is_glob else f"There is no {kind} {pattern!r}"
    hint = nearest_hint(pattern, points)
    if is_glob and "**" not in pattern:
        hint += " (`*` stays within one dotted segment, `**` crosses dots.)"
    return f"{problem} among {len(points)} names.{hint}"
