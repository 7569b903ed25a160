"""An interrupted sweep keeps its finished cells; a file of another sweep is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmlens.analysis.metrics import logit_difference
from mmlens.analysis.patching.sweep import patch
from mmlens.core.errors import InputError
from mmlens.execution import CleanRun
from mmlens.interventions.corruptions import noise, swap
from tests.conftest import Subject
from tests.tiny import picture

METRIC = logit_difference("red", "blue")


def asked(subject: Subject, path: Path | None = None, **changes: Any) -> Any:
    clean = subject.batches["left"]
    corrupted = changes.pop("corrupted", None)
    if corrupted is None:
        corrupted = swap(subject.model, clean, [[picture(8 + i)] for i in range(2)])
    options = {"at": "blocks.*.hook_resid_pre", "metric": METRIC, "positions": ["image", "last"], **changes}
    return patch(subject.model, clean, corrupted, checkpoint=path, progress=False, **options)


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    llava: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asked(llava)
    path = tmp_path / "cells.safetensors"
    own = CleanRun.logits
    ran: list[int] = []

    def until_interrupted(self: CleanRun, cells: Any, **options: Any) -> torch.Tensor:
        """Two points' cells, and then control-C."""
        done = options["on_done"]
        own(self, cells[:8], **options)
        assert done is not None
        raise KeyboardInterrupt

    monkeypatch.setattr(CleanRun, "logits", until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        asked(llava, path)

    def counted(self: CleanRun, cells: Any, **options: Any) -> torch.Tensor:
        ran.append(len(cells))
        return own(self, cells, **options)

    monkeypatch.setattr(CleanRun, "logits", counted)
    again = asked(llava, path)
    assert ran == [4], "only the cells of the last point were left"
    torch.testing.assert_close(again.values, whole.values, rtol=0, atol=1e-6)
    asked(llava, path)
    assert ran == [4], "nothing was left"


def test_the_cells_of_another_sweep_are_refused(llava: Subject, tmp_path: Path) -> None:
    path = tmp_path / "cells.safetensors"
    asked(llava, path)
    clean = llava.batches["left"]
    other = swap(llava.model, clean, [[picture(1)], [picture(2)]])
    for changes, differs in (
        ({"positions": ["image", "text"]}, "positions"),
        ({"metric": logit_difference("red", "green")}, "metric"),
        ({"direction": "noise"}, "direction"),
        ({"corrupted": other}, "the corrupted batch"),
        ({"corrupted": noise(llava.model, clean, seed=1)}, "the corrupted batch"),
        ({"at": "blocks.*.hook_resid_mid"}, "points"),
    ):
        with pytest.raises(
            InputError, match=rf"holds the results of another sweep: it differs in {differs}\. Use another file"
        ):
            asked(llava, path, **changes)
    with pytest.raises(InputError, match=r"the folder .* does not exist"):
        asked(llava, tmp_path / "nowhere" / "cells")
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(InputError, match="or a damaged one"):
        asked(llava, tmp_path / "other")


def test_noise_of_another_seed_is_another_batch(llava: Subject) -> None:
    clean = llava.batches["left"]
    hashes = [noise(llava.model, clean, seed=seed).content_hash for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] != clean.content_hash
