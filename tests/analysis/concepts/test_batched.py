"""Concepts of states that are read some at a time: the same formula, the same planted truth, never more in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment

import mmlens as mm
from mmlens.analysis.concepts.methods import CONCEPT_METHODS
from mmlens.analysis.concepts.methods.semi_nmf import SemiNMF
from mmlens.analysis.store.collection_config import CollectionConfig
from mmlens.analysis.store.folder import StoreFolder
from mmlens.analysis.store.shard import FileShard, MemoryShard, Record
from mmlens.core.errors import InputError
from mmlens.core.processes import Process

AT, WIDTH, BATCH = "blocks.4.hook_resid_post", 24, 64


def stored(
    values: torch.Tensor, folder: Path, question: CollectionConfig, *, processes: int = 2
) -> mm.store.ActivationStore:
    """A store whose shards several processes wrote, which took two samples of 0 to 3 states in turn."""
    counts = [number % 4 for number in range(2 * len(values) + 4)]
    ends = torch.tensor(counts).cumsum(0).tolist()
    samples = next(number for number, end in enumerate(ends) if end >= len(values)) + 1
    counts[samples - 1] -= ends[samples - 1] - len(values)
    starts = [0, *ends]
    folders = [StoreFolder(folder, question, Process(index, processes)) for index in range(processes)]
    with folders[0].run():
        for first in range(0, samples, 8):
            for index, each in enumerate(folders):
                own = [n for n in range(first, min(first + 8, samples)) if Process(index, processes).takes(n, 2)]
                rows = [row for n in own for row in range(starts[n], starts[n] + counts[n])]
                if own:
                    records = tuple(
                        Record(n, f"key{n}", counts[n], words=(f"word{n}",) * counts[n], caption=f"said {n}")
                        for n in own
                    )
                    steps = torch.tensor(rows, dtype=torch.int64)
                    each.add(MemoryShard({AT: values[rows]}, records, steps, torch.zeros_like(steps), {0: ""}))
    return mm.store.ActivationStore.load(folder)


@pytest.fixture(scope="module")
def question() -> CollectionConfig:
    return mm.collect(mm.lab.load(), mm.lab.scenes(1), at=AT, positions="last", progress=False).question


def planted(method: str) -> tuple[torch.Tensor, torch.Tensor]:
    """States that the method is made for, and the four vectors that they are made of."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(WIDTH, 4, generator=generator)).Q.T
    noise = 0.01 * torch.randn(501, WIDTH, generator=generator)
    if method == "kmeans":
        owner = torch.randint(0, 4, (501,), generator=generator)
        return 5 * vectors[owner] + noise, 5 * vectors
    if method == "pca":
        return torch.randn(501, 4, generator=generator) * torch.tensor([9.0, 6.0, 4.0, 2.0]) @ vectors + noise, vectors
    if method == "nmf":
        vectors, noise = vectors.abs(), noise.abs()
    present = torch.rand(501, 4, generator=generator) < 0.35
    return present * (2 + 6 * torch.rand(501, 4, generator=generator)) @ vectors + noise, vectors


@pytest.mark.parametrize("method", [name for name in CONCEPT_METHODS.names if name != "nmf"])  # which settles slowly
def test_what_was_planted_is_found_some_states_at_a_time(
    method: str, tmp_path: Path, question: CollectionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, vectors = planted(method)
    store = stored(values, tmp_path / "store", question)
    read: list[int] = []
    whole = FileShard.values

    def values_read(shard: FileShard, point: str, rows: slice) -> torch.Tensor:
        found = whole(shard, point, rows)
        if point == AT:
            read.append(len(found))
        return found

    monkeypatch.setattr(FileShard, "values", values_read)
    monkeypatch.setattr("mmlens.analysis.concepts.bank._ROWS", BATCH)
    states = store.mapped()
    options: dict[str, Any] = {"method": SemiNMF(penalty=0.1) if method == "semi_nmf" else method}
    bank = mm.extract_concepts(states, 4, batch_size=BATCH, **options)
    assert max(read) <= 2 * BATCH  # a short rest is read with the batch before it
    monkeypatch.undo()
    again = mm.extract_concepts(store.at(), 4, batch_size=BATCH, **options)
    assert torch.equal(bank.vectors, again.vectors)
    torch.testing.assert_close(bank.codes, again.codes)
    assert (bank.keys, bank.tokens, bank.captions, bank.at) == (again.keys, again.tokens, again.captions, AT)
    assert bank.reconstruction_error == pytest.approx(again.reconstruction_error, rel=1e-4)
    at_once = mm.extract_concepts(store.at(), 4, **options)
    if method == "simple":
        assert {tuple(row) for row in bank.vectors.tolist()} == {tuple(row) for row in at_once.vectors.tolist()}
        return
    for found in (bank, at_once):
        cosine = torch.cosine_similarity(found.vectors[:, None], vectors[None], dim=2).abs()
        rows, columns = linear_sum_assignment(-cosine.numpy())
        assert float(cosine[rows, columns].min()) >= 0.99


def test_nmf_comes_near_to_all_states_at_once() -> None:
    values, _ = planted("nmf")
    states = mm.store.States(values, AT)
    found = mm.extract_concepts(states, 4, method="nmf", batch_size=BATCH)
    assert bool((found.vectors >= 0).all())
    one_short = mm.extract_concepts(states, 3, method="nmf")
    assert mm.extract_concepts(states, 4, method="nmf").reconstruction_error < 1e-3
    assert found.reconstruction_error < 1e-3 < 0.1 * one_short.reconstruction_error
    with pytest.raises(InputError, match="nowhere negative"):
        mm.extract_concepts(mm.store.States(-values, AT), 4, method="nmf", batch_size=BATCH)


def test_slices_are_the_states_in_the_order_of_the_dataset(tmp_path: Path, question: CollectionConfig) -> None:
    values = torch.arange(300 * WIDTH).reshape(300, WIDTH).float()
    store = stored(values, tmp_path / "store", question)
    states, whole = store.mapped(), store.at()
    assert torch.equal(whole.values, values)
    assert states.values.shape == values.shape
    for rows in (slice(0, 300), slice(17, 101), slice(-5, None), slice(250, 900), slice(4, 4)):
        found, expected = states[rows], whole[rows]
        assert torch.equal(found.values, expected.values)
        for name in ("keys", "tokens", "captions", "steps", "at", "source"):
            assert getattr(found, name) == getattr(expected, name)
    assert [len(some) for some in states.split(128)] == [128, 128, 44]


def test_errors(tmp_path: Path, question: CollectionConfig) -> None:
    values = torch.ones(40, WIDTH)
    values[33, 2] = torch.nan
    states = stored(values, tmp_path / "store", question).mapped()
    with pytest.raises(
        InputError, match=r"^These 40 states are in files; pass a batch_size that says how many to read"
    ):
        mm.extract_concepts(states, 2)
    with pytest.raises(InputError, match=r"^The states \[33\] are not finite\.$"):
        mm.extract_concepts(states, 2, batch_size=8)
    with pytest.raises(InputError, match=r"^batch_size=3 must be at least n_concepts=4 for method='kmeans'"):
        mm.extract_concepts(states[:20], 4, method="kmeans", batch_size=3)
    with pytest.raises(InputError, match="read as they follow each other"):
        states.values[::2]
    nothing = stored(torch.zeros(0, WIDTH), tmp_path / "empty", question)
    with pytest.raises(InputError, match="gave a state"):
        nothing.mapped()
