"""Contract: what every public callable takes, in which order and with which defaults, and that it takes nothing else.

`signatures.txt` is what users rely on: a default that moves, a parameter that may no longer be given by place, are changes of
the interface and belong into the changelog. `python -m tests.contracts.test_signatures` writes it anew, with what is new.
"""

import inspect
import re
from pathlib import Path

from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject
from tests.contracts.door.calls import Public, public

PAGE = Path(__file__).with_name("signatures.txt")
#: Units, which say by themselves what is wrong with them; what verbs make; what hands all it gets on to what looks at it.
OTHERS = {
    *("Head", "Neuron", "Feature", "Units", "Head.parse", "Match", "CaptionNeurons", "CaptionNeurons.top"),
    *("CaptionNeurons.to_frame", "HookedMultimodal.hook_name_of", "HookedMultimodal.intervene"),
    *("Circuit.view", "Drawing.save"),
}
#: Methods of interventions that the run asks, beside `INTERNAL`.
ASKED = (".require", ".predict")


def signature(item: Public) -> str:
    """A callable as its users write it, with defaults and without annotations."""
    found = inspect.signature(item.function)
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    text = f"{item.name}{found.replace(parameters=bare, return_annotation=found.empty)}"
    return re.sub(r"<function (\w+) at 0x\w+>", r"\1", text)


def signatures() -> list[str]:
    """All of them, in the order of their names."""
    return sorted(signature(item) for item in public())


def test_parameters_and_defaults_are_those_that_users_know() -> None:
    known = PAGE.read_text(encoding="utf-8").splitlines()
    found = signatures()
    changed = [line for line in known if line not in found]
    now = [
        line
        for line in found
        for name in (line.partition("(")[0],)
        if any(old.startswith(f"{name}(") for old in changed)
    ]
    assert not changed, "\n".join(["was:", *changed, "is:", *now, "see the docstring of this file"])


def test_an_argument_that_does_not_exist_is_refused_by_name(llava: Subject) -> None:
    """Whatever else is missing: only what looks at its arguments can say so."""
    silent = []
    for item in public():
        everything = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(item.function).parameters.values())
        if everything or not item.parameters or item.name in OTHERS or item.name.endswith(("Method", *ASKED)):
            continue
        is_method = item.owner is not None and not inspect.ismethod(item.function)
        first = [llava.model if item.owner == HookedMultimodal.__name__ else None] if is_method else []
        try:
            item.function(*first, no_such_argument=1)
        except InputError as error:
            if "'no_such_argument'" in str(error):
                continue
            silent.append(f"{item.name}: {error}")
        except TypeError as error:
            silent.append(f"{item.name}: {error}")
    assert not silent, "\n".join(silent)


if __name__ == "__main__":
    PAGE.write_text("\n".join(signatures()) + "\n", encoding="utf-8")
