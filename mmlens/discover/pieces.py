"""What the search for the pieces of a model shares."""

from collections.abc import Iterable

from mmlens.discover.trace import Call, Trace, is_linear


class NotFound(Exception):
    """A piece that a declaration needs was not found; the text says which, for the message to the user."""


def relative(path: str, root: str) -> str:
    """A module's path as seen from another that holds it."""
    return path[len(root) + 1 :] if root else path


def inside_of(trace: Trace, start: int, end: int) -> list[Call]:
    """The calls between two times."""
    return [call for call in trace.calls if start < call.enter and call.exit <= end]


def linears_of(calls: Iterable[Call]) -> list[Call]:
    """Calls of linears, those inside of an adapter's left out."""
    linears = [call for call in calls if is_linear(call.module)]
    return [c for c in linears if not any(o.enter < c.enter and c.exit < o.exit for o in linears)]
