"""The card of a lab model: every phenomenon with its figures, targets and controls, as JSON and as a table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.core.progress import progress_over
from mmlens.lab.phenomena.answers import answer_findings
from mmlens.lab.phenomena.edits import edits
from mmlens.lab.phenomena.finding import Finding, Measured, Sizes
from mmlens.lab.phenomena.flow import flow
from mmlens.lab.phenomena.hallucination import hallucination
from mmlens.lab.phenomena.held_out import held_out
from mmlens.lab.phenomena.induction import induction
from mmlens.lab.phenomena.lens import lens
from mmlens.lab.phenomena.neurons import neurons
from mmlens.lab.phenomena.priors import priors
from mmlens.lab.phenomena.sinks import sinks
from mmlens.lab.phenomena.steering import steering
from mmlens.lab.phenomena.subject import Subject
from mmlens.lab.phenomena.two_hop import two_hop
from mmlens.models.fingerprint import fingerprint

PHENOMENA: Mapping[str, Callable[[Subject, Sizes], Measured]] = {
    "answers": answer_findings,
    "two-hop": two_hop,
    "priors": priors,
    "held-out": held_out,
    "hallucination": hallucination,
    "lens": lens,
    "flow": flow,
    "sinks": sinks,
    "induction": induction,
    "neurons": neurons,
    "steering": steering,
    "edits": edits,
}


def card(
    subject: Subject, sizes: Sizes, *, only: Sequence[str] = (), out: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Measure a lab model.

    Args:
        subject: The model with its world.
        sizes: How much is measured.
        only: Names among `PHENOMENA`; all by default.
        out: A JSON file that is written after every phenomenon, and that the same call goes on from; its table beside it, as .md.
        progress: Show a progress bar.

    Returns:
        What the file holds: the settings, and by phenomenon its findings, details and seconds of CPU.

    Raises:
        InputError: There is no such phenomenon, or the file is of another model or other settings.
    """
    unknown = [name for name in only if name not in PHENOMENA]
    if unknown:
        raise InputError(f"There are no phenomena {', '.join(unknown)}. There are: {', '.join(PHENOMENA)}.")
    about = {"model": subject.name, "fingerprint": fingerprint(subject.model), **asdict(sizes)}
    content: dict[str, Any] = {"about": about, "phenomena": {}}
    if out is not None and not out.parent.is_dir():
        raise InputError(f"Cannot write {out}: the folder {out.parent} does not exist; create it first.")
    if out is not None and out.exists():
        content = read_card(out)
        if content["about"] != about:
            raise InputError(
                f"{out} was measured with {content['about']}, and {about} is to be measured. Give another file, or remove it."
            )
    names = [name for name in dict.fromkeys(only or PHENOMENA) if name not in content["phenomena"]]
    for name in progress_over(names, "phenomena", disable=not progress):
        start = time.process_time()
        outcome = PHENOMENA[name](subject, sizes)
        content["phenomena"][name] = {
            "findings": [finding.as_json() for finding in outcome.findings],
            "details": dict(outcome.details),
            "seconds": round(time.process_time() - start, 1),
        }
        if out is not None:
            _write(out, json.dumps(content, indent=1) + "\n")
            _write(out.with_suffix(".md"), findings_table(content))
    return content


def read_card(path: Path) -> dict[str, Any]:
    """Read a card.

    Args:
        path: What `card` wrote.

    Raises:
        InputError: The file holds no card.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a card ({error}); give the JSON file that the card wrote."
        ) from error
    if not isinstance(content, dict) or not {"about", "phenomena"} <= set(content):
        raise InputError(f"{path} holds no card; give the JSON file that the card wrote.")
    return content


def findings(content: Mapping[str, Any]) -> dict[str, list[Finding]]:
    """The findings of a card by phenomenon, in the order of `PHENOMENA`."""
    phenomena = content["phenomena"]
    return {
        name: [Finding.from_json(part) for part in phenomena[name]["findings"]]
        for name in PHENOMENA
        if name in phenomena
    }


def findings_table(*contents: Mapping[str, Any]) -> str:
    """Cards as one Markdown table, models side by side.

    Args:
        contents: What `card` gave.

    Returns:
        A row per figure: its target, and for each model the figure, its controls and the verdict.
    """
    cards = [findings(content) for content in contents]
    models = [content["about"]["model"] for content in contents]
    head = ["phenomenon", "measured", "target"]
    for model in models:
        prefix = f"{model}: " if len(models) > 1 else ""
        head += [f"{prefix}figure", f"{prefix}beside", f"{prefix}verdict"]
    lines = [head, ["---"] * len(head)]
    for phenomenon in PHENOMENA:
        rows: dict[str, list[Finding | None]] = {}
        for number, by_name in enumerate(cards):
            for finding in by_name.get(phenomenon, []):
                rows.setdefault(finding.name, [None] * len(cards))[number] = finding
        lines += [[phenomenon, *_row(name, row)] for name, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(name: str, row: Sequence[Finding | None]) -> list[str]:
    first = next(finding for finding in row if finding is not None)
    target = next((finding.target for finding in row if finding is not None and finding.target), None)
    cells = [f"{name} ({first.unit})" if first.unit != "share" else name, str(target or "")]
    for finding in row:
        if finding is None:
            cells += ["", "", ""]
            continue
        figure = "" if finding.value is None else str(finding.value)
        cells += [
            f"{figure}{f' ({finding.note})' if finding.note else ''}".strip(),
            "; ".join(map(str, finding.controls)),
            finding.verdict,
        ]
    return cells


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
