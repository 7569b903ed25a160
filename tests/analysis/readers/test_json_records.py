"""JSON read piece by piece is JSON read whole, wherever a piece ends; what is broken is told with its place."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlens.analysis.readers import json_records as module
from mmlens.analysis.readers.json_records import json_lines, json_records
from mmlens.core.errors import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, max_size=4) | st.dictionaries(st.text(max_size=3), VALUES, max_size=4), st.integers(1, 9))
def test_pieces_make_the_whole(tmp_path_factory: pytest.TempPathFactory, content: Any, piece: int) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    expected = (
        [("", item) for item in content]
        if isinstance(content, list)
        else [(key, item) for key, value in content.items() for item in (value if isinstance(value, list) else [value])]
    )
    before = module._PIECE
    module._PIECE = piece
    try:
        assert list(json_records(path, "a test", progress=False)) == expected
    finally:
        module._PIECE = before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"images": [1, 2,, 3]}',
            r"a\.json \(a test\) is broken JSON at line 1, column 18: expected value, found ', 3\]}'",
        ),
        ('{"images": [\n {"id": 1}\n {"id": 2}]}', "at line 3, column 2: expected ',' or ']', found '{\"id\": 2}]}'"),
        ('{"images": [1, 2', "found the end of the file. It was cut off"),
        ('{"images": [{"id": 1, "name": "a', "found the end of the file. It was cut off|unterminated string"),
        ('{"a" 1}', "expected ':', found '1}'"),
        ('{"a": 1}\n{"a": 2}\n', "at line 2, column 1: expected the end of the file.*It holds one object a line"),
        ("", "expected '{' or '\\[', found the end of the file"),
        ("question,answer", "expected '{' or '\\[', found 'question,answer'"),
    ],
)
def test_broken_json_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        list(json_records(path, "a test", progress=False))


def test_a_fault_early_in_a_large_file_is_found_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id": 1}, {"id" 2}' + ', {"id": 3}' * 300_000 + "]", encoding="utf-8")
    records = json_records(path, "a test", progress=False)
    assert next(records) == ("", {"id": 1})
    with pytest.raises(InputError, match="line 1, column 19: expected ':' delimiter"):
        next(records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b'{"a": 1}\n{"a": }\n',
            r"Line 2 of .*a\.jsonl \(a test\) is broken JSON at column 7: expected value, found '}'",
        ),
        (b"[1]\n", r"Line 1 of .* must be an object {...} \(a test\), found \[1\]"),
        (b'{\n "a": 1\n}', "Line 1 .* The file is one JSON document, not one object a line"),
        (b'{"a": "\xff"}', "Line 1 of .* is not text in UTF-8"),
    ],
)
def test_broken_lines_are_told_with_their_number(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(text)
    with pytest.raises(InputError, match=message):
        list(json_lines(path, "a test", progress=False))


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert list(json_lines(path, "a test", progress=False)) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize("packing", ["gzip", "zip"])
def test_files_may_be_packed_as_they_were_downloaded(tmp_path: Path, packing: str) -> None:
    path, lines = tmp_path / "a.json", b'\xef\xbb\xbf{"a": [1, {"b": "caf\xc3\xa9"}]}\n'

    def pack(content: bytes, *others: str) -> None:
        if packing == "gzip":
            path.write_bytes(gzip.compress(content))
            return
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("a.json", "__MACOSX/._a.json", *others):
                archive.writestr(name, content)

    pack(lines)
    assert list(json_records(path, "a test")) == [("a", 1), ("a", {"b": "café"})]
    assert list(json_lines(path, "a test")) == [(1, {"a": [1, {"b": "café"}]})]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"a\.json \(a test\) cannot be unpacked .* damaged, fetch it anew"):
        list(json_records(path, "a test", progress=False))
    if packing == "zip":
        pack(lines, "b.json")
        with pytest.raises(InputError, match=r"is an archive of 2 files \(a\.json, b\.json\): unpack it"):
            list(json_records(path, "a test", progress=False))
