"""An interrupted sweep keeps its finished cells; a file of another sweep is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mmlens.analysis.metrics import logit_difference
from mmlens.analysis.patching.sweep import patch
from mmlens.core.errors import InputError
from mmlens.core.identity import UnknownIdentityError, identity_of
from mmlens.execution import CleanRun
from mmlens.interventions.activations import Scale
from mmlens.interventions.corruptions import noise, swap
from mmlens.interventions.edits.rows import zero_neurons
from tests.conftest import Subject
from tests.tiny import TINY, picture

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
    monkeypatch.setattr("mmlens.execution.cell_runs._ROWS_ON_CPU", 8)  # several calls
    whole = asked(llava)
    path = tmp_path / "cells.safetensors"
    own = CleanRun.logits
    ran: list[int] = []

    def watched(most: float) -> Any:
        def logits(self: CleanRun, cells: Any, **options: Any) -> torch.Tensor:
            done = options.pop("on_done")

            def receive(numbers: list[int], answers: torch.Tensor) -> None:
                if len(ran) >= most:
                    raise KeyboardInterrupt
                ran.extend(numbers)
                done(numbers, answers)

            return own(self, cells, on_done=receive, **options)

        return logits

    monkeypatch.setattr(CleanRun, "logits", watched(6))
    with pytest.raises(KeyboardInterrupt):
        asked(llava, path)
    first = set(ran)
    assert 6 <= len(first) < 12
    ran.clear()
    monkeypatch.setattr(CleanRun, "logits", watched(float("inf")))
    again = asked(llava, path)
    assert set(range(12)) - first <= set(ran), "what was left ran"
    assert len(ran) < 12, "and not everything"
    assert torch.equal(again.values, whole.values)
    ran.clear()
    asked(llava, path)
    assert not ran, "nothing was left"


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
        ({"at": "blocks.*.hook_resid_mid"}, "points, positions"),
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


@pytest.fixture
def own() -> Subject:
    """A model of this test's own, to be changed."""
    model = TINY[0].make()
    pictures = [[picture(0)], [picture(1)]]
    return Subject(TINY[0], model, None, {"left": model.prepare(["describe the image"] * 2, images=pictures)})


def column(number: int) -> Any:
    return lambda logits: logits[:, number]


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda model: model.intervene(Scale("blocks.0.hook_mlp_out", 2.0)), "interventions"),
        (lambda model: model.hooks([("blocks.0.hook_mlp_out", lambda x, hook: 2 * x)]), "interventions"),
        (lambda model: lasting_hook(model), "interventions"),
        (lambda model: model.edited(zero_neurons(model, "L0.u3")), "weights, edits"),
        (lambda model: one_other_weight(model), "weights"),
    ],
    ids=["intervention", "hook", "lasting hook", "edit", "weight"],
)
def test_what_is_in_force_on_the_model_keeps_another_sweep_out(
    own: Subject, tmp_path: Path, change: Any, differs: str
) -> None:
    path, options = tmp_path / "cells.safetensors", {"metric": column(5), "at": "blocks.1.hook_resid_pre"}
    plain = asked(own, path, **options)
    with change(own.model), pytest.raises(InputError, match=rf"another sweep: it differs in {differs}\. Use another"):
        asked(own, path, **options)
    with change(own.model):
        changed = asked(own, tmp_path / "other", **options)
    assert not torch.equal(changed.clean, plain.clean), "the change decides nothing here"
    assert torch.equal(asked(own, path, **options).values, plain.values)
    with change(own.model):  # and goes on where the same is in force again
        assert torch.equal(asked(own, tmp_path / "other", **options).values, changed.values)


@contextmanager
def lasting_hook(model: Any) -> Iterator[None]:
    model.add_hook("blocks.0.hook_mlp_out", lambda x, hook: 2 * x)
    yield
    model.reset_hooks()


@contextmanager
def one_other_weight(model: Any) -> Iterator[None]:
    weight = model.hf_model.model.language_model.layers[2].mlp.down_proj.weight.data
    kept = weight[3, 4].clone()
    weight[3, 4] += 1.0
    yield
    weight[3, 4] = kept


def test_what_a_metric_does_keeps_another_sweep_out(own: Subject, tmp_path: Path) -> None:
    path, at = tmp_path / "cells.safetensors", "blocks.1.hook_resid_pre"
    first = asked(own, path, metric=lambda logits: logits[:, 5], at=at)
    same = asked(own, path, metric=lambda answers: answers[:, 5], at=at)
    assert torch.equal(same.values, first.values)
    for metric in (lambda logits: logits[:, 9], lambda logits: -logits[:, 5], column(5)):
        with pytest.raises(InputError, match="another sweep: it differs in metric"):
            asked(own, path, metric=metric, at=at)
    other = tmp_path / "other"
    asked(own, other, metric=column(5), at=at)
    with pytest.raises(InputError, match="another sweep: it differs in metric"):
        asked(own, other, metric=column(9), at=at)
    with (
        open(path, "rb") as stream,
        pytest.raises(UnknownIdentityError, match=r"'stream', which metric .* closes over"),
    ):
        asked(own, other, metric=lambda logits: logits[:, len(stream.name) % 9], at=at)
    asked(own, None, metric=lambda logits: logits[:, len(str(path)) % 9], at=at)  # nothing is asked without a file


def test_noise_of_another_seed_is_another_batch(llava: Subject) -> None:
    clean = llava.batches["left"]
    hashes = [identity_of(noise(llava.model, clean, seed=seed)) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] != identity_of(clean)
