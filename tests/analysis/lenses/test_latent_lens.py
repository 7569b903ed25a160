"""The latent lens: nearest words by hand, the package's files, and a planted object named above shuffled rows."""

from pathlib import Path

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import DamagedFileError, InputError
from tests.conftest import Subject

AT = "blocks.1.hook_resid_post"
TEXTS = ["describe the big red circle", "what color is the big red circle", "describe the image"]


def test_an_index_holds_the_states_of_words_in_context(subject: Subject, tmp_path: Path) -> None:
    model = subject.model
    if subject.name == "instructblip":
        pytest.skip("reads no prompt without a picture")
    index = mm.lenses.contextual_index(model, TEXTS, at=AT, first=1)
    place = index.contexts[AT].index("what color is the big red")
    tokens = model.to_tokens("what color is the big red")
    batch = model.batch({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    state = model.run_with_cache(batch, names=AT)[1][AT][0, -1]
    torch.testing.assert_close(index.states[AT][place].float(), state / state.norm(), atol=2e-3, rtol=2e-3)
    assert index.words[AT][place] == "red"
    assert len(set(index.contexts[AT])) == len(index.contexts[AT])  # the same beginning counts once
    assert len(mm.lenses.contextual_index(model, TEXTS, at=AT, first=1, most=1).words[AT]) < len(index.words[AT])
    index.save(tmp_path / "index")
    again = mm.lenses.ContextualIndex.load(tmp_path / "index")
    assert again.contexts == index.contexts
    assert torch.equal(again.states[AT], index.states[AT])


def test_readings_are_the_largest_cosines_of_all_layers(subject: Subject) -> None:
    """By hand, and of an object's rows that point the way of a word above those of others."""
    model, batch = subject.model, subject.batches["left"]
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.randn(count, 32, generator=generator) for name, count in ((AT, 7), ("blocks.0.hook_resid_post", 2))
    }
    states = {name: torch.nn.functional.normalize(rows, dim=-1).half() for name, rows in drawn.items()}
    words = {name: tuple(f"{name[7]}.{n}" for n in range(len(rows))) for name, rows in states.items()}
    index = mm.lenses.ContextualIndex(states, words)
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
    plant = mm.Add(AT, 60 * index.states[AT][place].float(), positions=box)
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
    torch.testing.assert_close(index.states["hook_embed"].float(), torch.full((1, 4), 0.5))
    (tmp_path / "layer_2" / "embeddings_cache.pt").write_bytes(b"nothing")
    with pytest.raises((DamagedFileError, InputError), match="no layer of a latentlens index"):
        mm.lenses.ContextualIndex.from_latentlens(tmp_path, n_layers=3)
    with pytest.raises(InputError, match="holds no layer_N"):
        mm.lenses.ContextualIndex.from_latentlens(tmp_path / "layer_0", n_layers=3)
