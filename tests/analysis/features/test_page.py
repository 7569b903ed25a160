"""A feature's page: what it shows is what the codes are by hand, and what the model says while the feature is held."""

import json
import re
from pathlib import Path

import pytest
import torch

import mmlens as mm
from mmlens.lab.checkpoints import DICTIONARIES
from tests.analysis.features.test_splice import SITES, dictionary, made
from tests.tiny import picture


@pytest.fixture(scope="module")
def grass() -> tuple[mm.features.FeaturePage, torch.Tensor, list[mm.lab.Scene]]:
    """The page of the projector's feature of grass, its codes by hand, and the scenes."""
    model, scenes = mm.lab.load(), mm.lab.scenes(16, seed=613)
    (sae,) = mm.lab.dictionaries("projector")
    card = json.loads((DICTIONARIES / "card.json").read_text())["dictionaries"]["projector"]["truth"]["feature"]
    feature = card["grass"]["index"]
    with model.attach(sae):
        page = mm.features.page(
            model,
            f"projector.hook_out.f{feature}",
            scenes,
            n_clamped=4,
            n_pictures=3,
            strengths=(2.0,),
            max_new_tokens=14,
        )
    states = mm.collect(model, scenes, at=sae.at, positions="image", dtype="float32", progress=False).at().values
    return page, sae.encode(states)[:, feature].unflatten(0, (16, 64)), scenes


def test_it_shows_what_the_codes_are(
    grass: tuple[mm.features.FeaturePage, torch.Tensor, list[mm.lab.Scene]],
) -> None:
    page, codes, scenes = grass
    order = codes.amax(1).argsort(descending=True)[:3].tolist()
    assert [top.name for top in page.pictures] == [f"sample {number}" for number in order]
    assert {scenes[number].place for number in order} == {"grass"}
    for top, number in zip(page.pictures, order, strict=True):
        torch.testing.assert_close(top.map.values.flatten(), codes[number], atol=1e-3, rtol=1e-3)
        assert top.strongest == pytest.approx(float(codes[number].max()), rel=1e-3)
        assert top.picture.size == scenes[number].image.size
    assert page.density == {"image": pytest.approx(float((codes > 0).float().mean()), abs=2e-3)}
    assert page.image_share == 1
    assert page.control != page.feature
    assert (page.words, page.contexts) == ((), ())  # it writes in front of the language model


def test_held_it_writes_what_it_is_of(
    grass: tuple[mm.features.FeaturePage, torch.Tensor, list[mm.lab.Scene]],
) -> None:
    page, codes, _ = grass
    (held,) = page.clamped
    assert held.value == pytest.approx(2 * float(codes.max()), rel=1e-3)
    assert not any("grass" in answer for answer in page.before)
    assert sum("grass" in answer for answer in held.answers) >= 2
    assert sum("grass" in answer for answer in held.control) == 0
    assert dict(held.words)["grass"] == sum("grass" in answer for answer in held.answers)
    assert held.changed.mean == sum(a != b for a, b in zip(page.before, held.answers, strict=True)) / 4
    assert list(page.to_frame()["clamped"]) == list(held.answers)


def test_its_page_holds_everything_and_needs_no_network(
    grass: tuple[mm.features.FeaturePage, torch.Tensor, list[mm.lab.Scene]], tmp_path: Path
) -> None:
    page, _, _ = grass
    html = page.view().save(tmp_path / "feature.html").read_text()
    assert not re.search(r"(src|href)=[\"']?https?:", html)
    for text in (str(page.feature), str(page.control), *page.clamped[0].answers, "How often it fires"):
        assert text in html
    assert page.view().still is not None


@pytest.mark.parametrize(("family", "site"), [("llava", SITES[0]), ("qwen2_vl", SITES[0]), ("instructblip", SITES[0])])
def test_other_families(family: str, site: str) -> None:
    model, _ = made(family)
    sae = dictionary(model, site)
    samples = [mm.Sample((picture(number),), prompt="what color is the big circle") for number in range(3)]
    with model.attach(sae):
        batch = model.prepare(
            [sample.prompt for sample in samples], images=[[sample.pictures[0]] for sample in samples]
        )
        codes = model.run_with_cache(batch, names=f"{site}.hook_sae_acts_post")[1][f"{site}.hook_sae_acts_post"]
        feature = int((codes > 0).flatten(0, 1).float().mean(0).argmax())
        page = mm.features.page(model, f"L1.f{feature}", samples, n_clamped=2, strengths=(1.0,), max_new_tokens=3)
        text = batch.layout.is_token & ~batch.layout.is_image
        here = codes[..., feature]
        assert page.density["text"] == pytest.approx(float((here[text] > 0).float().mean()), abs=1e-6)
        assert page.contexts[0].code == pytest.approx(float(here[text].max()), rel=1e-4)
        row = int(torch.where(text, here, -1.0)[0].argmax())
        word = model.to_string(batch["input_ids"][0, row : row + 1])
        assert any(context.token == word for context in page.contexts)
        if family == "instructblip":
            assert page.pictures == ()  # a Q-Former's rows have no place
        assert len(page.words) == 8
        assert page.view().text.startswith(f"L1.f{feature}")


def test_what_shows_nothing_is_refused() -> None:
    model, _ = made("llava")
    W = torch.eye(32)
    silent = mm.features.SparseDictionary(W, torch.full((32,), -1e6), W, torch.zeros(32), SITES[0])
    samples = [mm.Sample((picture(0),))]
    with model.attach(silent), pytest.raises(mm.InputError, match="is 0 in every row of these 1 samples"):
        mm.features.page(model, "L1.f3", samples)
    with pytest.raises(mm.InputError, match="while their dictionary is attached"):
        mm.features.page(model, "L1.f3", samples)
    with model.attach(silent):
        with pytest.raises(mm.InputError, match="of one feature, found 2"):
            mm.features.page(model, ["L1.f3", "L1.f4"], samples)
        with pytest.raises(mm.InputError, match="data holds no samples"):
            mm.features.page(model, "L1.f3", [])
