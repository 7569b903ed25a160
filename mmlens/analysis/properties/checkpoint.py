"""Keeps what has been measured in a file, so that an interrupted run goes on where it stopped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmlens.analysis.properties.cases import Chosen
from mmlens.analysis.properties.measured import Value
from mmlens.core.errors import InputError
from mmlens.core.files import require_file, whole_file


@dataclass(frozen=True)
class Part:
    """What was measured of a few samples.

    Attributes:
        values: the numbers.
        chosen: the neurons of each noun.
        skipped: what could not be measured, and why.
    """

    values: Sequence[Value]
    chosen: Sequence[Chosen]
    skipped: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """As plain lists, short."""
        return {
            "values": [list(asdict(value).values()) for value in self.values],
            "chosen": [list(asdict(each).values()) for each in self.chosen],
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_json(cls, known: Mapping[str, Any]) -> "Part":
        """From what `as_json` gave."""
        chosen = [
            Chosen(
                sample, noun, {method: [(layer, index) for layer, index in each] for method, each in neurons.items()}
            )
            for sample, noun, neurons in known["chosen"]
        ]
        return cls([Value(*each) for each in known["values"]], chosen, known["skipped"])


class Checkpoint:
    """Finished parts by what they are of; in memory, and in a file if one is given.

    Args:
        path: the file; read if it exists.
        settings: what decides the numbers.

    Raises:
        InputError: if the file was made with other settings, or is something else.
    """

    def __init__(self, path: str | Path | None, settings: Mapping[str, Any]):
        self.path = None if path is None else Path(path)
        self.settings = dict(settings)
        self._parts: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            self._parts = self._read(self.path)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            known = json.loads(require_file(path, "checkpoint").read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is no checkpoint: {error}.") from error
        if not isinstance(known, dict) or "parts" not in known:
            raise InputError(f"{path} is no checkpoint of measured neurons; give another file.")
        differing = [key for key in self.settings if known["settings"].get(key) != self.settings[key]]
        if differing:
            raise InputError(
                f"The checkpoint {path} was made with another {', '.join(differing)}; go on with the same settings, or give "
                "another file."
            )
        return known["parts"]

    def get(self, key: str) -> Part | None:
        """The part, if it is finished."""
        return Part.from_json(self._parts[key]) if key in self._parts else None

    def put(self, key: str, part: Part) -> None:
        """Keep a finished part."""
        self._parts[key] = part.as_json()
        if self.path is not None:
            with whole_file(self.path) as temporary:
                temporary.write_text(json.dumps({"settings": self.settings, "parts": self._parts}), encoding="utf-8")
