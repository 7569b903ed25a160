"""A store's folder: what is written when, so that a kill at any moment loses no finished shard and doubles no sample.

    store.json               the question, the order number at which the present run began, and whether it finished
    index-00000.json         the shards of process 0, in order
    states-00000-000000.safetensors ...

A shard is written whole and takes its name in one step, then the index that lists it. A file that no index lists is not
part of the store: it was written by a run that was killed between the two, and is overwritten by the next shard. One run
writes at a time; the processes of one launch write their own files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlens.analysis.store.collection_config import CollectionConfig
from mmlens.analysis.store.shard import FileShard, MemoryShard
from mmlens.core.errors import DamagedFileError, InputError
from mmlens.core.files import clear_unfinished
from mmlens.core.locks import locked
from mmlens.core.processes import Process
from mmlens.core.results import JsonKind

MAIN = "store.json"
MAIN_FILE = JsonKind(
    "mmlens.store.ActivationStore",
    2,
    "activation store",
    {"question": dict[str, Any], "base": int, "finished": bool, "processes": int},
)
INDEX_FILE = JsonKind("mmlens.store.ActivationStore.index", 2, "index of an activation store", {"shards": list[dict]})


@dataclass(frozen=True)
class Done:
    """What a folder already holds when a run begins.

    Attributes:
        base: the order number of the dataset's first sample in this run.
        here: samples that this run has stored, by number: their keys. Not empty only if the run was interrupted before.
        before: keys of the samples that earlier, finished runs stored.
    """

    base: int = 0
    here: dict[int, str] | None = None
    before: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StoreFile:
    """What `store.json` says.

    Attributes:
        question: what was collected.
        base: the order number at which the last run began.
        finished: whether it came to its end.
        processes: how many at most took part in a run; each has an index.
    """

    question: CollectionConfig
    base: int
    finished: bool
    processes: int

    @classmethod
    def read(cls, path: Path) -> "StoreFile":
        """That of the store in a folder.

        Raises:
            InputError: if there is none, or it is damaged.
        """
        if not (path / MAIN).is_file():
            raise InputError(
                f"There is no activation store at {path} ({MAIN} is missing); mm.collect(..., into=...) makes one. If it was "
                "one, mm.store.ActivationStore.repaired(path) makes it again of its shards."
            )
        content = MAIN_FILE.read(path / MAIN)
        question = CollectionConfig.from_json(content.pop("question"))
        return cls(question, **content)

    def write(self, path: Path) -> None:
        """Write it."""
        content = {"question": self.question.as_json(), "base": self.base, "finished": self.finished}
        MAIN_FILE.write(path / MAIN, {**content, "processes": self.processes})


def index_of(path: Path, process: int) -> Path:
    """The index of a process's shards."""
    return path / f"index-{process:05d}.json"


def read_index(path: Path, process: int) -> list[dict[str, Any]]:
    """The shards that a process wrote, as its index lists them.

    Raises:
        InputError: if the index is missing or damaged.
    """
    file = index_of(path, process)
    try:
        return INDEX_FILE.read(file)["shards"]
    except InputError as error:
        raise DamagedFileError(
            f"{error} mm.store.ActivationStore.repaired({str(path)!r}) makes it again of the shards."
        ) from error


def read_shards(path: Path, about: StoreFile) -> list[FileShard]:
    """The shards of the store in a folder, process by process."""
    entries = [entry for process in range(about.processes) for entry in read_index(path, process)]
    return [FileShard(path / entry["file"], entry["checksum"]) for entry in entries]


class StoreFolder:
    """A folder that one run, or one process of it, adds shards to.

    Args:
        path: the folder; made if it does not exist.
        question: what is asked.
        process: which process adds.

    Raises:
        InputError: if the folder holds a store with another question, or other files; in all processes alike.
    """

    def __init__(self, path: Path, question: CollectionConfig, process: Process):
        self.path = path
        self.question = question
        self.process = process
        if (path / MAIN).is_file():
            StoreFile.read(path).question.require(question, str(path))
            return
        names = [item.name for item in path.iterdir()] if path.is_dir() else [path.name] * path.exists()
        if any(name.startswith("states-") for name in names):
            StoreFile.read(path)  # says what to do
        # indices alone are those of a run that was killed before it wrote anything else
        if any(not name.startswith((".", "index-")) for name in names):
            raise InputError(f"{path} is no activation store and not empty; name a new folder.")

    @contextmanager
    def run(self) -> Iterator[Done]:
        """Have a run open inside the `with`; gives what need not be done again. All processes come here together.

        Raises:
            InputError: if another run is writing to the folder, or what it holds is damaged.
        """
        self.process.wait()
        if not self.process.is_first:
            self.process.wait()
            n_finished = self._done()
            yield n_finished
            self._end(n_finished)
            return
        with locked(self.path, "The activation store"):
            self._open()
            self.process.wait()
            n_finished = self._done()
            yield n_finished
            self._end(n_finished)

    def _end(self, done: Done) -> None:
        """Close the run once all processes are through."""
        self.process.wait()
        if self.process.is_first:
            about = StoreFile.read(self.path)
            StoreFile(self.question, done.base, True, about.processes).write(self.path)
        self.process.wait()

    def _done(self) -> Done:
        about = StoreFile.read(self.path)
        records = [record for shard in read_shards(self.path, about) for record in shard.records]
        here = {record.number: record.key for record in records if record.number >= about.base}
        return Done(about.base, here, frozenset(record.key for record in records if record.number < about.base))

    def _open(self) -> None:
        clear_unfinished(self.path)
        base, known = 0, 0
        if (self.path / MAIN).is_file():
            about = StoreFile.read(self.path)
            base, known = about.base, about.processes
            if about.finished:
                numbers = [record.number for shard in read_shards(self.path, about) for record in shard.records]
                base = 1 + max(numbers, default=-1)
        # before the file that says how many there are: one that is missing later was lost
        for process in range(known, self.process.count):
            INDEX_FILE.write(index_of(self.path, process), {"shards": []})
        StoreFile(self.question, base, False, max(known, self.process.count)).write(self.path)

    def add(self, shard: MemoryShard) -> None:
        """Write a shard, and then list it."""
        shards = read_index(self.path, self.process.index)
        numbers = {int(Path(entry["file"]).stem.rpartition("-")[2]) for entry in shards}
        file = self.path / f"states-{self.process.index:05d}-{1 + max(numbers, default=-1):06d}.safetensors"
        INDEX_FILE.write(
            index_of(self.path, self.process.index), {"shards": [*shards, shard.save(file, self.question)]}
        )
