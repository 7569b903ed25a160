"""The latent lens: nearest words by hand, the package's files, and a planted object named above shuffled rows."""

from pathlib import Path

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import DamagedFileError, InputError
from tests.conftest import Subject
from tests.interventions.passes import never_entered

AT = "blocks.1.hook_resid_post"
TEXTS = ["describe the big red circle", "what color is the big red circle", "describe the image"]


def test_an_index_holds_the_states_of_words_in_context(subject: Subject, tmp_path: Path) -> None:
    model = subject.model
    if subject.name == "instructblip":
        why = r"texts of an index run without pictures, which the family instructblip cannot: .*needs pixel_values"
        with pytest.raises(InputError, match=why), never_entered(model):
            mm.lenses.contextual_index(model, TEXTS, at=AT)
        return
    index = mm.lenses.contextual_index(model, TEXTS, at=AT, first=1)
    place = index.contexts[AT].index("what color is the big red")
    tokens = model.to_tokens("what color is the big red")
    batch = model.batch({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    state = model.run_with_cache(batch, names=AT)[1][AT][0, -1]
    torch.testing.assert_close(
        index.states[AT].values[place : place + 1][0], state / state.norm(), atol=2e-3, rtol=2e-3
    )
    assert index.words[AT][place] == "red"
    assert len(set(index.contexts[AT])) == len(index.contexts[AT])  # the same beginning counts once
    assert len(mm.lenses.contextual_index(model, TEXTS, at=AT, first=1, most=1).words[AT]) < len(index.words[AT])
    index.save(tmp_path / "index")
    again = mm.lenses.ContextualIndex.load(tmp_path / "index")
    assert again.contexts == index.contexts
    assert torch.equal(again.states[AT].values[:], index.states[AT].values[:])


def test_readings_are_the_largest_cosines_of_all_layers(subject: Subject) -> None:
    """By hand, and of an object's rows that point the way of a word above those of others."""
    model, batch = subject.model, subject.batches["left"]
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.randn(count, 32, generator=generator) for name, count in ((AT, 7), ("blocks.0.hook_resid_post", 2))
    }
    states = {name: torch.nn.functional.normalize(rows, dim=-1).half() for name, rows in drawn.items()}
    words = {name: tuple(f"{name[7]}.{n}" for n in range(len(rows))) for name, rows in states.items()}
    index = mm.lenses.ContextualIndex.of(states, words)
    reading = mm.lenses.latent_lens(model, batch, index, at=AT, k=4)
    _, cache = model.run_with_cache(batch, names=AT, positions="image")
    every = torch.cat(list(states.values())).float()
    names = [word for name in states for word in words[name]]
    for sample, rows in enumerate(cache.samples(AT)):
        cosines = torch.nn.functional.normalize(rows, dim=-1) @ every.T
        for row, nearest in zip(cosines, reading.words[AT][sample], strict=True):
            assert [found.word for found in nearest] == [names[place] for place in row.topk(4).indices.tolist()]
            assert nearest[0].cosine == pytest.approx(float(row.max()), abs=1e-4)
    assert len(reading.to_frame()) == 4 * sum(map(len, reading.positions))


def test_an_object_planted_in_its_rows_is_named_and_shuffled_rows_are_not(llava: Subject) -> None:
    model = llava.model
    index = mm.lenses.contextual_index(model, TEXTS, at=AT, first=1)
    place = index.words[AT].index("circle")
    batch = llava.batches["left"]
    box = mm.positions.box((0, 0, 16, 16))
    plant = mm.Add(AT, 60 * index.states[AT].values[place : place + 1][0], positions=box)
    with model.intervene(plant):
        inside = mm.lenses.latent_lens(model, batch, index, positions=box).named("circle")[AT]
        outside = mm.lenses.latent_lens(model, batch, index, positions=mm.positions.image - box).named("circle")[AT]
    assert inside == 1.0
    assert outside < 0.5


def test_files_of_the_package_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    for number in (0, 2, 3):
        folder = tmp_path / f"layer_{number}"
        folder.mkdir()
        entries = [{"token_str": " dog", "token_id": 5, "caption": "a dog", "position": 2}] * (number + 1)
        torch.save(
            {"embeddings": torch.ones(number + 1, 4).half(), "metadata": entries}, folder / "embeddings_cache.pt"
        )
    index = mm.lenses.ContextualIndex.from_latentlens(tmp_path, n_layers=3)
    assert list(index.states) == ["hook_embed", "blocks.1.hook_resid_post"]
    assert index.words["blocks.1.hook_resid_post"] == ("dog",) * 3
    torch.testing.assert_close(index.states["hook_embed"].values[:], torch.ones(1, 4))
    (tmp_path / "layer_2" / "embeddings_cache.pt").write_bytes(b"nothing")
    with pytest.raises((DamagedFileError, InputError), match="no layer of a latentlens index"):
        mm.lenses.ContextualIndex.from_latentlens(tmp_path, n_layers=3)
    with pytest.raises(InputError, match="holds no layer_N"):
        mm.lenses.ContextualIndex.from_latentlens(tmp_path / "layer_0", n_layers=3)


def test_duplicates_are_entries_and_layers_may_hold_fewer(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the pieces are that an index is read in: each entry once, and all that there are where k is more."""
    model, batch = subject.model, subject.batches["left"]
    base = torch.randn(5, model.cfg.d_model, generator=torch.Generator().manual_seed(1))
    states = {AT: base.repeat(8, 1), "blocks.0.hook_resid_post": base[:1]}
    words = {name: [f"{name[7]}.{n}" for n in range(len(rows))] for name, rows in states.items()}
    index = mm.lenses.ContextualIndex.of(states, words)
    readings = []
    for piece in (1 << 24, 3 * model.cfg.d_model):
        monkeypatch.setattr("mmlens.analysis.lenses.latent_lens._PIECE", piece)
        readings.append(mm.lenses.latent_lens(model, batch, index, at=AT, k=12).words[AT])
        everything = mm.lenses.latent_lens(model, batch, index, at=AT, k=99).words[AT][0][0]
        assert len(everything) == 41
    for reading in readings:
        for row in (row for sample in reading for row in sample):
            own = [int(found.word[2:]) % 5 for found in row if found.at == AT]
            assert len({found.word for found in row}) == 12  # no entry twice
            assert own.count(own[0]) == 8
            assert [found.cosine for found in row] == sorted((found.cosine for found in row), reverse=True)
    for first, second in zip(*readings, strict=True):
        own = [[[int(found.word[2:]) % 5 for found in row] for row in side] for side in (first, second)]
        assert own[0] == own[1]
    for wrong in ({AT: ["a"]}, {AT: []}):
        with pytest.raises(InputError, match="a word and a context for each"):
            mm.lenses.ContextualIndex.of({AT: base}, wrong)


def test_an_index_in_a_folder_reads_as_one_in_memory_and_goes_on_after_a_kill(
    llava: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = llava.model, llava.batches["left"]
    texts, at = [*TEXTS, "where is the red moon", "describe the small blue moon"], "blocks.[01].hook_resid_post"
    memory = mm.lenses.contextual_index(model, texts, at=at, first=1)
    monkeypatch.setattr("mmlens.analysis.lenses.indexing._SHARD", 3)
    calls: list[int] = []
    plain = type(model).run_with_cache

    def killed(self: object, *args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "run_with_cache", killed)
        with pytest.raises(KeyboardInterrupt):
            mm.lenses.contextual_index(model, texts, at=at, first=1, into=tmp_path / "index")
        calls[:] = [1, 1, 1]
        index = mm.lenses.contextual_index(model, texts, at=at, first=1, into=tmp_path / "index")
        assert 0 < len(calls) - 3 < len(texts)
        calls.clear()
        mm.lenses.contextual_index(model, texts, at=at, first=1, into=tmp_path / "index")
        assert not calls
    for found in (index, mm.lenses.ContextualIndex.load(tmp_path / "index")):
        assert found.words == memory.words
        assert found.contexts == memory.contexts
        for name, states in memory.states.items():
            assert torch.equal(found.states[name].values[:], states.values[:])
        readings = [mm.lenses.latent_lens(model, batch, one, k=3).words for one in (memory, found)]
        assert readings[0] == readings[1]
    with pytest.raises(InputError, match=r"stored .* now"):
        mm.lenses.contextual_index(model, texts[:2], at=at, first=1, into=tmp_path / "index")


def test_positions_from_the_second_on_behind_the_opening_token(llava: Subject) -> None:
    index = mm.lenses.contextual_index(llava.model, TEXTS, at=AT)
    assert set(index.contexts[AT]) == {
        "describe the big", "describe the big red", "describe the big red circle", "what color is", "what color is the",
        "what color is the big", "what color is the big red", "what color is the big red circle", "describe the image",
    }  # fmt: skip


def test_other_widths_and_towers_are_refused(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    index = mm.lenses.ContextualIndex.of(
        {AT: torch.eye(model.cfg.d_model), "hook_embed": torch.eye(3)},
        {AT: ["a"] * model.cfg.d_model, "hook_embed": ["b"] * 3},
    )
    with pytest.raises(InputError, match="of width 3, "), never_entered(model):
        mm.lenses.latent_lens(model, batch, index)
    with pytest.raises(InputError, match="no states of a text"), never_entered(model):
        mm.lenses.contextual_index(model, TEXTS, at="vision.blocks.*.hook_resid_post")
