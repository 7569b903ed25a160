"""Edits about words: on a model whose neuron is known, on its twin, and on tiny models of three families."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmlens.analysis.controls.random_units import random_units
from mmlens.analysis.metrics import log_probability, measure
from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units
from mmlens.core.units import Neuron
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.edits import (
    Belief,
    Direct,
    Edit,
    Through,
    rank_one,
    remove_word,
    replace_token,
    zero_neurons,
)
from mmlens.interventions.edits.examples import edit_examples
from mmlens.interventions.edits.method import WordTask
from mmlens.interventions.edits.methods import EDIT_METHODS, EditMethod
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.weight_rows import rows_added
from tests.analysis.conftest import Wrapped, planted_neuron
from tests.conftest import SHORT, subject_of
from tests.models.test_conditions import with_adapter
from tests.tiny import TINY, picture

__all__ = ["planted_neuron"]  # the fixture
QUICK = Through(learning_rate=0.1, n_steps=60)


def answer(model: HookedMultimodal, batch: MultimodalBatch) -> str:
    return model.trace_generation(batch, names="hook_logits", max_new_tokens=3).text[0]


def planted(wrapped: Wrapped) -> Neuron:
    return Neuron(wrapped.truth.layer, wrapped.truth.neuron or 0)


QUICK_BELIEF = Belief(learning_rate=0.1, n_steps=60)
#: Every method with its defaults, but those that would take long here.
METHODS: list[EditMethod] = [{Through: QUICK, Belief: QUICK_BELIEF}.get(cls) or cls() for cls in EDIT_METHODS]


@pytest.mark.parametrize("method", [*METHODS, Direct("l2")], ids=str)
def test_the_planted_neuron_alone_makes_the_model_say_another_word(planted_neuron: Wrapped, method: EditMethod) -> None:
    model, there, absent = planted_neuron.model, planted_neuron.batch(), planted_neuron.batch(False)
    source, default = planted_neuron.truth.word, planted_neuron.truth.default_word
    about: dict[str, Any] = {"source": source, "target": "blue", "neurons": [planted(planted_neuron)]}
    if "consistency" in method.needs:
        about["consistency"] = [(planted_neuron.batch(seed=3), ["blue"]), (absent, [default])]
    edit = replace_token(model, there, method=method, max_new_tokens=3, progress=False, **about)
    assert (answer(model, there), answer(model, absent)) == (source, default)
    others = [planted_neuron.batch(seed=seed) for seed in (1, 2)]
    with model.edited(edit):
        assert [answer(model, batch) for batch in (there, *others)] == ["blue"] * 3
        assert answer(model, absent) == default  # the neuron is silent there
    twin = planted_neuron.twin
    with twin.edited(edit.carried_to(twin)):
        assert answer(twin, there) == default  # nothing drives the row in the twin
    assert (edit.provenance.source, edit.provenance.target) == (source, "blue")


def test_the_twin_and_other_rows_cannot_be_edited_so(planted_neuron: Wrapped) -> None:
    source = planted_neuron.truth.word
    with pytest.raises(
        InputError, match=r"^The model does not say 'yes' to any prompt of a batch; it says 'no'\. Give"
    ):
        replace_token(
            planted_neuron.twin, planted_neuron.batch(), source=source, target="blue", neurons=[planted(planted_neuron)]
        )
    (others,) = random_units(planted_neuron.model, planted(planted_neuron), draws=1)
    edit = replace_token(
        planted_neuron.model,
        planted_neuron.batch(),
        source=source,
        target="blue",
        neurons=others,
        method=Through(n_steps=10),
        max_new_tokens=3,
        progress=False,
    )
    assert edit.provenance.settings["stopped"] == "n_steps"
    with planted_neuron.model.edited(edit):
        assert answer(planted_neuron.model, planted_neuron.batch()) == source


def test_zeroing_the_planted_row_takes_the_answer_and_does_nothing_in_the_twin(planted_neuron: Wrapped) -> None:
    for model, before in ((planted_neuron.model, "yes"), (planted_neuron.twin, "no")):
        assert answer(model, planted_neuron.batch()) == before
        with model.edited(zero_neurons(model, [planted(planted_neuron)])):
            assert answer(model, planted_neuron.batch()) == "no"
        assert answer(model, planted_neuron.batch()) == before


def test_a_word_is_removed_and_the_next_choice_comes(planted_neuron: Wrapped) -> None:
    model, truth = planted_neuron.model, planted_neuron.truth
    edit = remove_word(
        model,
        planted_neuron.batch(),
        word=truth.word,
        neurons=[planted(planted_neuron)],
        method=replace(QUICK, stop_kl=0.2),
        max_new_tokens=3,
        progress=False,
    )
    assert edit.provenance.target is None
    with model.edited(edit):
        assert answer(model, planted_neuron.batch(seed=3)) == truth.default_word
        assert answer(model, planted_neuron.batch(False)) == truth.default_word


def test_rank_one_changes_the_planted_layer(planted_neuron: Wrapped) -> None:
    model, truth = planted_neuron.model, planted_neuron.truth
    there, absent = planted_neuron.batch(), planted_neuron.batch(False)
    edit = rank_one(
        model,
        there,
        source=truth.word,
        target="blue",
        layer=truth.layer,
        samples=absent,
        controls=absent,
        settings=replace(QUICK, learning_rate=0.3),
        max_new_tokens=3,
        progress=False,
    )
    assert len(edit.rows) == 16
    assert torch.linalg.matrix_rank(edit.deltas, rtol=1e-4) == 1
    # the planted neuron is what tells the source's key from others
    assert edit.rows[int(edit.deltas.norm(dim=1).argmax())] == planted(planted_neuron)
    with model.edited(edit):
        assert (answer(model, there), answer(model, absent)) == ("blue", truth.default_word)


def test_controls_keep_what_the_same_rows_write_elsewhere(planted_neuron: Wrapped) -> None:
    """Where a row is driven by control prompts too, only controls in the loss keep their answers."""
    model = planted_neuron.model
    rows = [Neuron(1, index) for index in range(16)] + [Neuron(2, index) for index in range(16)]
    there, absent = planted_neuron.batch(), planted_neuron.batch(False)
    kept = replace_token(
        model,
        there,
        source="yes",
        target="blue",
        neurons=rows,
        controls=[absent],
        method=replace(QUICK, keep_controls=10.0),
        max_new_tokens=3,
        progress=False,
    )
    free = replace_token(
        model, there, source="yes", target="blue", neurons=rows, method=QUICK, max_new_tokens=3, progress=False
    )
    clean = model(absent)[0, -1].log_softmax(-1)
    drift = {}
    for name, edit in (("kept", kept), ("free", free)):
        with model.edited(edit):
            assert answer(model, there) == "blue"
            drift[name] = float((clean.exp() * (clean - model(absent)[0, -1].log_softmax(-1))).sum().detach())
    assert drift["kept"] < 0.01
    assert drift["kept"] <= drift["free"]
    assert "controls" in kept.provenance.losses
    assert "controls" not in free.provenance.losses


def test_direct_edits_are_the_closed_form(planted_neuron: Wrapped) -> None:
    """Against the formula, with the neuron's input and the two columns read here."""
    model, neuron, batch = planted_neuron.model, planted(planted_neuron), planted_neuron.batch()
    other = Neuron(neuron.layer, (neuron.index + 1) % 16)
    _, cache = model.run_with_cache(batch, names=neuron.hook)
    q = cache[neuron.hook][0, -1, [neuron.index, other.index]]
    way = (model.W_U[:, model.to_single_token("blue")] - model.W_U[:, model.to_single_token("yes")]).detach()

    def made(settings: Direct) -> Edit:
        return replace_token(
            model, batch, source="yes", target="blue", neurons=[neuron, other], method=settings, max_new_tokens=3
        )

    squared = made(Direct(beta=4.0))
    torch.testing.assert_close(squared.deltas, q[:, None] * way / 8.0)
    assert squared.provenance.settings["beta"] == pytest.approx(4.0)
    pull = float(q[0].abs() * way.norm())
    plain = made(Direct("l2", beta=pull / 2, reach=3.0))
    torch.testing.assert_close(plain.deltas[0], 3.0 * pull / 2 * q[0].sign() * way / way.norm())
    assert not plain.deltas[1].any()  # below the threshold
    assert "reconstruction" in repr(plain)
    # the smallest change that suffices: half as much does not
    auto = made(Direct(stop_at=0.5))
    for edit, enough in ((auto, True), (0.9 * auto, False)):
        with model.edited(edit):
            probability = float(model(batch)[0, -1].softmax(-1)[model.to_single_token("blue")].detach())
        assert (probability >= 0.5) == enough
    torch.testing.assert_close(made(Direct(beta=auto.provenance.settings["beta"])).deltas, auto.deltas)
    with pytest.raises(InputError, match=r"holds every row where it is: the largest pull is"):
        made(Direct("l2", beta=2 * pull))


@pytest.mark.parametrize("tiny", [TINY[0], TINY[2], TINY[3]], ids=lambda tiny: tiny.name)
def test_tiny_families_say_the_target_at_every_place_and_keep_controls(tiny) -> None:  # type: ignore[no-untyped-def]
    """Random weights say what they say; the edit must change exactly that, judged by generation, through the real model."""
    subject = subject_of(tiny)
    model = subject.model
    batch = subject.batches["left"]
    control = model.prepare("where is a small green circle", images=picture(7))
    said = model.trace_generation(batch, names="hook_logits", max_new_tokens=3)
    source = int(said.tokens[0, 0])
    target = next(token for token in range(10, 30) if token not in said.tokens)
    neurons = [Neuron(layer, index) for layer in (1, 2) for index in range(48)]
    weights = {name: weight.clone() for name, weight in model.hf_model.named_parameters()}
    edit = replace_token(
        model,
        batch,
        source=source,
        target=target,
        neurons=neurons,
        controls=control,
        method=Through(learning_rate=0.03, penalty=0.01, repetition=1.0, stop_at=0.5, stop_kl=0.3),
        max_new_tokens=3,
        progress=False,
    )
    assert all(torch.equal(weight, weights[name]) for name, weight in model.hf_model.named_parameters())
    assert edit.provenance.settings["stopped"] == "reached"
    # what "reached" promises, worked out anew: the target at the first place, and the control's first word much as before
    with torch.no_grad():
        before = model(control)[:, -1].log_softmax(-1)
    with torch.no_grad(), model.edited(edit):
        now = model.trace_generation(batch, names="hook_logits", max_new_tokens=3).tokens
        after = model(control)[:, -1].log_softmax(-1)
        probability = model(batch)[0, -1].softmax(-1)[target]
    assert int(now[0, 0]) == target
    assert probability >= 0.5 - 1e-4
    steps = model.trace_generation(control, names="hook_logits", max_new_tokens=3).tokens.shape[1]
    assert float((before.exp() * (before - after)).sum()) <= 0.3 * steps  # the mean over the answer is below 0.3 nats


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_model_as_it_was(
    planted_neuron: Wrapped, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = planted_neuron.model, planted_neuron.batch()
    weights = {name: weight.clone() for name, weight in model.hf_model.named_parameters()}
    modules = {name: len(module._forward_hooks) for name, module in model.hf_model.named_modules()}

    def fail(*args: object, **options: object) -> None:
        raise error("in the middle")

    monkeypatch.setattr(torch.optim.Adam, "step", fail)
    with pytest.raises(error, match="in the middle"):
        replace_token(
            model,
            batch,
            method=QUICK,
            source="yes",
            target="blue",
            neurons=[planted(planted_neuron)],
            max_new_tokens=3,
            progress=False,
        )
    assert all(torch.equal(weight, weights[name]) for name, weight in model.hf_model.named_parameters())
    assert {name: len(module._forward_hooks) for name, module in model.hf_model.named_modules()} == modules
    assert not any(point.attached for point in model.hook_dict.values())


def test_frozen_layers_and_repeated_neurons(planted_neuron: Wrapped) -> None:
    model = planted_neuron.model
    neurons = [planted(planted_neuron), Neuron(2, 3), planted(planted_neuron)]

    def made(frozen_last: int) -> Edit:
        return replace_token(
            model,
            planted_neuron.batch(),
            source="yes",
            target="blue",
            neurons=neurons,
            method=replace(QUICK, frozen_last=frozen_last),
            max_new_tokens=3,
            progress=False,
        )

    assert list(made(0).rows) == [neurons[0], neurons[1]]
    assert made(1).rows == {neurons[0]}
    with pytest.raises(
        InputError, match=r"^frozen_last=3 leaves none of the 2 neurons to edit \(in L1, L2\); the stack has 3 layers\."
    ):
        made(3)


def test_what_cannot_be_asked(planted_neuron: Wrapped) -> None:
    model, batch = planted_neuron.model, planted_neuron.batch()
    some = [planted(planted_neuron)]
    for wrong, message in (
        ({"target": "yes"}, r"^source and target are the same word, 'yes'\.$"),
        ({"target": "not a word"}, r"^'not a word' is unknown to the tokenizer, which makes"),
        ({"target": 999}, r"^Token 999 is outside the vocabulary, whose ids go from 0 to \d+\.$"),
        ({"method": "magic"}, r"^method='magic' is unknown; for editing words there are 'through', 'belief', 'direct'"),
        ({"method": "direct", "controls": batch}, r"^method='direct' has no use for controls"),
        ({"neurons": []}, r"^An edit of rows was given no neurons; name some: "),
        (
            {"method": "direct", "neurons": [Neuron(0, 1, "vision")]},
            r"^vision\.L0\.u1 do not write into the stream that words are .*; use method='through' or 'belief' for them\.$",
        ),
        (
            {"neurons": [Neuron(0, 1, "vision"), *some]},
            r"^One edit's rows have one width, but these are 24 at vision\.blocks\.0\.mlp\.hook_post, 32 at ",
        ),
        ({"batches": []}, r"^No batches were given to teach the edit from\.$"),
        ({"batches": ["what"]}, r"batches=\['what'\] must be one batch or several; model\.prepare"),
    ):
        about = {"batches": batch, "source": "yes", "target": "blue", "neurons": some, **wrong}
        with pytest.raises(InputError, match=message):
            replace_token(model, progress=False, **about)  # type: ignore[arg-type]
    with pytest.raises(
        InputError,
        match=r"(?s)Through: 2 arguments cannot be used\..* penalty=-1 .*at least 0\..* stop_at=0 .*above 0",
    ):
        Through(penalty=-1, stop_at=0)
    with pytest.raises(InputError, match=r"^Direct: penalty='l1' must be 'l2' or 'l2sq'\.$"):
        Direct("l1")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^Direct: share=0 must be above 0 and at most 1\.$"):
        Direct(share=0)
    with pytest.raises(InputError, match=r"^reach has no meaning for penalty='l2sq'"):
        Direct(reach=1.0)
    with pytest.raises(
        InputError,
        match=r"^No samples were given to see which keys the layer meets otherwise: batches of other prompts\.$",
    ):
        rank_one(model, batch, source="yes", target="blue", layer=1, samples=[])


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_need_that_is_not_met_is_refused_before_anything_runs(
    planted_neuron: Wrapped, method: EditMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = planted_neuron.model, planted_neuron.batch()
    monkeypatch.setattr(type(model.hf_model), "forward", lambda *_, **__: pytest.fail("the model ran"))
    known = {"gradients", "a target word", "rows that write words", "no controls", "consistency"}
    assert method.needs <= known
    some = [planted(planted_neuron)]
    about: dict[str, Any] = {"source": "yes", "target": "blue", "neurons": some, "method": method, "progress": False}
    answered = [(batch, ["blue"])]
    if "consistency" in method.needs:
        with pytest.raises(InputError, match=rf"^method='{method.name}' teaches other questions .*: pass consistency="):
            replace_token(model, batch, **about)
        for wrong in ([], ["yes", "no"], [""]):
            with pytest.raises(InputError, match=r"(needs as many answers|at least one|not empty)"):
                replace_token(model, batch, **about, consistency=[(batch, wrong)])
        with pytest.raises(InputError, match=r"^'not a word' is unknown to the tokenizer"):
            replace_token(model, batch, **about, consistency=[(batch, ["not a word"])])
        about["consistency"] = answered
    else:
        with pytest.raises(InputError, match=rf"^method='{method.name}' does not teach consistency.* use 'belief'\.$"):
            replace_token(model, batch, **about, consistency=answered)
    if "gradients" in method.needs:
        with torch.inference_mode(), pytest.raises(InputError, match="needs gradients"):
            replace_token(model, batch, **about)
    if "a target word" in method.needs:
        with pytest.raises(InputError, match=rf"method='{method.name}' moves rows towards a target .* use 'through'"):
            remove_word(model, batch, word="yes", neurons=some, method=method, progress=False)
    if "rows that write words" in method.needs:
        with pytest.raises(InputError, match=r"^vision\.L0\.u1 do not write into the stream .* use method=.*'through'"):
            replace_token(model, batch, **{**about, "neurons": ["vision.L0.u1"]})
    if "no controls" in method.needs:
        with pytest.raises(InputError, match=rf"^method='{method.name}' has no use for controls.* or use .*'through'"):
            replace_token(model, batch, **about, controls=batch)


def test_words_of_several_tokens_are_said_whole_after_the_edit() -> None:
    """Three tokens in the place of two that the model says: all of them are said."""
    model = TINY[0].make()
    batch = model.prepare(SHORT, images=picture(0))
    said = model.trace_generation(batch, names="hook_logits", max_new_tokens=2).tokens[0].tolist()
    source, target = tuple(said[:2]), (14, 20, 17)
    assert source[0] != source[1]
    examples = edit_examples(model, [batch], source=(source,), target=(target,), max_new_tokens=2)
    rows = Units.of([Neuron(layer, index) for layer in (0, 1, 2) for index in range(48)], model)
    settings = Through(penalty=0.0, keep=0.0, repetition=0.0, stop_at=0.8, stop_kl=1e9, learning_rate=0.1, n_steps=60)
    result = settings.deltas(WordTask(model, rows, examples, [], (source,), (target,)), progress=False)
    with rows_added(model, rows, lambda: result.deltas):
        now = model.trace_generation(batch, names="hook_logits", max_new_tokens=3).tokens[0].tolist()
    assert tuple(now) == target


def test_direct_edits_of_words_of_several_tokens_are_the_closed_form() -> None:
    model = TINY[0].make()
    batch = model.prepare([SHORT, SHORT], images=[[picture(0)], [picture(1)]])
    said = model.trace_generation(batch, names="hook_logits", max_new_tokens=1).tokens[:, 0].tolist()
    assert said[0] == said[1]
    target = "red circle"
    ids = model.to_word_tokens(target)
    assert len(ids) == 2
    neurons = [Neuron(2, index) for index in range(48)]

    def made(**settings: Any) -> Edit:
        return replace_token(
            model, batch, source=said[0], target=target, neurons=neurons, method=Direct(**settings), max_new_tokens=1
        )

    expected = torch.zeros(48, model.W_U.shape[0])
    for step, token in enumerate(ids):
        behind = model.extend(batch, torch.tensor([ids[:step]] * 2)) if step else batch
        logits, cache = model.run_with_cache(behind, names=neurons[0].hook)
        for sample in range(2):
            direction = model.W_U[:, token] - model.W_U[:, int(logits[sample, -1].argmax())]
            expected += cache[neurons[0].hook][sample, -1][:, None] * direction / 2
    torch.testing.assert_close(made(beta=4.0).deltas, (expected / 8.0).detach(), atol=1e-5, rtol=1e-4)
    # what the closed form does, the whole word's probability shows
    metric = log_probability(target)
    before = measure(model, batch, metric=metric)
    with model.edited(made(beta=1.0)):
        assert (measure(model, batch, metric=metric) > before + 1).all()


def test_a_rank_for_each_token_of_a_target() -> None:
    model = TINY[0].make()
    batch = model.prepare(SHORT, images=picture(0))
    (said,) = model.trace_generation(batch, names="hook_logits", max_new_tokens=1).tokens[0].tolist()
    ids = model.to_word_tokens("the red circle")
    edit = rank_one(
        model,
        batch,
        source=said,
        target="the red circle",
        layer=2,
        samples=model.prepare("what color is the circle", images=picture(3)),
        settings=Through(penalty=0.0, keep=0.0, repetition=0.0, stop_kl=1e9, learning_rate=0.5, n_steps=30),
        max_new_tokens=1,
        progress=False,
    )
    assert torch.linalg.matrix_rank(edit.deltas, rtol=1e-4) == len(ids) == 3
    metric = log_probability("the red circle")
    before = float(measure(model, batch, metric=metric))
    with model.edited(edit):
        assert float(measure(model, batch, metric=metric)) > before / 2  # at least half of the way, in nats


@pytest.mark.parametrize("kind", ["bfloat16", "adapter", "vision rows"])
def test_models_as_people_have_them(kind: str) -> None:
    """In half precision, under an adapter, and for rows of the vision tower: the target is said, and the bits come back."""
    subject = subject_of(TINY[0])
    if kind == "adapter":
        model = HookedMultimodal.from_hf(with_adapter(subject), subject.model.processor)
    else:
        made = TINY[0].make()
        model = HookedMultimodal.from_hf(
            made.hf_model.to(torch.bfloat16 if kind == "bfloat16" else None), made.processor
        )
    batch = subject.batches["left"]
    weights = {name: weight.detach().clone() for name, weight in model.hf_model.named_parameters()}
    with torch.no_grad():
        best = model(batch)[0, -1].topk(2).indices.tolist()
    part = "vision" if kind == "vision rows" else "language"
    edit = replace_token(
        model,
        batch,
        source=best[0],
        target=best[1],
        neurons=[Neuron(layer, index, part) for layer in (0, 1) for index in range(40)],  # type: ignore[arg-type]
        method=Through(learning_rate=0.03, penalty=0.01, stop_at=0.6, stop_kl=10.0),
        max_new_tokens=1,
        progress=False,
    )
    assert edit.deltas.dtype == torch.float32
    assert edit.provenance.settings["stopped"] == "reached"
    with torch.no_grad(), model.edited(edit):
        assert int(model(batch)[0, -1].argmax()) == best[1]
    for name, weight in model.hf_model.named_parameters():
        assert torch.equal(weight, weights[name])
