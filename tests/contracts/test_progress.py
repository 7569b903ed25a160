"""Contract: nothing is printed, and a call shows one bar at most."""

import inspect
import io
import re
from pathlib import Path

import pytest

import mmlens as mm
from mmlens.core import progress
from tests.contracts.door.calls import Fuzz, Public, public
from tests.contracts.door.world import World

#: Calls whose examples take many seconds; like all others they are checked ones, whose bars share a line.
LONG = {
    *("causal_effect", "causal_trace", "cross_modality", "curve", "evaluate_circuit", "finetune", "image_invariance"),
    *("localisation", "neuron_report", "noun_exclusivity", "region_invariance", "reproduce", "sensitivity", "verify"),
    *("attribution_graph", "blank_patch_vectors", "edit_report"),
}
#: Calls whose examples are refused: the captions of the batch do not say the word.
REFUSED = {"edits.rank_one", "edits.remove_word", "edits.replace_token"}
SHOWING = [item for item in public() if "progress" in item.parameters and not item.is_class and item.owner is None]


@pytest.fixture(scope="module")
def fuzz() -> Fuzz:
    return Fuzz(World())


@pytest.mark.parametrize(
    "item", [item for item in SHOWING if item.name not in LONG | REFUSED], ids=lambda item: item.name
)
def test_a_call_shows_one_bar_and_prints_nothing(
    item: Public, fuzz: Fuzz, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = {**fuzz.arguments(item), "progress": True}
    monkeypatch.chdir(tmp_path)
    screen, bars, tqdm = io.StringIO(), [], progress.tqdm

    def drawn(**options: object) -> progress.tqdm:
        bars.append(tqdm(file=screen, **options))
        return bars[-1]

    monkeypatch.setattr(progress, "tqdm", drawn)
    capfd.readouterr()
    item.function(**arguments)
    assert len(bars) <= 1
    assert screen.getvalue().count("\n") == len(bars), "the line stays, and no other"
    assert capfd.readouterr() == ("", "")


def test_a_model_of_the_lab_is_loaded_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    mm.lab.load()
    assert capfd.readouterr() == ("", "")


def test_all_bars_are_those_of_checked_calls() -> None:
    assert len(SHOWING) > 40
    assert not [item.name for item in SHOWING if inspect.unwrap(item.function) is item.function]
    package = Path(mm.__file__).parent
    own = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^\s*(?:from|import) tqdm", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert [name for name in own if not name.startswith("lab/training/")] == ["core/progress.py"]
