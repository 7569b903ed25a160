"""Contract: what is public, what it costs to import, and which way imports go."""

import ast
import importlib
import inspect
import pydoc
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import mmlens
from tests.conftest import Subject

PACKAGE = Path(mmlens.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
#: The layers, lowest first; a folder imports from those before it and from itself.
LAYERS = [
    *("core", "hooks", "declarations", "inputs", "architectures", "discover", "models", "execution"),
    *("interventions", "analysis", "viz", "lab", "recipes", "cli"),
]
#: The layers that speak to transformers.
ON_TRANSFORMERS = ("inputs", "architectures", "discover", "models", "lab")
#: Programs: they print.
MAINS = {
    "cli.py",
    "__main__.py",
    "lab/training/narrator/__main__.py",
    "lab/phenomena/__main__.py",
    "lab/training/train.py",
    "lab/training/evaluate.py",
}

#: What is used in every session; everything else stands in the modules.
PUBLIC = [
    "Ablate",
    "Add",
    "attention_map",
    "attribute",
    "attribution_graph",
    "circuits",
    "Clamp",
    "collect",
    "concept_shift",
    "concepts",
    "controls",
    "corrupt",
    "data",
    "decoding",
    "edits",
    "errors",
    "families",
    "features",
    "extract_concepts",
    "find_circuit",
    "find_features",
    "find_neurons",
    "finetune",
    "Head",
    "HookedMultimodal",
    "InputError",
    "knock_out",
    "KnockOut",
    "lab",
    "lenses",
    "load_sae",
    "logit_lens",
    "metrics",
    "mitigation",
    "mitigation_report",
    "MMLensError",
    "MultimodalBatch",
    "Neuron",
    "neurons",
    "Noise",
    "patch",
    "patching",
    "positions",
    "ProjectOut",
    "properties",
    "random_units",
    "recipes",
    "register_family",
    "rank_heads",
    "Replace",
    "Sample",
    "Scale",
    "scorers",
    "Steer",
    "steering",
    "steering_vector",
    "store",
    "tuning",
    "train_sae",
    "Units",
    "verify",
    "viz",
]
#: Rules are made by the functions of `mm.positions` alone; `mm.lab` is imported without torch, which planted models need.
NAMED_BY_THEIR_MAKERS = {
    "EditQuestions",
    "Grade",
    "Grid",
    "Index",
    "Planted",
    "Region",
    "Row",
    "UnknownModel",
    "View",
    "Word",
}
MODULES = [name for name in PUBLIC if name.islower() and isinstance(getattr(mmlens, name), ModuleType)]


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def layer_of(dotted: str) -> str | None:
    """The layer of a module of the package: `mmlens.hooks.point` is in `hooks`; None for `mmlens` itself."""
    pieces = dotted.split(".")
    return pieces[1] if len(pieces) > 1 and pieces[0] == "mmlens" else None


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Modules that are imported anywhere in a file, also those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            if node.module == "mmlens":
                yield from ((f"mmlens.{alias.name}", node.lineno) for alias in node.names)
        else:
            yield from imports(node)


def test_the_public_names() -> None:
    assert sorted(mmlens.__all__) == sorted(PUBLIC)
    assert dir(mmlens) == sorted(PUBLIC)
    assert len(PUBLIC) <= 62
    with pytest.raises(AttributeError, match="hooked_model"):
        mmlens.hooked_model  # noqa: B018


def test_help_is_a_page_that_has_every_name() -> None:
    text = pydoc.plain(pydoc.render_doc(mmlens))
    assert len(text.splitlines()) < 100
    assert {name for name in PUBLIC if not re.search(rf"\b{name}\b", mmlens.__doc__ or "")} == set()
    names: dict[str, object] = {}
    exec("from mmlens import *", names)
    assert set(PUBLIC) <= set(names)


@pytest.mark.parametrize("name", MODULES)
def test_the_names_of_a_public_module(name: str) -> None:
    module = importlib.import_module(f"mmlens.{name}")
    assert module is getattr(mmlens, name)
    assert module.__doc__
    assert all(hasattr(module, public) for public in module.__all__)
    others = {name for name in dir(module) if not name.startswith("_")} - {*module.__all__}
    assert not others, "what is imported here and not public shows itself to whoever presses the tab key"


def test_no_two_public_names_differ_by_case_alone() -> None:
    names = {*PUBLIC, *(public for name in MODULES for public in getattr(mmlens, name).__all__)}
    folded = Counter(name.lower() for name in names)
    alike = {name for name, count in folded.items() if count > 1}
    assert alike <= {"noise", "scene"}  # mm.corrupt.noise beside mm.Noise; mm.lab.scene gives a mm.lab.Scene


def test_what_a_public_function_returns_is_public() -> None:
    modules = [mmlens, *(getattr(mmlens, name) for name in MODULES)]
    public = {name: getattr(module, name) for module in modules for name in module.__all__}
    classes = {
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    missing = []
    for name, function in public.items():
        if inspect.isfunction(function):
            annotation = inspect.signature(function).return_annotation
            returned = inspect.formatannotation(getattr(annotation, "annotation", annotation))
            hidden = set(re.findall(r"\b[A-Z]\w+", returned)) & classes - set(public) - NAMED_BY_THEIR_MAKERS
            missing += [f"{name} returns {cls}" for cls in sorted(hidden)]
    assert not missing


def test_hook_names(subject: Subject) -> None:
    expected = (Path(__file__).parent / "hook_names" / f"{subject.name}.txt").read_text(encoding="utf-8").split()
    assert subject.model.graph.names == expected
    assert list(subject.model.hook_dict) == expected
    assert list(subject.model.mod_dict) == expected


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, mmlens; print(sorted({'torch', 'transformers', 'transformer_lens', "
        "'numpy', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    pieces = path.relative_to(PACKAGE).with_suffix("").parts
    own = pieces[0]
    if own not in LAYERS:
        return  # mmlens/__init__.py and __main__.py stand above all
    wrong = []
    for module, line in imports(ast.parse(path.read_text(encoding="utf-8"))):
        other = layer_of(module)
        if other in LAYERS and LAYERS.index(other) > LAYERS.index(own):
            wrong.append(f"line {line}: {own} imports {module}")
        if own == "lab" and other == "cli":
            wrong.append(f"line {line}: lab imports the command line")
        if module.split(".")[0] == "transformers" and own not in ON_TRANSFORMERS:
            wrong.append(f"line {line}: {own} imports transformers; only {', '.join(ON_TRANSFORMERS)} may")
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_package_neither_prints_nor_asserts_nor_swallows(path: Path) -> None:
    wrong = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assert):
            wrong.append(f"line {node.lineno}: assert")
        if isinstance(node, ast.ExceptHandler):
            names = (
                [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)] if node.type is not None else ["nothing"]
            )
            if {"nothing", "Exception", "BaseException"} & set(names):
                wrong.append(f"line {node.lineno}: broad except")
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if is_print and name_of(path) not in MAINS:
            wrong.append(f"line {node.lineno}: print")
    assert not wrong


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p).split("/")[0] in LAYERS[:7]], ids=name_of)
def test_public_functions_say_what_they_do(path: Path) -> None:
    """Docstrings on every module, public class, function and method; annotations on every parameter and return."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = [] if ast.get_docstring(tree) else ["the module has no docstring"]
    scopes: list[tuple[ast.AST, bool]] = [(tree, False)]
    while scopes:
        scope, in_class = scopes.pop()
        for node in ast.iter_child_nodes(scope):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                scopes.append((node, True))
                if not ast.get_docstring(node):
                    wrong.append(f"line {node.lineno}: class {node.name} has no docstring")
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    wrong.append(f"line {node.lineno}: {node.name} has no docstring")
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs][int(in_class) :]
                static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
                bare = [a.arg for a in arguments if a.annotation is None and not static]
                if bare or node.returns is None:
                    wrong.append(f"line {node.lineno}: {node.name} lacks annotations: {bare or 'return'}")
    assert not wrong


def test_no_other_folder_knows_a_family() -> None:
    """Families are declared in `architectures/families` (and the lab makes one model); nothing else names one."""
    names = ("llava", "qwen", "instructblip", "clip", "siglip")
    wrong = []
    for path in FILES:
        place = name_of(path)
        if place.startswith(("architectures/families/", "lab/")):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {
            id(n.body[0].value)
            for n in ast.walk(tree)
            if hasattr(n, "body") and isinstance(n.body, list) and n.body and isinstance(n.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                wrong += [
                    f"{place}:{node.lineno} {node.value!r}" for name in names if name in node.value.lower().split("_")
                ]
    assert not wrong
