"""Properties of a neuron that is known to decide the answer, and of its unplanted twin."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch

from mmlens import InputError, Neuron
from mmlens.analysis.neurons.find import find_neurons
from mmlens.analysis.properties.cases import NeuronChoice, case_of
from mmlens.analysis.properties.causal import Causal, noise_edit
from mmlens.analysis.properties.likelihood import caption_likelihood
from mmlens.analysis.properties.noun_occurrences import CaptionSettings, NounOccurrence, noun_occurrences
from mmlens.analysis.properties.quantities import KINDS, control_name, control_of
from mmlens.analysis.properties.run import run
from mmlens.analysis.properties.scorers import Scorer
from mmlens.analysis.properties.sensitivity import Sensitivity
from mmlens.analysis.samples.sample import Sample
from mmlens.core.unit_sets import Units
from mmlens.models.hooked import HookedMultimodal
from mmlens.properties import causal_effect, localisation, neuron_report, sensitivity
from tests.analysis.conftest import Wrapped

RANDOM = control_of("contribution")


def samples(planted_neuron: Wrapped) -> list[Sample]:
    planted = planted_neuron.planted
    return [Sample((planted.image(seed=seed),), planted.prompt, "yes") for seed in range(4)]


def said(model: HookedMultimodal, sample: Sample, noun: str) -> NounOccurrence:
    found = noun_occurrences(model, sample, CaptionSettings([noun], max_new_tokens=1))
    assert len(found) == 1
    return found[0]


def test_the_planted_neuron_is_read_and_decides_the_answer(planted_neuron: Wrapped) -> None:
    truth = planted_neuron.truth
    found = neuron_report(
        planted_neuron.model,
        samples(planted_neuron),
        methods=("contribution", "gradient_x_activation", "activation", "random"),
        k=1,
        nouns=[truth.word],
        max_new_tokens=1,
        ways=("zero", "mean"),
        reference=2,
        batch_size=2,
        draws=4,
        progress=False,
    )
    assert found.interval("noun among its words", "contribution").mean == 1
    assert found.interval("rank of the noun", "contribution").mean == 1
    assert found.interval("words that are true of the picture", "contribution").mean == pytest.approx(0.2)
    for method in ("contribution", "gradient_x_activation"):
        gone = found.interval("noun gone from the caption, zeroed", method)
        assert (gone.mean, gone.count) == (1, 4)
        assert gone.low == pytest.approx(0.5101, abs=1e-4)  # four of four say no more than that
        assert found.difference("log p of the noun, zeroed", method).high < -1
        assert found.interval("shared by two pictures", method).mean == 1
    assert found.interval("noun gone from the caption, zeroed", RANDOM).mean == 0
    # pictures of the mean are all planted ones: set to their mean, the neuron still says yes
    assert abs(found.interval("log p of the noun, set to their mean", "contribution").mean) < 0.1
    assert "IoU" not in {quantity.name for quantity in found.quantities}  # the samples bring no masks


def test_the_unplanted_twin_has_no_neuron_that_decides(planted_neuron: Wrapped) -> None:
    truth, data = planted_neuron.truth, samples(planted_neuron)
    with pytest.raises(InputError, match="No noun was found in the captions of 4 samples"):
        sensitivity(planted_neuron.twin, data, k=1, nouns=[truth.word], progress=False)
    found = causal_effect(planted_neuron.twin, data, k=1, nouns=[truth.default_word], captions=True, progress=False)
    assert found.interval("noun gone from the caption, zeroed", "contribution").mean == 0
    assert found.interval("log p of the noun, zeroed", "contribution").low > -0.2


def test_likelihoods_are_those_of_the_bare_model(planted_neuron: Wrapped) -> None:
    mention = said(planted_neuron.model, samples(planted_neuron)[0], planted_neuron.truth.word)
    inputs = planted_neuron.planted.inputs(mention.sample.pictures[0])
    with torch.no_grad():
        logits = planted_neuron.planted.model(**inputs).logits[0, -1].double()
    p = logits.softmax(-1)[mention.token]
    found = caption_likelihood(mention)
    assert found.log_p.tolist() == pytest.approx([float(p.log())], abs=1e-5)
    assert found.log_odds.tolist() == pytest.approx([float((p / (1 - p)).log())], abs=1e-4)


@pytest.fixture
def rows(planted_neuron: Wrapped) -> Iterator[torch.Tensor]:
    """The weights whose columns are neurons of layer 1, put back afterwards."""
    weight = planted_neuron.planted.model.model.language_model.layers[1].mlp.down_proj.weight
    kept = weight.detach().clone()
    yield weight
    with torch.no_grad():
        weight.copy_(kept)


def test_zeroing_neurons_is_zeroing_their_columns(planted_neuron: Wrapped, rows: torch.Tensor) -> None:
    mention = said(planted_neuron.model, samples(planted_neuron)[0], planted_neuron.truth.word)
    case = case_of(mention, NeuronChoice.of(("contribution",), k=1))
    [neuron] = case.sets()["contribution"]
    assert neuron == Neuron(planted_neuron.truth.layer, planted_neuron.truth.neuron)
    values = {value.quantity: value.value for value in Causal(("zero",), (1,)).measure([case])}
    before = caption_likelihood(mention)
    with torch.no_grad():
        rows[:, neuron.index] = 0
    after = caption_likelihood(mention)
    assert values["log p of the noun, zeroed"] == pytest.approx(float(after.log_p - before.log_p), abs=1e-5)
    assert values["log odds of the noun, zeroed"] == pytest.approx(float(after.log_odds - before.log_odds), abs=1e-4)


def test_noise_is_as_large_as_the_rows(planted_neuron: Wrapped, rows: torch.Tensor) -> None:
    model = planted_neuron.model
    mention = said(model, samples(planted_neuron)[0], planted_neuron.truth.word)
    case = case_of(mention, NeuronChoice.of(("contribution",), k=1))
    [neuron] = case.sets()["contribution"]
    before = rows[:, neuron.index].detach().clone()
    changes = []
    for sigma in (1.0, 2.0):
        for seed in range(60):
            with model.edited(noise_edit(model, Units(neuron), sigma, seed)):
                changes.append((sigma, (rows[:, neuron.index] - before).detach()))
    assert torch.equal(rows[:, neuron.index], before)
    size = float(before.pow(2).mean().sqrt())
    for sigma in (1.0, 2.0):
        drawn = torch.stack([change for used, change in changes if used == sigma])
        assert float(drawn.pow(2).mean().sqrt()) == pytest.approx(sigma * size, rel=0.1)


def test_scores_of_a_case_are_those_of_the_state_that_says_the_noun(planted_neuron: Wrapped) -> None:
    mention = said(planted_neuron.model, samples(planted_neuron)[1], planted_neuron.truth.word)
    case = case_of(mention, NeuronChoice.of(("contribution", "activation", "random"), k=2, seed=3))
    batch = planted_neuron.batch(seed=1)
    for method in ("contribution", "activation"):
        direct = find_neurons(planted_neuron.model, batch, token=planted_neuron.truth.word, method=method)
        torch.testing.assert_close(case.scores[method].scores, direct.scores)
        assert case.sets()[method] == direct.top(2)
        controls = [case.sets()[control_name(method, draw, kind)] for draw in range(20) for kind in KINDS]
        assert len(set(controls[::2])) == len(set(controls[1::2])) == 20
        for control in controls:
            assert sorted(n.layer for n in control) == sorted(n.layer for n in direct.top(2))
            assert not control & direct.top(2)


@dataclass(frozen=True)
class Common:
    """A scorer: how many words a text and a reference have in common; or how bright a picture is."""

    against: Literal["picture", "text"]
    unit: str = "words"

    @property
    def name(self) -> str:
        return f"common with the {self.against}"

    def score(self, references: Sequence[Any], texts: Sequence[str]) -> torch.Tensor:
        if self.against == "picture":
            return torch.tensor([float(np.asarray(each).mean()) for each in references])
        pairs = zip(references, texts, strict=True)
        return torch.tensor([float(len(set(one.split()) & set(two.split()))) for one, two in pairs])


def test_the_effect_holds_against_matched_neurons_and_the_words_do_not_against_the_weights(
    planted_neuron: Wrapped, planted_patch: Wrapped
) -> None:
    """One neuron decides in one model; in the other a head does, and no neuron is more than the controls are."""
    for wrapped, planted in ((planted_neuron, True), (planted_patch, False)):
        word = wrapped.truth.word
        data = [Sample((wrapped.planted.image(seed=seed),), wrapped.planted.prompt, word) for seed in range(3)]
        settings = CaptionSettings([word], max_new_tokens=1)
        measures = [Sensitivity(), Causal(("zero",), (1,))]
        found = run(
            wrapped.model,
            data,
            measures,
            NeuronChoice.of(("contribution", "random"), 1),
            settings=settings,
            progress=False,
        )
        place = found.standing("log odds of the noun, zeroed", "contribution")
        assert place.draws.count == 10  # among so many of the next in size
        assert found.standing("noun among its words", "contribution", control="random").draws.count == 15
        difference = found.difference(
            "log odds of the noun, zeroed", "contribution", minus="matched, like contribution"
        )
        if planted:
            assert place.at_least == 10  # an effect is a fall: every draw is higher
            assert difference.high < -1
        else:
            assert abs(difference.mean) < 0.05
        # what the neurons write, those that write it the most write as well
        words = found.difference("noun among its words", "contribution", minus="weights alone")
        assert words.mean <= 0
        rank = found.difference("rank of the noun", "contribution", minus="weights alone")
        assert rank.mean >= 0
        frame = found.to_frame().set_index(["quantity", "method"])
        row = frame.loc[("noun among its words", "contribution")]
        assert (row["baseline"], row["minus_baseline"]) == ("weights alone", words.mean)
        assert (row["matched_draws"], row["random_draws"]) == (10, 15)
        assert ("noun among its words", "weights alone") in frame.index


def test_scorers_get_the_words_with_the_picture_or_the_true_caption(planted_neuron: Wrapped) -> None:
    data = samples(planted_neuron)
    scorers = [Common("picture"), Common("text")]
    assert all(isinstance(scorer, Scorer) for scorer in scorers)
    found = sensitivity(planted_neuron.model, data, k=1, nouns=["yes"], scorers=scorers, progress=False)
    assert found.interval("common with the text", "contribution").mean == 1  # the neuron writes "yes"
    bright = found.values[found.values["quantity"] == "common with the picture"]
    for row in bright.itertuples():
        assert row.value == pytest.approx(np.asarray(data[row.sample].pictures[0]).mean(), rel=1e-5)


def test_bad_choices_are_refused(planted_neuron: Wrapped) -> None:
    data = samples(planted_neuron)
    with pytest.raises(InputError, match="Ablation to the mean needs the means"):
        causal_effect(planted_neuron.model, data, ways=("mean",), progress=False)
    with pytest.raises(InputError, match="must name at least one that scores neurons"):
        sensitivity(planted_neuron.model, data, methods=("random",), progress=False)
    with pytest.raises(InputError, match="k=0 must be at least 1"):
        sensitivity(planted_neuron.model, data, k=0, progress=False)
    with pytest.raises(InputError, match="reference=0 must be at least 1"):
        neuron_report(planted_neuron.model, data, reference=0, progress=False)
    with pytest.raises(InputError, match=r"method='magic' is unknown; for scoring neurons there are .*'contribution'"):
        sensitivity(planted_neuron.model, data, methods=("magic",), progress=False)
    with pytest.raises(InputError, match=r"k=100000 must lie in 1..\d+, the number of neurons"):
        sensitivity(planted_neuron.model, data, k=100_000, progress=False)
    with pytest.raises(InputError, match="words=0 must be at least 1"):
        sensitivity(planted_neuron.model, data, words=0, progress=False)
    with pytest.raises(InputError, match=r"ways\[0\]='melt' must be 'zero', 'mean' or 'noise'"):
        causal_effect(planted_neuron.model, data, ways=("melt",), progress=False)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"sigma=-1.0 must be at least 0"):
        causal_effect(planted_neuron.model, data, sigma=-1.0, progress=False)
    with pytest.raises(InputError, match=r"k=\(\) must be non-empty"):
        causal_effect(planted_neuron.model, data, k=(), progress=False)
    with pytest.raises(InputError, match=r"percentile=101.0 must be from 0 to 100"):
        localisation(planted_neuron.model, data, percentile=101.0, progress=False)
    with pytest.raises(InputError, match=r"shown\[0\]='hue' must be 'activation' or 'magnitude'"):
        localisation(planted_neuron.model, data, shown=("hue",), progress=False)  # type: ignore[arg-type]
