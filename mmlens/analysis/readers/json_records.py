"""JSON files of data sets, read record by record: a progress bar over bytes, and errors that say where and what was expected.

Files may be as they were downloaded: packed by gzip, or alone in a zip archive.
"""

import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast

from mmlens.analysis.readers.picture_folder import few
from mmlens.core.errors import InputError
from mmlens.core.files import require_file
from mmlens.core.names import nearest
from mmlens.core.progress import ProgressBar
from mmlens.core.wording import short

#: Characters read at a time.
_PIECE = 1 << 20
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_DELIMITERS = tuple(", \t\r\n]}:")


def json_records(path: Path, kind: str, *, progress: bool = True) -> Iterator[tuple[str, Any]]:
    """The records of a JSON file, one at a time, in memory that does not grow with the file.

    Args:
        path: the file.
        kind: what it is, for messages.
        progress: show a progress bar over its bytes.

    Returns:
        Of an array its items, under the key `""`. Of an object its values by key; of a value that is an array, its items, each
        under that key.

    Raises:
        InputError: if there is no file, it is no text or broken JSON; with line, column and what was expected.
    """
    with _opened(path, kind, progress) as (file, bar):
        reader = _Reader(path, kind, TextIOWrapper(file, encoding="utf-8-sig"), bar)
        try:
            yield from reader.records()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no {kind}: it is not text in UTF-8 ({error.reason}).") from error


def json_lines(path: Path, kind: str, *, progress: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with one JSON object a line, with the number of the line from 1; blank lines are passed over.

    Args:
        path: the file.
        kind: what it is, for messages.
        progress: show a progress bar over its bytes.

    Raises:
        InputError: if there is no file, or a line holds something else.
    """
    with _opened(path, kind, progress) as (file, bar):
        for number, line in enumerate(file, 1):
            bar.advance()
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise InputError(f"Line {number} of {path} is not text in UTF-8 ({error.reason}).") from error
            except json.JSONDecodeError as error:
                hint = " The file is one JSON document, not one object a line." if _is_document(line) else ""
                raise InputError(
                    f"Line {number} of {path} ({kind}) is broken JSON at column {error.colno}: {_expected(error)}, found "
                    f"{_near(error.doc, error.pos)}.{hint}"
                ) from error
            if not isinstance(record, dict):
                raise InputError(f"Line {number} of {path} must be an object {{...}} ({kind}), found {short(record)}.")
            yield number, record


def field(record: Any, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """A field of a record.

    Args:
        record: of a file.
        key: the field.
        kinds: the classes that its value may have; a bool is no number.
        where: names the record, for messages.

    Raises:
        InputError: if the record is no object, has no such field, or another kind of value in it.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"{where} must be an object {{...}}, found {short(record)}.")
    if key not in record:
        close = nearest(key, [str(name) for name in record], count=1)
        raise InputError(
            f"{where} has no {key!r}; it has {', '.join(map(repr, record)) or 'nothing'}"
            + (f" (nearest: {close[0]!r})." if close else ".")
        )
    value = record[key]
    classes = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, classes) or (isinstance(value, bool) and bool not in classes):
        names = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}
        wanted = " or ".join(names.get(cls, cls.__name__) for cls in classes)
        raise InputError(f"{key!r} of {where} must be {wanted}, found {short(value)}.")
    return value


def lacking(path: Path, kind: str, key: str, keys: list[str]) -> InputError:
    """The error of a file that has no records under a key.

    Args:
        path: the file.
        kind: what it should be.
        key: where its records should be.
        keys: those that it has.
    """
    keys_text = ", ".join(map(repr, keys[:6])) + (", ..." if len(keys) > 6 else "")
    return InputError(f"{path} is no file of {kind}: it has no {key!r}" + (f", but {keys_text}." if keys else "."))


class _Bar:
    """A progress bar over the bytes of a file, packed or not.

    Args:
        raw: the file.
        bar: its bar.
    """

    def __init__(self, raw: IO[bytes], bar: ProgressBar):
        self._raw, self._bar, self._place = raw, bar, 0

    def advance(self) -> None:
        """Show how far the file was read."""
        place = self._raw.tell()
        self._bar.update(place - self._place)
        self._place = place


@contextmanager
def _opened(path: Path, kind: str, progress: bool) -> Iterator[tuple[IO[bytes], _Bar]]:
    """A file's bytes, unpacked, and its progress bar.

    Raises:
        InputError: if there is no file, it is damaged, or an archive of several.
    """
    size = require_file(path, kind).stat().st_size
    bar = ProgressBar(total=size, desc=path.name, unit="B", unit_scale=True, disable=not progress)
    with path.open("rb") as raw, bar:
        magic = raw.read(4)
        raw.seek(0)
        try:
            if magic == b"PK\x03\x04":
                archive = zipfile.ZipFile(raw)
                names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
                if len(names) != 1:
                    raise InputError(f"{path} is an archive of {len(names)} files ({few(names)}): unpack it.")
                file = archive.open(names[0])
            else:
                file = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if magic[:2] == b"\x1f\x8b" else raw
            yield file, _Bar(raw, bar)
        except (zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{path} ({kind}) cannot be unpacked ({error}): it is damaged, fetch it anew.") from error


class _Reader:
    """Decodes a file piece by piece."""

    def __init__(self, path: Path, kind: str, file: Any, bar: _Bar):
        self.path, self.kind, self.file, self.bar = path, kind, file, bar
        self.text, self.at, self.is_whole = "", 0, False
        self.lines, self.column = 1, 1  # of the first character in `text`

    def records(self) -> Iterator[tuple[str, Any]]:
        opening = self.peek()
        if opening == "[":
            for item in self.items():
                yield "", item
        elif opening == "{":
            yield from self.members()
        else:
            raise self.broken("Expecting '{' or '['", self.at)
        if self.peek():
            raise self.broken("Expecting the end of the file", self.at)

    def members(self) -> Iterator[tuple[str, Any]]:
        """The members of the object that begins here."""
        self.at += 1
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            if self.peek() != '"':
                raise self.broken("Expecting property name enclosed in double quotes", self.at)
            key = self.value()
            self.take(":")
            if self.peek() == "[":
                for item in self.items():
                    yield key, item
            else:
                yield key, self.value()
            if self.take(",", "}") == "}":
                return

    def items(self) -> Iterator[Any]:
        """The items of the array that begins here."""
        self.at += 1
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            yield self.value()
            if self.take(",", "]") == "]":
                return

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def take(self, *signs: str) -> str:
        sign = self.peek()
        if sign not in signs or not sign:
            raise self.broken(f"Expecting {' or '.join(map(repr, signs))}", self.at)
        self.at += 1
        return sign

    def value(self) -> Any:
        """The value that begins here, whole."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # at the end of what has been read, a value may go on
                is_open = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - 12
                if is_open and self.more():
                    continue
                raise self.broken(error.msg, error.pos) from error
            goes_on = self.text[end : end + 1] not in _DELIMITERS  # a number may, at the end of what has been read
            if not goes_on or not self.more():
                self.at = end
                return value

    def more(self) -> bool:
        """Read on; whether there was anything."""
        piece = self.file.read(max(_PIECE, len(self.text) - self.at))  # doubles what a long value has
        if not piece:
            return False
        self.bar.advance()
        prefix = self.text[: self.at]
        breaks = prefix.count("\n")
        self.column = len(prefix) - prefix.rfind("\n") if breaks else self.column + len(prefix)
        self.lines += breaks
        self.text, self.at = self.text[self.at :] + piece, 0
        return True

    def broken(self, message: str, position: int) -> InputError:
        """The error of what stands at a position of the text."""
        before = self.text[:position]
        breaks = before.count("\n")
        column = position - before.rfind("\n") if breaks else self.column + position
        error = json.JSONDecodeError(message, "", 0)
        ends = position >= len(self.text.rstrip()) and not self.file.read(1)
        advice = " It was cut off, or not written to its end: fetch it anew." if ends else ""
        if not ends and message == "Expecting the end of the file" and self.text[position] == "{":
            advice = " It holds one object a line."
        return InputError(
            f"{self.path} ({self.kind}) is broken JSON at line {self.lines + breaks}, column {column}: {_expected(error)}, found "
            f"{'the end of the file' if ends else _near(self.text, position)}.{advice}"
        )


def _expected(error: json.JSONDecodeError) -> str:
    """What stands in the decoder's message, as words of a sentence."""
    return re.sub(r"^Expecting", "expected", error.msg[:1].upper() + error.msg[1:]).replace(
        "Unterminated", "unterminated"
    )


def _near(text: str, position: int) -> str:
    return repr(text[position : position + 24].split("\n")[0]) if text[position:].strip() else "the end"


def _is_document(line: bytes) -> bool:
    return line.strip() in (b"{", b"[")
