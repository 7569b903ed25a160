"""Deltas by gradient descent: every term of the loss worked out by hand before the first step, and when it stops."""

from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmlens.core.unit_sets import Units
from mmlens.core.units import Neuron
from mmlens.interventions.edits import Belief, Through, remove_word, replace_token
from mmlens.interventions.edits.examples import EditExample, edit_examples
from mmlens.interventions.edits.methods.through import _cycle, _goal_met, _kl, _terms, _without
from tests.conftest import Subject

ODD = Through(penalty=0.3, keep=0.7, keep_controls=0.5, repetition=2.0, n_steps=3, stop_at=1.0, learning_rate=0.02)
NEURONS = [Neuron(0, 1), Neuron(2, 3)]


def tokens_of(subject: Subject, steps: int = 4) -> tuple[int, int]:
    """A token that the first sample says, and one that is never said."""
    said = subject.model.trace_generation(subject.batches["left"], names="hook_logits", max_new_tokens=steps).tokens
    return int(said[0, 0]), next(token for token in range(10, 40) if token not in said)


def test_every_term_of_the_loss_before_the_first_step(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    source, target = tokens_of(llava)
    edit = replace_token(
        *(model, batch),
        source=source,
        target=target,
        neurons=NEURONS,
        controls=batch,
        method=ODD,
        max_new_tokens=4,
        progress=False,
    )
    (example,) = edit_examples(model, [batch], source=((source,),), target=((target,),), max_new_tokens=4)
    with torch.no_grad():
        after = model(example.batch).double().log_softmax(-1)
    worst: dict[int, float] = {}
    for sample, position in example.source_places.tolist():
        worst[sample] = max(worst.get(sample, 0.0), -float(after[sample, position, target]))
    answers = []
    for (sample, position), before in zip(example.other_places.tolist(), example.other_log_probabilities, strict=True):
        p = before.double().exp()
        answers.append(float((p * (before.double() - after[sample, position])).sum()))
    again = [
        -torch.log1p(-after[sample, position, target].exp()).item()
        for sample, position in example.follow_places.tolist()
    ]
    losses = edit.provenance.losses
    assert losses["say"][0] == pytest.approx(sum(worst.values()) / len(worst), abs=1e-4)
    assert losses["answers"][0] == pytest.approx(sum(answers) / len(answers), abs=1e-4)
    assert losses["again"][0] == pytest.approx(max(again), abs=1e-5)
    assert losses["controls"][0] == pytest.approx(0, abs=1e-5)
    assert losses["size"][0] == 0
    weights = {"say": 1.0, "answers": 0.7, "controls": 0.5, "again": 2.0, "size": 0.3}
    assert set(losses) == {*weights, "loss"}
    for step in range(3):
        total = sum(weight * losses[name][step] for name, weight in weights.items())
        assert losses["loss"][step] == pytest.approx(total, abs=1e-4)
    assert losses["size"][1] > 0
    assert {len(values) for values in losses.values()} == {3}
    assert edit.provenance.settings["stopped"] == "n_steps"
    assert losses["say"][2] < losses["say"][0]


def test_the_first_step_of_adam_moves_every_weight_by_the_rate(llava: Subject) -> None:
    source, target = tokens_of(llava)
    about: dict[str, Any] = {"source": source, "target": target, "neurons": NEURONS, "max_new_tokens": 4}
    for settings, rate in ((replace(ODD, n_steps=1), 0.02), (Through(n_steps=1), 5e-3)):
        edit = replace_token(llava.model, llava.batches["left"], method=settings, progress=False, **about)
        # that of a gradient that is large against Adam's epsilon
        assert float(edit.deltas.abs().max()) == pytest.approx(rate, rel=1e-3)


def test_terms_of_a_word_that_is_removed(llava: Subject) -> None:
    """No other word in its place: it is to be unlikely, and the others among themselves as they were."""
    model, batch = llava.model, llava.batches["left"]
    source, _ = tokens_of(llava)
    edit = remove_word(model, batch, word=source, neurons=NEURONS, method=ODD, max_new_tokens=4, progress=False)
    (example,) = edit_examples(model, [batch], source=((source,),), target=None, max_new_tokens=4)
    with torch.no_grad():
        after = model(example.batch).double().softmax(-1)
    worst: dict[int, float] = {}
    for sample, position in example.source_places.tolist():
        unsaid = -float(torch.log1p(-after[sample, position, source]))
        worst[sample] = max(worst.get(sample, 0.0), unsaid)
    # a word of many, which is not said with much probability: below one nat
    assert max(worst.values()) < 0.9
    losses = edit.provenance.losses
    assert losses["say"][0] == pytest.approx(sum(worst.values()) / len(worst), rel=1e-3)
    # instead: from the model's own probabilities without the word, to all that it says now
    instead = []
    for sample, position in example.source_places.tolist():
        before = after[sample, position].clone()
        before[source] = 0
        before /= before.sum()
        terms = before * (before.clamp(min=1e-300).log() - after[sample, position].log())
        instead.append(float(terms.sum()))
    assert losses["instead"][0] == pytest.approx(sum(instead) / len(instead), rel=1e-3, abs=1e-5)
    total = losses["say"][1] + 0.7 * (losses["answers"][1] + losses["instead"][1]) + 0.3 * losses["size"][1]
    assert losses["loss"][1] == pytest.approx(total, abs=1e-4)


def test_belief_adds_what_other_questions_should_be_answered(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    source, target = tokens_of(llava)
    settings = Belief(**{**vars(ODD), "agreement": 0.25})
    other = model.prepare("what color is the circle", images=batch.images[0][0])
    edit = replace_token(
        *(model, batch),
        source=source,
        target=target,
        neurons=NEURONS,
        consistency=[(other, ["circle"])],
        method=settings,
        max_new_tokens=4,
        progress=False,
    )
    losses = edit.provenance.losses
    with torch.no_grad():
        expected = -model(other)[0, -1].log_softmax(-1)
    assert losses["agreement"][0] == pytest.approx(float(expected[model.to_single_token("circle")]), abs=1e-4)
    weights = {"say": 1.0, "answers": 0.7, "again": 2.0, "size": 0.3, "agreement": 0.25}
    for step in range(3):
        total = sum(weight * losses[name][step] for name, weight in weights.items())
        assert losses["loss"][step] == pytest.approx(total, abs=1e-4)
    assert edit.provenance.settings["consistency"] == 1


def test_rows_of_the_last_layers_are_left_alone(llava: Subject) -> None:
    """Three layers: of the last two none, of towers by their own depth; rows outside blocks have no layer."""
    rows = Units([Neuron(0, 1), Neuron(1, 1), Neuron(2, 1)])
    for last, layers in ((0, [0, 1, 2]), (1, [0, 1]), (2, [0])):
        assert [row.layer for row in Through(frozen_last=last).editable(llava.model, rows)] == layers
    tower = Units([Neuron(layer, 0, "vision") for layer in (0, 1)])
    depth = llava.model.part("vision").cfg.n_layers
    assert [row.layer for row in Through(frozen_last=depth - 1).editable(llava.model, tower)] == [0]


def test_numbers_come_in_a_new_order_every_round() -> None:
    numbers = list(islice(_cycle(5, 3), 15))
    rounds = [numbers[start : start + 5] for start in (0, 5, 10)]
    assert [sorted(some) for some in rounds] == [[0, 1, 2, 3, 4]] * 3  # type: ignore[type-var]
    assert len(set(map(tuple, rounds))) == 3
    assert numbers == list(islice(_cycle(5, 3), 15))
    assert list(islice(_cycle(0, 3), 4)) == [None] * 4


def test_the_goal_is_met_once_every_batch_was_as_it_should_be() -> None:
    settings = Through(stop_at=0.9, stop_kl=0.01)
    good, control = {"worst": 0.9, "kl": 0.01}, {"kl": 0.0}
    last: Any = {("examples", 0): good, ("controls", 0): control}
    assert _goal_met(last, 2, settings)
    assert not _goal_met(last, 3, settings)
    for wrong in ({"worst": 0.89, "kl": 0.0}, {"worst": 1.0, "kl": 0.011}, {"kl": 0.02}):
        assert not _goal_met({**last, ("examples", 1): wrong}, 3, settings)


def test_a_word_that_is_said_for_sure_costs_a_finite_amount(llava: Subject) -> None:
    """Of probability 1 where it should not be said: as if it were a millionth below."""
    logits = torch.full((2, 3, 5), -100.0)
    logits[:, :, 2] = 100.0
    places = torch.tensor([[0, 0], [1, 1]])
    example = EditExample(
        *(SimpleNamespace(size=2), places, torch.tensor([2, 2]), torch.tensor([[0, 1]]), places[:0]),  # type: ignore[arg-type]
        torch.zeros(2, 5).log_softmax(-1),
        torch.zeros(0, 5),
    )
    for target in (((2,),), None):
        task = SimpleNamespace(model=lambda batch: logits, target=target)
        terms, state = _terms(task, example)  # type: ignore[arg-type]
        unsaid = float(terms["say"] if target is None else terms["again"])
        assert unsaid == pytest.approx(13.8, abs=0.1)
        assert state["worst"] == pytest.approx(1e-6 if target is None else 1.0, rel=0.1)
        assert set(terms) == ({"say", "instead"} if target is None else {"say", "again"})
        assert state["kl"] == (pytest.approx(float(terms["instead"])) if target is None else 0)
    assert float(_terms(SimpleNamespace(model=lambda batch: logits, target=((2,),)), example)[0]["say"]) == 0  # type: ignore[arg-type]


def test_divergences_by_hand() -> None:
    before, after = torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([[0.25, 0.75], [0.25, 0.75]])
    expected = (0.5 * torch.log(torch.tensor(2.0)) + 0.5 * torch.log(torch.tensor(2 / 3))) / 2
    torch.testing.assert_close(_kl(after.log(), before.log()), expected)
    rest = _without(torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]]).log(), torch.tensor([1, 0])).exp()
    torch.testing.assert_close(rest, torch.tensor([[2 / 7, 0, 5 / 7], [0, 2 / 3, 1 / 3]]))
