"""Every notebook runs top to bottom, in time and without warnings, and is stored without outputs."""

import os
import resource
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of the kernel's own start
def test_it_runs_top_to_bottom_within_a_minute(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parents[1]), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that seconds of the processor are seconds of a quiet machine
    book = nbformat.read(path, as_version=4)
    before = _seconds_of_children()
    NotebookClient(book, timeout=600, kernel_name="python3").execute()
    assert _seconds_of_children() - before < 60
    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2
    warned = [line for output in shown if output.get("name") == "stderr" for line in output["text"].splitlines()]
    # tqdm warns where ipywidgets is not installed, and draws its bars as text
    assert not [line for line in warned if "Warning" in line and "TqdmWarning" not in line]
    assert str(path.parents[1]) not in nbformat.writes(book)


def _seconds_of_children() -> float:
    """Seconds of the processor that finished child processes have taken: the kernel, once it has been shut down."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
