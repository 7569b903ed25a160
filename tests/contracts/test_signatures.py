"""Contract: what every public callable takes, in which order, with which defaults, and whether it looks at its arguments.

`signatures.txt` is what users rely on: a default that moves, a parameter that may no longer be given by place, are changes of
the interface and belong into the changelog. `@` stands in front of what refuses by name an argument that does not exist, before
anything else. `python -m tests.contracts.test_signatures` writes the file anew, with what is new.
"""

import inspect
import re
from pathlib import Path

from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject
from tests.contracts.door.callables import Public, public
from tests.tiny import llava as tiny_llava

PAGE = Path(__file__).with_name("signatures.txt")


def is_checked(item: Public, model: HookedMultimodal) -> bool:
    """Whether a callable refuses an argument that does not exist by its name, whatever else is missing."""
    everything = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(item.function).parameters.values())
    if everything or not item.parameters:
        return False
    is_method = item.owner is not None and not inspect.ismethod(item.function)
    first = [model if item.owner == HookedMultimodal.__name__ else None] if is_method else []
    try:
        item.function(*first, no_such_argument=1)
    except InputError as error:
        return "'no_such_argument'" in str(error)
    except TypeError:
        return False
    return False


def signature(item: Public, model: HookedMultimodal) -> str:
    """A callable as its users write it, with defaults and without annotations."""
    found = inspect.signature(item.function)
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    text = f"{item.name}{found.replace(parameters=bare, return_annotation=found.empty)}"
    return "@" * is_checked(item, model) + re.sub(r"<function ([\w.<>]+) at 0x\w+>", r"\1", text)


def signatures(model: HookedMultimodal) -> list[str]:
    """All of them, in the order of their names."""
    return sorted((signature(item, model) for item in public()), key=lambda line: line.removeprefix("@"))


def test_what_users_know_of_every_callable_holds(llava: Subject) -> None:
    known, found = PAGE.read_text(encoding="utf-8").splitlines(), signatures(llava.model)
    changed = [line for line in known if line not in found]
    names = {line.removeprefix("@").partition("(")[0] for line in changed}
    now = [line for line in found if line.removeprefix("@").partition("(")[0] in names]
    assert not changed, "\n".join(["was:", *changed, "is:", *now, "see the docstring of this file"])


def test_nearly_all_look_at_their_arguments() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    takes = [line for line in lines if not re.search(r"\((self|cls)?\)$", line) and "**" not in line]
    assert sum(line.startswith("@") for line in takes) >= 0.9 * len(takes)


if __name__ == "__main__":
    PAGE.write_text("\n".join(signatures(tiny_llava())) + "\n", encoding="utf-8")
