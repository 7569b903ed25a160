"""Verbs in two processes of one launch give bit for bit what one process gives, also after any of them was killed."""

import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState

import mmlens as mm
from mmlens.analysis.circuits.evaluate import evaluate_circuit
from mmlens.core import checkpoint, shares
from mmlens.core.errors import InputError, MMLensError
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.store.test_store import free_port, in_child, needs_fork

SCENES = mm.lab.scenes(5)
METRIC = mm.metrics.logit_difference("red", "blue")
QUIET: dict[str, Any] = {"progress": False}
Verb = Callable[[HookedMultimodal, Path | None], Any]


def pair(model: HookedMultimodal) -> dict[str, Any]:
    """Two batches of one layout."""
    prompts = ["what color is the circle"] * 2
    first, second = (
        model.prepare(prompts, images=[[scene.image] for scene in some]) for some in (SCENES[:2], SCENES[2:4])
    )
    return {"clean": first, "corrupted": second}


def asked() -> list[mm.Sample]:
    return [mm.Sample((scene.image,), "is there a person", caption=scene.caption, answer="yes") for scene in SCENES]


def vector(model: HookedMultimodal) -> Any:
    return mm.steering.SteeringVector(50 * model.W_U[:, model.to_single_token("no")], "blocks.4.hook_resid_post")


def patched(model: HookedMultimodal, path: Path | None) -> Any:
    at = ["blocks.[1-3].hook_resid_pre", "vision.blocks.1.hook_mlp_out"]
    sweep = mm.patch(model, **pair(model), at=at, positions=None, metric=METRIC, checkpoint=path, **QUIET)
    return sweep.values, sweep.clean, sweep.corrupted


def patched_whole(model: HookedMultimodal, path: Path | None) -> Any:
    """With a metric of the whole vocabulary, in rows of the language model alone."""
    metric = mm.metrics.kl_divergence()
    return mm.patch(
        model,
        **pair(model),
        at="blocks.[3-5].hook_resid_mid",
        positions=mm.positions.grid(2),
        metric=metric,
        checkpoint=path,
        **QUIET,
    ).values


def attributed(model: HookedMultimodal, path: Path | None) -> Any:
    method = mm.patching.IntegratedGradients(steps=2)
    return mm.attribute(
        model, **pair(model), at="blocks.*.hook_resid_pre", metric=METRIC, method=method, checkpoint=path, **QUIET
    ).values


def knocked_out(model: HookedMultimodal, path: Path | None) -> Any:
    batch = pair(model)["clean"]
    sweep = mm.patching.knock_out(
        model, batch, queries="last", keys=["image", "text"], metric=METRIC, checkpoint=path, **QUIET
    )
    return sweep.values, sweep.corrupted


def scored(model: HookedMultimodal, path: Path | None) -> Any:
    method = "gradient_x_activation"
    found = mm.find_neurons(model, asked(), token="yes", method=method, keep=3, batch_size=2, checkpoint=path, **QUIET)
    return found.scores, [(top.name, top.indices, top.scores) for top in found.samples], found.batch["input_ids"]


def reported(model: HookedMultimodal, path: Path | None) -> Any:
    report = mm.properties.neuron_report(
        model, SCENES[:3], methods=("contribution", "random"), ways=("mean",), k=3, draws=1, nouns=mm.lab.NOUNS,
        captions=False, max_new_tokens=8, reference=2, batch_size=1, checkpoint=path, **QUIET,
    )  # fmt: skip
    return report.values.to_dict("list")


def steered(model: HookedMultimodal, path: Path | None) -> Any:
    steer = mm.Steer(vector(model), positions="last")
    report = mm.steering.steering_report(
        model, steer, asked(), controls=["words"], max_new_tokens=2, batch_size=2, checkpoint=path, **QUIET
    )
    return report.interventions, report.cases


def edited(model: HookedMultimodal, path: Path | None) -> Any:
    edit = mm.edits.zero_neurons(model, ["L4.u3", "L5.u7"])
    report = mm.edits.edit_report(
        model, edit, source="yes", targets=asked(), matched=0,
        controls=[(scene.image, "where is this") for scene in SCENES],
        max_new_tokens=2, batch_size=3, checkpoint=path, **QUIET,
    )  # fmt: skip
    return report.edits, report.cases


def dosed(model: HookedMultimodal, path: Path | None) -> Any:
    curve = mm.steering.dose_curve(
        model, asked(), vector(model), alphas=[0.5, 1], seeds=[0], metric=METRIC, batch_size=2, checkpoint=path, **QUIET
    )
    return curve.values, curve.controls, curve.baseline


def dosed_batch(model: HookedMultimodal, path: Path | None) -> Any:
    batch = pair(model)["clean"]
    return mm.steering.dose_curve(
        model, batch, vector(model), at="blocks.*.hook_resid_post", alphas=[0.5, 1], seeds=[0], metric=METRIC,
        checkpoint=path, **QUIET,
    ).values  # fmt: skip


def evaluated(model: HookedMultimodal, path: Path | None) -> Any:
    batches = pair(model)
    both = (batches["clean"], batches["corrupted"])
    circuit = mm.find_circuit(model, both, metric=METRIC, method="eap", nodes="attention", **QUIET).strongest(80)
    found = evaluate_circuit(model, circuit, both, metric=METRIC, n_random=2, n_edges=2, checkpoint=path, **QUIET)
    return found.faithfulness, found.completeness, found.minimality, found.random_faithfulness, found.random_minimality


VERBS: dict[str, Verb] = {
    verb.__name__: verb
    for verb in (
        patched, patched_whole, attributed, knocked_out, scored, reported, steered, edited, dosed, dosed_batch, evaluated
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> HookedMultimodal:
    return mm.lab.load()


@pytest.fixture(autouse=True)
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several calls in each sweep; every finished unit is written."""
    monkeypatch.setattr("mmlens.execution.cell_runs._ROWS_ON_CPU", 12)
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process finds, by verb; filled as it is needed."""
    return {}


def launch(work: Callable[[int], object]) -> list[int]:
    """Run something in two processes, as a launcher starts them; gives their exit codes."""
    port = free_port()

    def start(rank: int) -> None:
        launched = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
        os.environ.update(launched, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, OMP_NUM_THREADS="1")
        PartialState._reset_state()  # the parent may have asked accelerate, when it was alone
        work(rank)

    children = [in_child(lambda rank=rank: start(rank)) for rank in range(2)]  # type: ignore[misc]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def bits(value: Any) -> bytes:
    """A value as bytes, the same for the same bits."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{list(value.shape)}".encode() + value.contiguous().numpy().tobytes()
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(bits, value)) + b"]"
    return repr(value).encode()


def written(folder: Path, rank: int, name: str) -> Path:
    return folder / f"{name}-{rank}.pickle"


@needs_fork
def test_two_processes_find_what_one_finds(model: HookedMultimodal, alone: dict[str, Any], tmp_path: Path) -> None:
    alone |= {name: bits(verb(model, None)) for name, verb in VERBS.items()}
    own = shares._turn

    def work(rank: int) -> None:
        for name, verb in VERBS.items():
            rounds = []

            def counted(*arguments: Any, rounds: list[int] = rounds) -> Any:
                rounds.append(1)
                return own(*arguments)

            shares._turn = counted  # type: ignore[assignment]
            written(tmp_path, rank, name).write_bytes(pickle.dumps((bits(verb(model, None)), len(rounds))))

    assert launch(work) == [0, 0]
    for name in VERBS:
        found = [pickle.loads(written(tmp_path, rank, name).read_bytes()) for rank in range(2)]
        assert [bytes_found == alone[name] for bytes_found, _ in found] == [True, True], name
        assert min(rounds for _, rounds in found) >= 2, f"{name} was not shared"


@needs_fork
@pytest.mark.parametrize("victim", [0, 1])
def test_whichever_process_is_killed_the_same_call_goes_on(
    model: HookedMultimodal, alone: dict[str, Any], tmp_path: Path, victim: int
) -> None:
    """Each verb is killed once something is finished, and gone on with by two processes, or by one."""
    own = shares._turn
    for name in VERBS:
        if name not in alone:
            alone[name] = bits(VERBS[name](model, None))
    verbs = list(VERBS.items())[victim::2]  # half of them each way

    def killed(rank: int, verb: Verb, path: Path) -> None:
        rounds = []

        def counted(*arguments: Any) -> Any:
            rounds.append(1)
            if rank == victim and len(rounds) > 1:
                for _ in range(50):  # the first process may be about to write it
                    time.sleep(0.0 if path.exists() else 0.01)
                if path.exists():
                    os.kill(os.getpid(), signal.SIGKILL)
            return own(*arguments)

        shares._turn = counted  # type: ignore[assignment]
        verb(model, path)

    for name, verb in verbs:
        path = tmp_path / name
        codes = launch(lambda rank, verb=verb, path=path: killed(rank, verb, path))  # type: ignore[misc]
        assert codes[victim] == -signal.SIGKILL, name
        assert codes[1 - victim] != 0, name
        assert path.exists(), name

    def work(rank: int) -> None:
        for name, verb in verbs[::2]:
            written(tmp_path, rank, name).write_bytes(bits(verb(model, tmp_path / name)))

    assert launch(work) == [0, 0]
    for name, _ in verbs[::2]:
        assert all(written(tmp_path, rank, name).read_bytes() == alone[name] for rank in range(2)), name
    for name, verb in verbs[1::2]:
        assert bits(verb(model, tmp_path / name)) == alone[name], name


@needs_fork
def test_processes_that_differ_and_errors_of_one_are_told_to_all(model: HookedMultimodal, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with pytest.raises(
            InputError, match=r"The 2 processes of this launch were given different things \(process 0: 2 unit"
        ):
            mm.find_neurons(model, asked()[rank:6], token="yes", batch_size=1, **QUIET)
        broken = [*asked()[:3], "no sample at all"]
        with pytest.raises(InputError, match="sample"):
            mm.find_neurons(model, iter(broken), token="yes", batch_size=1, **QUIET)

        def score(sample: mm.Sample, text: str) -> float:
            raise ZeroDivisionError("of the score")

        steer = mm.Steer(vector(model), positions="last")
        with pytest.raises((ZeroDivisionError, MMLensError), match="of the score"):
            mm.steering.steering_report(model, steer, asked()[:1], score=score, max_new_tokens=1, **QUIET)

    assert launch(work) == [0, 0]


def test_a_checkpoint_wants_its_own_dataset(model: HookedMultimodal, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    first = mm.find_neurons(model, asked()[:4], token="yes", batch_size=2, checkpoint=path, **QUIET)
    with pytest.raises(InputError, match=r"holds a run over other data: the samples 2 to 3 were others then"):
        mm.find_neurons(model, [*asked()[:2], *asked()[3:5]], token="yes", batch_size=2, checkpoint=path, **QUIET)
    with pytest.raises(InputError, match="another scoring of neurons: it differs in tokens"):
        mm.find_neurons(model, asked()[:4], token="no", batch_size=2, checkpoint=path, **QUIET)
    more = mm.find_neurons(model, asked(), token="yes", batch_size=2, checkpoint=path, **QUIET)
    assert (first.n_samples, more.n_samples) == (4, 5)
    assert torch.equal(more.scores, mm.find_neurons(model, asked(), token="yes", batch_size=2, **QUIET).scores)
