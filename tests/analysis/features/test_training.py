"""Training of dictionaries: planted features come back, an interrupted run ends in the same bits, held-out pictures are whole."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.features.training.coder import SparseCoder
from mmlens.analysis.features.training.rows import TrainingRows
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.errors import InputError
from tests.analysis.features.test_splice import made
from tests.tiny import picture

sparsify = pytest.importorskip("sparsify", reason="sparsify is in the sae extra and is not installed")

AT = "blocks.1.hook_resid_post"
WIDTH, PLANTED, K = 24, 40, 3
Settings = dict[str, Any]
SMALL: Settings = {"n_features": 60, "k": K, "epochs": 6, "batch_size": 256, "lr": 4e-3, "progress": False}


def planted_states(rows: int = 4000, seed: int = 0) -> tuple[mm.store.States, torch.Tensor, torch.Tensor]:
    """States that are sums of a few of 40 directions, far from zero; the directions and how much of each a state holds."""
    make = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(
        torch.randn(PLANTED, WIDTH, generator=torch.Generator().manual_seed(9)), dim=1
    )
    codes = torch.zeros(rows, PLANTED)
    chosen = torch.rand(rows, PLANTED, generator=make).topk(K).indices
    codes.scatter_(1, chosen, 4 + 4 * torch.rand(rows, K, generator=make))
    names = tuple(f"scene {row // 8}" for row in range(rows))
    keys = tuple(f"{row // 4}" for row in range(rows))  # two prompts of each picture
    steps = tuple(range(rows))
    values = codes @ directions + 5
    return mm.store.States(values, AT, keys=keys, names=names, steps=steps), directions, codes


@pytest.mark.parametrize("selection", ["topk", "jumprelu"])
def test_planted_directions_come_back(selection: str) -> None:
    states, directions, codes = planted_states()
    result = mm.train_sae(states, **SMALL | {"epochs": 25}, selection=selection, held_out=0.1)
    matches = (result.sae.W_dec @ directions.T).max(0)
    assert float((matches.values > 0.9).float().mean()) > 0.9
    shuffled = directions[:, torch.randperm(WIDTH, generator=torch.Generator().manual_seed(1))]
    assert float(((result.sae.W_dec @ shuffled.T).max(0).values > 0.9).float().mean()) < 0.1
    assert result.held_out is not None
    assert result.held_out.explained_variance > 0.9
    assert result.held_out.l0 == pytest.approx(K, abs=0.3)
    torch.testing.assert_close(result.sae.W_dec.norm(dim=1), torch.ones(60), atol=1e-5, rtol=0)
    # codes are in the unit of the states: as much of a direction as was put there
    best = int(matches.values.argmax())
    own = result.sae.encode(states.values)[:, matches.indices[best]]
    assert float(torch.corrcoef(torch.stack([own, codes[:, best]]))[0, 1]) > 0.75
    assert float(own[(codes[:, best] > 0) & (own > 0)].mean()) == pytest.approx(6, abs=1.5)


def test_held_out_figures_are_those_of_whole_pictures() -> None:
    states, _, _ = planted_states()
    result = mm.train_sae(states, **SMALL, held_out=0.2, seed=3)
    rows = TrainingRows.of(states, None, None, held_out=0.2, seed=3)
    trained = torch.cat([rows.buffer(0, number)[1] for number in range(len(rows.batches(0, 256)))])
    held = torch.cat([y for _, y in rows.held_rows()])
    assert len(trained) + len(held) == len(states)
    assert 400 < len(held) < 1200
    name_of = {tuple(value.tolist()): name for value, name in zip(states.values, states.names, strict=True)}
    assert not {name_of[tuple(y.tolist())] for y in trained} & {name_of[tuple(y.tolist())] for y in held}
    recons = result.sae.decode(result.sae.encode(held))
    expected = 1 - ((held - recons) ** 2).sum() / ((held - held.mean(0)) ** 2).sum()
    assert result.held_out is not None
    assert result.held_out.explained_variance == pytest.approx(float(expected), abs=1e-5)
    assert result.dead == pytest.approx(float((result.sae.encode(held) == 0).all(0).float().mean()))
    # mixed: neighbours in a batch are of other pictures than neighbours in the data
    order = [name_of[tuple(y.tolist())] for y in trained]
    assert sum(a == b for a, b in itertools.pairwise(order)) < len(order) / 20


class Stop(Exception):
    """What ends a run in its middle."""


def test_an_interrupted_run_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, _, _ = planted_states(3000)
    settings = SMALL | {"epochs": 4, "dead_after": 1000, "selection": "jumprelu"}
    whole = mm.train_sae(states, **settings, checkpoint=tmp_path / "whole")
    monkeypatch.setattr("mmlens.core.checkpoint._SECONDS", 0.0)
    monkeypatch.setattr(Checkpoint, "save", lambda self, now=False: _written(self))
    step = SparseCoder.step

    def stops(self: SparseCoder, x: torch.Tensor, y: torch.Tensor, share: float) -> dict[str, float]:
        if share > 0.6:
            raise Stop
        return step(self, x, y, share)

    monkeypatch.setattr(SparseCoder, "step", stops)
    with pytest.raises(Stop):
        mm.train_sae(states, **settings, checkpoint=tmp_path / "file")
    seen: list[float] = []

    def counts(self: SparseCoder, x: torch.Tensor, y: torch.Tensor, share: float) -> dict[str, float]:
        seen.append(share)
        return step(self, x, y, share)

    monkeypatch.setattr(SparseCoder, "step", counts)
    again = mm.train_sae(states, **settings, checkpoint=tmp_path / "file")
    assert 0.5 < seen[0] <= 0.65
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        assert torch.equal(getattr(again.sae, name), getattr(whole.sae, name)), name
    assert again.history == whole.history
    seen.clear()
    finished = mm.train_sae(states, **settings, checkpoint=tmp_path / "file")
    assert not seen
    assert torch.equal(finished.sae.W_dec, whole.sae.W_dec)
    with pytest.raises(InputError, match="another training"):
        mm.train_sae(states, **settings | {"k": K + 1}, checkpoint=tmp_path / "file")


def _written(checkpoint: Checkpoint) -> None:
    assert checkpoint.path is not None
    checkpoint._file.write(
        checkpoint.path, checkpoint.tensors, {"identity": checkpoint.identity, "parts": checkpoint.parts}
    )


def test_another_seed_is_another_dictionary_and_the_same_seed_the_same() -> None:
    states, _, _ = planted_states(1000)
    first, same, other = (mm.train_sae(states, **SMALL | {"epochs": 1, "seed": seed}) for seed in (1, 1, 2))
    assert torch.equal(first.sae.W_enc, same.sae.W_enc)
    assert not torch.equal(first.sae.W_enc, other.sae.W_enc)


def test_dead_features_learn_by_their_encoder_too() -> None:
    """Of sparsify's own auxiliary loss the encoder gets nothing."""
    states, _, _ = planted_states(512)
    coder = SparseCoder(
        states.values, states.values, n_features=60, k=K, selection="jumprelu", transcodes=False, skip=False, lr=1e-2,
        dead_after=1, seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    coder.idle[:10] = 10**6
    before = coder.state()["weights.encoder.weight"]
    with torch.no_grad():  # so far from firing that only the auxiliary loss reaches them
        coder._coder.encoder.bias[:10] = 0.3
        coder._coder.encoder.weight[:10] *= 1e-3
    coder.step(states.values, states.values, 0.5)
    after = coder.state()["weights.encoder.weight"]
    assert float((after[:10] - before[:10] * 1e-3).abs().max()) > 1e-4


def test_transcoders_learn_what_an_mlp_does(tmp_path: Path) -> None:
    """A linear map goes past the features, what is not linear through them; saved and read, as SAELens has it."""
    make = torch.Generator().manual_seed(2)
    x = torch.randn(4000, WIDTH, generator=make) * 3
    linear, read = torch.randn(WIDTH, 10, generator=make), torch.randn(8, WIDTH, generator=make)
    write = torch.randn(8, 10, generator=make)
    write = torch.cat([write, torch.zeros(8, WIDTH - 10)], 1)
    past = torch.cat([linear, torch.zeros(WIDTH, WIDTH - 10)], 1)
    y = x @ past + (x @ read.T).relu() @ write + 2
    states, source = mm.store.States(y, "blocks.1.hook_mlp_out"), mm.store.States(x, "blocks.1.mlp.hook_in")
    settings = SMALL | {"epochs": 20, "k": 8, "n_features": 32}
    result = mm.train_sae(states, source=source, **settings, skip=True)
    assert result.held_out is not None
    assert result.held_out.explained_variance > 0.95
    plain = mm.train_sae(states, source=source, **settings)
    assert plain.held_out is not None
    assert plain.held_out.explained_variance < result.held_out.explained_variance - 0.02
    result.save(tmp_path / "skip", dtype="float16")
    cfg = json.loads((tmp_path / "skip" / "cfg.json").read_text())
    assert (cfg["architecture"], cfg["dtype"]) == ("jumprelu_skip_transcoder", "float16")
    assert cfg["metadata"]["training"]["n_features"] == 32
    again = mm.load_sae(tmp_path / "skip")
    assert (again.at, again.at_in) == ("blocks.1.hook_mlp_out", "blocks.1.mlp.hook_in")
    expected = result.sae.decode(result.sae.encode(x[:50]), x[:50])
    found = again.decode(again.encode(x[:50]), x[:50])
    assert float((found - expected).norm() / expected.norm()) < 5e-3


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "instructblip"])
def test_stores_of_models_are_trained_on(family: str, tmp_path: Path) -> None:
    """In files, of several stores, in the language model of other families: what a store holds is what the model computes."""
    model, _ = made(family)
    samples = [
        mm.Sample((picture(number),), prompt="what color is the big circle", name=str(number)) for number in range(6)
    ]
    at = "blocks.1.hook_mlp_out"
    with mm.features.mlp_inputs(model, at) as inputs:
        points = [at, inputs[at]]
        stores = [
            mm.collect(model, samples, at=points, positions=rule, into=tmp_path / rule, dtype="float32", progress=False)
            for rule in ("text", "image")
        ]
    result = mm.train_sae(stores, at=at, source="blocks.1.mlp.hook_in", skip=True, **SMALL | {"n_features": 40})
    assert result.sae.at_in == "blocks.1.mlp.hook_in"
    batch = model.prepare(["describe the image"], images=[picture(7)])
    with model.attach(result.sae):
        _, cache = model.run_with_cache(batch, names=f"{at}.hook_sae_*")
    torch.testing.assert_close(
        cache[f"{at}.hook_sae_acts_post"], result.sae.encode(cache[f"{at}.hook_sae_input"]), atol=1e-5, rtol=1e-5
    )


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    states, _, _ = planted_states(64)
    no_steps: list[object] = []
    monkeypatch.setattr(SparseCoder, "step", lambda *arguments: no_steps.append(arguments))
    for settings, message in (
        ({"k": 61}, "k=61 features of a row are more than n_features=60"),
        ({"skip": True}, "skip=True"),
        ({"source": states, "selection": "topk"}, "SAELens's format"),
        ({"at": "blocks.2.hook_resid_post"}, "leave at= out"),
        ({"source": "blocks.1.hook_resid_mid"}, "names a point of a store"),
        ({"source": states[:10]}, "of the same rows"),
        ({"held_out": 1.0}, "leaves 0 of 64 rows"),
        ({"batch_size": 1}, "needs 4 at least"),
        ({"source": replace(states, values=states.values[:, :6])}, "of one width, found d=6"),
    ):
        with pytest.raises(InputError, match=message):
            mm.train_sae(states, **SMALL | settings)
    with pytest.raises(InputError, match=r"no states to train on"):
        mm.train_sae([], **SMALL)
    flat = mm.store.States(torch.ones(50, WIDTH), AT)
    with pytest.raises(InputError, match="All states are equal"):
        mm.train_sae(flat, **SMALL)
    with pytest.raises(InputError, match="not all finite"):
        mm.train_sae(mm.store.States(torch.full((50, WIDTH), torch.nan), AT), **SMALL)
    other = mm.store.States(torch.ones(50, WIDTH), "blocks.0.hook_resid_post")
    with pytest.raises(InputError, match="one point and width"):
        mm.train_sae([flat, other], **SMALL)
    assert not no_steps


def test_without_sparsify_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sparsify", None)
    states, _, _ = planted_states(64)
    with pytest.raises(InputError, match=r"pip install 'mmlens\[sae\]'"):
        mm.train_sae(states, **SMALL)


def test_a_result_shows_how_it_went() -> None:
    states, _, _ = planted_states(1000)
    result = mm.train_sae(states, **SMALL | {"epochs": 3})
    frame = result.to_frame()
    assert list(frame["step"])[-1] == result.history[-1].step
    assert frame["unexplained"].iloc[-1] < frame["unexplained"].iloc[0]
    assert "explained variance" in repr(result)
    assert "SparseDictionary(60 features" in result.view().text
    figure = result.plot()
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    import matplotlib.pyplot as plt

    plt.close(figure)
