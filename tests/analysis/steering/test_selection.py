"""Vectors are chosen by the gap rule, worked by hand, and by what they do to a planted model."""

import pytest
import torch

from mmlens import lab
from mmlens.analysis.samples import Sample
from mmlens.analysis.steering.selection import gap_rule, select_by_effect, select_by_proximity
from mmlens.core.errors import InputError
from mmlens.interventions.steering import Steer
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
    found = select_by_effect(
        model,
        {name: Steer(each, positions="last_prompt") for name, each in steers.items()},
        data,
        max_new_tokens=1,
        progress=False,
    )
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
        positions="last_prompt",
    )
    data = [Sample((planted.image(seed=n),), planted.prompt) for n in range(3)]
    found = select_by_effect(model, {"green": steer}, data, n_targets=1, max_new_tokens=1, progress=False)
    assert found.effects[0].main == ("green",)
    assert found.chosen == ("green",)


def test_proximity_by_hand() -> None:
    vectors = {
        (0, 1): SteeringVector(torch.tensor([1.0, 0.0]), AT),
        (1, 0): SteeringVector(torch.tensor([-1.0, 0.0]), AT),
        (0, 2): SteeringVector(torch.tensor([5.0, 5.0]), AT),
    }
    reference = SteeringVector(torch.tensor([2.0, 1.9]), AT)
    assert list(select_by_proximity(vectors, reference, k=2)) == [(0, 2), (0, 1)]
    assert select_by_proximity(vectors, reference, k=1)[0, 2] is vectors[0, 2]


def test_what_does_not_fit_is_refused() -> None:
    vector = SteeringVector(torch.ones(2), AT)
    with pytest.raises(InputError, match="k=0 of 1"):
        select_by_proximity({0: vector}, vector, k=0)
    elsewhere = SteeringVector(torch.ones(2), "blocks.0.hook_resid_post")
    with pytest.raises(
        InputError, match=r"at blocks\.0\.hook_resid_post, but vectors are of blocks\.1\.hook_resid_post"
    ):
        select_by_proximity({0: vector}, elsewhere)
    planted = lab.planted("direction")
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    with pytest.raises(InputError, match="no interventions"):
        select_by_effect(model, {}, [])
    fitting = Steer(SteeringVector(torch.ones(model.cfg.d_model), AT))
    with pytest.raises(InputError, match="n_targets=0 must be at least 1"):
        select_by_effect(model, {0: fitting}, [], n_targets=0)
    with pytest.raises(InputError, match="has 2 entries"):
        select_by_effect(model, {0: Steer(vector)}, [])
    with pytest.raises(InputError, match="holds no samples"):
        select_by_effect(model, {0: fitting}, [], progress=False)
