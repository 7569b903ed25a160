"""The tables of all methods, as docs/methods.md holds them: `mmlens methods > docs/methods.md`."""

import inspect
import re
from dataclasses import MISSING, fields
from typing import Any

from mmlens.analysis.attribution.methods import ATTRIBUTION_METHODS
from mmlens.analysis.circuits.methods import CIRCUIT_METHODS
from mmlens.analysis.concepts.methods import CONCEPT_METHODS
from mmlens.analysis.controls.matches import MATCHES
from mmlens.analysis.neurons.methods import NEURON_METHODS
from mmlens.analysis.steering.methods import SELECTION_METHODS
from mmlens.core.registry import Method, Registry
from mmlens.interventions.edits.methods import EDIT_METHODS

#: Every choice of a method that verbs offer.
REGISTRIES: tuple[Registry[Any], ...] = (
    NEURON_METHODS,
    ATTRIBUTION_METHODS,
    CIRCUIT_METHODS,
    CONCEPT_METHODS,
    SELECTION_METHODS,
    EDIT_METHODS,
    MATCHES,
)

_HEAD = """# Methods

Every choice of a method is a name, or a settings object of that method for other settings than the defaults. This page is
written by `mmlens methods`; the docstring of each class has its formula, its source, what departs from it, and its limits.
"""


def method_tables() -> str:
    """All registries as markdown."""
    return "\n".join([_HEAD, *(_table(registry) for registry in REGISTRIES)])


def _table(registry: Registry[Any]) -> str:
    rows = [
        [f"`{cls.name}`", _settings(cls), _summary(cls), ", ".join(sorted(cls.needs)), _source(cls)] for cls in registry
    ]
    lines = [
        " | ".join(["", *row, ""]).strip() for row in [["name", "settings", "what it is", "needs", "source"], *rows]
    ]
    title = f"## {registry.task[0].upper()}{registry.task[1:]}: `{registry.verb}(..., {registry.argument}=...)`"
    return "\n".join([title, "", lines[0], "|---|---|---|---|---|", *lines[1:], ""])


def _settings(cls: type[Method]) -> str:
    labels = [setting.name + ("" if setting.default is MISSING else f"={setting.default!r}") for setting in fields(cls)]
    return f"`{cls.__name__}({', '.join(labels)})`"


def _summary(cls: type[Method]) -> str:
    return inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _source(cls: type[Method]) -> str:
    """The first title and link of the docstring's source."""
    match = re.search(r'Source:.*?"([^"]+)".*?\((https?://[^)\s]+)\)', cls.__doc__ or "", re.DOTALL)
    return "" if match is None else f"[{' '.join(match[1].split())}]({match[2]})"
