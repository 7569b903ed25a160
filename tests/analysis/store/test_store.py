"""Stores in folders: killed and gone on with, shared by processes, extended, read in every form, refused where they differ."""

import os
import random
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.shard import MemoryShard
from mmlens.analysis.store.store import ActivationStore
from mmlens.core import tensor_files
from mmlens.core.errors import InputError
from mmlens.core.results import JsonKind
from tests.conftest import Subject
from tests.tiny import picture

POINTS = ("blocks.0.hook_resid_post", "blocks.1.mlp.hook_post")
#: Two pictures come twice: true duplicates are samples of their own.
DATASET = [picture(seed) for seed in (0, 1, 2, 3, 1, 5, 6, 7, 8, 1, 10, 11, 12)]


def gather(subject: Subject, into: Path | None = None, dataset: Any = DATASET, **options: Any) -> ActivationStore:
    chosen = {"at": POINTS, "positions": "generated", "max_new_tokens": 3, "batch_size": 2, "save_every": 2, **options}
    return collect(subject.model, dataset, into=into, progress=False, **chosen)


def assert_equal(found: ActivationStore, expected: ActivationStore) -> None:
    """The same samples, and bit-equal states, in the same order."""
    assert found.records == expected.records
    for point in expected.points:
        mine, theirs = found.at(point), expected.at(point)
        assert torch.equal(mine.values, theirs.values)
        assert (mine.keys, mine.tokens, mine.steps) == (theirs.keys, theirs.tokens, theirs.steps)


def in_child(work: Callable[[], object]) -> int:
    """Run something in a forked process, which shares the loaded model; returns its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks where threads run
        child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)  # pytest captures the other
            raise
        finally:
            os._exit(code)
    return child


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
def test_killed_at_any_moment_and_gone_on_with_it_is_the_store_of_a_quiet_run(llava: Subject, tmp_path: Path) -> None:
    expected = gather(llava)
    start = time.perf_counter()
    gather(llava, tmp_path / "timed")
    takes = time.perf_counter() - start
    chance, kills = random.Random(0), 0
    path = tmp_path / "store"
    for _ in range(10):
        child = in_child(lambda: gather(llava, path))
        time.sleep(chance.uniform(0.05, 0.6) * takes)
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if (path / "store.json").is_file():
            numbers = [record.number for record in ActivationStore.load(path).records]
            assert len(numbers) == len(set(numbers))  # what is there is readable and not doubled, at every moment
    assert kills >= 3  # late ones may find it finished
    again = gather(llava, path)
    assert_equal(again, expected)
    assert again.finished
    assert {file.name for file in path.glob(".*")} == {".lock"}


def test_whatever_was_being_written_when_it_was_killed(
    llava: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write in turn is the last: before a shard, between shard and index, and before the end is noted."""
    expected = gather(llava)

    class Killed(BaseException):
        pass

    def dies(count: int, real: Callable[..., Any]) -> Callable[..., Any]:
        left = [count]

        def write(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*args, **options)

        return write

    for writer, name, writes in ((MemoryShard, "save", 7), (JsonKind, "write", 10)):
        for count in range(0, writes, 2):
            path = tmp_path / f"{name}{count}"
            with monkeypatch.context() as patched:
                patched.setattr(writer, name, dies(count, getattr(writer, name)))
                with pytest.raises(Killed):
                    gather(llava, path)
            assert_equal(gather(llava, path), expected)


@needs_fork
def test_killed_while_the_library_writes_the_tensors(
    llava: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(tensors: object, path: Path, **_: object) -> None:
        path.with_name(".tmpAbCdEf").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    path = tmp_path / "store"
    with monkeypatch.context() as patched:
        patched.setattr(tensor_files, "save_file", dies)
        child = in_child(lambda: gather(llava, path))
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert list(path.rglob(".tmp*"))
    assert_equal(gather(llava, path), gather(llava))
    assert {file.name for file in path.rglob(".*")} == {".lock"}


def free_port() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return str(held.getsockname()[1])


@needs_fork
def test_two_processes_make_the_store_of_one(llava: Subject, tmp_path: Path) -> None:
    expected, path, port = gather(llava), tmp_path / "shared", free_port()

    def work(rank: int) -> None:
        launched = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
        os.environ.update(launched, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        PartialState._reset_state()  # the parent may have asked accelerate, when it was alone
        assert_equal(gather(llava, path), expected)

    children = [in_child(lambda rank=rank: work(rank)) for rank in range(2)]  # type: ignore[misc]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    store = ActivationStore.load(path)
    assert_equal(store, expected)
    shards = [(shard.path.name, shard.records) for shard in store.shards]  # type: ignore[attr-defined]
    by_process = [{r.number for name, records in shards if f"-0000{rank}-" in name for r in records} for rank in (0, 1)]
    assert by_process[0] == {0, 1, 4, 5, 8, 9, 12}
    assert by_process[1] == {2, 3, 6, 7, 10, 11}
    assert_equal(gather(llava, path), expected)  # by one process, nothing is left to do


def test_processes_that_accelerate_does_not_know_of_are_an_error(
    llava: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PartialState()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"2 processes were launched \(WORLD_SIZE\), but accelerate knows of 1"):
        gather(llava, tmp_path)


def test_a_finished_store_is_extended_by_what_it_lacks(llava: Subject, tmp_path: Path) -> None:
    gather(llava, tmp_path, DATASET[:5])
    more = gather(llava, tmp_path, [picture(1), picture(20), picture(20), picture(3)])
    keys = [record.key for record in more.records]
    alone = [record.key for record in gather(llava, None, [*DATASET[:5], picture(20), picture(20)]).records]
    assert keys == alone
    assert len({record.number for record in more.records}) == 7


def test_an_unfinished_store_wants_its_own_dataset(llava: Subject, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keys that mean nothing here: 'picture'"):
        gather(llava, tmp_path, iter([*DATASET[:4], {"picture": 1}]))
    assert not ActivationStore.load(tmp_path).finished
    assert "unfinished" in repr(ActivationStore.load(tmp_path))
    with pytest.raises(InputError, match=r"is unfinished, and its sample 0 is another \(\w+, now \w+\)"):
        gather(llava, tmp_path, [picture(30), *DATASET[1:]])
    assert_equal(gather(llava, tmp_path), gather(llava))


def test_another_question_is_refused_with_all_that_differs(llava: Subject, qwen: Subject, tmp_path: Path) -> None:
    gather(llava, tmp_path, DATASET[:2])
    with pytest.raises(
        InputError, match=r"max_new_tokens: stored 3, now 4; dtype: stored float16, now bfloat16\. Ask the same"
    ):
        gather(llava, tmp_path, max_new_tokens=4, dtype="bfloat16")
    with pytest.raises(InputError, match=r"model: stored Llava\w+, now Qwen2VL\w+; fingerprint: .*; processor: "):
        gather(qwen, tmp_path)
    with pytest.raises(
        InputError, match=r"rule: stored every generated token, now the last token of the first of: red"
    ):
        gather(llava, tmp_path, positions=None, token="red")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no activation store and not empty; name a new folder"):
        gather(llava, tmp_path / "other")
    with pytest.raises(InputError, match=r"There is no activation store at .* \(store.json is missing\)"):
        ActivationStore.load(tmp_path / "nothing")
    next(tmp_path.glob("states-*")).write_bytes(b"torn")
    with pytest.raises(InputError, match="is missing or damaged"):
        ActivationStore.load(tmp_path).at(POINTS[0])


def test_it_reads_back_in_every_form(llava: Subject, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    memory, disk = gather(llava), gather(llava, tmp_path)
    assert_equal(disk, memory)
    point = POINTS[1]
    states = disk.at(point)
    files = [load_file(path) for path in sorted(tmp_path.glob("states-*"))]
    raw = torch.cat([held[point] for held in files])
    assert raw.dtype == torch.float16
    assert torch.equal(states.values, raw.float())
    np.testing.assert_array_equal(states.numpy(), raw.float().numpy())
    np.testing.assert_array_equal(disk.at(point, dtype=torch.bfloat16).numpy(), raw.bfloat16().float().numpy())
    frame = states.to_frame()
    np.testing.assert_array_equal(frame[list(range(raw.shape[1]))].to_numpy(), raw.float().numpy())
    assert list(frame["tokens"]) == list(states.tokens)
    table = states.to_dataset()
    np.testing.assert_array_equal(np.stack(table["values"][:]), raw.float().numpy())
    assert list(table["keys"]) == list(states.keys)
    rows = list(disk.to_dataset())
    np.testing.assert_array_equal(np.stack([row[point] for row in rows]), raw.float().numpy())
    assert [row["caption"] for row in rows] == list(states.captions)
    assert torch.equal(torch.cat([chunk.values for chunk in disk.mapped(point).split(3)]), states.values)
    assert list(disk.to_frame()["rows"]) == [record.rows for record in disk.records]
    some = states[torch.tensor([4, 2])]
    assert torch.equal(some.values, states.values[[4, 2]])
    assert some.keys == (states.keys[4], states.keys[2])


def test_only_asked_rows_are_read(llava: Subject, tmp_path: Path) -> None:
    shard = gather(llava, tmp_path).shards[0]
    assert torch.equal(shard.values(POINTS[0], slice(1, 3)), shard.values(POINTS[0], slice(None))[1:3])
