"""What models, batches, caches and runs beside each other show: what they hold, without a run and without an error."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.core.view import Display
from mmlens.viz.page.compare import compared
from mmlens.viz.page.encode import decoded
from mmlens.viz.page.packs import pack_of
from mmlens.viz.page.show import BUDGET, BUDGET_ALL, show
from tests.tiny import instructblip, picture
from tests.viz import made
from tests.viz.page.test_packs import data_of


@pytest.fixture(scope="module")
def lab() -> Any:
    return mm.lab.load()


@pytest.fixture(scope="module")
def question(lab: Any) -> Any:
    return lab.prepare("what color is the moon", images=mm.lab.scene(seed=30).image)


def test_a_model_shows_its_towers_and_what_is_hooked(lab: Any) -> None:
    towers = {row[0]: row[1:] for row in pack_of(lab).tables[0].rows}
    cfg = lab.part("vision").cfg
    assert towers["vision"][:4] == (cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.d_mlp)
    assert sum(row[4] for row in towers.values()) == len(lab.hook_dict)
    with lab.hooks([("blocks.2.hook_resid_post", lambda value, hook: None)]):
        pack = pack_of(lab)
    assert [row[-1] for row in pack.tables[0].rows] == [0, 0, 1]
    assert pack.tables[1].rows == (("blocks.2.hook_resid_post",),)
    assert "none is hooked" in pack_of(lab).caption
    assert "float32 on cpu" in pack_of(lab).headline


def test_a_batch_shows_its_rows_on_its_pictures_and_its_tokens(lab: Any) -> None:
    batch = lab.prepare(
        ["what color is the moon", "describe the image"], images=[mm.lab.scene(seed=n).image for n in (30, 31)]
    )
    pack = pack_of(batch)
    assert list(pack.labels["item"]) == ["sample 0, picture 0", "sample 1, picture 0"]
    images = [int(count) for count in batch.layout.is_image.sum(1)]
    assert f"{images[0]} image tokens" in pack.headline
    rows = {row[0]: row[1:] for row in pack.tables[0].rows}
    first, last = batch.layout.image[0][0], batch.layout.image[0][-1]
    assert rows[f"{int(first)} to {int(last)}"] == ("picture", "")
    words = [token for kind, token in rows.values() if kind == "text"]
    assert "moon" in words
    assert {row[0] for row in pack.tables[1].rows} == set(batch.inputs)


def test_a_batch_whose_rows_have_no_place_says_why() -> None:
    model = instructblip()
    batch = model.prepare("a red circle", images=picture())
    pack = pack_of(batch)
    assert not pack.sheets
    assert any("no place in the picture" in note for note in pack.notes)
    assert data_of(batch._repr_html_())["tables"]


def test_a_cache_shows_names_shapes_and_sizes(lab: Any, question: Any) -> None:
    cache = lab.run_with_cache(question, names="blocks.*.hook_resid_post")[1]
    pack = pack_of(cache)
    assert [row[0] for row in pack.tables[0].rows] == list(cache)
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in cache.values()) / 2**20
    assert f"6 points: {megabytes:.2f} MB on cpu" in pack.headline
    assert cache._repr_mimebundle_()["text/plain"] == repr(cache)


def test_traces_and_vectors_show_themselves(lab: Any, question: Any) -> None:
    trace = lab.trace_generation(question, names="blocks.5.hook_resid_post", max_new_tokens=4)
    rows = pack_of(trace).tables[0].rows
    probability = trace.logits[0, 0].softmax(-1)[trace.tokens[0, 0]]
    assert rows[0][2] == trace.words[0][0].strip()
    assert rows[0][3] == pytest.approx(float(probability), rel=1e-5)
    vector = mm.steering.SteeringVector(
        torch.tensor([3.0, 0.0, 4.0]), "blocks.1.hook_resid_post", {"method": "by hand"}
    )
    pack = pack_of(vector)
    assert "norm 5 in 3 entries" in pack.headline
    assert pack.tables[0].rows == (("method", "by hand"),)


def test_what_cannot_be_drawn_says_so_and_raises_nothing() -> None:
    class Broken(Display):
        def to_frame(self) -> None:
            raise InputError("there is no frame")

    data = data_of(Broken()._repr_html_())
    assert "there is no frame" in data["notes"][0]


def test_features_are_listed_without_words_once_their_dictionary_is_gone(lab: Any, question: Any) -> None:
    with lab.attach(*mm.lab.dictionaries("transcoders")):
        scores = mm.find_features(lab, question, word="red")
        assert "words" in data_of(scores._repr_html_())["tables"][0]["columns"]
    data = data_of(scores._repr_html_())
    assert "words" not in data["tables"][0]["columns"]
    assert "Words cannot be read here" in data["notes"][0]


def test_caches_are_compared_by_the_norm_of_their_difference(lab: Any, question: Any) -> None:
    names = "blocks.*.hook_resid_post"
    _, clean = lab.run_with_cache(question, names=names)
    with lab.intervene(mm.Ablate(mm.Head(2, 3))):
        _, edited = lab.run_with_cache(question, names=names)
    data = data_of(mm.viz.compare(clean, edited, batch=question).html)
    assert data["runs"] == ["clean", "edited", "difference"]
    arrays = {array["run"]: array for array in data["arrays"]}
    rows = question.layout.grid(sample=0, image=0).rows
    name = "blocks.3.hook_resid_post"
    difference = (edited[name] - clean[name])[0, rows].norm(dim=-1)
    np.testing.assert_allclose(decoded(arrays["difference"])[3], difference.numpy(), rtol=1e-5, atol=1e-5)
    assert not decoded(arrays["difference"])[:2].any(), "nothing changes before the head"
    assert arrays["clean"]["limit"] == arrays["edited"]["limit"]
    with pytest.raises(InputError, match="batch=batch"):
        mm.viz.compare(clean, edited)


def test_runs_keep_their_words_and_their_own_scale() -> None:
    first, second = made.looks(), made.looks(seed=1)
    pack = compared([pack_of(first), pack_of(second)])
    by_run = {array.run: array for array in pack.arrays if array.title == "mean of heads"}
    np.testing.assert_allclose(by_run["difference"].values, (second.values - first.values).mean(1).numpy(), atol=1e-6)
    assert by_run["difference"].scale == "signed"
    largest = np.unravel_index(np.abs(by_run["difference"].values).argmax(), by_run["difference"].values.shape)
    assert (pack.start["layer"], pack.start["token"]) == largest[:2], "it opens where most changes"
    assert by_run["clean"].scale == by_run["edited"].scale == "positive"


def test_a_view_keeps_to_its_budget_and_says_what_it_left_out() -> None:
    looks = replace(
        made.looks(4, 4, 20, 24),
        picture=made.picture(336, 336),
        boxes=torch.cat(made.blocks(24, width=336, height=336)),
    )
    pack = pack_of(looks)
    view = show(pack, budget=120_000 + len(show(replace(pack, arrays=pack.arrays[:1])).html))
    data = data_of(view.html)
    assert [array["name"] for array in data["arrays"]] == ["mean", "shares"]
    assert data["notes"][-1].endswith("one head.")
    assert len(looks.view(heads="all").html) < BUDGET_ALL
    assert len(data_of(looks.view(heads="all").html)["arrays"]) == 3
    board = made.board(20, 4)
    small = data_of(show(pack_of(board), budget=80_000).html)
    assert len(small["sheets"]) == len(small["labels"]["item"]) < 20
    assert "the last items" in small["notes"][-1]
    assert len(board._repr_html_()) < BUDGET
