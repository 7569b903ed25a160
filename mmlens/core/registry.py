"""Registries: the methods of a task by name, each a settings class in a file of its own.

A task (scoring neurons, finding concepts) has one registry and one package of methods. A method is a frozen dataclass whose
fields are its settings, and importing the package registers all of its modules, so that a new method is a new file:

    @NEURON_METHODS.register("contribution")
    @dataclass(frozen=True)
    class Contribution(NeuronMethod):
        \"\"\"First line: what it is. Then the formula, the source, the limits.\"\"\"

        activation: ActivationPoint = "down_in"

Verbs take `method="contribution"`, which is short for `Contribution()`, or the settings themselves.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar, Generic, TypeVar, cast

from mmlens.core.contract import checked
from mmlens.core.errors import InputError, UnknownNameError
from mmlens.core.kinds import With
from mmlens.core.wording import nearest_words


@dataclass(frozen=True)
class Method:
    """One way of doing a task, with its settings: the base of the classes in a registry."""

    #: What verbs call it; `Registry.register` sets it.
    name: ClassVar[str]
    #: What it cannot do without, in the words of its task; verbs check these before any forward pass.
    needs: ClassVar[frozenset[str]] = frozenset()

    def __str__(self) -> str:
        """The name, with the settings that are not the default ones."""
        values = [(setting.name, getattr(self, setting.name), setting.default) for setting in _settings(self)]
        text = ", ".join(
            f"{name}={value!r}" for name, value, default in values if default is MISSING or value != default
        )
        return f"{self.name}({text})" if text else self.name

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name, but those that change nothing of what comes out (`compare=False`: a device)."""
        return {setting.name: getattr(self, setting.name) for setting in _settings(self)}


def _settings(method: Method) -> "list[Field[Any]]":
    return [setting for setting in fields(method) if setting.compare]


M = TypeVar("M", bound=Method)
C = TypeVar("C", bound=Method)


class Registry(Generic[M]):
    """The methods of a task by name, in the order of their registration.

    Args:
        task: what the methods are for, in words ("scoring neurons").
        base: the class that they derive from.
        verb: what takes them ("mm.find_neurons").
        argument: what verbs call the choice, for messages.
    """

    def __init__(self, task: str, base: type[M], *, verb: str, argument: str = "method"):
        self.task, self.base, self.verb, self.argument = task, base, verb, argument
        self._classes: dict[str, type[M]] = {}

    def __repr__(self) -> str:
        return f"Registry({self.task}: {', '.join(self._classes)})"

    def __len__(self) -> int:
        return len(self._classes)

    def __iter__(self) -> Iterator[type[M]]:
        return iter(self._classes.values())

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __getitem__(self, name: str) -> type[M]:
        if name not in self._classes:
            raise UnknownNameError(
                f"{self.argument}={name!r} is unknown; for {self.task} there are {_quoted(self._classes)}"
                f"{nearest_words(name, self.names)}."
            )
        return self._classes[name]

    @property
    def names(self) -> tuple[str, ...]:
        """What verbs call the methods."""
        return tuple(self._classes)

    def needing(self, need: str) -> list[str]:
        """The methods that need something, for messages."""
        return [name for name, method in self._classes.items() if need in method.needs]

    def without(self, need: str) -> list[str]:
        """The methods that can do without something, for messages."""
        return [name for name, method in self._classes.items() if need not in method.needs]

    def register(self, name: str) -> Callable[[type[C]], type[C]]:
        """Register a settings class under a name, and check its settings by their annotations; a decorator.

        Args:
            name: what verbs call it.

        Raises:
            InputError: if the name is taken, or the class is no frozen dataclass of this registry's base.
        """

        def enter(cls: type[C]) -> type[C]:
            self._require_entry(name, cls)
            cls.name = name
            self._classes[name] = cast("type[M]", cls)
            return checked(cls, always=True)

        return enter

    def _require_entry(self, name: str, cls: type) -> None:
        parameters = vars(cls).get("__dataclass_params__")
        if not issubclass(cls, self.base) or parameters is None or not parameters.frozen:
            raise InputError(f"{cls.__name__} must be a frozen dataclass derived from {self.base.__name__}.")
        other = self._classes.get(name)
        # a notebook's cell may run again
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise InputError(
                f"{name!r} is the name of {other.__module__}.{other.__qualname__} already; choose another."
            )

    @property
    def condition(self) -> With:
        """What makes a method of an argument, for annotations: `Annotated[str | M, Accepts(Any), REGISTRY.condition]`."""
        return With(lambda arguments, value, name: self.get(value))

    def remove(self, name: str) -> None:
        """Take a method out again."""
        del self._classes[self[name].name]

    def get(self, method: str | M) -> M:
        """The method of a name, with its default settings; a method itself passes.

        Raises:
            UnknownNameError: for an unknown name; says the nearest.
            InputError: for anything else, for methods of another task, and for a name whose method has settings without defaults.
        """
        if isinstance(method, str):
            cls = self[method]
            required = [setting.name for setting in fields(cls) if setting.default is MISSING]
            if required:
                raise InputError(
                    f"{self.argument}={method!r} does not work without settings; pass "
                    f"{self.argument}={cls.__name__}({', '.join(f'{name}=...' for name in required)})."
                )
            return cls()
        if isinstance(method, self.base) and type(method) in self._classes.values():
            return method
        hint = " It is a class; call it to make settings of it." if inspect.isclass(method) else ""
        raise InputError(
            f"{self.argument}={method!r} must be one of {_quoted(self._classes)}, or settings: "
            f"{', '.join(f'{cls.__name__}(...)' for cls in self)}.{hint}"
        )

    def get_all(self, methods: str | M | Iterable[str | M]) -> tuple[M, ...]:
        """One method or several; see `get`."""
        names = [methods] if isinstance(methods, str | Method) else methods
        return tuple(self.get(name) for name in names)

    def discover(self, package: str, path: list[str]) -> None:
        """Import every module of a package, so that the methods in them are registered."""
        for module in sorted(entry.name for entry in pkgutil.iter_modules(path)):
            importlib.import_module(f"{package}.{module}")

    def by_class_name(self, class_name: str) -> type[M]:
        """The settings class of a name, for packages that export all of theirs.

        Raises:
            AttributeError: if there is none.
        """
        for cls in self:
            if cls.__name__ == class_name:
                return cls
        raise AttributeError(f"There is no {class_name!r}; there are {', '.join(cls.__name__ for cls in self)}.")


def by_class_name_in(*registries: Registry[Any]) -> Callable[[str], type[Method]]:
    """The `__getattr__` of a module that exports the settings classes of several registries, those registered since too."""

    def settings_class(class_name: str) -> type[Method]:
        *others, last = registries
        holders = (registry for registry in others if any(cls.__name__ == class_name for cls in registry))
        return next(holders, last).by_class_name(class_name)

    return settings_class


def _quoted(names: dict[str, Any]) -> str:
    return ", ".join(map(repr, names))
