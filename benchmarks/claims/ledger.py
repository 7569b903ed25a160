"""The ledger: one row for each claim, kept as JSON beside the page that is printed of it."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256

from benchmarks.claims.catalogue import CLAIMS, PRINTED
from benchmarks.claims.claim import Claim, Figure, Printed, Setting
from benchmarks.claims.documents import ROOT, Document, every, figures, sentence
from mmlens.core.files import whole_file

PAGE, FILE = ROOT / "docs" / "claims.md", ROOT / "docs" / "claims.json"


@dataclass(frozen=True)
class Row:
    """What is known of a claim.

    Attributes:
        says: the figures of the document, as printed; of a printed table, the digest of its lines.
        measured: figures that were measured again; `[value, low, high]`, `[value]` without an interval.
        seed: of the test scenes that they were measured on; None where no scene was drawn anew.
        commit: at which they were measured; before that, which wrote the words.
        before: what was measured before, where that lay outside of the interval of these.
    """

    says: Mapping[str, str]
    measured: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seed: int | None = None
    commit: str = ""
    before: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def figure(self, name: str) -> Figure:
        """A figure that was measured again."""
        return Figure(*self.measured[name])


def rows() -> dict[str, Row]:
    """The ledger as it is kept."""
    if not FILE.exists():
        return {}
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: Row(**fields) for name, fields in content.items()}


def keep(ledger: Mapping[str, Row]) -> None:
    """Write the ledger, whole or not at all, in the order of the claims."""
    order = [item.name for item in (*CLAIMS, *PRINTED)]
    content = {name: asdict(ledger[name]) for name in order if name in ledger}
    with whole_file(FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def prose_of(document: str) -> str:
    """A document's text without the tables and pages that commands print."""
    printed = [item for item in PRINTED if item.document == document]
    if any(item.whole for item in printed):
        return ""
    return Document(document).prose([item.tables for item in printed])


def says(claim: Claim | Printed) -> dict[str, str]:
    """What the documents say: the figures of a claim, the digest of a printed table.

    Raises:
        LookupError: if the words or the table are not there.
    """
    if isinstance(claim, Printed) and claim.whole:
        return {"page": "whole"} if claim.content else {}
    if isinstance(claim, Printed):
        return {"digest": sha256(claim.content.encode()).hexdigest()[:12]}
    return dict(claim.found(prose_of(claim.document)).groupdict())


def uncovered(document: Document) -> list[str]:
    """Figures of a document that no claim has, each with its sentence."""
    prose = prose_of(document.name)
    spans = [claim.found(prose).span() for claim in CLAIMS if claim.document == document.name]
    return [
        f"{document.name}: {found[0]} in {sentence(prose, *found.span())!r}"
        for found in figures(prose)
        if not any(begin <= found.start() and found.end() <= end for begin, end in spans)
    ]


def wrong_quotes(claim: Claim) -> list[str]:
    """Figures of a document that are not those of the table that they are quoted from."""
    if claim.cost != "quoted" or claim.values is None:
        return []
    found, said = claim.values(Setting(claim.model, 0)), says(claim)
    return [
        f"{claim.document} says {said[name]} ({claim.name}, {name}), the table {found[name]}"
        for name in claim.forms
        if not as_figure(found[name]).holds(said[name])
    ]


def as_figure(value: Figure | float) -> Figure:
    """A number as a figure."""
    return value if isinstance(value, Figure) else Figure(float(value))


def measured(claim: Claim, row: Row, setting: Setting, at: str) -> Row:
    """The row with its figures measured again; what lay outside of their intervals is kept beside them.

    Raises:
        ValueError: if nothing measures the claim.
    """
    if claim.measure is None:
        raise ValueError(f"Nothing measures {claim.name!r} again but {claim.command}.")
    found = {name: as_figure(value) for name, value in claim.measure(setting).items() if name in claim.forms}
    before = {
        name: old
        for name, old in row.measured.items()
        if name in found and not found[name].holds(format(old[0], ".6g"))
    }
    plain = {
        name: [part for part in (figure.value, figure.low, figure.high) if part is not None]
        for name, figure in found.items()
    }
    return replace(row, measured=plain, seed=setting.seed, commit=at[:7], before=before or row.before)


def moved(claim: Claim, row: Row) -> list[str]:
    """The figures that a document says and that were measured otherwise."""
    return [name for name in row.measured if not row.figure(name).holds(row.says[name])]


def written_at(document: str, words: str) -> str:
    """The commit that wrote some words of a document: that of the last of its lines that hold a part of them."""
    lines = subprocess.run(
        ["git", "blame", "-s", "--", document], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    found = [line.split(" ")[0].strip("^")[:7] for line in lines if words in line]
    return found[-1] if found and set(found[-1]) != {"0"} else ""


# -- the page ----------------------------------------------------------------------------------------------------------

_HEAD = """# Claims

Every figure of README and of these pages, and what it stands on. Written by `python -m benchmarks.claims`, which reads the claims
as `benchmarks/claims/catalogue/` declares them; `--cheap` measures again what takes seconds to a minute, `--only NAME` one claim,
and `--all` says the commands of the rest, which take minutes to hours. Beside it lies `claims.json`.

- **Chosen on** validation scenes: what methods and settings were chosen with. They are of the training stream, behind those that
  training drew. **Judged on** test scenes. What is measured again is judged on scenes of a *fresh* seed, the first seven digits
  of the commit, which share no caption with the scenes of training. About three in ten captions of plain test scenes do; figures
  of such scenes say so. Nearly all of these are of one object (536 of 537 among 2,000 scenes, 61 of 861 of two, none of 602 of
  three), so that fresh scenes have two or three.
- All pairs of noun and colour were in training, so nothing here is said about new compositions.
- *says*: the document's figures. *measured again*: with the interval of the fresh scenes; **moved** where the document's figure
  lies outside of it, and then both stand here. A table or page that a command prints whole is one claim, with a digest of it.
"""


def page(ledger: Mapping[str, Row]) -> str:
    """The ledger as markdown."""
    again = [claim for claim in CLAIMS if ledger[claim.name].measured]
    held = [claim for claim in again if not moved(claim, ledger[claim.name])]
    quoted = sum(claim.cost == "quoted" for claim in CLAIMS)
    lines = [_HEAD]
    lines.append(
        f"{len(CLAIMS)} sentences and rows, {len(PRINTED)} printed tables and pages. {quoted} sentences quote "
        f"these tables, and tests "
        f"compare them. {len(again)} were measured again; {len(held)} of them hold.\n"
    )
    head = "| claim | says | measured again | made by | chosen on | judged on | beside it | model | seed | commit |"
    for document in [item.name for item in every()]:
        items = [item for item in (*CLAIMS, *PRINTED) if item.document == document]
        if items:
            lines += [f"## {document}\n", head, "|" + "---|" * 10]
            prose = prose_of(document)
            lines += [_line(item, ledger[item.name], prose) for item in items]
            lines.append("")
    return "\n".join(lines)


def _line(item: Claim | Printed, row: Row, prose: str) -> str:
    """A row of the page."""
    if isinstance(item, Printed):
        what = "the page" if item.whole else f"tables under *{(item.heading or 'any heading').strip('# ')}*"
        said, again = (
            " ".join(row.says[name] if name == "page" else f"digest {row.says[name]}" for name in row.says),
            "",
        )
    else:
        what = sentence(prose, *item.found(prose).span())
        said = ", ".join(row.says.values())
        again = "; ".join(f"{name} {row.figure(name)}" for name in row.measured)
        if out := moved(item, row):
            again += f"; **moved: {', '.join(out)}**"
        if row.before:
            again += "; before " + ", ".join(f"{name} {old[0]:.4g}" for name, old in row.before.items())
    made = [f"`{item.command}`", item.chosen, item.judged, item.control, item.model]
    cells = [f"**{item.name}**: {what}", said, again, *made, "" if row.seed is None else str(row.seed), row.commit]
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
