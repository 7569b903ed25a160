"""Mutation runs: what a fault is put into, what counts, what is shown."""

import textwrap
from types import FunctionType

from benchmarks.mutation.functions import key_of, spans, statements_around
from benchmarks.mutation.parts import PATTERNS, ROOT, files_of
from benchmarks.mutation.swap import changed_functions, swap

SOURCE = textwrap.dedent("""
    LIMIT = 3


    class Kind:
        width: int = 4

        @property
        def area(self):
            return (
                self.width * LIMIT
            )


    def outer(x):
        def inner(y):
            return x + y

        return inner(1)
""")


def test_lines_are_counted_in_their_function() -> None:
    functions = spans(SOURCE)
    assert [span.name for span in functions] == ["Kind.area", "outer", "outer.inner"]
    line = 1 + SOURCE.splitlines().index("            self.width * LIMIT")
    assert key_of(line, functions) == ("Kind.area", 3)
    assert statements_around(SOURCE, line)[0] == (line - 1, line + 1)
    assert key_of(2, functions) == ("", 2)


def test_code_is_replaced_wherever_a_function_is_and_what_runs_at_import_is_not() -> None:
    def changed(old: str, new: str) -> list[str] | None:
        found = changed_functions("some.py", SOURCE, SOURCE.replace(old, new))
        return None if found is None else [key[1].rpartition(".")[2] for key, _ in found]

    assert changed("self.width *", "self.width +") == ["area"]
    assert changed("x + y", "x - y") == ["outer"]
    assert changed("width: int = 4", "width: int = 5") is None
    assert changed("LIMIT = 3", "LIMIT = 4") is None
    assert changed("    @property\n", "") is None
    assert changed("", "") == []
    names: dict[str, FunctionType] = {}
    exec(compile(SOURCE, str(ROOT / "some.py"), "exec"), names)
    fault = changed_functions("some.py", SOURCE, SOURCE.replace("x + y", "x - y"))
    assert fault is not None
    code = names["outer"].__code__
    key = (code.co_filename, getattr(code, "co_qualname", code.co_name), code.co_firstlineno)
    assert not swap(fault, {})
    assert names["outer"](5) == 6
    assert swap(fault, {key: [names["outer"]]})
    assert names["outer"](5) == 4


def test_every_part_has_files() -> None:
    for part in PATTERNS:
        assert all((ROOT / file).is_file() for file in files_of(part))
        assert files_of(part)
