"""Stores that meet the world: bits that flip, files that vanish, two writers, power that fails between any two writes."""

import os
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmlens.analysis.store.store import ActivationStore
from mmlens.core.errors import DamagedFileError, InputError
from mmlens.core.processes import Process
from mmlens.interventions.activations import Scale
from mmlens.interventions.edits.rows import zero_neurons
from tests.analysis.store.test_store import DATASET, POINTS, assert_equal, gather, in_child, needs_fork
from tests.conftest import Subject
from tests.tiny import TINY


@pytest.fixture
def store(llava: Subject, tmp_path: Path) -> ActivationStore:
    """A finished store of seven shards."""
    return gather(llava, tmp_path / "store")


def read_all(path: Path) -> list[torch.Tensor]:
    """Everything that a store holds."""
    found = ActivationStore.load(path)
    return [found.at(point).values for point in found.points]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_no_flipped_bit_of_any_file_is_silent(store: ActivationStore) -> None:
    """In each kind of file: reading all of the store, or checking it, says which file is damaged."""
    assert store.path is not None
    rng = random.Random(0)
    for pattern, count in (("store.json", 150), ("index-*.json", 150), ("states-*", 250)):
        file = min(store.path.glob(pattern))
        whole = file.read_bytes()
        for number in range(count):
            file.write_bytes(flipped(whole, rng.randrange(8 * len(whole))))
            with pytest.raises(InputError, match=file.name):
                read_all(store.path)
            if number % 50 == 0:
                assert list(store.check().problems) == [file.name]
        file.write_bytes(whole)
    assert store.check()
    assert repr(store.check()) == "StoreCheck(7 shards, all sound)"


def lose(file: Path) -> None:
    file.unlink()


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def swap(file: Path) -> None:
    """Another sound shard under this one's name, as a copy of an older store would have it."""
    other = max(file.parent.glob("states-*")) if file.name.startswith("states") else file
    shutil.copy(other, file)


@pytest.mark.parametrize("damage", [lose, tear, swap], ids=lambda damage: damage.__name__)
def test_what_is_damaged_is_found_taken_out_and_only_that_made_anew(
    llava: Subject, store: ActivationStore, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.path
    assert path is not None
    bad = path / "states-00000-000002.safetensors"
    others = {file.name: file.read_bytes() for file in path.glob("states-*") if file != bad}
    damage(bad)
    found = store.check()
    assert list(found.problems) == [bad.name]
    assert not found
    with pytest.raises(DamagedFileError, match=rf"missing or damaged: .*{bad.name}.*ActivationStore\.repaired"):
        read_all(path)
    with pytest.raises(DamagedFileError, match=bad.name):
        gather(llava, path)
    repaired = store.repair()
    assert len(repaired.records) == len(DATASET) - 2
    assert not repaired.finished
    ran: list[int] = []
    own = type(llava.model).trace_generation

    def counted(self: Any, batch: Any, **options: Any) -> Any:
        ran.append(batch.size)
        return own(self, batch, **options)

    monkeypatch.setattr(type(llava.model), "trace_generation", counted)
    assert_equal(gather(llava, path), gather(llava))
    assert ran[:1] == [2], "the two samples of the shard that was lost"
    assert {name: (path / name).read_bytes() for name in others} == others
    assert store.check()


@pytest.mark.parametrize("damage", [lose, tear], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(
    "names", [["index-00000.json"], ["store.json"], ["store.json", "index-00000.json"]], ids="+".join
)
def test_an_index_and_the_store_s_own_file_are_made_again_of_the_shards(
    llava: Subject, store: ActivationStore, names: list[str], damage: Callable[[Path], None]
) -> None:
    path = store.path
    assert path is not None
    for name in names:
        damage(path / name)
    with pytest.raises(InputError, match=r"ActivationStore\.repaired|damaged"):
        read_all(path)
    repaired = ActivationStore.repaired(path)
    assert_equal(repaired, gather(llava))
    assert_equal(gather(llava, path), gather(llava))
    assert ActivationStore.load(path).check()


def test_where_nothing_is_there_nothing_is_repaired(llava: Subject, store: ActivationStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no activation store at"):
        ActivationStore.repaired(tmp_path / "nowhere")
    with pytest.raises(InputError, match="The store is in memory, and has no files"):
        gather(llava).check()
    assert store.path is not None
    for file in store.path.glob("*"):
        if file.name != "index-00000.json":
            file.unlink()
    with pytest.raises(InputError, match="is left that says what was collected; delete it"):
        ActivationStore.repaired(store.path)


def test_plain_steered_and_edited_states_do_not_mix(tmp_path: Path) -> None:
    model = TINY[0].make()
    own = Subject(TINY[0], model, None, {})
    gather(own, tmp_path, DATASET[:2])
    for change, differs in (
        (lambda: model.intervene(Scale("blocks.0.hook_mlp_out", 2.0)), r"interventions: stored none, now 1 \(\w+\)"),
        (lambda: model.hooks([("hook_embed", lambda x, hook: 2 * x)]), r"interventions: stored none, now 1 \(\w+\)"),
        (lambda: model.edited(zero_neurons(model, "L0.u3")), r"fingerprint: .*; edits: stored none, now 1 \(\w+\)"),
    ):
        with change(), pytest.raises(InputError, match=f"was collected with another question; {differs}"):
            gather(own, tmp_path, DATASET[:4])
    with torch.no_grad():
        model.hf_model.model.language_model.layers[2].mlp.down_proj.weight[3, 4] += 1
    with pytest.raises(InputError, match="with another question; fingerprint: stored"):
        gather(own, tmp_path, DATASET[:4])


def test_a_second_writer_is_refused_and_one_after_the_other_are_not(llava: Subject, tmp_path: Path) -> None:
    path, refused = tmp_path / "store", []

    def while_writing() -> Iterator[Any]:
        yield DATASET[0]
        for attempt in (lambda: gather(llava, path), lambda: ActivationStore.repaired(path)):
            thread = threading.Thread(target=lambda attempt=attempt: refused.append(message_of(attempt)))
            thread.start()
            thread.join()
        yield from DATASET[1:]

    gather(llava, path, while_writing())
    expected = rf"at {path} is being written by process {os.getpid()} on .*; wait until that is through"
    assert len(refused) == 2
    for message in refused:
        assert re.search(expected, message), message
    assert_equal(gather(llava, path), gather(llava))


def message_of(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except InputError as error:
        return str(error)
    return "nothing was refused"


@needs_fork
def test_a_writer_that_was_killed_holds_no_lock_and_another_process_does(llava: Subject, tmp_path: Path) -> None:
    path, (reading, writing) = tmp_path / "store", os.pipe()

    def endless() -> Iterator[Any]:
        yield from DATASET[:4]
        os.write(writing, b"x")
        threading.Event().wait()

    child = in_child(lambda: gather(llava, path, endless()))
    try:
        assert os.read(reading, 1) == b"x"
        with pytest.raises(InputError, match=rf"is being written by process {child} on"):
            gather(llava, path)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert_equal(gather(llava, path), gather(llava))


def test_the_processes_of_one_launch_share_the_lock(
    llava: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads stand for two processes that wait for each other: the first has the lock, the second needs none."""
    barrier = threading.Barrier(2, timeout=60)
    ranks = threading.local()
    monkeypatch.setattr(
        "mmlens.analysis.store.collect.process_of",
        lambda model: Process(ranks.number, 2, lambda: barrier.wait() and None),
    )
    failures: list[str] = []

    def work(rank: int) -> None:
        ranks.number = rank
        failures.append(message_of(lambda: gather(llava, tmp_path / "store")))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == ["nothing was refused"] * 2
    monkeypatch.undo()
    store = ActivationStore.load(tmp_path / "store")
    assert_equal(store, gather(llava))
    assert store.check()
    (tmp_path / "store" / "index-00001.json").unlink()
    with pytest.raises(DamagedFileError, match=r"index-00001\.json"):
        ActivationStore.load(tmp_path / "store")
    assert_equal(ActivationStore.repaired(tmp_path / "store"), gather(llava))


class PowerCut(BaseException):
    """The machine goes dark."""


class Disk:
    """A disk that keeps what was synced: every call that would change names or sync is a moment at which power can fail.

    Files whose bytes were not synced are cut to nothing when it does, and names that were not synced are those of before.
    """

    def __init__(self, root: Path, patched: pytest.MonkeyPatch, at: int):
        self.root, self.calls, self.at = root, 0, at
        self.synced: set[int] = set()
        self.names: dict[Path, bytes | None] = {}
        own = {name: getattr(os, name) for name in ("fsync", "replace")}

        def fsync(descriptor: int) -> None:
            self.moment()
            own["fsync"](descriptor)
            status = os.fstat(descriptor)
            self.synced.add(status.st_ino)
            self.names = {path: old for path, old in self.names.items() if path.parent.stat().st_ino != status.st_ino}

        def replace(source: Any, target: Any) -> None:
            self.moment()
            target = Path(target)
            assert Path(source).stat().st_ino in self.synced, "a file took its name before its bytes were on the disk"
            self.names.setdefault(target, target.read_bytes() if target.exists() else None)
            own["replace"](source, target)

        patched.setattr(os, "fsync", fsync)
        patched.setattr(os, "replace", replace)

    def moment(self) -> None:
        self.calls += 1
        if self.calls > self.at:
            raise PowerCut

    def fail(self) -> None:
        """What is left after the failure: names that were not synced are undone."""
        for path, old in self.names.items():
            if old is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(old)


def test_power_may_fail_at_any_moment(llava: Subject, tmp_path: Path) -> None:
    """Nothing that was there before is lost or doubled, and the next run ends as a quiet one."""
    expected, dataset = gather(llava), DATASET
    at = 0
    while True:
        path = tmp_path / f"store{at}"
        with pytest.MonkeyPatch.context() as patched:
            disk = Disk(path, patched, at)
            try:
                gather(llava, path, dataset)
                break
            except PowerCut:
                pass
        disk.fail()
        if (path / "store.json").exists():
            numbers = [record.number for record in ActivationStore.load(path).records]
            assert len(numbers) == len(set(numbers))
        if at % 4 == 0:
            assert_equal(gather(llava, path, dataset), expected)
            assert ActivationStore.load(path).check()
        at += 1
    assert at >= 3 * (1 + 1 + 7 * 2 + 1), "each of the writes has three moments"


def test_a_full_disk_leaves_a_store_that_goes_on(
    llava: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    with monkeypatch.context() as patched:
        calls = [0]
        own = os.fsync

        def full(descriptor: int) -> None:
            calls[0] += 1
            if calls[0] > 12:
                raise OSError(28, "No space left on device")
            own(descriptor)

        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            gather(llava, path)
    assert ActivationStore.load(path).check()
    assert_equal(gather(llava, path), gather(llava))


def test_states_of_a_shard_that_is_damaged_after_it_was_opened_are_not_handed_out(store: ActivationStore) -> None:
    """A store that is open already finds damage when rows of a shard are first read."""
    assert store.path is not None
    fresh = ActivationStore.load(store.path)
    assert len(fresh) > 0  # what is known of samples is read; no states yet
    file = max(store.path.glob("states-*"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
    with pytest.raises(DamagedFileError, match="does not match its checksum"):
        [fresh.at(point) for point in POINTS]
