"""Rows of benchmarks come as they are measured, and a run that was stopped goes on behind the last whole benchmark."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.kept_rows import KeptRows, OtherSettingsError
from benchmarks.measure import Ratio
from benchmarks.table import Row

_SETTINGS = {"machine": "one", "repeats": 3}
_ROWS = [Row("a", "bare", 1.5), Row("a", "mmlens", 2.0, Ratio(1.3, 1.2, 1.4), 1.5, 1e-6, "note")]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    kept = KeptRows(_SETTINGS, path)
    kept.add("first", _ROWS)
    kept.finish("first")
    kept.add("second", _ROWS[:1])
    again = KeptRows(_SETTINGS, path)
    again.resume()
    assert again.rows == {"first": _ROWS}, "of a benchmark that was stopped nothing is taken over"
    assert again.finished == ["first"]
    assert len(json.loads(path.read_text())["rows"]) == 3, "but it is in the file"
    with pytest.raises(OtherSettingsError, match="was measured with repeats 3"):
        KeptRows({**_SETTINGS, "repeats": 5}, path).resume()


def test_a_run_that_was_stopped_keeps_its_rows_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def benchmarks(stops: bool) -> Callable[..., Iterator[command.Benchmark]]:
        def first() -> Iterator[list[Row]]:
            ran.append("first")
            yield _ROWS

        def second() -> Iterator[list[Row]]:
            ran.append("second")
            yield [Row("b", "bare", 2.5)]
            if stops:
                raise KeyboardInterrupt
            yield [Row("c", "bare", 3.5)]

        return lambda *_: iter([("first", first), ("second", second)])

    path = tmp_path / "rows.json"
    arguments = ["--json", str(path), "--repeats", "1"]
    monkeypatch.setattr(command, "_benchmarks", benchmarks(stops=True))
    assert command.main(arguments) == 0
    stopped = capsys.readouterr()
    assert "Interrupted" in stopped.err
    assert [line.split("|")[1].strip() for line in stopped.out.splitlines()[-4:]] == ["-" * 9, "a", "", "b"]
    assert [row["benchmark"] for row in json.loads(path.read_text())["rows"]] == ["a", "a", "b"]
    monkeypatch.setattr(command, "_benchmarks", benchmarks(stops=False))
    assert command.main([*arguments, "--resume"]) == 0
    assert ran == ["first", "second", "second"]
    content = json.loads(path.read_text())
    assert [row["benchmark"] for row in content["rows"]] == ["a", "a", "b", "c"]
    assert content["finished"] == ["first", "second"]
    assert "mmlens" in capsys.readouterr().out, "rows of the run before are shown too"


def test_going_on_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--resume"])
    assert "--resume goes on with --json FILE" in capsys.readouterr().err
