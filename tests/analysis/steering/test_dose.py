"""A dose curve's numbers are those of plain steered forward passes; a planted direction has a dose, a random one has not."""

from itertools import product
from pathlib import Path

import pytest
import torch

from mmlens import lab
from mmlens.analysis import metrics
from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.steering.dose import dose_curve
from mmlens.analysis.steering.dose_result import DoseCurve
from mmlens.analysis.steering.gates import ActiveConcept
from mmlens.analysis.store.states import States
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.core.rules import Positions
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.conftest import Wrapped
from tests.conftest import LONG, SHORT, Subject
from tests.tiny import picture

AT = "blocks.1.hook_resid_post"
METRIC = metrics.logit_difference("red", "blue")


def _vector(model: HookedMultimodal, at: str = AT) -> SteeringVector:
    return SteeringVector(torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(1)), at)


@pytest.mark.parametrize("positions", ["last", "prompt", "text", "image", "all", slice(0, 3)])
@pytest.mark.parametrize("name", ["llava", "qwen", "blip"])
def test_equals_plain_forward_passes(name: str, positions: Positions, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(name)
    if name == "blip" and positions == slice(0, 3):
        positions = slice(-3, None)  # its first positions are padding for the shorter prompt
    model, batch = (
        subject.model,
        subject.batches["right" if isinstance(positions, slice) and name != "blip" else "left"],
    )
    vector, points, alphas = _vector(model), ["blocks.0.hook_resid_post", AT], (0.5, 3.0)
    keep_norm = positions == "text"
    curve = dose_curve(
        model,
        batch,
        vector,
        alphas=alphas,
        metric=METRIC,
        at=points,
        positions=positions,
        keep_norm=keep_norm,
        seeds=[4],
        progress=False,
    )

    def plain(direction: SteeringVector, at: str, alpha: float) -> torch.Tensor:
        with torch.no_grad(), model.intervene(Steer(direction, alpha, positions=positions, at=at, keep_norm=keep_norm)):
            return metrics.measure(model, batch, metric=METRIC)

    for (i, at), (j, alpha) in product(enumerate(points), enumerate(alphas)):
        torch.testing.assert_close(curve.values[i, j], plain(vector, at, alpha), atol=2e-5, rtol=1e-4)
        expected = plain(vector.random(seed=4), at, alpha)
        torch.testing.assert_close(curve.controls[0, i, j], expected, atol=2e-5, rtol=1e-4)
    with torch.no_grad():
        unsteered = metrics.measure(model, batch, metric=METRIC)
    torch.testing.assert_close(curve.baseline, unsteered, atol=2e-5, rtol=1e-4)
    assert curve.points == tuple(points)
    assert curve.alphas == alphas


def test_a_gate_that_is_shut_does_nothing(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    states = model.run_with_cache(batch, names=AT)[1][AT]
    ends = states[:, -1]
    bank = extract_concepts(States(torch.stack([ends[0], ends[0] + 100]), AT), 2, method="kmeans")
    near = int(bank.dominant()[0])
    values = {
        which: dose_curve(
            model,
            batch,
            _vector(model),
            alphas=[3.0],
            metric=METRIC,
            gate=ActiveConcept(bank, which),
            seeds=[],
            progress=False,
        )
        for which in (near, 1 - near)
    }
    torch.testing.assert_close(values[1 - near].values[0, 0], values[near].baseline, atol=1e-5, rtol=1e-5)
    assert (values[near].values[0, 0] - values[near].baseline).abs().min() > 1e-3


def test_a_dataset_is_its_batches(llava: Subject) -> None:
    model = llava.model
    samples = [Sample((picture(n),), prompt) for n, prompt in enumerate((SHORT, LONG, SHORT))]
    vector = _vector(model)
    curve = dose_curve(model, samples, vector, alphas=[2], metric=METRIC, seeds=[0], batch_size=2, progress=False)
    alone = [
        dose_curve(
            model,
            model.prepare(each.prompt, images=list(each.images)),
            vector,
            alphas=[2],
            metric=METRIC,
            seeds=[0],
            progress=False,
        )
        for each in samples
    ]
    torch.testing.assert_close(curve.values, torch.cat([each.values for each in alone], -1), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(curve.controls, torch.cat([each.controls for each in alone], -1), atol=2e-5, rtol=1e-4)


def test_the_planted_direction_has_a_dose_and_random_ones_have_none(tmp_path: Path) -> None:
    planted = lab.planted("direction")
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    truth = planted.truth
    assert truth.direction is not None
    vector = SteeringVector(truth.direction, f"blocks.{truth.layer}.hook_resid_post")
    data = [Sample((planted.image(False, seed=n),), planted.prompt) for n in range(5)]
    curve = dose_curve(
        model,
        data,
        vector,
        alphas=[0, 1, 2, 4, 6],
        metric=metrics.accuracy(truth.word),
        seeds=[0, 1, 2],
        progress=False,
    )
    point = vector.at
    means = [curve.interval(point, alpha).mean for alpha in curve.alphas]
    assert means[0] == 0
    assert means[-1] == 1
    assert means == sorted(means)
    assert curve.control(point, 6).mean == 0
    assert curve.beyond_control(point, 6).mean == 1
    assert curve.best[0] == point
    assert curve.interval(*curve.best).mean == 1
    frame = curve.to_frame().set_index("alpha")
    assert frame.loc[6, "vector"] == 1
    assert frame.loc[6, "isotropic"] == 0
    assert frame.loc[6, "words"] == 1  # the planted direction is what the words are read from
    assert frame["verdict"].tolist() == ["no more than the words"] * 5
    assert (frame["p_words"] > 0.05).all()
    assert frame.loc[6, "without"] == 0
    again = DoseCurve.load(curve.save(tmp_path / "dose.safetensors"))
    assert repr(again) == repr(curve)
    assert again.to_frame().equals(curve.to_frame())
    curve.plot().savefig(tmp_path / "dose.png")
    lines = curve.plot().axes[0].get_lines()
    assert lines[0].get_ydata().tolist() == means
    assert lines[3].get_ydata().tolist() == [0] * 5


def test_a_vector_at_the_picture_is_more_than_words(planted_neuron: Wrapped) -> None:
    """The colour of a patch, steered at the patch, turns the answer; words written there reach nothing."""
    model, planted = planted_neuron.model, planted_neuron.planted
    at, where = "blocks.0.hook_resid_pre", positions.box(planted_neuron.truth.box)
    ends = [
        model.run_with_cache(planted_neuron.batch(there), names=at, positions=where)[1][at][0, 0]
        for there in (False, True)
    ]
    vector = SteeringVector(ends[1] - ends[0], at)
    data = [Sample((planted.image(False, seed=n),), planted.prompt) for n in range(6)]
    metric = metrics.logit_difference("yes", "no")
    for measure in (
        metric,
        lambda logits: logits[:, model.to_single_token("yes")] - logits[:, model.to_single_token("no")],
    ):
        curve = dose_curve(model, data, vector, alphas=[0.1, 2.0], metric=measure, positions=where, progress=False)
        assert curve.verdict(at, 2.0) == "more than the words"
        assert curve.beyond_control(at, 2.0, control="words").low > 1
        assert curve.to_frame()["p_words"].tolist()[1] == pytest.approx(2 / 2**6)
    blind = dose_curve(
        model,
        data,
        vector,
        alphas=[2.0],
        metric=lambda logits: logits.argmax(-1).float(),
        positions=where,
        progress=False,
    )
    assert blind.verdict(at, 2.0) == "no words to compare with"
    assert blind.kinds == ("words", "covariance", "isotropic")
    assert blind.to_frame()["words"].isna().all()


def test_controls_are_plain_forward_passes_with_their_vectors(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    vector = _vector(model)
    curve = dose_curve(model, batch, vector, alphas=[3.0], metric=METRIC, seeds=[4], progress=False)
    red, blue = (model.to_single_token(word) for word in ("red", "blue"))
    gain = llava.bare.model.language_model.norm.weight
    words = gain * (model.W_U[:, red] - model.W_U[:, blue])
    with torch.no_grad(), model.intervene(Steer(vector.with_direction(words, "by hand"), 3.0, positions="last")):
        expected = metrics.measure(model, batch, metric=METRIC)
    torch.testing.assert_close(curve.words[0, 0], expected, atol=2e-5, rtol=1e-4)
    assert curve.covariance.shape == (1, 1, 1, batch.size)
    assert curve.covariance.isfinite().all()
    none = dose_curve(model, batch, vector, alphas=[3.0], metric=METRIC, controls=(), progress=False)
    assert none.kinds == ()
    assert list(none.to_frame().columns) == ["point", "alpha", "without", "vector", "vector_low", "vector_high"]


def test_what_does_not_fit_is_refused(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    vector = _vector(model)

    def run(vectors: object = vector, **options: object) -> None:
        dose_curve(model, batch, vectors, **{"alphas": [1.0], "metric": METRIC, "progress": False, **options})  # type: ignore[arg-type]

    with pytest.raises(InputError, match=r"alphas=\[\] must be non-empty, without repetition"):
        run(alphas=[])
    with pytest.raises(InputError, match="without repetition"):
        run(alphas=[1, 1.0])
    with pytest.raises(InputError, match="found 2 with at="):
        run([vector, -vector], at=AT)
    with pytest.raises(InputError, match="give one per point"):
        run([vector, -vector])
    with pytest.raises(
        InputError, match=r"positions.generated names nothing .* A forward|New tokens are read in model.generate"
    ):
        run(positions="generated")
    with pytest.raises(InputError, match="one value per sample"):
        run(metric=lambda logits: logits.sum())
    curve = dose_curve(model, batch, vector, alphas=[1], metric=METRIC, seeds=[], progress=False)
    with pytest.raises(InputError, match=r"was run at blocks\.1\.hook_resid_post with alpha 1, not at .* with 2"):
        curve.interval(AT, 2)
