"""Files of results: whatever happens to a byte of them is found, and what they must hold is said."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmlens.core.errors import DamagedFileError, InputError
from mmlens.core.results import JsonKind, TensorKind

TENSORS = TensorKind(
    "mmlens.Test", 3, "test result", {"names": list[str], "unit": str | None, "gap": float}, tensors=("values", "ends")
)
PLAIN = JsonKind("mmlens.TestReport", 2, "test report", {"cases": list[dict], "about": dict[str, Any]})
ABOUT: dict[str, Any] = {"names": ["a", "ü", 'quo"te'], "unit": None, "gap": 0.1}
CASES: dict[str, Any] = {"cases": [{"a": 1.5, "b": float("nan")}, {"text": "ä\n", "b": 1e-7}], "about": {"x": None}}


def held() -> dict[str, torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    return {"values": torch.randn(7, 5, generator=make), "ends": torch.tensor([3, -1], dtype=torch.int16)}


def write_tensors(path: Path) -> Callable[[], Any]:
    TENSORS.write(path, held(), ABOUT)
    return lambda: TENSORS.read(path)


def write_json(path: Path) -> Callable[[], Any]:
    PLAIN.write(path, CASES)
    return lambda: PLAIN.read(path)


WRITERS = pytest.mark.parametrize("write", [write_tensors, write_json], ids=["tensors", "json"])


def test_tensors_and_fields_come_back(tmp_path: Path) -> None:
    many = TensorKind("mmlens.Many", 1, "file of many")
    tensors = {
        "none": torch.zeros(0, 4),
        "one": torch.tensor(2.5, dtype=torch.float64),
        "half": torch.randn(3, 2, 2).to(torch.bfloat16),
        "marks": torch.tensor([[True, False]]),
        "complex": torch.randn(3, dtype=torch.complex64),
        "turned": torch.randn(4, 6).T,
    }
    many.write(tmp_path / "many", tensors, {})
    found, _ = many.read(tmp_path / "many")
    file, _ = many.open(tmp_path / "many")
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
        file.check(name)
        if tensor.ndim:
            assert torch.equal(file.rows(name, slice(1, 3)), tensor[1:3])
    TENSORS.write(tmp_path / "one", held(), ABOUT)
    tensors, about = TENSORS.read(tmp_path / "one")
    assert about == ABOUT
    assert torch.equal(tensors["values"], held()["values"])
    PLAIN.write(tmp_path / "plain", CASES)
    assert str(PLAIN.read(tmp_path / "plain")) == str(CASES)  # as text, since NaN is not equal to itself
    assert list(json.loads((tmp_path / "plain").read_text())) == ["format", "cases", "about", "checksum"]


@WRITERS
def test_no_flipped_bit_is_silent(write: Callable[[Path], Callable[[], Any]], tmp_path: Path) -> None:
    """Every bit of the file, one at a time, would take seconds: 500 of them at random, and all of the first bytes."""
    path = tmp_path / "file"
    read = write(path)
    read()
    whole = path.read_bytes()
    bits = random.Random(0).sample(range(8 * len(whole)), 500) + list(range(8 * 24))
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="test re"):
            read()
    path.write_bytes(whole)
    read()


@WRITERS
def test_no_other_damage_is_silent(write: Callable[[Path], Callable[[], Any]], tmp_path: Path) -> None:
    """Bytes that are cut off, doubled, put in, overwritten or set to zero, as disks and transfers do."""
    path = tmp_path / "file"
    read = write(path)
    whole, rng = path.read_bytes(), random.Random(1)
    for _ in range(100):
        start = rng.randrange(len(whole))
        stop = min(len(whole), start + rng.randint(1, 64))
        noise = rng.randbytes(stop - start)
        for damaged in (
            whole[:start],
            whole[:start] + whole[stop:],
            whole[:stop] + whole[start:],
            whole[:start] + noise + whole[start:],
            whole[:start] + noise + whole[stop:],
            whole[:start] + bytes(stop - start) + whole[stop:],
        ):
            if damaged == whole:
                continue
            path.write_bytes(damaged)
            with pytest.raises(InputError, match="test re"):
                read()


def test_rows_are_compared_when_they_are_first_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    TENSORS.write(path, {"values": torch.arange(5000.0).reshape(1000, 5), "ends": torch.zeros(2)}, ABOUT)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    file, _ = TENSORS.open(path)
    (bad,) = [name for name in ("values", "ends") if name not in sound(file)]
    with pytest.raises(DamagedFileError, match=rf"the tensor '{bad}' does not match its checksum"):
        file.rows(bad, slice(0, 1))
    other = "ends" if bad == "values" else "values"
    assert file.rows(other, slice(0, 1)).shape[0] == 1


def sound(file: Any) -> list[str]:
    """The tensors that match their checksums."""
    found = []
    for name in file.names:
        try:
            file.check(name)
        except DamagedFileError:
            continue
        found.append(name)
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a"]}, r"it lacks the fields gap, unit\.$"),
        ({**ABOUT, "more": 1}, r"it holds the fields more too\.$"),
        ({**ABOUT, "gap": "wide"}, "gap='wide' must be a number"),
        ({**ABOUT, "names": [1]}, "names"),
    ],
)
def test_missing_and_further_pieces_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    TENSORS.write(tmp_path / "file", held(), change)
    with pytest.raises(InputError, match=f"is no test result that can be read: {message}"):
        TENSORS.read(tmp_path / "file")


def test_tensors_that_are_missing_are_named(tmp_path: Path) -> None:
    TENSORS.write(tmp_path / "file", {"values": torch.zeros(1), "extra": torch.zeros(1)}, ABOUT)
    with pytest.raises(InputError, match="it lacks the tensors ends, and it holds the tensors extra too"):
        TENSORS.read(tmp_path / "file")


def test_another_version_or_kind_is_said(tmp_path: Path) -> None:
    later = TensorKind(TENSORS.name, 4, "test result")
    later.write(tmp_path / "file", {}, {})
    with pytest.raises(
        InputError, match="is a test result of version 4, and this mmlens reads version 3: make it anew"
    ):
        TENSORS.read(tmp_path / "file")
    TensorKind("mmlens.Other", 1, "other").write(tmp_path / "file", {}, {})
    with pytest.raises(InputError, match=r"is no test result \(format 'mmlens.Other/1', expected 'mmlens.Test/3'\)"):
        TENSORS.read(tmp_path / "file")
    (tmp_path / "file").write_text('{"format": "mmlens.TestReport/1"}')
    with pytest.raises(InputError, match="is a test report of version 1, and this mmlens reads version 2"):
        PLAIN.read(tmp_path / "file")
    (tmp_path / "file").write_text("[1]")
    with pytest.raises(InputError, match=r"is no test report \(format None"):
        PLAIN.read(tmp_path / "file")


def test_what_another_program_wrote_is_refused(tmp_path: Path) -> None:
    """Loaded and saved again by plain safetensors, the file lacks its checksums; edited by hand, the report does not fit."""
    path = tmp_path / "file"
    TENSORS.write(path, held(), ABOUT)
    save_file(load_file(path), path, metadata={"format": "mmlens.Test/3"})
    with pytest.raises(DamagedFileError, match="it has no checksum, so it was written by something else or is cut off"):
        TENSORS.read(path)
    PLAIN.write(path, CASES)
    path.write_text(path.read_text().replace("1.5", "2.5"))
    with pytest.raises(DamagedFileError, match="was changed after it was written: it does not match its checksum"):
        PLAIN.read(path)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of open files are read from /proc")
def test_a_file_is_on_the_disk_before_it_takes_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    own = {"fsync": os.fsync, "replace": os.replace}

    def sync(descriptor: int) -> None:
        calls.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        own["fsync"](descriptor)

    def move(source: Any, target: Any) -> None:
        calls.append(f"name {os.path.basename(target)}")
        own["replace"](source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", move)
    TENSORS.write(tmp_path / "file", held(), ABOUT)
    assert calls == ["sync file", "name file", f"sync {tmp_path.name}"]
