"""Judges of values made of parts: collections, tuples, mappings, alternatives, and types with conditions.

beartype looks at one random item of a collection; these look at all, and say which are wrong.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from mmlens.core.judges import REFUSED, Anything, Array, Choice, Judge, Nothing, Whole
from mmlens.core.kinds import Must
from mmlens.core.wording import is_array, nearest_words, short


class Items(Judge):
    """Accepts collections whose every item is accepted; a string is no collection of strings.

    Args:
        container: the class of the collection.
        item: judges its items.
    """

    def __init__(self, container: type, item: Judge):
        self.container, self.item = container, item
        names: dict[Any, str] = {tuple: "tuple", set: "set", frozenset: "set", Iterable: "list (or iterable)"}
        self.words = f"a {names.get(container, 'list')}" + (
            "" if isinstance(item, Anything) else f" whose items are each {item.words}"
        )

    def holds(self, value: Any) -> bool:
        """Whether it is a collection of the right class, or a list for a tuple and a tuple for a list."""
        kinds = list | tuple if self.container in (list, tuple) else self.container
        return isinstance(value, kinds) and not isinstance(value, str | bytes | Mapping) and not is_array(value)

    def accepts(self, value: Any) -> bool:
        """Whether all items are accepted; what can be read only once is not looked into."""
        if not self.holds(value) or not isinstance(value, self.container):
            return False
        return not isinstance(value, Sequence | AbstractSet) or all(map(self.item.accepts, value))

    def convert(self, value: Any) -> Any:
        """A list of converted items, also of a one-dimensional array."""
        if is_array(value) and value.ndim == 1 and self.container is not tuple:
            values = value.tolist()
            return values if self.accepts(values) else REFUSED
        if not self.holds(value) or not isinstance(value, Sequence | AbstractSet):
            return REFUSED
        items = [item if self.item.accepts(item) else self.item.convert(item) for item in value]
        if any(item is REFUSED for item in items):
            return REFUSED
        if isinstance(value, AbstractSet):
            return set(items)
        return items if self.container is list else tuple(items)

    def problem(self, name: str, value: Any) -> str:
        """Names the items that are wrong."""
        if not self.holds(value) or not isinstance(value, Sequence | AbstractSet):
            return super().problem(name, value)
        wrong = [
            (number, item)
            for number, item in enumerate(value)
            if not self.item.accepts(item) and self.item.convert(item) is REFUSED
        ]
        problems = [self.item.problem(f"{name}[{number}]", item) for number, item in wrong[:3]]
        return "; ".join(problems) + (f"; and {len(wrong) - 3} more like these" if len(wrong) > 3 else "")


class Fields(Judge):
    """Accepts tuples, and lists, of a fixed number of items.

    Args:
        items: a judge for each.
    """

    def __init__(self, items: Sequence[Judge]):
        self.items = items
        words = [item.words for item in items]
        self.words = (
            f"{len(words)} items, each {words[0]}" if len(set(words)) == 1 < len(words) else f"({', '.join(words)})"
        )

    def accepts(self, value: Any) -> bool:
        """Whether it is a tuple of that length whose items are accepted."""
        if not isinstance(value, tuple) or len(value) != len(self.items):
            return False
        return all(judge.accepts(item) for judge, item in zip(self.items, value))

    def convert(self, value: Any) -> Any:
        """A tuple of converted items, also of a list or a one-dimensional array."""
        if is_array(value):
            value = value.tolist() if value.ndim == 1 else None
        if not isinstance(value, list | tuple) or len(value) != len(self.items):
            return REFUSED
        fields_out = tuple(
            item if judge.accepts(item) else judge.convert(item) for judge, item in zip(self.items, value)
        )
        return REFUSED if any(item is REFUSED for item in fields_out) else fields_out

    def problem(self, name: str, value: Any) -> str:
        """Names the items that are wrong, where there are as many as there should be."""
        if not isinstance(value, list | tuple) or len(value) != len(self.items):
            return super().problem(name, value)
        wrong = [
            judge.problem(f"{name}[{number}]", item)
            for number, (judge, item) in enumerate(zip(self.items, value))
            if not judge.accepts(item) and judge.convert(item) is REFUSED
        ]
        return "; ".join(wrong)


class Table(Judge):
    """Accepts mappings whose keys and values are all accepted.

    Args:
        key: judges keys.
        item: judges values.
    """

    def __init__(self, key: Judge, item: Judge):
        self.key, self.item = key, item
        self.words = f"a mapping from {key.words} to {item.words}"
        if isinstance(key, Anything) and isinstance(item, Anything):
            self.words = "a mapping"

    def accepts(self, value: Any) -> bool:
        """Whether it is a mapping of accepted pairs; one whose values are all accepted anyway is not read."""
        if not isinstance(value, Mapping):
            return False
        if not all(map(self.key.accepts, value)):
            return False
        return isinstance(self.item, Anything) or all(map(self.item.accepts, value.values()))

    def convert(self, value: Any) -> Any:
        """A dictionary of converted values."""
        if not isinstance(value, Mapping) or not all(map(self.key.accepts, value)):
            return REFUSED
        table = {key: item if self.item.accepts(item) else self.item.convert(item) for key, item in value.items()}
        return REFUSED if any(item is REFUSED for item in table.values()) else table

    def problem(self, name: str, value: Any) -> str:
        """Names the pairs that are wrong."""
        if not isinstance(value, Mapping):
            return super().problem(name, value)
        wrong = [self.key.problem(f"a key of {name}", key) for key in value if not self.key.accepts(key)]
        wrong += [
            self.item.problem(f"{name}[{key!r}]", item)
            for key, item in value.items()
            if not self.item.accepts(item) and self.item.convert(item) is REFUSED
        ]
        return "; ".join(wrong[:3])


class Either(Judge):
    """Accepts what one of several judges accepts.

    Args:
        judges: in the order of the annotation.
    """

    def __init__(self, judges: Sequence[Judge]):
        self.judges = judges
        words = list(dict.fromkeys(judge.words for judge in judges))
        if any(";" in word for word in words):  # advice, behind which "or None" would not be understood
            words = [word for word in words if word != Nothing.words]
        self.words = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"

    def accepts(self, value: Any) -> bool:
        """Whether one of them accepts it."""
        return any(judge.accepts(value) for judge in self.judges)

    def convert(self, value: Any) -> Any:
        """What the first that can convert it makes of it."""
        for judge in self.judges:
            result = judge.convert(value)
            if result is not REFUSED:
                return result
        return REFUSED

    def problem(self, name: str, value: Any) -> str:
        """What the one says that the value comes nearest to."""
        if isinstance(value, str):
            words = [word for judge in self.judges if isinstance(judge, Choice) for word in judge.known]
            return super().problem(name, value) + nearest_words(
                value, [word for word in words if isinstance(word, str)]
            )
        near = self._nearest(value)
        return super().problem(name, value) if near is None else near.problem(name, value)

    def _nearest(self, value: Any) -> Judge | None:
        for judge in self.judges:
            plain = judge.inner if isinstance(judge, Constrained) else judge
            parts = isinstance(plain, Items) and plain.holds(value) and isinstance(value, Sequence) and len(value) > 0
            shape = isinstance(plain, Array) and isinstance(value, plain.hint)
            condition = isinstance(judge, Constrained) and plain.accepts(value)
            if parts or shape or condition or (isinstance(plain, Table) and isinstance(value, Mapping)):
                return judge
        return None


class Constrained(Judge):
    """Accepts what another accepts and conditions let pass.

    Args:
        inner: the judge of the type.
        conditions: what else must hold.
    """

    def __init__(self, inner: Judge, conditions: Sequence[Must]):
        self.inner, self.conditions = inner, conditions
        self.words = ", ".join([inner.words, *(condition.words for condition in conditions)])
        if conditions[-1].instead:
            self.words = conditions[-1].words

    def accepts(self, value: Any) -> bool:
        """Whether type and conditions are right."""
        return self.inner.accepts(value) and all(condition.test(value) for condition in self.conditions)

    def convert(self, value: Any) -> Any:
        """What the inner judge makes of it, if the conditions let it pass."""
        result = self.inner.convert(value)
        if result is REFUSED or not all(condition.test(result) for condition in self.conditions):
            return REFUSED
        return result

    def problem(self, name: str, value: Any) -> str:
        """Of the type if that is wrong, else what must hold."""
        if self.conditions[-1].instead:
            return super().problem(name, value)
        if self.inner.accepts(value) or self.inner.convert(value) is not REFUSED:
            return f"{name}={short(value)} must be {', '.join(condition.words for condition in self.conditions)}"
        return super().problem(name, value) if isinstance(self.inner, Whole) else self.inner.problem(name, value)
