"""Every verb with a metric of words of several tokens: the sum of what it finds token by token, each behind those before it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.attribution.attribute import attribute
from mmlens.analysis.circuits.find import find_circuit
from mmlens.analysis.metrics import log_probability, logit_difference, measure, rank
from mmlens.analysis.metrics.forced import forced_terms
from mmlens.analysis.patching.knockout import knock_out
from mmlens.analysis.patching.paths import path_patch
from mmlens.analysis.patching.sweep import patch
from mmlens.analysis.steering.dose import dose_curve
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.interventions.knockout import KnockOut
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from tests.conftest import Subject
from tests.families import FAMILIES
from tests.tiny import picture

#: Phrases of the lab's words, which are words of several tokens; what they share, and where they part.
PHRASES = [("red circle", "blue"), ("red circle", "red image"), ("the red circle", "what big blue")]
QUERY = positions.index(-2)

VERBS: dict[str, Callable[..., torch.Tensor]] = {
    "patch": lambda model, a, b, metric: (
        patch(model, a, b, at=AT, positions=["image"], metric=metric, progress=False).values
    ),
    "patch, noising": lambda model, a, b, metric: (
        patch(model, a, b, at=AT, positions=["image"], metric=metric, direction="noise", progress=False).effect
    ),
    "attribute": lambda model, a, b, metric: (
        attribute(model, a, b, at=AT, positions=["image"], metric=metric, progress=False).values
    ),
    "attribute, along the way": lambda model, a, b, metric: (
        attribute(model, a, b, at=AT[:1], positions=["image"], metric=metric, method="ig", progress=False).effect
    ),
    "path_patch": lambda model, a, b, metric: (
        path_patch(model, a, b, at=AT[0], to=AT[1], positions=["image"], metric=metric, progress=False).effect
    ),
    "find_circuit": lambda model, a, b, metric: (
        find_circuit(
            model, (a, b), metric=metric, nodes="attention", towers="language", progress=False, groups=GROUPS
        ).scores
    ),
}
AT = ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"]
GROUPS = {"image": positions.image, "text": ~positions.image}


def token_by_token(model: Any, batches: Sequence[Any], phrase: str, value: Callable[..., torch.Tensor]) -> torch.Tensor:
    """The sum over a phrase's tokens of what is found for each, behind those before it."""
    tokens = model.to_word_tokens(phrase)
    total = torch.zeros(())
    for step, token in enumerate(tokens):
        behind = torch.tensor([tokens[:step]] * batches[0].size)
        run = [model.extend(batch, behind) if step else batch for batch in batches]
        total = total + value(*run, log_probability(token))
    return total


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("words", PHRASES, ids=" against ".join)
def test_a_verb_sums_over_the_tokens_of_both_words(name: str, words: tuple[str, str], subject: Subject) -> None:
    slow = name in ("path_patch", "find_circuit", "attribute, along the way")
    if slow and (subject.name == "llava_siglip" or words != PHRASES[2]):
        pytest.skip("the same code as for others")
    model, batches = subject.model, pair_of(subject)
    verb = VERBS[name]
    found = verb(model, *batches, logit_difference(*words))
    first, second = (token_by_token(model, batches, word, lambda *run: verb(model, *run)) for word in words)
    torch.testing.assert_close(found, first - second, atol=3e-4, rtol=1e-3)
    assert float((found - found.mean()).abs().max()) > 1e-3, "the comparison could not fail"


def pair_of(subject: Subject) -> list[Any]:
    model, clean = subject.model, subject.batches["left"]
    sizes = [[(p.height, p.width) for p in pictures] for pictures in clean.images]
    other = [[picture(9 + i, *size) for size in some] for i, some in enumerate(sizes)]
    return [clean, model.prepare(list(clean.prompts), images=other)]


@torch.no_grad()
def test_verbs_agree_with_interventions_in_force(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    metric = logit_difference("the red circle", "what big blue")
    for queries in (QUERY, positions.last | positions.generated):
        sweep = knock_out(model, batch, queries=queries, keys="image", metric=metric, progress=False)
        for layer, values in enumerate(sweep.values[:, 0]):
            with model.intervene(KnockOut(queries, "image", layers=[layer])):
                torch.testing.assert_close(values, measure(model, batch, metric=metric), atol=1e-4, rtol=1e-4)
    assert float(sweep.effect.abs().max()) > 1e-3
    vector = SteeringVector(model.W_U[:, 7].clone(), AT[0])
    for rule in ("last", "all"):
        curve = dose_curve(
            model, batch, vector, alphas=[0.0, 2.0], metric=metric, positions=rule, seeds=[], progress=False
        )
        with model.intervene(Steer(vector, 2.0, positions=rule, at=AT[0])):
            torch.testing.assert_close(curve.values[0, 1], measure(model, batch, metric=metric), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(curve.values[0, 0], curve.baseline, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_decoder_reads_words_on_its_own_sequence() -> None:
    tiny = next(each for each in FAMILIES if each.name == "instructblip_t5")
    model = tiny.make()
    batch, other = (
        model.prepare(["describe the image", "what color"], images=[[picture(i)], [picture(i + 1)]]) for i in (0, 5)
    )
    metric = logit_difference("red circle", "blue image")
    parts = [
        token_by_token(model, [batch], word, lambda run, one: measure(model, run, metric=one))
        for word in ("red circle", "blue image")
    ]
    torch.testing.assert_close(measure(model, batch, metric=metric), parts[0] - parts[1], atol=1e-4, rtol=1e-4)
    sweep = patch(model, batch, other, at="blocks.0.hook_resid_post", positions="all", metric=metric, progress=False)
    with model.intervene(mm.KnockOut("last", "image", attention="cross")):
        cut = measure(model, batch, metric=metric)
    assert not torch.allclose(cut, sweep.clean, atol=1e-3)
    torch.testing.assert_close(sweep.clean, parts[0] - parts[1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_new_tokens_of_a_word_are_patched_where_rules_mean_them(subject: Subject) -> None:
    model, (clean, corrupted) = subject.model, pair_of(subject)
    for metric, some in ((logit_difference(*PHRASES[2]), True), (log_probability("red"), False)):
        if not some:
            with pytest.raises(InputError, match=r"positions\.generated names nothing"):
                patch(model, clean, corrupted, at=AT[0], positions=["generated"], metric=metric, progress=False)
            continue
        groups = ["last", "generated", "all", mm.positions.prompt]
        sweep = patch(model, clean, corrupted, at=AT[0], positions=groups, metric=metric, progress=False)
        effect = sweep.effect[0].abs().amax(-1)
        assert (effect > 1e-4).all()
        torch.testing.assert_close(sweep.values[0, 2], sweep.clean, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(sweep.values[0, 3], sweep.clean, atol=1e-4)
    right = subject.batches["right"]
    with pytest.raises(InputError, match="Tokens cannot follow padding"):
        patch(model, right, right, at=AT[0], metric=log_probability("red circle"), progress=False)


def test_samples_have_words_of_their_own_lengths(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    words = (["red circle", "blue"], ["blue image", "what big blue"])
    found = measure(model, batch, metric=logit_difference(*words))
    for sample in range(2):
        one = model.prepare(batch.prompts[sample], images=batch.images[sample])
        alone = measure(model, one, metric=logit_difference(words[0][sample], words[1][sample]))
        torch.testing.assert_close(found[sample], alone[0], atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="has tokens for 3 samples"):
        measure(model, batch, metric=log_probability(["red circle", "blue", "red"]))


def test_ranks_are_zero_where_the_model_says_the_words(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    said = model.trace_generation(batch, names="hook_logits", max_new_tokens=3).tokens
    for sample in range(2):
        one = model.prepare(batch.prompts[sample], images=batch.images[sample])
        phrase = model.to_string(said[sample]).strip()
        if model.to_word_tokens(phrase) == said[sample].tolist():
            assert measure(model, one, metric=rank(phrase)).tolist() == [0.0]
            assert measure(model, one, metric=mm.metrics.accuracy(phrase)).tolist() == [1.0]
    other = rank("red circle")
    worst = [
        token_by_token(model, [batch], "red circle", lambda run, one: measure(model, run, metric=rank(one.tokens[0])))
    ]
    assert (measure(model, batch, metric=other) <= worst[0]).all()
    assert (2 * measure(model, batch, metric=other) >= worst[0]).all()


def test_what_words_share_is_not_read() -> None:
    (one,) = forced_terms([[(1, 2)], [(1, 3)]], (1.0, -1.0))
    assert one.behind.tolist() == [[1]]
    assert (one.n_rows, one.reads) == (1, (2, 3))
    (ends_first,) = forced_terms([[(4,)], [(5, 6)]], (1.0, -1.0))
    assert ends_first.behind.tolist() == [[5]]
    assert (ends_first.n_rows, ends_first.reads) == (2, None)
    assert ends_first.norms.tolist() == [[0.0, -1.0]]
    both = forced_terms([[(1, 2, 3)], [(1, 4, 5)]], (1.0, -1.0))
    assert [terms.behind.tolist() for terms in both] == [[[1, 2]], [[1, 4]]]
    assert [terms.norms.tolist() for terms in both] == [[[0.0, 1.0]], [[-1.0]]]
