"""Maps of relevance: formulas by hand, the planted patch found, the twin and shuffled pictures told apart."""

import pytest
import torch

import mmlens as mm
from mmlens.analysis.relevance.methods import GradCam, Relevancy, Rollout
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject

A1, A2 = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[1.0, 0.0], [0.2, 0.8]])
VALUES = {"1": A1[None], "2": A2[None]}


def test_rollout_and_relevancy_by_hand() -> None:
    torch.testing.assert_close(Rollout().relevance(VALUES, {})[1], torch.tensor([0.325, 0.675]))
    ones = {name: torch.ones_like(value) for name, value in VALUES.items()}
    torch.testing.assert_close(Relevancy().relevance(VALUES, ones)[1], torch.tensor([1.3, 2.7]))
    negative = {name: -value for name, value in ones.items()}
    assert torch.equal(Relevancy().relevance(VALUES, negative), torch.eye(2))
    nothing = {"1": torch.zeros(1, 2, 2)}  # padding looks at nothing, and stays what it is
    assert torch.equal(Rollout().relevance(nothing, {}), torch.eye(2))


def test_grad_cam_by_hand() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, -4.0]]])
    gradient = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])  # mean weights 0.5 and 1
    found = GradCam().relevance({"a": x, "b": 5 * x}, {"a": gradient, "b": torch.zeros_like(x)})
    torch.testing.assert_close(found, torch.tensor([[2.5, 0.0]]))


@pytest.mark.parametrize("method", ["relevancy", "grad_cam"])
def test_the_planted_patch_is_found_and_the_twin_has_none(method: str) -> None:
    planted = mm.lab.planted("patch")
    maps = {}
    for side, hf in (("planted", planted.model), ("twin", planted.twin)):
        model = HookedMultimodal.from_hf(hf, planted.processor)
        # the noise around what is planted lets other patches through, a thousand times weaker
        batch = model.prepare([planted.prompt], images=[[planted.image()]])
        (maps[side],) = mm.lenses.relevance_map(model, batch, method=method, word="red")
    values = maps["planted"].values
    if method == "relevancy":
        assert divmod(int(values.argmax()), 3) == (planted.truth.row, planted.truth.column)
        others = values.flatten()[[n for n in range(9) if n != planted.truth.patch]]
        assert values.max() > 5 * others.max()
        assert maps["twin"].values.max() < 0.2 * values.max()
    else:
        red = maps["planted"].values[planted.truth.row, planted.truth.column]
        assert red > 0
        assert maps["twin"].values.max() < 0.2 * values.max()


@pytest.mark.parametrize(
    ("method", "part"), [("relevancy", None), ("rollout", None), ("rollout", "vision"), ("grad_cam", None)]
)
def test_on_other_structures_each_sample_alone_has_the_same_map(
    subject: Subject, method: str, part: str | None
) -> None:
    model, batch = subject.model, subject.batches["left"]
    options = {"method": method} | ({"part": part} if part else {})
    if subject.name == "instructblip" and part is None and method != "grad_cam":
        with pytest.raises(NoPlaceError):
            mm.lenses.relevance_map(model, batch, **options)
        return
    together = mm.lenses.relevance_map(model, batch, **options)
    for number, prompt in enumerate(["describe the image", "what color is the big red circle"]):
        alone = model.prepare([prompt], images=[[batch.images[number][0]]])
        (heat,) = mm.lenses.relevance_map(model, alone, **options)
        assert heat is not None
        torch.testing.assert_close(heat.values, together[number].values, atol=1e-4, rtol=1e-3)
        assert float(heat.values.max()) > 0


def test_what_a_method_does_not_read_is_refused(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    with pytest.raises(InputError, match="explains no word"):
        mm.lenses.relevance_map(model, batch, method="rollout", word="red")
    with pytest.raises(InputError, match="no queries"):
        mm.lenses.relevance_map(model, batch, method="grad_cam", queries="last")
    with pytest.raises(InputError, match="3 words for 2"):
        mm.lenses.relevance_map(model, batch, word=["red", "red", "red"])
    with pytest.raises(InputError, match="must name some"):
        mm.lenses.relevance_map(model, batch, method="grad_cam", layers=[9])


def test_maps_of_the_lab_beside_shuffled_ones() -> None:
    """A map that is the object's own mask lies on it whole, and on other pictures' objects as chance has it."""
    scenes = [scene for scene in mm.lab.scenes(30, seed=3) if len(scene.objects) == 1][:8]
    maps = [
        mm.lenses.HeatMap(torch.from_numpy(scene.objects[0].mask).float(), (96, 96), (0.0, 0.0, 96.0, 96.0))
        for scene in scenes
    ]
    table = mm.lenses.score_maps(maps, scenes)
    assert table["inside"].value > 0.9
    assert table["pointing"].value == 1.0
    assert table["inside, shuffled"].value < 0.5
    flat = [mm.lenses.HeatMap(torch.ones(4, 4), (96, 96), (0.0, 0.0, 96.0, 96.0)) for _ in scenes]
    even = mm.lenses.score_maps(flat, scenes)
    assert even["inside"].value == pytest.approx(even["area"].value, abs=0.02)
    with pytest.raises(InputError, match="one each"):
        mm.lenses.score_maps(maps[:2], scenes)
