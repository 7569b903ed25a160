"""The families that are known, by the Hugging Face class that they cover."""

from dataclasses import dataclass, field

from mmlens.core.contract import checked
from mmlens.declarations.family import Family


@dataclass
class _Registry:
    families: dict[str, Family] = field(default_factory=dict)


_REGISTRY = _Registry()


@checked
def register_family(family: Family) -> Family:
    """Make a family known, so that `from_hf` and `from_pretrained` find it by class name.

    Args:
        family: the declaration; a later one wins over an earlier one for the same class.

    Returns:
        The same declaration.
    """
    for name in family.classes:
        _REGISTRY.families[name] = family
    return family


def families() -> dict[str, Family]:
    """All known families by Hugging Face class name."""
    return dict(_REGISTRY.families)
