"""Trials of mutants: each in a process of its own, forked from one that has imported all that the fault does not touch.

A fault inside functions is put into a fork of a process that has imported mmlens and the tests; one in what runs at import, into
a fork of a process that has imported only what they import from elsewhere.
"""

import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.machinery import ModuleSpec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FunctionType
from typing import Literal, TypeAlias

import pytest

from benchmarks.mutation.parts import PATTERNS, ROOT, files_of
from benchmarks.mutation.swap import Key, changed_functions, functions_of_package, swap

#: `broken`: the module cannot even be imported, which needs no test.
Outcome: TypeAlias = Literal["killed", "survived", "timed out", "broken"]
_BROKEN, _COLD = 100, 101
_OPTIONS = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--doctest-modules"]


@dataclass(frozen=True)
class Trial:
    """What became of a mutant.

    Attributes:
        outcome: see `Outcome`.
        seconds: of the processor, that it took.
        failed: ids of the tests that saw it.
    """

    outcome: Outcome
    seconds: float
    failed: tuple[str, ...] = ()


class Trials:
    """Runs tests on mmlens with one file changed.

    Args:
        log: a file for the output of the last trial.
        tests: files of tests, imported once.
    """

    def __init__(self, log: Path, tests: Sequence[str]):
        self.log = log
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = (
            "1"  # what is imported already cannot be rewritten, as pytest would
        )
        _import_what_is_used(log)
        _settle()
        self._pipe, other = Pipe()
        self._warm = os.fork()
        if not self._warm:
            self._pipe.close()
            _serve(other, log, tests)
        other.close()

    def run(
        self, file: str, old: str, new: str, tests: Sequence[str], limit: float, *, stop_at_first: bool = True
    ) -> Trial:
        """Run tests on mmlens with one file changed.

        Args:
            file: the file, relative to the repository.
            old: what it holds.
            new: what it holds instead.
            tests: ids, in the order in which they run.
            limit: seconds of the processor after which it is ended.
            stop_at_first: whether the first failure ends it.
        """
        arguments = [*_OPTIONS, *(["-x"] if stop_at_first else []), *tests]
        self._pipe.send((file, old, new, arguments, limit))
        code, seconds = self._pipe.recv()
        if code == _COLD:
            code, seconds = _forked(lambda: _imported_with(file, new), arguments, limit, self.log)
        outcome: Outcome = (
            "timed out" if code is None else "broken" if code == _BROKEN else "killed" if code else "survived"
        )
        lines = self.log.read_text("utf-8", "replace").splitlines()
        said = [line.partition(" ")[2] for line in lines if line.startswith(("FAILED ", "ERROR "))]
        # tests that were measured, and are no more; of variants only the common name is said
        gone = {
            line.rpartition("not found: ")[2].removeprefix(f"{ROOT}/") for line in lines if line.startswith("ERROR: ")
        }
        failed = [
            test
            for test in tests
            if test.split("[")[0] in gone or any(f"{line} - ".startswith(f"{test} - ") for line in said)
        ]
        if outcome == "killed" and not failed and old != new:
            self.run(file, old, old, tests, limit)
        if outcome == "killed" and not failed and old == new:
            raise RuntimeError("Tests fail without a fault, and do not say which: " + "\n".join(lines[-20:]))
        return Trial(outcome, round(seconds, 2), tuple(failed))

    def close(self) -> None:
        """End the process that trials are forked from."""
        self._pipe.close()
        os.waitpid(self._warm, 0)


def _serve(pipe: Connection, log: Path, tests: Sequence[str]) -> None:
    """Import mmlens and the tests, and run trials in forks for as long as they are sent; never returns."""
    _redirect(log)
    try:
        for part in PATTERNS:
            for file in files_of(part):
                importlib.import_module(_name_of(file))
        pytest.main([*_OPTIONS, "--collect-only", *tests])
        functions = functions_of_package()
        _settle()
        while True:
            file, old, new, arguments, limit = pipe.recv()
            try:
                changed = [] if old == new else changed_functions(file, old, new)
            except SyntaxError:  # operators of arithmetic are also signs of signatures
                pipe.send((_BROKEN, 0.0))
                continue
            # None, or nothing in a function: what differs runs at import
            if changed is None or (old != new and not changed):
                pipe.send((_COLD, 0.0))
                continue
            put = partial(_swapped, changed, functions) if changed else int
            pipe.send(_forked(put, arguments, limit, log))
    except EOFError:
        os._exit(0)
    except BaseException:  # noqa: BLE001 (a fork must not go on as its parent)
        traceback.print_exc()
        os._exit(1)


def _swapped(changed: list[tuple[Key, CodeType]], functions: dict[Key, list[FunctionType]]) -> int:
    """Put other code into functions; an exit code if they do not take it, else 0."""
    return 0 if swap(changed, functions) else _COLD


def _forked(put: Callable[[], int], arguments: Sequence[str], limit: float, log: Path) -> tuple[int | None, float]:
    """Exit code of pytest in a fork in which a fault was put, or that of putting it, and seconds of the processor.

    The code is None if the time was up: `limit` seconds of the processor, or ten times as many of the clock.
    """
    deadline = time.perf_counter() + 10 * limit
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 1))
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
            _redirect(log)
            code = put() or int(pytest.main([*arguments]))
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    while time.perf_counter() < deadline:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            seconds = usage.ru_utime + usage.ru_stime
            ended = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
            return None if ended else os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1, seconds
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, limit


def _settle() -> None:
    """Leave what exists now out of garbage collection, which would go through all of it in every fork."""
    gc.collect()
    gc.freeze()


class _MutatedFinder(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Finder and loader of one module from other source than its file has."""

    def __init__(self, file: str, source: str):
        super().__init__(_name_of(file), str(ROOT / file))
        self._source = source

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of the module; None for any other."""
        return (
            importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None
        )

    def get_code(self, fullname: str) -> CodeType:
        """The other source, compiled."""
        return compile(self._source, self.path, "exec")


def _imported_with(file: str, source: str) -> int:
    """Import a module from other source; an exit code if that fails, else 0."""
    finder = _MutatedFinder(file, source)
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module(finder.name)
    except BaseException as error:  # noqa: BLE001 (whatever a fault does at import)
        print(repr(error))
        return _BROKEN
    return 0


def _import_what_is_used(log: Path) -> None:
    """Import here what mmlens and its tests import from elsewhere, as seen in a fork that runs a few of them."""
    names = log.with_suffix(".modules")
    child = os.fork()
    if not child:
        _redirect(log)
        pytest.main([*_OPTIONS, "tests/hooks/test_cache.py", "tests/interventions/test_ablation.py"])
        own = ("mmlens", "tests", "conftest", "benchmarks")
        names.write_text(json.dumps([name for name in sys.modules if name.split(".")[0] not in own]))
        os._exit(0)
    os.waitpid(child, 0)
    for name in json.loads(names.read_text()):
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError:
                continue
    if any(name.split(".")[0] == "mmlens" for name in sys.modules):
        raise RuntimeError("mmlens must not be imported before it is changed.")


def _name_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def _redirect(log: Path) -> None:
    """Send all output of this process to a file."""
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
