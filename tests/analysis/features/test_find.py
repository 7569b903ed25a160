"""Features that raise a word: scores are the formula's, the planted feature comes first, and its twin does not."""

from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.core.errors import InputError
from mmlens.core.units import Feature
from mmlens.lab.weight_built import Planted, build_pair
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.features.test_splice import SETTINGS, SITES, dictionary, made
from tests.tiny import picture

LAYER, FEATURE = 1, "L1.f0"


def by_bare_torch(
    model: Any, batch: Any, sae: SparseDictionary, token: int, other: Any = None
) -> tuple[torch.Tensor, float, float]:
    """Scores of all features, of the error and of the whole point for a word, every step written out."""
    held: dict[str, torch.Tensor] = {}

    def hold(y: torch.Tensor, hook: Any) -> torch.Tensor:
        held["y"] = y.detach().requires_grad_()
        return held["y"]

    with torch.enable_grad():
        logits = model.run_with_hooks(batch, fwd_hooks=[(sae.at, hold)])
        last = logits[torch.arange(batch.size), batch.layout.last.flatten()]
        gradient = torch.autograd.grad(last[:, token].sum(), held["y"])[0]
    y = held["y"].detach()
    x = torch.zeros_like(y) if other is None else model.run_with_cache(other, names=sae.at)[1][sae.at]
    scale = y.std(-1, keepdim=True) if sae.scales else torch.ones(())

    def split(state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = sae.encode(state)
        return codes, state - sae.decode(codes, state)

    codes, error = split(y)
    if other is not None:
        codes, error = codes - split(x)[0], error - split(x)[1]
    scores = (codes * ((scale * gradient) @ sae.W_dec.T)).flatten(0, -2).sum(0)
    return (
        scores / batch.size,
        float((error * gradient).sum()) / batch.size,
        float(((y - x) * gradient).sum()) / batch.size,
    )


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "instructblip", "gemma3", "mllama"])
def test_scores_are_those_of_bare_torch(name: str, site: str) -> None:
    model, batch = made(name)
    token = 14
    other = model.prepare(["describe the image", "what color is the big circle"], images=[[picture(2)], [picture(3)]])
    for settings in SETTINGS.values():
        sae = dictionary(model, site, **settings)
        for corrupted in (None, other):
            with model.attach(sae):
                found = mm.find_features(model, batch, word=token, corrupted=corrupted)
            scores, error, whole = by_bare_torch(model, batch, sae, token, corrupted)
            size = float(scores.abs().max())
            assert size > 1e-4
            assert float((found.scores[site] - scores).abs().max()) < 1e-5 * max(1.0, size)
            assert found.errors[site] == pytest.approx(error, abs=1e-5 * max(1.0, abs(error)))
            if corrupted is not None and not sae.scales:  # they add up to a patch of the whole point, to first order
                total = float(found.scores[site].double().sum()) + found.errors[site]
                assert total == pytest.approx(whole, abs=1e-4)


def test_the_gradient_is_the_models_own_beside_other_dictionaries() -> None:
    model, batch = made("llava")
    first, second = dictionary(model, SITES[0]), dictionary(model, "blocks.2.hook_resid_post", activation="topk", k=3)
    vision = dictionary(model, SITES[1])
    with model.attach(first):
        alone = mm.find_features(model, batch, word=14).scores[first.at]
    with model.attach(first, second, vision):
        beside = mm.find_features(model, batch, word=14)
    torch.testing.assert_close(beside.scores[first.at], alone, atol=1e-6, rtol=1e-5)
    assert set(beside.scores) == {first.at, second.at, vision.at}


def test_samples_of_a_padded_batch_and_a_dataset_count_alone() -> None:
    model, batch = made("llava")
    sae = dictionary(model, SITES[0])
    texts, images = ["describe the image", "what color is the big circle"], [picture(0), picture(1)]
    with model.attach(sae):
        together = mm.find_features(model, batch, word="red")
        alone = [
            mm.find_features(model, model.prepare(t, images=i), word="red") for t, i in zip(texts, images, strict=True)
        ]
        samples = [mm.Sample((image,), prompt=text) for text, image in zip(texts, images, strict=True)]
        read = mm.find_features(model, samples, word="red", batch_size=1)
    expected = torch.stack([scores.scores[sae.at] for scores in alone]).mean(0)
    for found in (together, read):
        torch.testing.assert_close(found.scores[sae.at], expected, atol=1e-5, rtol=1e-4)
        assert found.n_samples == 2
        assert found.tokens == (model.to_single_token("red"),)


def test_rows_can_be_chosen() -> None:
    model, batch = made("llava")
    sae = dictionary(model, SITES[0])
    with model.attach(sae):
        whole, image, rest = (
            mm.find_features(model, batch, word="red", positions=rule).scores[sae.at]
            for rule in ("all", "image", ~mm.positions.image)
        )
    torch.testing.assert_close(image + rest, whole, atol=1e-6, rtol=1e-5)
    assert float(image.abs().max()) > 1e-4


def test_words_of_a_feature_are_its_row_through_the_final_gain() -> None:
    for name in ("llava", "gemma3"):
        model, batch = made(name)
        sae = dictionary(model, SITES[0])
        gain = model.ln_final.weight.detach() + (1 if name == "gemma3" else 0)
        expected = (sae.W_dec[3] * gain) @ model.W_U
        with model.attach(sae):
            words = mm.features.feature_words(model, ["L1.f3"], k=4)
            found = mm.find_features(model, batch, word=14)
            assert found.words(4, features="L1.f3") == words
        assert words == [[model.to_string(token).strip() for token in expected.topk(4).indices]]
    model, _ = made("llava")
    refused = pytest.raises(InputError, match=r"L1\.mlp\.hook_post\.f3 do not write into the language model's stream")
    with model.attach(dictionary(model, "blocks.1.mlp.hook_post")), refused:
        mm.features.feature_words(model, "L1.mlp.hook_post.f3")


def test_a_map_of_a_feature_is_its_codes_at_the_picture() -> None:
    model, batch = made("llava")
    for site, part, name in ((SITES[0], "language", "L1.f3"), (SITES[1], "vision", "vision.L0.f3")):
        sae = dictionary(model, site)
        with model.attach(sae):
            found = mm.find_features(model, batch, word="red")
            heat = found.heatmap(name, sample=1)
            _, cache = model.run_with_cache(batch, names=site)
        grid = batch.layout.grid(part, sample=1)
        expected = sae.encode(cache[site][1])[grid.rows, 3]
        assert torch.allclose(heat.values.flatten(), expected, atol=1e-5)


def test_features_are_units_for_verbs() -> None:
    model, batch = made("llava")
    sae, site = dictionary(model, SITES[0], activation="topk", k=8), SITES[0]
    with model.attach(sae):
        _, cache = model.run_with_cache(batch, names=f"{site}.hook_sae_acts_post")
        codes = cache[f"{site}.hook_sae_acts_post"]
        rate = (codes[batch.layout.is_token] != 0).float().mean(0)
        top = mm.find_features(model, batch, word="red").top(3)
        control = mm.random_units(model, like=top, match="firing_rate", batch=batch)
        assert len(control) == 20
        assert not any(draw & top for draw in control)
        assert control.size == pytest.approx(float(rate[[unit.index for unit in top]].mean()), abs=1e-6)
        off = [
            abs(float(rate[other.index] - rate[unit.index]))
            for draw in control
            for unit, other in zip(top, draw, strict=True)
        ]
        spread = [abs(float(rate[i] - rate[unit.index])) for unit in top for i in range(len(sae))]
        assert sum(off) / len(off) < 0.7 * sum(spread) / len(spread)
        means = mm.neurons.mean_activation(model, batch, top)
        torch.testing.assert_close(torch.stack(means), codes[batch.layout.is_token].mean(0)[[u.index for u in top]])
        # patched, a code comes from the other run, and what the feature writes with it
        other = model.prepare(
            ["describe the image", "what color is the big circle"], images=[[picture(2)], [picture(3)]]
        )
        metric = mm.metrics.logit_difference("red", "blue")
        sweep = mm.patch(model, other, batch, units=top, positions="all", metric=metric, progress=False)
        theirs = model.run_with_cache(other, names=site)[1][site]
        for number, unit in enumerate(top):
            change = sae.encode(theirs)[..., unit.index] - codes[..., unit.index]

            def moved(y: torch.Tensor, hook: Any, unit: Any = unit, change: torch.Tensor = change) -> torch.Tensor:
                return y + change[..., None] * sae.W_dec[unit.index]

            logits = model.run_with_hooks(batch, fwd_hooks=[(site, moved)])
            last = logits[torch.arange(2), batch.layout.last.flatten()]
            expected = last[:, model.to_single_token("red")] - last[:, model.to_single_token("blue")]
            torch.testing.assert_close(sweep.values[number, 0], expected, atol=1e-4, rtol=1e-4)
            assert sweep.row_units[number] == [unit]


def test_features_are_attributed_and_matched_by_what_they_write() -> None:
    model, batch = made("llava")
    sae, site = dictionary(model, SITES[0], activation="topk", k=8), SITES[0]
    other = model.prepare(["describe the image", "what color is the big circle"], images=[[picture(2)], [picture(3)]])
    point, metric = f"{site}.hook_sae_acts_post", mm.metrics.logit_difference("red", "blue")
    with model.attach(sae):
        options: dict[str, Any] = {
            "at": point,
            "units": "feature",
            "positions": "all",
            "metric": metric,
            "direction": "noise",
        }
        sweep = mm.attribute(model, batch, other, method="atp", **options)
        scores = [mm.find_features(model, batch, word=word, corrupted=other).scores[site] for word in ("red", "blue")]
        draws = mm.random_units(model, like="L1.f3", match="write_norm", draws=3)
    # a patch of the other run's codes changes the logits by the opposite of what these codes contribute
    torch.testing.assert_close(-sweep.effect[:, 0].mean(1), scores[0] - scores[1], atol=1e-5, rtol=1e-4)
    assert draws.size == pytest.approx(float(sae.W_dec[3].norm()))


def test_what_is_asked_without_a_dictionary_is_refused() -> None:
    model, batch = made("llava")
    with pytest.raises(InputError, match=r"No sparse dictionary is attached: with model\.attach\(sae\)"):
        mm.find_features(model, batch, word="red")
    with model.attach(dictionary(model, SITES[0])):
        scores = mm.find_features(model, batch, word="red")
        with pytest.raises(InputError, match=r"k=99 must lie in 1\.\.40"):
            scores.top(99)
        with pytest.raises(
            InputError, match=r"L2\.f1 is not among these features, which are 40 at blocks\.1\.hook_resid_post"
        ):
            scores["L2.f1"]
        with pytest.raises(InputError, match="corrupted stands beside one batch"):
            mm.find_features(model, [mm.Sample((picture(0),))], word="red", corrupted=batch)
    with pytest.raises(InputError, match=r"with model\.attach\(sae\)"):
        scores.heatmap("L1.f3")


# -- planted -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted() -> Planted:
    """Colour lies along one direction of the stream, which decides the answer."""
    return build_pair("direction")


def known_dictionary(planted: Planted) -> SparseDictionary:
    """Sixty-four directions of the stream; the first is the planted one."""
    make = torch.Generator().manual_seed(0)
    direction = planted.truth.direction
    assert direction is not None
    columns = torch.randn(32, 32, generator=make)
    columns[:, 0] = direction
    basis = torch.linalg.qr(columns).Q.T
    basis = basis * torch.sign(basis[:1] @ direction)
    W = torch.cat([basis, -basis])
    return SparseDictionary(W.T.contiguous(), torch.zeros(64), W, torch.zeros(32), f"blocks.{LAYER}.hook_resid_post")


def wrapped(planted: Planted, model: Any, present: bool = True) -> tuple[HookedMultimodal, Any]:
    hooked = HookedMultimodal.from_hf(model, planted.processor)
    return hooked, hooked.batch(dict(planted.inputs(planted.image(present))))


def test_the_planted_feature_comes_first_and_only_where_it_is(planted: Planted) -> None:
    sae, word = known_dictionary(planted), planted.truth.word
    model, batch = wrapped(planted, planted.model)
    with model.attach(sae):
        found = mm.find_features(model, batch, word=word)
        assert found.top(1) == [Feature(LAYER, 0)]
        assert found[FEATURE] > 10 * found[found.top(2)[1]]
        assert found.words(1, features=FEATURE) == [[word]]
        assert abs(found.errors[sae.at]) < 1e-4, "the directions span the stream"
        absent = mm.find_features(model, wrapped(planted, planted.model, present=False)[1], word=word)
    assert abs(absent[FEATURE]) < 0.01 * found[FEATURE]
    twin, same = wrapped(planted, planted.twin)
    with twin.attach(sae):
        unplanted = mm.find_features(twin, same, word=word)
    assert abs(unplanted[FEATURE]) < 0.01 * found[FEATURE]
    assert FEATURE not in unplanted.top(5)


def test_ablating_the_planted_feature_takes_the_answer_and_features_that_fire_as_often_do_not(planted: Planted) -> None:
    sae, truth = known_dictionary(planted), planted.truth
    model, batch = wrapped(planted, planted.model)
    tokens = (truth.token, truth.default_token)

    def answer() -> int:
        return int(model(batch)[0, -1].argmax())

    with model.attach(sae):
        assert answer() == tokens[0]
        with model.intervene(mm.Ablate(FEATURE)):
            assert answer() == tokens[1]
        for draw in mm.random_units(model, like=FEATURE, match="firing_rate", batch=batch):
            with model.intervene(mm.Ablate(draw)):
                assert answer() == tokens[0]
        code = float(
            model.run_with_cache(batch, names="**.hook_sae_acts_post")[1][f"{sae.at}.hook_sae_acts_post"][0, -1, 0]
        )
    twin, _ = wrapped(planted, planted.model)
    missing = twin.batch(dict(planted.inputs(planted.image(False))))
    assert int(twin(missing)[0, -1].argmax()) == tokens[1]
    # without the colour the stream lies the other way along the direction, which is a feature of its own
    both = mm.Ablate([FEATURE, "L1.f32"], value=[code, 0.0], positions="last")
    with twin.attach(sae), twin.intervene(both):
        assert int(twin(missing)[0, -1].argmax()) == tokens[0]
    with twin.intervene(mm.Steer(sae.direction(0), alpha=2 * code, positions="last")):
        assert int(twin(missing)[0, -1].argmax()) == tokens[0]
