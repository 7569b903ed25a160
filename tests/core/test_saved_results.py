"""Every kind of file: no damage of it is silent; every result pickles, or says why not."""

import pickle
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mmlens.analysis.store.folder import INDEX_FILE, MAIN_FILE
from mmlens.analysis.store.shard import _FILE as SHARD_FILE
from mmlens.analysis.tuning.tune import RECORD, Tune
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.saved import Saved
from mmlens.recipes.study import Study
from tests.results import AT, IDENTITY, RESULTS, all_of, tune
from tests.viz import made

ROOT = Path(__file__).parents[2]


class SavedCheckpoint:
    """A checkpoint with something in it, saved and loaded as other results are."""

    def save(self, path: Path) -> None:
        found = Checkpoint(path, "sweep", lambda exact: IDENTITY)
        found.tensors["values"], found.parts["done"] = made.noise(3, 4), [1, 2]
        found.save(now=True)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        return Checkpoint(path, "sweep", lambda exact: IDENTITY)


class SavedTune:
    """What a fine-tune's folder says of it, saved and loaded as other results are."""

    def save(self, path: Path) -> None:
        replace(tune(), folder=path.parent).record()

    @classmethod
    def load(cls, path: Path) -> Tune:
        return Tune.load(path.parent)


class SavedStudy:
    """What a study's folder is of: read, and compared, whenever the study goes on."""

    def save(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # it is written once
        self.load(path)

    @classmethod
    def load(cls, path: Path, identity: dict[str, str] = IDENTITY) -> Study:
        nothing: Any = None  # neither model nor samples nor settings have a part in it
        study = Study("pan", nothing, nothing, nothing, path.parent, identity)
        study.begin()
        return study


#: Of every kind that has a file.
FORMATS: dict[str, Callable[[], Any]] = {
    **{
        name: RESULTS[name]
        for name in ["ActivationCache", "ContextualIndex", *(kind.__name__ for kind in all_of(Saved))]
    },
    "Checkpoint": SavedCheckpoint,
    "Tune": SavedTune,
    "Study": SavedStudy,
}
#: Those whose file has a name of its own, in a folder.
NAMES = {"Tune": RECORD, "Study": "study.json"}


def path_of(name: str, folder: Path) -> Path:
    """Where a result is saved."""
    return folder / NAMES.get(name, "file")


def test_every_other_kind_of_file_is_here() -> None:
    """But those that stores are made of, which have tests of their own."""
    sources = [path.read_text("utf-8") for path in (ROOT / "mmlens").rglob("*.py")]
    names = {name for text in sources for name in re.findall(r'(?:Tensor|Json)Kind\(\s*f?"mmlens\.([\w.]+)', text)}
    kinds = {name.rpartition(".")[2] for name in names if not name.startswith("store.ActivationStore")}
    assert kinds - {"shard"} <= set(FORMATS)


#: Of the form of each kind of file, where it is not 1: whoever changes one raises it, here too, so that older files are refused.
VERSIONS = {"ActivationCache": 2, "Checkpoint": 2}


@pytest.mark.parametrize("name", FORMATS)
def test_files_say_of_which_version_they_are(name: str, tmp_path: Path) -> None:
    path = path_of(name, tmp_path)
    FORMATS[name]().save(path)
    found = re.findall(rb'"format"\s*:\s*"(?:\\")?mmlens\.([\w. ]+)/(\d+)', path.read_bytes())
    assert [int(version) for _, version in found] == [VERSIONS.get(name, 1)]


def test_files_of_stores_are_of_their_version() -> None:
    assert [kind.version for kind in (MAIN_FILE, INDEX_FILE, SHARD_FILE)] == [2, 2, 3]


@pytest.mark.parametrize("name", FORMATS)
def test_a_result_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    result = FORMATS[name]()
    path = path_of(name, tmp_path)
    result.save(path)
    again = type(result).load(path)
    if name == "Checkpoint":
        assert torch.equal(again.tensors["values"], made.noise(3, 4))
        assert (again.parts["done"], again.identity) == ([1, 2], IDENTITY)
    elif name == "ActivationCache":
        assert torch.equal(again["hook_embed"], result["hook_embed"])
    elif name == "ContextualIndex":
        assert (again.words, again.contexts) == (result.words, result.contexts)
        assert torch.equal(again.states[AT].values[:], result.states[AT].values[:])
    elif name == "Tune":
        assert as_plain(again) == as_plain(replace(tune(), folder=tmp_path))
    elif name == "Study":
        with pytest.raises(InputError, match=r"holds a study that differs in weights\."):
            SavedStudy.load(path, {**IDENTITY, "weights": "another"})
    else:
        assert identity_of(as_plain(again)) == identity_of(as_plain(result))


def as_plain(value: Any) -> Any:
    """A value whose lists and tuples are alike, as JSON knows no difference."""
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, pd.DataFrame):
        return as_plain(value.to_dict("list"))
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: as_plain(getattr(value, entry.name)) for entry in fields(value)}
    return value


def damages(whole: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """What disks, transfers and other programs do to a file: of every three a flipped bit, a lost piece, a wrong piece."""
    for number in range(count):
        start = rng.randrange(len(whole))
        stop = min(len(whole), start + rng.randint(1, 64))
        changed = bytearray(whole)
        if number % 3 == 0:
            changed[start] ^= 1 << rng.randrange(8)
            yield bytes(changed)
        elif number % 3 == 1:
            yield rng.choice([whole[:start], whole[:start] + whole[stop:], whole[start + 1 :], b""])
        else:
            noise = rng.randbytes(stop - start)
            pieces = [noise, bytes(len(noise)), noise + whole[start:stop], whole[:start][-64:] + whole[start:stop]]
            damaged = whole[:start] + rng.choice(pieces) + whole[stop:]
            changed[start] ^= 255
            yield bytes(changed) if damaged == whole else damaged


def count_silent(name: str, folder: Path, count: int) -> list[bytes]:
    """The damages after which a file is still read."""
    path, result = path_of(name, folder), FORMATS[name]()
    result.save(path)
    whole, silent = path.read_bytes(), []
    for damaged in damages(whole, count, random.Random(name)):
        path.write_bytes(damaged)
        try:
            type(result).load(path)
        except InputError as error:
            silent += [] if str(path) in str(error) else [damaged]
        else:
            silent.append(damaged)
    return silent


@pytest.mark.parametrize("name", FORMATS)
def test_no_damage_is_silent(name: str, tmp_path: Path) -> None:
    """A slice of the next."""
    assert count_silent(name, tmp_path, 30) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_none_of_many_damages_is_silent(name: str, tmp_path: Path) -> None:
    """300 of each kind of file, and the 550 of stores."""
    assert count_silent(name, tmp_path, 300) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_kind_is_refused_by_name(name: str, tmp_path: Path) -> None:
    other = "Circuit" if name != "Circuit" else "Edit"
    path = path_of(name, tmp_path)
    FORMATS[other]().save(path)
    with pytest.raises(InputError, match=re.escape(str(path))):
        type(FORMATS[name]()).load(path)


#: Results that always hold the model that they are of, and so pickle as little as it does.
WITH_MODEL = {"FeatureScores"}


@pytest.mark.parametrize("name", RESULTS)
def test_results_pickle(name: str) -> None:
    """A cache, which belongs to a model, says why not; see tests/models/test_copies.py for results that hold a model."""
    result = RESULTS[name]()
    again = pickle.loads(pickle.dumps(result))
    assert type(again) is type(result)
    if name == "ActivationCache":
        assert torch.equal(again["hook_embed"], result["hook_embed"])
    else:
        assert identity_of(again) == identity_of(result)


def test_every_public_result_is_pickled_here() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "mmlens").rglob("*.py")]
    names = {name for text in sources for name in re.findall(r"@checked_result\n@dataclass\(.*\)\nclass (\w+)", text)}
    assert names - WITH_MODEL <= set(RESULTS), "say here how a small one is made"
