"""The ways of doing a benchmark's tasks: bare torch hooks (the limit), mmlens, TransformerLens, nnsight."""

from importlib.util import find_spec

from benchmarks.contender import Absent
from benchmarks.models import Subject
from benchmarks.ways.bare import Bare
from benchmarks.ways.hooked import Hooked
from benchmarks.ways.way import Way


def peers(subject: Subject) -> list[Way | Absent]:
    """The other libraries, each around its own copy of the model."""
    from benchmarks.ways.bridged import Bridged

    found: list[Way | Absent] = [Bridged(subject)]
    if find_spec("nnsight") is None:
        return [*found, Absent("nnsight", "not installed: pip install mmlens[bench]")]
    from benchmarks.ways.traced import Traced

    return [*found, Traced(subject)]


__all__ = ["Bare", "Hooked", "Way", "peers"]
