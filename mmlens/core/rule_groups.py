"""Groups of positions for sweeps: rules by name, every position by itself, or the picture in blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts, With
from mmlens.core.rules import PROMPT, Positions, Rule, as_rule, require_readable


@dataclass(frozen=True)
class Each:
    """Groups for a sweep: every position by itself, or every position of a rule.

    Attributes:
        of: the rule.
    """

    of: Rule = PROMPT

    def __call__(self, of: Positions) -> "Each":
        """Every position of a rule by itself."""
        return Each(as_rule(of))

    def __repr__(self) -> str:
        return "positions.each" if self.of == PROMPT else f"positions.each({self.of!r})"


@dataclass(frozen=True)
class Grid:
    """Groups for a sweep: the picture in blocks of patches, `r0c0`, `r0c1`, ... row by row.

    Attributes:
        side: patches along each side of a block; fewer at the right and lower edge where they do not divide.
    """

    side: int

    def __repr__(self) -> str:
        return f"positions.grid({self.side})"


#: What a sweep takes: rules by name, several rules (each named by what it prints), one rule, `each`, or `grid(k)`.
Groups: TypeAlias = Annotated[
    Mapping[str, Positions] | Sequence[Rule | str | int | slice] | Positions | Each | Grid,
    Accepts(object),
    With(lambda arguments, positions, name: require_readable(as_groups, positions)),
]


def as_groups(positions: Any) -> dict[str, Rule] | Each | Grid:
    """What a sweep's `positions=` means: rules by name, or a way to make them.

    Raises:
        InputError: for no groups, or what are no rules.
    """
    if isinstance(positions, Each | Grid):
        return positions
    if isinstance(positions, str) and positions == "each":
        return Each()
    if isinstance(positions, Mapping):
        if not positions:
            raise InputError("positions are empty: name at least one group.")
        return {str(name): as_rule(rule) for name, rule in positions.items()}
    is_list = isinstance(positions, list | tuple) and any(isinstance(item, Rule | str | slice) for item in positions)
    rules = [as_rule(item) for item in positions] if is_list else [as_rule(positions)]
    return {str(rule): rule for rule in rules}


def named_rules(positions: Any) -> dict[str, Rule]:
    """Rules by name, where no others are taken.

    Raises:
        InputError: for `each` and `grid(k)`, and for what are no rules.
    """
    groups = as_groups(positions)
    if isinstance(groups, Each | Grid):
        raise InputError(f"{positions!r} are groups of a sweep over positions; name rules, e.g. 'image' and 'text'.")
    return groups
