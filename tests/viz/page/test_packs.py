"""What results show of themselves: their own numbers, in the picture's own patches, without running a model."""

import base64
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmlens as mm
from mmlens.analysis.neurons.maps import activation_maps
from mmlens.core.errors import InputError
from mmlens.core.view import Viewable
from mmlens.viz.page.packs import pack_of
from mmlens.viz.page.show import BUDGET
from tests.tiny import instructblip, picture
from tests.viz import made


def data_of(html: str) -> dict[str, Any]:
    """What the viewer reads."""
    match = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


@pytest.fixture(scope="module")
def lab() -> Any:
    return mm.lab.load()


@pytest.fixture(scope="module")
def scene() -> Any:
    return mm.lab.scene(seed=30)


@pytest.fixture(scope="module")
def question(lab: Any, scene: Any) -> Any:
    return lab.prepare("what color is the moon", images=scene.image)


@pytest.fixture(scope="module")
def sweep(lab: Any, scene: Any, question: Any) -> Any:
    corrupted = mm.corrupt.twin(lab, question, [scene.twin(object=0, color="blue").image])
    metric = mm.metrics.logit_difference("red", "blue")
    where = mm.positions.grid(4)
    return mm.patch(
        lab, question, corrupted, at="blocks.*.hook_resid_pre", positions=where, metric=metric, progress=False
    )


def test_a_sweep_shows_its_effects_where_they_were_patched(sweep: Any, scene: Any) -> None:
    pack = pack_of(sweep, scene.image)
    (array,) = pack.arrays
    effect = sweep.effect.mean(-1).numpy()
    assert pack.boxes is not None
    for group, boxes in enumerate(sweep.boxes):
        for box in boxes.numpy():
            (column,) = np.flatnonzero((pack.boxes == box).all(1))
            np.testing.assert_allclose(array.values[:, column], effect[:, group], rtol=1e-6)
    best = sweep.cells(1)[0]
    assert best.point in pack.headline
    assert "1 sample" in pack.headline
    assert list(pack.labels["layer"]) == [str(layer) for layer in range(6)]


def test_a_sweep_without_a_picture_is_a_heat_map_and_says_how_to_see_more(sweep: Any) -> None:
    pack = pack_of(sweep)
    np.testing.assert_allclose(pack.arrays[0].values, sweep.effect.mean(-1).numpy(), rtol=1e-6)
    assert pack.arrays[0].axes == ("layer", "group")
    assert any(".view(picture)" in note for note in pack.notes)


def test_neurons_show_their_maps_beside_those_of_random_neurons(lab: Any, scene: Any, question: Any) -> None:
    scores = mm.find_neurons(lab, question, token="red")
    pack = pack_of(scores, run=True)
    neurons, control = pack.arrays
    assert neurons.control == control.name
    first = activation_maps(lab, question, {"first": scores.top(1)})["first"].values.flatten().numpy()
    np.testing.assert_allclose(neurons.values[1], first, rtol=1e-5)
    draws = mm.random_units(lab, like=scores.top(20), seed=0)
    beside = activation_maps(lab, question, {"control": [unit for draw in draws for unit in draw]})["control"]
    np.testing.assert_allclose(control.values[0], beside.values.flatten().numpy(), rtol=1e-5, atol=1e-7)
    assert str(scores.top(1)[0]) in pack.headline
    assert pack.picture is question.images[0][0]


def test_a_lens_writes_the_words_that_it_read_on_the_patches(lab: Any, scene: Any) -> None:
    batch = lab.prepare("describe the image", images=scene.image)
    lens = mm.logit_lens(lab, batch, positions="image", control=mm.corrupt.shuffle(lab, batch), words=["moon"])
    pack = pack_of(lens, scene.image)
    assert pack.words is not None
    assert pack.boxes is not None
    rows = batch.layout.patches(box=scene.objects[0].box)
    for column, row in enumerate(lens.positions[0].tolist()):
        (patch,) = np.flatnonzero((pack.boxes == batch.layout.boxes([row]).numpy()).all(1))
        assert pack.words.strings[pack.words.ids[3, patch, 0]] == lens.strings[int(lens.top_tokens[0, 3, column, 0])]
        np.testing.assert_allclose(
            pack.arrays[0].values[3, patch], float(lens.probabilities[0, 3, column, 0]), rtol=1e-6
        )
    assert len(rows)
    assert [array.name for array in pack.arrays] == ["best", "control", "word moon"]


def test_a_picture_of_another_size_is_refused(lab: Any, scene: Any, question: Any) -> None:
    heat = mm.find_neurons(lab, question, token="red").heatmap("mean")
    with pytest.raises(
        InputError, match=r"The picture is \[height=48 width=48\], and the result is of one of \[height=96 width=96\]"
    ):
        heat.view(made.picture())


def test_rows_without_a_place_say_why_there_is_no_map() -> None:
    model = instructblip()
    batch = model.prepare("a red circle", images=picture())
    pack = pack_of(mm.find_neurons(model, batch, token="a"), run=True)
    assert pack.picture is None
    assert any("There is no map over the picture" in note for note in pack.notes)


def results() -> dict[str, Viewable]:
    """A result of each kind, made without a model."""
    sweep = made.sweep([f"blocks.{i}.hook_resid_pre" for i in range(4)], [f"r0c{i}" for i in range(4)], made.blocks(2))
    return {
        "sweep": sweep,
        "wide sweep": made.sweep(["blocks.0.hook_resid_pre"], [f"p{i}" for i in range(700)]),
        "lens": made.lens(4, 8),
        "neurons": made.neurons(4, 50),
        "heat": made.heat(),
        "measured": made.measured(2, 3),
        "edits": made.edits(2),
        "agreement": made.estimated(sweep),
    }


@pytest.mark.parametrize("name", list(results()))
def test_every_result_shows_itself_within_the_budget(name: str) -> None:
    result = results()[name]
    bundle = result._repr_mimebundle_()
    assert bundle["text/plain"] == repr(result)
    assert len(bundle["text/html"]) < BUDGET
    data = data_of(bundle["text/html"])
    assert data["headline"]
    assert "http" not in re.sub(r"http://www.w3.org", "", bundle["text/html"])


def test_showing_a_result_runs_no_model(lab: Any, question: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = mm.find_neurons(lab, question, token="red")

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(type(lab), "run_with_hooks", fail)
    monkeypatch.setattr(lab.hf_model, "forward", fail)
    assert "red" in scores._repr_html_()


def test_a_view_is_saved_as_a_page_whole_or_not_at_all(tmp_path: Path) -> None:
    view = made.heat().view()
    page = view.save(tmp_path / "map.html")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert view.html in text
    with pytest.raises(InputError, match=r"path.html"):
        view.save(tmp_path / "map.png")
    with pytest.raises(InputError):
        view.save(tmp_path / "none" / "map.html")


def test_the_still_picture_is_a_png() -> None:
    view = made.heat().view(made.picture())
    assert view.still is not None
    assert view.still.startswith(b"\x89PNG")
    assert base64.b64decode(view._repr_mimebundle_()["image/png"]) == view.still
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.heat()._repr_html_()
