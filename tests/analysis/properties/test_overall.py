"""What is measured over all pictures of a noun, against counting by hand, and the cross-modal measures on the lab model."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

import mmlens as mm
from mmlens.analysis.properties.cases import NounNeurons
from mmlens.analysis.properties.exclusivity import Exclusive
from mmlens.analysis.properties.invariance import ImageInvariance
from mmlens.analysis.properties.layers import LayerShares
from mmlens.analysis.properties.quantities import Value, control_name
from mmlens.analysis.samples.sample import as_samples


def neurons(*places: tuple[int, int]) -> mm.Units:
    """Neurons by layer and index."""
    return mm.Units(mm.Neuron(layer, index) for layer, index in places)


def drawn(seed: int = 0) -> list[NounNeurons]:
    """Nouns with overlapping neurons: each noun has favourites among 12 neurons of two layers."""
    rng = np.random.default_rng(seed)
    found = []
    for sample in range(12):
        for start, noun in ((0, "cat"), (4, "dog"), (6, "owl")):
            if rng.random() < 0.8:
                weights = np.where(np.arange(12) // 4 == start // 4, 6.0, 1.0)
                numbers = rng.choice(12, size=4, replace=False, p=weights / weights.sum()).tolist()
                found.append(NounNeurons(sample, noun, {"contribution": neurons(*(divmod(n, 6) for n in numbers))}))
    return found


def by_hand(values: list[Value], quantity: str, k: int) -> dict[tuple[int, str], float]:
    return {(value.sample, value.noun): value.value for value in values if (value.quantity, value.k) == (quantity, k)}


@pytest.mark.parametrize("k", [2, 4])
def test_pairs_of_pictures_are_all_compared(k: int) -> None:
    chosen = drawn()
    values = list(ImageInvariance((2, 4), together=3).over_all(chosen))
    same: dict[tuple[int, str], list[float]] = {}
    other: dict[tuple[int, str], list[float]] = {}
    for one, two in permutations(chosen, 2):
        share = len(set(one.neurons["contribution"][:k]) & set(two.neurons["contribution"][:k])) / k
        if one.sample != two.sample:
            (same if one.noun == two.noun else other).setdefault((one.sample, one.noun), []).append(share)
    measured = by_hand(values, "shared by two pictures", k)
    assert measured == pytest.approx({key: np.mean(shares) for key, shares in same.items()})
    measured = by_hand(values, "shared by pictures of two nouns", k)
    assert measured == pytest.approx({key: np.mean(shares) for key, shares in other.items()})


def test_groups_share_what_all_their_pictures_have() -> None:
    sets = [[(0, 1), (0, 2), (1, 3)], [(0, 2), (1, 3), (1, 4)], [(1, 3), (0, 2), (0, 9)], [(0, 1), (0, 2), (1, 3)]]
    chosen = [NounNeurons(i, "cat", {"contribution": neurons(*own)}) for i, own in enumerate(sets)]
    values = list(ImageInvariance((3,), together=3).over_all(chosen))
    assert by_hand(values, "shared by all of 3 pictures", 3) == {(0, "cat"): pytest.approx(2 / 3)}


def test_nouns_own_the_neurons_that_are_chosen_for_them_alone() -> None:
    def several(noun: str, *sets: list[tuple[int, int]]) -> list[NounNeurons]:
        return [NounNeurons(i, noun, {"contribution": neurons(*own)}) for i, own in enumerate(sets)]

    a, b, c, d = (0, 0), (0, 1), (1, 0), (1, 1)
    chosen = several("cat", [a, b], [a, b], [a, c]) + several("dog", [b, d], [b, d], [d, b]) + several("owl", [c, a])
    values = list(Exclusive(2, pictures=3, kappas=(0.5, 1.1)).over_all(chosen))
    # the owl has one picture and is left out; cat: a in 3 of 3, b in 2; dog: d and b
    assert by_hand(values, "exclusive to the noun", 2) == {(-1, "cat"): 0.5, (-1, "dog"): 0.5}
    assert by_hand(values, "crucial to other nouns with p < 0.5", 2) == {(-1, "cat"): 0.5, (-1, "dog"): 0.5}
    assert by_hand(values, "crucial to other nouns with p < 1.1", 2) == {(-1, "cat"): 1.0, (-1, "dog"): 1.0}


def test_layers_are_counted_for_choices_and_not_for_their_controls() -> None:
    random = control_name("contribution", 3)
    chosen = [
        NounNeurons(
            0, "cat", {"contribution": neurons((0, 1), (1, 2), (1, 3), (1, 5)), random: neurons((0, 4), (1, 1))}
        )
    ]
    values = list(LayerShares(3).over_all(chosen))
    assert {(value.quantity, value.method): value.value for value in values} == {
        ("in layer 0", "contribution"): 0.25,
        ("in layer 1", "contribution"): 0.75,
        ("in layer 2", "contribution"): 0.0,
    }


@pytest.fixture(scope="module")
def model() -> mm.HookedMultimodal:
    return mm.lab.load()


def log_odds(model: mm.HookedMultimodal, batch: Any, token: int, zeroed: list[mm.Neuron]) -> float:
    """log p / (1 - p) of the next token, with the neurons set to zero by plain hooks."""
    hooks = []
    for layer in sorted({neuron.layer for neuron in zeroed}):
        own = [neuron.index for neuron in zeroed if neuron.layer == layer]
        keep = torch.ones(model.cfg.d_mlp)
        keep[own] = 0
        hooks.append((f"blocks.{layer}.mlp.hook_post", lambda x, hook, keep=keep: x * keep))
    with torch.no_grad():
        p = model.run_with_hooks(batch, fwd_hooks=hooks)[0, -1].double().softmax(-1)[token]
    return float(p.log() - (1 - p).log())


def test_pictures_and_writings_of_the_lab_share_neurons(model: mm.HookedMultimodal) -> None:
    scenes = mm.lab.scenes(3, seed=3)
    found = mm.properties.cross_modality(model, scenes, k=20, nouns=mm.lab.NOUNS, draws=3, progress=False)
    assert found.interval("shared with the writing", "contribution").mean > 0.5
    assert (
        found.difference(
            "shared with the writing", "contribution", minus_quantity="shared with the writing of another noun"
        ).low
        > 0.3
    )
    assert found.difference("log odds of the writing's noun, the picture's neurons zeroed", "contribution").mean < -1
    # one of them by hand
    scene = scenes[0]
    answers, contexts = [], []
    for text, picture in (("describe the image", scene.image), (f"{scene.written()} describe the image", None)):
        batch = model.prepare(text, images=picture)
        trace = model.trace_generation(batch, names="hook_logits")
        words = trace.text[0].split()
        noun = next(word for word in words if word in mm.lab.NOUNS)
        at_noun = model.extend(batch, trace.tokens[:, : words.index(noun)])
        contexts.append(at_noun)
        answers.append((noun, set(mm.find_neurons(model, at_noun, token=noun).top(20))))
    (noun, seen), (same, read) = answers
    assert noun == same
    rows = found.values.set_index(["quantity", "method", "sample", "noun"])["value"]
    assert rows["shared with the writing", "contribution", 0, noun] == len(seen & read) / 20
    for quantity, neurons, at_noun in (
        ("log odds of the writing's noun, the picture's neurons zeroed", seen, contexts[1]),
        ("log odds of the picture's noun, the writing's neurons zeroed", read, contexts[0]),
    ):
        token = model.to_single_token(noun)
        before, after = log_odds(model, at_noun, token, []), log_odds(model, at_noun, token, sorted(neurons))
        assert rows[quantity, "contribution", 0, noun] == pytest.approx(after - before, abs=1e-3)


def test_what_is_measured_of_samples_without_pictures_is_left_out(model: mm.HookedMultimodal) -> None:
    writing = next(as_samples(mm.lab.scenes(1, seed=3))).as_writing
    with pytest.raises(mm.InputError, match="Nothing could be measured"):
        mm.properties.cross_modality(model, [writing], k=5, nouns=mm.lab.NOUNS, progress=False)


def test_neurons_that_seem_exclusive_only_by_chance_are_no_better_than_shuffled_nouns() -> None:
    rng = np.random.default_rng(0)

    def picture(sample: int, noun: str, own: list[int]) -> NounNeurons:
        return NounNeurons(sample, noun, {"contribution": neurons(*((0, i) for i in own))})

    nouns = ["cat", "dog", "owl"] * 8
    own = {"cat": [0, 1], "dog": [2, 3], "owl": [4, 5]}
    planted = list(Exclusive(2).over_all([picture(i, noun, own[noun]) for i, noun in enumerate(nouns)]))
    assert set(by_hand(planted, "exclusive to the noun", 2).values()) == {1.0}
    assert np.mean(list(by_hand(planted, "exclusive to the noun, nouns shuffled", 2).values())) < 0.7
    chance = [picture(i, noun, rng.choice(12, 2, replace=False).tolist()) for i, noun in enumerate(nouns)]
    values = list(Exclusive(2).over_all(chance))
    apart = by_hand(values, "exclusive to the noun", 2), by_hand(values, "exclusive to the noun, nouns shuffled", 2)
    assert abs(np.mean(list(apart[0].values())) - np.mean(list(apart[1].values()))) <= 0.5
