"""How a hook point reaches the tensor it names: at a site, in a view of one (`views`), or between two (`indirect`)."""

from typing import Protocol, runtime_checkable

from mmlens.hooks.site import Tap

#: Where a value is noted that another tap needs: after all hooks on it, e.g. `hook_resid_pre` on a block's input.
RECORD_RANK = 90


@runtime_checkable
class Attachment(Protocol):
    """What a point needs: to be put in the path of its tensor, and taken out again."""

    def attach(self, tap: Tap) -> None:
        """Call `tap` with the tensor on every forward from now on, and use what it returns."""

    def detach(self, tap: Tap) -> None:
        """Undo `attach`."""


@runtime_checkable
class TensorAccess(Protocol):
    """Something that taps can be put on in a given order: a site, or a site seen through a factor."""

    def attach(self, tap: Tap, rank: int) -> None:
        """Put the tap in the path."""

    def detach(self, tap: Tap) -> None:
        """Take it out."""


class AtSite:
    """The tensor is what a module receives or returns, or that times a factor."""

    def __init__(self, reach: TensorAccess, rank: int = 0):
        self.reach = reach
        self.rank = rank

    def attach(self, tap: Tap) -> None:
        """Put the tap on the site."""
        self.reach.attach(tap, self.rank)

    def detach(self, tap: Tap) -> None:
        """Take it off."""
        self.reach.detach(tap)
