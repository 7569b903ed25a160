"""What of a store in a folder is sound, and making it sound again: what is damaged is taken out, and only that is made anew."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmlens.analysis.store.folder import INDEX_FILE, MAIN, StoreFile, index_of, read_index
from mmlens.analysis.store.shard import FileShard
from mmlens.core.errors import InputError
from mmlens.core.files import clear_unfinished
from mmlens.core.locks import locked

_SHARDS = "states-*.safetensors"


@dataclass(frozen=True)
class StoreCheck:
    """What was found in a store's folder.

    Attributes:
        sound: the shards that are.
        problems: what is not, by file.
    """

    sound: tuple[FileShard, ...]
    problems: dict[str, str]

    def __bool__(self) -> bool:
        return not self.problems

    def __repr__(self) -> str:
        if not self.problems:
            return f"StoreCheck({len(self.sound)} shards, all sound)"
        lines = [f"  {name}: {why}" for name, why in self.problems.items()]
        return "\n".join([f"StoreCheck({len(self.sound)} sound shards, {len(lines)} problems)", *lines])


def check_store(path: Path) -> StoreCheck:
    """Read every byte of a store and compare it with its checksums.

    Args:
        path: its folder.

    Raises:
        InputError: if it holds no store.
    """
    _require_store(path)
    problems: dict[str, str] = {}
    try:
        processes = StoreFile.read(path).processes
    except InputError as error:
        problems[MAIN] = str(error)
        files = [*path.glob("index-*.json"), *path.glob(_SHARDS)]
        processes = 1 + max((int(file.stem.split("-")[1]) for file in files), default=-1)
    shards: dict[str, FileShard] = {}
    for process in range(processes):
        try:
            entries = read_index(path, process)
        except InputError as error:
            problems[index_of(path, process).name] = str(error)
            # each shard says itself what it holds
            entries = [{"file": file.name, "checksum": ""} for file in path.glob(f"states-{process:05d}-*.safetensors")]
        shards |= {entry["file"]: FileShard(path / entry["file"], entry["checksum"]) for entry in entries}
    for name, shard in shards.items():
        try:
            shard.check()
        except InputError as error:
            problems[name] = str(error)
    further = {file.name for file in path.glob(_SHARDS)} - set(shards)
    problems |= dict.fromkeys(sorted(further), "no index lists it, so it is no part of the store")
    return StoreCheck(tuple(shard for name, shard in shards.items() if name not in problems), problems)


def repair_store(path: Path) -> StoreCheck:
    """Take out of a store what is damaged, so that the rest can be read and the same `mm.collect` makes the missing anew.

    Damaged shards are set aside as `damaged-...`; a damaged index, or `store.json`, is made again of the shards, each of which
    says what it holds and what was asked.

    Args:
        path: its folder.

    Returns:
        What was wrong.

    Raises:
        InputError: if it holds no store, another run is writing there, or no shard is left that says what was collected.
    """
    _require_store(path)
    with locked(path, "The activation store"):
        clear_unfinished(path)
        report = check_store(path)
        if report:
            return report
        about = _main(path, report.sound)
        missing_files = [
            name
            for name in report.problems
            if name.startswith("states-") and "no index lists" not in report.problems[name]
        ]
        # what a damaged index listed beside what is there is not known: the last run is gone through again
        index_is_sound = not any(name.startswith("index-") for name in report.problems)
        complete = index_is_sound and all(_last(path, name) < about.base for name in missing_files)
        for name in report.problems:
            if name.startswith("states-") and (path / name).exists():
                (path / name).rename(path / f"damaged-{name}")
        count = max([about.processes, *(1 + int(shard.path.name.split("-")[1]) for shard in report.sound)])
        for process in range(count):
            entries = {
                shard.path.name: shard for shard in report.sound if shard.path.name.startswith(f"states-{process:05d}-")
            }
            INDEX_FILE.write(index_of(path, process), {"shards": [entries[name].entry for name in sorted(entries)]})
        # a run that is not finished goes on by the numbers of its samples, and so makes those anew that are missing
        replace(about, processes=count, finished=about.finished and complete).write(path)
    return report


def _last(path: Path, shard: str) -> float:
    """The number of a shard's last sample, as its index has it; infinity where no index tells."""
    try:
        entries = read_index(path, int(shard.split("-")[1]))
    except InputError:
        return float("inf")
    return next((entry["numbers"][1] for entry in entries if entry["file"] == shard), float("inf"))


def _require_store(path: Path) -> None:
    if not any(True for pattern in (MAIN, "index-*.json", _SHARDS) for _ in path.glob(pattern)):
        raise InputError(f"There is no activation store at {path}; mm.collect(..., into=...) makes one.")


def _main(path: Path, shards: Sequence[FileShard]) -> StoreFile:
    """What `store.json` says; or what shards say was asked, of a run that is not finished and began with the first sample."""
    try:
        return StoreFile.read(path)
    except InputError as error:
        if not shards:
            raise InputError(
                f"Nothing of the store at {path} is left that says what was collected; delete it."
            ) from error
        return StoreFile(shards[0].question, 0, False, 1)
