"""A store's folder: what is written when, so that a kill at any moment loses no finished shard and doubles no sample.

    store.json               the question, the order number at which the present run began, and whether it finished
    index-00000.json         the shards of process 0, in order
    states-00000-000000.safetensors ...

A shard is written whole and takes its name in one step, then the index that lists it. A file that no index lists is not
part of the store: it was written by a run that was killed between the two, and is overwritten by the next shard.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlens.analysis.store.collection_config import CollectionConfig
from mmlens.analysis.store.processes import Process
from mmlens.analysis.store.shard import FileShard, MemoryShard
from mmlens.core.errors import InputError
from mmlens.core.files import clear_unfinished, whole_file

_FORMAT = "mmlens.store.ActivationStore/1"
_MAIN = "store.json"


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


def read_question(path: Path) -> CollectionConfig:
    """The question of the store in a folder.

    Raises:
        InputError: if there is none.
    """
    return CollectionConfig.from_json(_read_main(path)["question"])


def read_shards(path: Path) -> list[FileShard]:
    """The shards of the store in a folder, process by process."""
    indices = [json.loads(index.read_text(encoding="utf-8")) for index in sorted(path.glob("index-*.json"))]
    return [FileShard(path / shard["file"]) for index in indices for shard in index["shards"]]


def is_finished(path: Path) -> bool:
    """Whether the last run into a folder came to its end."""
    return bool(_read_main(path)["finished"])


def _read_main(path: Path) -> dict[str, Any]:
    main = path / _MAIN
    if not main.is_file():
        raise InputError(
            f"There is no activation store at {path} ({_MAIN} is missing); mm.collect(..., into=...) makes one."
        )
    about = json.loads(main.read_text(encoding="utf-8"))
    if about.get("format") != _FORMAT:
        raise InputError(f"{path} is no activation store (format {about.get('format')!r}, not {_FORMAT!r}).")
    return about


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


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
        self._index = path / f"index-{process.index:05d}.json"
        if (path / _MAIN).is_file():
            read_question(path).require(question, str(path))
        elif path.exists() and (not path.is_dir() or any(not item.name.startswith(".") for item in path.iterdir())):
            raise InputError(f"{path} is no activation store and not empty; name a new folder.")

    def begin(self) -> Done:
        """Open the run; says what need not be done again. All processes come here together."""
        self.process.wait()
        if self.process.is_first:
            self._open()
        self.process.wait()
        about = _read_main(self.path)
        base = int(about["base"])
        here: dict[int, str] = {}
        before: set[str] = set()
        for shard in read_shards(self.path):
            for record in shard.records:
                if record.number >= base:
                    here[record.number] = record.key
                else:
                    before.add(record.key)
        return Done(base, here, frozenset(before))

    def _open(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        clear_unfinished(self.path)
        base = 0
        if (self.path / _MAIN).is_file():
            about = _read_main(self.path)
            base = int(about["base"])
            if about["finished"]:
                numbers = [record.number for shard in read_shards(self.path) for record in shard.records]
                base = 1 + max(numbers, default=-1)
        self._write_main(base, is_finished=False)

    def _write_main(self, base: int, *, is_finished: bool) -> None:
        content = {"format": _FORMAT, "question": self.question.as_json(), "base": base, "finished": is_finished}
        _write_json(self.path / _MAIN, content)

    def add(self, shard: MemoryShard) -> None:
        """Write a shard, and then list it."""
        shards = json.loads(self._index.read_text(encoding="utf-8"))["shards"] if self._index.is_file() else []
        name = f"states-{self.process.index:05d}-{len(shards):06d}.safetensors"
        shard.save(self.path / name)
        entry = {"file": name, "samples": len(shard.records), "rows": len(shard.steps)}
        _write_json(self._index, {"shards": [*shards, entry]})

    def finish(self, base: int) -> None:
        """Close the run once all processes are through."""
        self.process.wait()
        if self.process.is_first:
            self._write_main(base, is_finished=True)
        self.process.wait()
