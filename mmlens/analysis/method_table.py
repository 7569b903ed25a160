"""The tables of all methods, as docs/methods.md holds them: `mmlens methods > docs/methods.md`."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from mmlens.analysis.attribution.methods import ATTRIBUTION_METHODS
from mmlens.analysis.circuits.ablations import ABLATIONS
from mmlens.analysis.circuits.methods import CIRCUIT_METHODS
from mmlens.analysis.concepts.methods import CONCEPT_METHODS
from mmlens.analysis.controls.matches import MATCHES
from mmlens.analysis.heads.methods import HEAD_METHODS
from mmlens.analysis.mitigation.methods import MITIGATION_METHODS
from mmlens.analysis.neurons.methods import NEURON_METHODS
from mmlens.analysis.relevance.methods import RELEVANCE_METHODS
from mmlens.analysis.steering.directions import DIRECTION_METHODS
from mmlens.analysis.steering.methods import SELECTION_METHODS
from mmlens.core.registry import Method, Registry
from mmlens.interventions import corruptions
from mmlens.interventions.edits.methods import EDIT_METHODS
from mmlens.models.contrast.methods import CONTRAST_METHODS

#: Every choice of a method that verbs offer.
REGISTRIES: tuple[Registry[Any], ...] = (
    NEURON_METHODS,
    ATTRIBUTION_METHODS,
    CIRCUIT_METHODS,
    ABLATIONS,
    CONCEPT_METHODS,
    DIRECTION_METHODS,
    SELECTION_METHODS,
    EDIT_METHODS,
    MATCHES,
    CONTRAST_METHODS,
    MITIGATION_METHODS,
    HEAD_METHODS,
    RELEVANCE_METHODS,
)

_HEAD = """# Methods

Every choice of a method is a name, or a settings object of that method for other settings than the defaults. This page is
written by `mmlens methods`; the docstring of each class has its formula, its source, what departs from it, and its limits.
"""


def method_tables() -> str:
    """All registries, and the corruptions, as markdown."""
    return "\n".join([_HEAD, *map(_methods, REGISTRIES), _corruptions()])


def _methods(registry: Registry[Any]) -> str:
    rows = [
        [f"`{cls.name}`", _settings(cls), _summary(cls), ", ".join(sorted(cls.needs)), _source(cls)] for cls in registry
    ]
    title = f"{registry.task[0].upper()}{registry.task[1:]}: `{registry.verb}(..., {registry.argument}=...)`"
    return _table(title, ("name", "settings", "what it is", "needs", "source"), rows)


def _corruptions() -> str:
    rows = []
    for name in corruptions.__all__:
        function = getattr(corruptions, name)
        settings = list(inspect.signature(function).parameters.values())[2:]
        call = "".join(f", {p.name}" + ("" if p.default is p.empty else f"={p.default!r}") for p in settings)
        rows.append([f"`{name}`", f"`mm.corrupt.{name}(model, batch{call})`", _summary(function), _source(function)])
    return _table("Corrupting a batch: `mm.corrupt`", ("name", "call", "what it is", "source"), rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(["", *row, ""]).strip() for row in [columns, ["---"] * len(columns), *rows]]
    return "\n".join([f"## {title}", "", *lines, ""])


def _settings(cls: type[Method]) -> str:
    labels = [setting.name + ("" if setting.default is MISSING else f"={setting.default!r}") for setting in fields(cls)]
    return f"`{cls.__name__}({', '.join(labels)})`"


def _summary(thing: object) -> str:
    return inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _source(thing: object) -> str:
    """The first title and link of the docstring's source."""
    match = re.search(r'Source:.*?"([^"]+)".*?\((https?://[^)\s]+)\)', thing.__doc__ or "", re.DOTALL)
    return "" if match is None else f"[{' '.join(match[1].split())}]({match[2]})"
