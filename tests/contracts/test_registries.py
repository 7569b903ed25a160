"""Contract: every method of every registry says what it is, and the page of methods is what the registries hold."""

import inspect
import pkgutil
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import mmlens
from mmlens.analysis.method_table import REGISTRIES, method_tables
from mmlens.core.registry import Method, Registry

METHODS = [(registry, cls) for registry in REGISTRIES for cls in registry]
every_method = pytest.mark.parametrize(("registry", "cls"), METHODS, ids=lambda x: getattr(x, "name", ""))


@every_method
def test_the_docstring_says_what_it_is_and_what_its_settings_are(registry: Registry[Any], cls: type[Method]) -> None:
    text = inspect.cleandoc(cls.__doc__ or "")
    first = text.split("\n\n")[0].replace("\n", " ")
    assert first.endswith(".")
    assert not first.startswith(cls.__name__ + "(")  # the docstring that dataclasses make up
    for setting in fields(cls):
        assert f"    {setting.name}" in text.partition("Attributes:")[2] or f", {setting.name}" in text, setting.name


@every_method
def test_the_name_gives_the_defaults(registry: Registry[Any], cls: type[Method]) -> None:
    assert registry[cls.name] is cls
    if all(setting.default is not MISSING for setting in fields(cls)):
        assert registry.get(cls.name) == cls()
        assert str(cls()) == cls.name
        assert hash(cls()) == hash(cls())


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.task)
def test_every_file_of_a_package_of_methods_holds_one(registry: Registry[Any]) -> None:
    package = next(iter(registry)).__module__.rpartition(".")[0]
    files = {f"{package}.{found.name}" for found in pkgutil.iter_modules(sys.modules[package].__path__)}
    assert {cls.__module__ for cls in registry} == files
    assert len(registry) > 1


def test_the_page_of_methods_is_what_the_registries_hold() -> None:
    page = Path(mmlens.__file__).parents[1] / "docs" / "methods.md"
    assert page.read_text(encoding="utf-8") == method_tables(), "run `mmlens methods > docs/methods.md`"
