"""What to tell someone whose model could not be discovered: what was found, what was not, and the lines to write."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from mmlens.declarations.family import Family, Language, Vision
from mmlens.declarations.projector import Projector
from mmlens.discover.runs import ExampleRuns


def declaration_text(value: Any) -> str:
    """A piece of a declaration as Python code, defaults left out."""
    if is_dataclass(value) and not isinstance(value, type) and not callable(value):
        arguments = []
        for field in fields(value):
            value_of_field = getattr(value, field.name)
            default = field.default if field.default is not MISSING else MISSING
            if value_of_field is not default and value_of_field != default:
                arguments.append(f"{field.name}={declaration_text(value_of_field)}")
        return f"{type(value).__name__}({', '.join(arguments)})"
    if isinstance(value, tuple | list):
        inner = ", ".join(map(declaration_text, value))
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return str(value) if callable(value) else repr(value)


def declaration(class_name: str, vision: Vision | None, projector: Projector | None, language: Language | None) -> str:
    """The lines of a family's declaration, with what was found filled in."""
    stack = "Stack('path.to.the.blocks', block=Block(...), config=lambda config: config)"
    unknown = {
        "vision": f"Vision({stack}, read=lambda config: [...])",
        "projector": "Projector(receives=('path.of.the.projector', 'argument'), returns='path.of.the.projector')",
        "language": f"Language({stack}, embed='path', norm=Norm('path'), head='path')",
    }
    parts = {"vision": vision, "projector": projector, "language": language}
    lines = [f"    {name}={unknown[name] if part is None else declaration_text(part)}," for name, part in parts.items()]
    return "\n".join(
        [
            "from mmlens.declarations.family import *",
            "from mmlens.declarations.structure import *",
            "mmlens.register_family(Family(",
            f"    name={class_name.lower()!r},",
            f"    classes=({class_name!r},),",
            *lines,
            "    places=...,  # (config, tensors, sizes, image processor) -> list[Places], see mmlens.inputs.patch_geometry",
            "))",
        ]
    )


def found_in(runs: ExampleRuns | None) -> str:
    """What a model was seen to have, line by line."""
    if runs is None:
        return "  nothing: the model did not run on the example"
    attention: dict[str, str] = {}
    names = {id(module): path for path, module in runs.model.named_modules()}
    for note in runs.own.attention:
        stack = next((s.path for s in runs.stacks if names.get(id(note.module), "").startswith(f"{s.path}.")), None)
        how = "registered" if note.registered else "in code of its own"
        if note.module is not None and (stack or names.get(id(note.module), "")) not in attention:
            attention[stack or names.get(id(note.module), "")] = (
                f"{type(note.module).__name__}, {how}, {note.heads} heads"
            )
    lines = [f"  stack {stack}" for stack in runs.stacks] or ["  no list of modules that runs like a stack of blocks"]
    lines += [f"  attention in {where}: {description}" for where, description in attention.items()]
    return "\n".join(lines)


def described(family: Family) -> str:
    """A whole family as Python code, as far as code can say it."""
    return declaration(family.classes[0], family.vision, family.projector, family.language)
