"""What a claim is: words of a document with figures in them, how these are made, and on what."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.claims.documents import FIGURE, Document, Tables, single_blanks

#: How a claim's figures are made again: read in code or in another table (in no time), measured in seconds to a minute, or slow.
Cost = Literal["counted", "quoted", "cheap", "slow"]
_FIELD = re.compile(r"\{(\w+)(?::([^}]*))?\}")


@dataclass(frozen=True)
class Figure:
    """A number, with its interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    def holds(self, printed: str) -> bool:
        """Whether it says what a document says: rounded to the same, or the document's number lies in its interval."""
        digits = len(printed.partition(".")[2].partition("e")[0])
        unit = 10.0 ** ((int(printed.partition("e")[2]) if "e" in printed else 0) - digits)
        if abs(self.value - number(printed)) <= 0.501 * unit:  # tables are rounded themselves
            return True
        return self.low is not None and self.high is not None and self.low <= number(printed) <= self.high

    def __str__(self) -> str:
        bounds = "" if self.low is None else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.4g}{bounds}"


@dataclass(frozen=True)
class Setting:
    """What a measurement is made with: the model's name, and the seed of the test scenes."""

    model: str
    seed: int


@dataclass(frozen=True)
class Claim:
    """Figures in the words of a document.

    Attributes:
        name: of the claim, once in the ledger.
        document: its path.
        text: words of it, once there, with `{name:format}` where figures stand; other numbers in them are settings.
        command: what makes the figures.
        cost: how.
        values: makes them again; None for a command that is run by hand.
        chosen: what was chosen on validation scenes, and on which; empty for nothing.
        judged: on which scenes.
        control: what stands beside it.
        model: whose it is.
        again: measures some of the figures of a quoted claim again, on fewer and fresh scenes.
    """

    name: str
    document: str
    text: str
    command: str
    cost: Cost
    values: Callable[[Setting], Mapping[str, Figure | float]] | None = field(default=None, repr=False)
    chosen: str = ""
    judged: str = ""
    control: str = ""
    model: str = "lab"
    again: Callable[[Setting], Mapping[str, Figure | float]] | None = field(default=None, repr=False)

    @property
    def measure(self) -> Callable[[Setting], Mapping[str, Figure | float]] | None:
        """What measures some of its figures again in seconds to a minute; None where nothing does."""
        return self.values if self.cost == "cheap" else self.again

    @property
    def forms(self) -> dict[str, str]:
        """The format of each figure, by name."""
        return {found[1]: found[2] or "" for found in _FIELD.finditer(self.text)}

    def found(self, prose: str) -> re.Match[str]:
        """Where it stands in a document's prose, with its figures as groups.

        Raises:
            LookupError: if it does not stand there once.
        """
        text, pattern, end = single_blanks(self.text), "", 0
        for place in _FIELD.finditer(text):
            pattern += f"{re.escape(text[end : place.start()])}(?P<{place[1]}>{FIGURE})"
            end = place.end()
        matches = list(re.finditer(pattern + re.escape(text[end:]), prose))
        if len(matches) != 1:
            raise LookupError(
                f"The words of {self.name} stand {len(matches)} times in {self.document}: {text!r}. Make them those of the "
                "document."
            )
        return matches[0]


@dataclass(frozen=True)
class Printed:
    """A table, or a page, that a command prints whole.

    Attributes:
        name: of the claim.
        document: its path.
        heading: under which its tables stand; None for all tables of the page.
        first: what their first column is called; all tables there by default.
        command, chosen, judged, control, model: as of a claim.
        text: makes the page again, where that is cheap.
        whole: whether the command writes the page with all that it says.
    """

    name: str
    document: str
    heading: str | None
    command: str
    first: str = ""
    chosen: str = ""
    judged: str = ""
    control: str = ""
    model: str = "lab"
    text: Callable[[], str] | None = field(default=None, repr=False)
    whole: bool = False

    @property
    def tables(self) -> Tables:
        """Which tables are meant."""
        return self.heading, self.first

    @property
    def content(self) -> str:
        """What is printed.

        Raises:
            LookupError: if there is nothing.
        """
        document = Document(self.document)
        content = document.raw if self.whole else document.lines(self.tables)
        if not content:
            raise LookupError(f"{self.document} has no table {self.first!r} under {self.heading!r} ({self.name}).")
        return content


def number(printed: str) -> float:
    """The number that is printed."""
    return float(printed.replace(",", ""))
