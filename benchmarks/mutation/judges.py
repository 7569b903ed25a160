"""The tests that judge a line: those that were seen to run it, measured once by coverage with a context for every test."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import coverage
import pytest

from benchmarks.mutation.functions import key_of, spans, statements_around
from benchmarks.mutation.parts import PATTERNS, ROOT, files_of

#: Tests of what runs at import, which run no line themselves.
AT_IMPORT = (
    *("tests/test_values.py", "tests/contracts/test_signatures.py", "tests/contracts/test_registries.py"),
    "tests/core/test_file_versions.py",
)
#: Variants of one parametrised test that are kept for a line, the fastest ones.
VARIANTS = 8


@dataclass
class JudgeMap:
    """What runs which line.

    Attributes:
        seconds: how long each test takes, by its id.
        tests: ids of tests by file, function and line in the function (`hooks/cache.py`, `f+3`).
    """

    seconds: dict[str, float] = field(default_factory=dict)
    tests: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "JudgeMap":
        """A map from its file; empty if there is none."""
        return cls(**json.loads(path.read_text("utf-8"))) if path.exists() else cls()

    def save(self, path: Path) -> None:
        """Write the map to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"seconds": self.seconds, "tests": self.tests}), "utf-8")
        new.replace(path)  # others read it while more is measured

    def measure(self, paths: list[str]) -> int:
        """Run tests under coverage, and put what they run in the place of what was known of them; the exit code."""
        files = [file for part in PATTERNS for file in files_of(part)]
        recorder = _Recorder(coverage.Coverage(data_file=None, include=[str(ROOT / file) for file in files]))
        recorder.coverage.start()
        code = pytest.main(
            ["-n", "0", "-q", "-p", "no:cacheprovider", "-o", "addopts=--doctest-modules", *paths], [recorder]
        )
        recorder.coverage.stop()
        for test in recorder.failed:
            recorder.seconds.pop(test, None)
        stale = {
            test for test in self.seconds if test.split("::")[0] in {new.split("::")[0] for new in recorder.seconds}
        }
        self.seconds = {test: value for test, value in self.seconds.items() if test not in stale} | recorder.seconds
        data = recorder.coverage.get_data()
        for file in files:
            functions = spans((ROOT / file).read_text("utf-8"))
            lines = self.tests.setdefault(file, {})
            for key, tests in lines.items():
                lines[key] = [test for test in tests if test not in stale]
            for line, contexts in data.contexts_by_lineno(str(ROOT / file)).items():
                name, offset = key_of(line, functions)
                users = [test for context in contexts for test in recorder.users.get(context, [context])]
                new = [test for test in users if test in recorder.seconds]
                lines[f"{name}+{offset}"] = self._fastest([*lines.get(f"{name}+{offset}", []), *new])
        return int(code)

    def of(self, file: str, first: int, last: int) -> list[str]:
        """Tests of a place, those of its file and room first, then the fastest; last, others of the files of these.

        Lines that run at import, and those that coverage does not tell apart, have the tests of what is around them.
        What a file of tests keeps for all its tests ran in the first of them alone: the others judge it too.

        Args:
            file: relative to the repository.
            first, last: lines of the place.
        """
        source = (ROOT / file).read_text("utf-8")
        functions, known = spans(source), self.tests.get(file, {})
        places = [
            [key_of(line, functions) for line in range(start, stop + 1)]
            for start, stop in [(first, last), *statements_around(source, first)]
        ]
        names = {name for name, _ in places[0]}
        mirror = f"/test_{Path(file).stem}.py"
        around = [[span for span in functions if span.first <= line <= span.last] for line in range(first, last + 1)]
        # a default or a decorator is judged by what it refuses, in tests that never come to the function
        inside = all(
            found and line >= found[-1].body for line, found in zip(range(first, last + 1), around, strict=True)
        )
        at_import = set() if inside else {t for t in self.seconds if t.startswith(AT_IMPORT) or mirror in t}
        tests: set[str] = set()
        # of what runs at import, coverage knows the test that happened to import it
        for keys in places if inside else ():
            for name, offset in keys:
                tests |= set(known.get(f"{name}+{offset}", []))
            if tests:
                break
        for outer in ([name for name in names if name], [""]):
            if not tests and outer:
                tests = {test for key in known if key.startswith(outer[0]) for test in known[key]}
        known_variants: dict[str, int] = defaultdict(int)

        def order(test: str) -> tuple[int, bool, bool, float, str]:
            """Tests of the file, then of its room, then others; each a second time only after all of a kind."""
            known_variants[test.split("[")[0]] += 1
            room = f"tests/{file.split('/')[1]}/"
            again = known_variants[test.split("[")[0]] - 1
            return (
                again,
                mirror not in test and test not in at_import,
                not test.startswith(room),
                self.seconds[test],
                test,
            )

        result = sorted(self._fastest([*tests, *at_import]), key=order)
        modules = {test.split("::")[0] for test in result}
        others = {test for test in self.seconds if test.split("::")[0] in modules}.difference(result)
        return [*result, *sorted(self._fastest([*others]), key=order)]

    def _fastest(self, tests: list[str]) -> list[str]:
        """Tests without most variants of the same test, fastest first."""
        variants: dict[str, int] = defaultdict(int)
        result = []
        for test in sorted(set(tests), key=lambda test: (self.seconds[test], test)):
            variants[test.split("[")[0]] += 1
            if variants[test.split("[")[0]] <= VARIANTS:
                result.append(test)
        return result


@dataclass(eq=False)  # pytest keeps plugins in sets
class _Recorder:
    """Plugin of pytest that gives every test and every shared fixture a context of its own, and times tests.

    Attributes:
        users: ids of tests by the context of a fixture that they share.
    """

    coverage: coverage.Coverage
    seconds: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    users: dict[str, list[str]] = field(default_factory=dict)
    _fixtures: dict[int, str] = field(default_factory=dict)
    _contexts: list[str] = field(default_factory=lambda: [""])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        start = time.process_time()
        try:
            with self._context(item.nodeid):
                return (yield)  # type: ignore[return-value]
        finally:
            self.seconds[item.nodeid] = round(time.process_time() - start, 3)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)  # type: ignore[return-value]
        name = f"fixture {len(self.users)}"
        self._fixtures[id(fixturedef)] = name
        self.users[name] = []
        with self._context(name):
            return (yield)  # type: ignore[return-value]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        try:
            return (yield)  # type: ignore[return-value]
        finally:
            for definition in getattr(getattr(item, "_request", None), "_fixture_defs", {}).values():
                if id(definition) in self._fixtures:
                    self.users[self._fixtures[id(definition)]].append(item.nodeid)

    @contextmanager
    def _context(self, name: str) -> Iterator[None]:
        """What runs inside is noted under a name."""
        self._contexts.append(name)
        self.coverage.switch_context(name)
        try:
            yield
        finally:
            self._contexts.pop()
            self.coverage.switch_context(self._contexts[-1])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Mark a test that fails or is left out: it judges nothing."""
        if report.outcome != "passed":
            self.failed.add(report.nodeid)
