"""Documents as text in which figures are found by rule: without code, links and addresses, with single blanks."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parents[2]
#: What is no prose: fenced code, code in lines, targets of links, addresses, comments. It counts as blank.
_NO_PROSE = re.compile(
    r"^```.*?^```|<!--.*?-->|`[^`\n]*`|(?<=\])\([^)\n]*\)|https?://\S+", flags=re.DOTALL | re.MULTILINE
)
#: A figure: a number that is no part of a name (LLaVA-1.5, Qwen2), with what may stand right behind it.
FIGURE = r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?"
_FIGURE = re.compile(rf"(?<![\w./])(?<!\w-)(?:{FIGURE})(?=x?%?(?:[^\w]|$))")
#: Numbers that are no measurement.
NO_MEASUREMENT = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?:Python|torch|transformers|torchvision|timm|peft|TransformerLens|nnsight) \d[\d.]*",
        r"\b(?:ACL Findings|NeurIPS|ICCV|CVPR|ECCV) \d{4}",
        r"\b(?:Llama|(?:T5)?Gemma|Mistral|Molmo|SigLIP|MetaCLIP|Ernie|VideoLLaMA|Cosmos|MiniMax M|Cohere|EXAONE|Qwen|Gemma Scope"
        r"|its bridge,)"
        r" ?\d[\dn.]*(?: Vision)?(?: and \d)?",
        r"\b\d+ ?(?:x|by) ?\d+\b",
        r"\b95%",
        r"\b(?:at |the )?layers? \d(?: (?:to|and) \d)?",
        r"\bseeds? \d+",
        r"\b(?:top|of) (?:20|five) neurons",
        r"\b20[0-3]\d\b|\bis not 1\b|\(0, or\b",  # of what a setting may be
        # settings: how much of what was run
        r"[\d,]+ (?:(?:held-out|test|other|validation|picture|image|hidden|random|forward|tiny|others|LoRA) )*"
        r"(?:scenes|prompts|questions|controls|draws|rows|tokens|words|answers|concepts|blocks|positions|layers?|steps?|samples)\b",
        r"\b(?:batch|n =|k =|seed,) \d+|\d+ others\b|\d+ of text\b",
    )
)

#: Tables: the heading that they stand under (None for all of a document), and what their first line begins with (all for "").
Tables: TypeAlias = tuple[str | None, str]


@dataclass(frozen=True)
class Document:
    """A document of the repository.

    Attributes:
        name: its path in the repository.
    """

    name: str

    @cached_property
    def raw(self) -> str:
        """The text as it is."""
        return (ROOT / self.name).read_text(encoding="utf-8")

    def prose(self, tables: Sequence[Tables] = ()) -> str:
        """The text without what is no prose, and without some tables (of a heading, or of the whole document)."""
        lines, heading, head = [], "", ""
        for raw, line in zip(self.raw.split("\n"), _blanked(self.raw).split("\n"), strict=True):
            heading = raw if line.startswith("#") else heading
            head = (head or line) if line.startswith("|") else ""
            printed = head and any(_is_of(heading, head, table) for table in tables)
            lines.append("" if line.startswith("#") or printed else line)
        return single_blanks("\n".join(lines))

    def table(self, heading: str, *, first: str = "") -> list[dict[str, str]]:
        """The rows of a table under a heading, by column.

        Args:
            heading: the line, with its signs (`## ...`).
            first: what the table's first line begins with, where there are several.

        Raises:
            LookupError: if there is no such table.
        """
        lines = self.raw.split("\n")
        begin = next((number for number, line in enumerate(lines) if line == heading), None)
        if begin is None:
            raise LookupError(f"{self.name} has no heading {heading!r}.")
        head: list[str] | None = None
        rows = []
        for line in lines[begin + 1 :]:
            if line.startswith("#"):
                break
            cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
            if head is None and cells and " | ".join(cells).startswith(first):
                head = [cell if cell not in cells[:place] else f"{cell}, {place}" for place, cell in enumerate(cells)]
            elif head is not None and not cells:
                break
            elif head is not None and not set(line) <= set("|-: "):
                rows.append(dict(zip(head, cells, strict=True)))
        if not rows:
            raise LookupError(f"There is no table {first!r} under {heading!r} of {self.name}.")
        return rows

    def lines(self, tables: Tables) -> str:
        """The lines of some tables."""
        found, heading, head = [], "", ""
        for line in self.raw.split("\n"):
            heading = line if line.startswith("#") else heading
            head = (head or line) if line.startswith("|") else ""
            if head and _is_of(heading, head, tables):
                found.append(line)
        return "\n".join(found)


def _is_of(heading: str, head: str, tables: Tables) -> bool:
    """Whether a table, by the heading above it and its first line, is one of some."""
    wanted, first = tables
    return wanted in (None, heading) and head.strip("| ").startswith(first)


def _blanked(text: str) -> str:
    return _NO_PROSE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def single_blanks(text: str) -> str:
    """A text without what is no prose, each run of blanks and line ends as one blank."""
    return re.sub(r"\s+", " ", _blanked(text)).strip()


def figures(prose: str) -> Iterator[re.Match[str]]:
    """The figures of a text, those that are no measurement left out."""
    spans = [found.span() for pattern in NO_MEASUREMENT for found in pattern.finditer(prose)]
    for found in _FIGURE.finditer(prose):
        if not any(begin <= found.start() and found.end() <= end for begin, end in spans):
            yield found


def sentence(prose: str, begin: int, end: int) -> str:
    """The sentence, or row of a table, around a place of a text."""
    stops = [found.end() for found in re.finditer(r"(?<=[^\d][.;:])\s+(?=[A-Z\"*])|\|\s+(?=\| |\*\*[A-Z])", prose)]
    first = max((stop for stop in stops if stop <= begin), default=0)
    last = min((stop for stop in stops if stop >= end), default=len(prose))
    return prose[first:last].strip()


def every() -> list[Document]:
    """README and all documents but the ledger itself."""
    names = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    return [Document(name) for name in names if name != "docs/claims.md"]
