"""Vectors are chosen by the gap rule, worked by hand, and by what they do to a planted model."""

import math
from typing import Any

import pytest
import torch

from mmlens import lab
from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.steering.method import Selection
from mmlens.analysis.steering.methods import SELECTION_METHODS, SelectionMethod
from mmlens.analysis.steering.methods.effect import Effect, EffectSelection, gap_rule
from mmlens.analysis.steering.methods.proximity import Proximity
from mmlens.analysis.steering.selection import select_vectors
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.interventions.steering import ProjectOut, Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal

AT = "blocks.1.hook_resid_post"


@pytest.mark.parametrize(
    ("growth", "main", "gap"),
    [
        ([1704, 12, 9, 4, 1], 1, 1692.0),  # one answer far ahead
        ([69, 60, 4, 3], 2, 56.0),  # two answers share it
        ([10, 9, 8, 1], 3, 7.0),
        ([5], 1, 5.0),  # alone: its growth is the gap
        ([4, 4, 4], 3, 0.0),  # nothing stands out
        ([], 0, 0.0),
    ],
)
def test_the_gap_rule_by_hand(growth: list[float], main: int, gap: float) -> None:
    assert gap_rule(growth) == (main, gap)


def test_the_split_is_that_of_scikit_learn() -> None:
    from sklearn.cluster import KMeans

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        growth = sorted(torch.randint(1, 60, (5,), generator=generator).tolist(), reverse=True)
        if len(set(growth)) < 3:
            continue
        fitted = KMeans(2, n_init=50, random_state=0).fit(torch.tensor(growth)[:, None].double().numpy())
        main, _ = gap_rule(growth)
        values = torch.tensor(growth, dtype=torch.double)
        spread = sum(float((part - part.mean()).square().sum()) for part in (values[:main], values[main:]))
        assert spread == pytest.approx(fitted.inertia_)


def test_a_planted_direction_is_selected_by_effect() -> None:
    planted = lab.planted("direction")
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    truth = planted.truth
    assert truth.direction is not None
    at = f"blocks.{truth.layer}.hook_resid_post"
    vector = SteeringVector(6 * truth.direction, at)
    steers = {
        "away": -vector,
        "noise": vector.random(seed=0),
        "towards": vector,
        "half as far": SteeringVector(3 * truth.direction, at),
    }
    data = [Sample((planted.image(n < 2, seed=n),), planted.prompt) for n in range(6)]
    found = select_vectors(
        model,
        {name: Steer(each, positions=positions.last | positions.generated) for name, each in steers.items()},
        data,
        method=Effect(max_new_tokens=1),
        progress=False,
    )
    assert isinstance(found, EffectSelection)
    by_key = {effect.key: effect for effect in found.effects}
    assert found.samples == 6
    assert sum(found.baseline.values()) == 6
    assert found.baseline == {truth.word: 2, truth.default_word: 4}
    assert by_key["towards"].growing == ((truth.word, 4),)
    assert by_key["towards"].gap == 4
    assert by_key["away"].growing == ((truth.default_word, 2),)
    assert by_key["noise"].main == ()
    assert found.chosen == ("towards", "away")  # two vectors with one target are one choice
    assert found.leading_to(truth.word) == ("towards", "half as far")
    assert found.to_frame().set_index("key")["chosen"].to_dict()["noise"] is False


def test_answers_of_several_characters_count_once() -> None:
    # one main answer, "three", is one answer and not five characters
    planted = lab.planted("patch")
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    color = model.W_U[:, model.to_single_token("green")]
    steer = Steer(
        SteeringVector(100 * color / color.norm(), f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"),
        positions=positions.last | positions.generated,
    )
    data = [Sample((planted.image(seed=n),), planted.prompt) for n in range(3)]
    found = select_vectors(model, {"green": steer}, data, method=Effect(max_new_tokens=1), progress=False)
    assert isinstance(found, EffectSelection)
    assert found.effects[0].main == ("green",)
    assert found.chosen == ("green",)


@pytest.fixture(scope="module")
def planted_direction() -> tuple[HookedMultimodal, SteeringVector, list[Sample]]:
    """A model whose answer one direction decides, that direction, and samples of which a third have the cause."""
    planted = lab.planted("direction")
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    truth = planted.truth
    assert truth.direction is not None
    vector = SteeringVector(6 * truth.direction, f"blocks.{truth.layer}.hook_resid_post")
    return model, vector, [Sample((planted.image(n < 2, seed=n),), planted.prompt) for n in range(6)]


def select(
    cls: type[SelectionMethod],
    model: HookedMultimodal,
    vector: SteeringVector,
    data: list[Sample],
    vectors: Any,
    **more: Any,
) -> Selection:
    """The choice of a method among vectors, with what it needs."""
    method = Proximity(vector) if cls is Proximity else cls()
    return select_vectors(
        model, vectors, data if "dataset" in cls.needs else None, method=method, progress=False, **more
    )


@pytest.mark.parametrize("cls", list(SELECTION_METHODS), ids=lambda cls: cls.name)
def test_every_method_chooses_the_planted_direction_and_no_random_one(
    planted_direction: tuple[HookedMultimodal, SteeringVector, list[Sample]], cls: type[SelectionMethod]
) -> None:
    model, vector, data = planted_direction
    vectors = {"noise": vector.random(seed=0), "planted": vector, "other noise": vector.random(seed=1)}
    found = select(cls, model, vector, data, vectors, k=1)
    assert found.chosen == ("planted",)
    assert next(iter(found.scores)) == "planted"
    assert found.scores["planted"] > 2 * max(abs(found.scores[key]) for key in ("noise", "other noise"))
    frame = found.to_frame().set_index("key")
    assert frame["chosen"].to_dict() == {"planted": True, "noise": False, "other noise": False}
    assert "1 of 3 interventions" in repr(found)


def test_proximity_by_hand(planted_direction: tuple[HookedMultimodal, SteeringVector, list[Sample]]) -> None:
    model, vector, _ = planted_direction

    def flat(x: float, y: float) -> SteeringVector:
        direction = torch.zeros_like(vector.direction)
        direction[:2] = torch.tensor([x, y])
        return SteeringVector(direction, vector.at)

    vectors = {(0, 1): flat(1.0, 0.0), (1, 0): flat(-1.0, 0.0), (0, 2): Steer(flat(5.0, 5.0))}
    found = select_vectors(model, vectors, method=Proximity(flat(2.0, 1.9)), k=2)
    assert found.chosen == ((0, 2), (0, 1))
    assert found.scores[0, 1] == pytest.approx(2.0 / math.hypot(2.0, 1.9))
    assert found.scores[1, 0] == pytest.approx(-2.0 / math.hypot(2.0, 1.9))


def test_what_does_not_fit_is_refused_before_any_run(
    planted_direction: tuple[HookedMultimodal, SteeringVector, list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, vector, data = planted_direction
    monkeypatch.setattr(type(model.hf_model), "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(InputError, match="no vectors to choose from"):
        select_vectors(model, {}, data)
    with pytest.raises(InputError, match="has 2 entries"):
        select_vectors(model, {0: SteeringVector(torch.ones(2), vector.at)}, data)
    with pytest.raises(InputError, match="n_targets=0 must be at least 1"):
        Effect(n_targets=0)
    for cls in SELECTION_METHODS:
        assert cls.needs <= {"dataset", "vectors"}
        method = Proximity(vector) if cls is Proximity else cls()
        if "dataset" in cls.needs:
            with pytest.raises(InputError, match=f"method='{cls.name}' tries the interventions on samples"):
                select_vectors(model, {0: vector}, method=method)
        else:
            with pytest.raises(InputError, match=f"method='{cls.name}' has no use for a dataset"):
                select_vectors(model, {0: vector}, data, method=method)
        if "vectors" in cls.needs:
            with pytest.raises(
                InputError, match=r"compares the vectors of Steer\(\.\.\.\) interventions; \['out'\] are"
            ):
                select_vectors(model, {"out": ProjectOut(vector)}, method=method)
    elsewhere = SteeringVector(vector.direction, "blocks.0.hook_resid_pre")
    with pytest.raises(InputError, match=r"at blocks\.0\.hook_resid_pre, but vectors are of blocks\."):
        select_vectors(model, {0: vector}, method=Proximity(elsewhere))
    with pytest.raises(InputError, match=r"does not work without settings; pass method=Proximity\(reference=\.\.\.\)"):
        select_vectors(model, {0: vector}, method="proximity")
    with pytest.raises(InputError, match="holds no samples"):
        select_vectors(model, {0: vector}, [], progress=False)
