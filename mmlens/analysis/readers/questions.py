"""What readers of questions share: the question in the words of a prompt, and numbers that must not come twice."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from mmlens.analysis.readers.picture_folder import few
from mmlens.core.errors import InputError
from mmlens.core.kinds import Must

#: The words around a question: `"{question} Answer with one word."`
Template: TypeAlias = Annotated[str, Must("a text with {question} in it", lambda text: "{question}" in text)]
#: The question alone.
PLAIN = "{question}"


def worded(template: str, question: str) -> str:
    """A question in the words of a template."""
    return template.replace("{question}", question)


def require_once(known: Collection[Any], identifier: Any, where: str, path: Path) -> None:
    """Refuse an identifier that has been met before.

    Raises:
        InputError: if it is among the known ones.
    """
    if identifier in known:
        raise InputError(f"{path} has the id {identifier!r} twice, the second time as {where}.")


def require_partners(identifiers: Iterable[Any], others: Collection[Any], path: Path, other: Path, kind: str) -> None:
    """Refuse two files of which one has records that the other lacks.

    Args:
        identifiers: of the records of the one.
        others: those of the other.
        path, other: the two files.
        kind: what the records are, in the plural.

    Raises:
        InputError: if there are such.
    """
    alone = [identifier for identifier in identifiers if identifier not in others]
    if alone:
        raise InputError(
            f"{len(alone):,} {kind} of {path} have no partner in {other}: ids {few(alone)}. Take two files of one version and "
            "split."
        )
