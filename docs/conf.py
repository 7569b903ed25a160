"""The site of the documentation: `sphinx-build -W docs build/docs`, offline."""

import importlib
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(ROOT))

import mmlens as mm

project = "mmlens"
release = version = mm.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docs.executed"]
exclude_patterns = ["**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = "mmlens"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_copyright = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_ipywidgets_js = {}  # it would come from the network; progress bars are not shown
nb_execution_excludepatterns = ["notebooks/course/*"]  # exercises without an answer

default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_custom_sections = ["Source", "Departs", "Limits"]

#: The modules by task; those that are named nowhere come last.
TASKS = {
    "Models, inputs, positions, studies": ["model", "positions", "families", "data", "corrupt", "lab", "recipes"],
    "Runs and where answers come from": ["patching", "metrics", "circuits", "lenses", "decoding", "store"],
    "Units, features, concepts": ["neurons", "controls", "properties", "features", "concepts"],
    "Changes": ["edits", "steering", "tuning"],
    "Scores, pictures, errors": ["mitigation", "scorers", "viz", "errors"],
}
_MODEL = """# `mm`: the model, its inputs, what acts on it

What is used in every session stands in `mmlens` itself: these, and the most used names of the other modules.

```{eval-rst}
%s
```
"""
_MODULE = """# `mm.%s`

```{eval-rst}
.. automodule:: mmlens.%s
%s
```
"""
#: The classes whose members are described with each result that inherits them: `view`, `plot`, `save`, `load`.
_OF_RESULTS = {"Viewable", "Display", "Saved"}


def _described(module: str, things: Mapping[str, object]) -> str:
    """The directives for some names of a module: classes with what results inherit, all else without."""
    classes = {name: thing for name, thing in things.items() if isinstance(thing, type)}
    others = ", ".join(name for name in things if name not in classes)
    blocks = [f"   :members: {others}\n   :imported-members:\n"] if others else [""]
    for name, thing in classes.items():
        bases = {base.__name__ for base in thing.__mro__[1:]} - _OF_RESULTS
        blocks.append(
            f".. autoclass:: {module}.{name}\n   :members:\n   :inherited-members: {', '.join(sorted(bases))}\n"
        )
    return "\n".join(blocks)


def write_api() -> None:
    """A page for each public module, and one for what stands at the top alone, in `docs/api/`."""
    modules = sorted(name for name in mm.__all__ if isinstance(getattr(mm, name), ModuleType))
    tasks = {**TASKS, "More": sorted(set(modules) - {name for names in TASKS.values() for name in names})}
    texts, described = {}, set(modules)
    for module in (name for names in tasks.values() for name in names if name != "model"):
        facade = importlib.import_module(f"mmlens.{module}")
        names = facade.__all__
        own = [name for name in names if name not in described]  # what several modules have is described in the first
        described.update(names)
        texts[module] = _MODULE % (module, module, _described(f"mmlens.{module}", {n: getattr(facade, n) for n in own}))
    top = {name: getattr(mm, name) for name in mm.__all__ if name not in described}
    texts["model"] = _MODEL % "\n".join(
        _described("mmlens", {name: thing}).lstrip()
        if isinstance(thing, type)
        else f".. autofunction:: mmlens.{name}\n"
        for name, thing in top.items()
    )
    lines = ["# API by task", "", "One page a module, made of the docstrings. `help(mm.patch)` says the same."]
    for task, names in tasks.items():
        if names:
            lines += ["", f"## {task}", "", "```{toctree}", ":maxdepth: 1", "", *names, "```"]
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    for name, text in {**texts, "index": "\n".join(lines) + "\n"}.items():
        page = folder / f"{name}.md"
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def copy_notebooks() -> None:
    """The notebooks, in `docs/notebooks/`; those of the course, which `course.md` lists, are read but not executed."""
    folder = DOCS / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".*", "*.py", "__pycache__"))
    for path in folder.rglob("*.ipynb"):  # links to these pages
        path.write_text(path.read_text(encoding="utf-8").replace("../docs/", "../"), encoding="utf-8")
    names = "\n".join(sorted(path.stem for path in folder.glob("*.ipynb")))
    text = f"# Notebooks\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"
    (folder / "index.md").write_text(text, encoding="utf-8")


def list_the_rest(app: Any, name: str, source: list[str]) -> None:
    """Put pages that no table of contents names under the heading that they are of, so that new ones are found."""
    if name == "index":
        named = set(re.findall(r"^[\w/]+$", source[0], flags=re.MULTILINE))
        rest = sorted(path.stem for path in DOCS.glob("*.md") if path.stem not in {*named, "index"})
        source[0] = source[0].replace("THE_REST", "\n".join(rest))


def bars(app: Any, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Bars of formulas are no substitutions, and of two names of a field the first is no type of the second."""
    lines[:] = [
        re.sub(r"^:(ivar|param) [\w, *\\]+:", lambda names: names[0].replace(", ", ","), line) for line in lines
    ]
    lines[:] = [
        "".join(part if n % 2 else part.replace("|", "\\|") for n, part in enumerate(re.split(r"(`[^`]*`)", line)))
        for line in lines
    ]


def setup(app: Any) -> None:
    """As an extension of Sphinx."""
    app.connect("autodoc-process-docstring", bars)
    write_api()
    copy_notebooks()
    app.connect("source-read", list_the_rest)
