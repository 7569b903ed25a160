"""Progress bars: one line a call, whatever runs in it.

A call from outside opens a line (`mmlens.core.contract`). The first bar of the call shows there; bars inside it are not
shown, and those that come after it take its place. Outside of such a call a bar has a line of its own.
"""

import warnings
from collections.abc import Iterable, Iterator, Sized
from contextvars import ContextVar, Token
from typing import TypeVar

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # notebooks without ipywidgets get bars of text
    from tqdm.auto import tqdm

Step = TypeVar("Step")


class Line:
    """Where a call shows its progress: `with Line():` all bars share one, inside another such block that one's.

    Attributes:
        bar: what is drawn; None before the first bar.
        busy: whether a bar is under way.
        label: what it says of the whole call, in the place of the labels of its bars.
    """

    __slots__ = ("_token", "bar", "busy", "label")

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.busy = False
        self.label = ""
        self._token: Token[Line | None] | None = None

    def __enter__(self) -> "Line":
        if LINE.get() is None:
            self._token = LINE.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self._token is not None:
            LINE.reset(self._token)
            self.close()

    def close(self) -> None:
        """Leave the line as it is."""
        if self.bar is not None:
            self.bar.close()


#: The line of the call that is under way in this thread or task.
LINE: ContextVar[Line | None] = ContextVar("line", default=None)


class ProgressBar:
    """A progress bar that is moved by `update`, as tqdm's.

    Args:
        desc: its label.
        total: how many steps there are, if that is known.
        initial: how many are done.
        disable: show nothing.
        unit, unit_scale: of the steps.

    Attributes:
        n: how many are done.
    """

    def __init__(
        self,
        desc: str = "",
        *,
        total: int | None = None,
        initial: int = 0,
        disable: bool = False,
        unit: str = "it",
        unit_scale: bool = False,
    ):
        call = LINE.get()
        self.n, self._bar, self._is_alone, self._line = initial, None, call is None, call or Line()
        if disable or self._line.busy:
            return
        desc, bar = self._line.label or desc, self._line.bar
        if bar is None:
            bar = tqdm(total=total, desc=desc, initial=initial, unit=unit, unit_scale=unit_scale)
        else:
            bar.unit, bar.unit_scale = unit, unit_scale
            bar.reset(total)
            bar.n = initial
            bar.set_description(desc)
        self._bar = self._line.bar = bar
        self._line.busy = True

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        """Say that `n` more steps are done."""
        self.n += n
        if self._bar is not None:
            self._bar.update(n)

    def set_postfix(self, **values: str) -> None:
        """Show values behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix(values, refresh=False)

    def close(self) -> None:
        """End: what comes next in the call may show its own."""
        if self._bar is not None:
            self._bar.refresh()
            self._line.busy, self._bar = False, None
            if self._is_alone:
                self._line.close()


def progress_over(
    steps: Iterable[Step], desc: str, *, total: int | None = None, initial: int = 0, disable: bool = False
) -> Iterator[Step]:
    """Steps, one after the other, with a bar.

    Args:
        steps: what is gone through.
        desc, total, initial, disable: as of `ProgressBar`; the total is the steps' own where they have one.
    """
    total = len(steps) if total is None and isinstance(steps, Sized) else total
    with ProgressBar(desc, total=total, initial=initial, disable=disable) as bar:
        for step in steps:
            yield step
            bar.update()


def say(text: str, *, disable: bool = False) -> None:
    """Say something of the whole call where its progress shows, from now on."""
    line = LINE.get()
    if line is not None and not disable and not line.busy:
        line.label = text
        ProgressBar(total=1).close()
