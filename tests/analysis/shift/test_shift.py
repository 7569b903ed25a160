"""A planted shift is measured, its unplanted twin has none; recovery, overlaps and controls against plain loops."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from mmlens import lab
from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.coders import Centred, NonNegative
from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.shift.matching import Match
from mmlens.analysis.shift.measures import Average
from mmlens.analysis.shift.result import ConceptShift, Quantity, correlation_of
from mmlens.analysis.shift.shift import concept_shift
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.core.errors import InputError
from mmlens.interventions.activations import Add
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.shift.planted import AT, CONCEPTS, EACH, planted_shift
from tests.conftest import Subject
from tests.tiny import picture


@pytest.mark.parametrize("match", get_args(Match))
@pytest.mark.parametrize("average", get_args(Average))
def test_a_planted_shift_is_measured_within_one_percent(match: Match, average: Average) -> None:
    planted = planted_shift()
    shift = planted.measured(match=match, average=average)
    true = planted.vectors[planted.number(shift)].double()
    cosines = torch.nn.functional.cosine_similarity(shift.vectors, true)
    assert bool((cosines > 0.99).all())
    assert bool(((shift.vectors - true).norm(dim=1) < 0.01 * true.norm(dim=1)).all())
    assert bool(((shift.magnitude / true.norm(dim=1) - 1).abs() < 0.01).all())
    assert shift.n_samples.tolist() == [EACH] * CONCEPTS
    assert bool((shift.consistency > 0.99).all())
    assert bool((shift.recovery_distance > 0.98).all())
    assert shift.fate == ("kept",) * CONCEPTS
    assert shift.appeared == ()


def test_the_unplanted_twin_moves_as_far_but_nowhere() -> None:
    shift = planted_shift(planted=False).measured()
    lengths = shift.shifts.norm(dim=1)
    assert float(lengths.min()) > 5
    assert float(shift.consistency.abs().max()) < 0.02
    # the mean of 40 random directions is 1 / sqrt(40) as long as each
    assert bool((shift.magnitude < 2 * lengths.max() / EACH**0.5).all())


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def test_numbers_equal_plain_loops() -> None:
    planted = planted_shift(noise=2.0, seed=1)
    bank, other = (extract_concepts(states, CONCEPTS, method="kmeans") for states in (planted.base, planted.tuned))
    shift = concept_shift(planted.base, planted.tuned, bank, other, average="trimmed", alpha=0.7, top_samples=20)
    a, b = (states.values.double().numpy() for states in (planted.base, planted.tuned))
    u, w = bank.vectors.double().numpy(), other.vectors.double().numpy()
    for k in range(CONCEPTS):
        rows = [m for m in range(len(a)) if np.argmin(np.linalg.norm(a[m] - u, axis=1)) == k]
        moved = b[rows] - a[rows]
        cut = len(moved) // 10
        mean = np.sort(moved, axis=0)[cut : len(moved) - cut].mean(0)
        match = w[shift.match[k]]
        shifted = u[k] + 0.7 * mean
        np.testing.assert_allclose(shift.vectors[k].numpy(), mean, atol=1e-12)
        cosines = [cosine(moved[i], moved[j]) for i, j in combinations(range(len(rows)), 2)]
        assert float(shift.consistency[k]) == pytest.approx(np.mean(cosines))
        before, after = (cosine(x, match) for x in (u[k], shifted))
        assert float(shift.cosine_gain[k]) == pytest.approx(after - before)
        assert float(shift.recovery[k]) == pytest.approx((after - before) / before)
        near, far = np.linalg.norm(shifted - match), np.linalg.norm(u[k] - match)
        assert float(shift.recovery_distance[k]) == pytest.approx((far - near) / far)
        most = [np.argsort(np.linalg.norm(x - y, axis=1))[:20] for x, y in ((a, u[k]), (b, shifted), (b, match))]
        shares = [len(set(each) & set(most[2])) / 20 for each in most[:2]]
        assert shift.sample_overlap[:, k].tolist() == pytest.approx(shares)
    frame = shift.to_frame()
    assert frame["recovery"].tolist() == pytest.approx(shift.recovery.tolist())
    assert frame["cosine_shifted"].tolist() == pytest.approx(shift.cosines[1].tolist())
    assert frame["n_samples"].sum() == len(a)


def test_other_shifts_of_equal_length_do_not_recover() -> None:
    shift = planted_shift().measured()
    for kind in ("random", "shuffled"):
        other = shift.control(kind)  # type: ignore[arg-type]
        torch.testing.assert_close(other.magnitude, shift.magnitude)
        assert float(other.recovery_distance.max()) < 0.1
    directions = torch.nn.functional.normalize(shift.vectors, dim=1)
    others = torch.nn.functional.normalize(shift.control("shuffled").vectors, dim=1)
    assert sorted((directions @ others.T).argmax(1).tolist()) == list(range(CONCEPTS))
    assert not bool(((directions * others).sum(1) > 0.99).any())
    with pytest.raises(InputError, match="kind='none' must be 'random' or 'shuffled'"):
        shift.control("none")  # type: ignore[arg-type]


def test_empty_and_single_sample_concepts_are_honest() -> None:
    """A bank fitted on more samples than are paired: one concept has one sample left, one has none."""
    planted = planted_shift()
    bank = extract_concepts(planted.base, CONCEPTS, method="kmeans")
    single, none = bank.dominant()[:2].tolist()
    kept = [row for row, k in enumerate(bank.dominant().tolist()) if k not in (single, none)]
    some = [0, *kept]
    tuned_bank = extract_concepts(planted.tuned, CONCEPTS, method="kmeans")
    shift = concept_shift(planted.base[some], planted.tuned[some], bank, tuned_bank)
    assert shift.n_samples[[single, none]].tolist() == [1, 0]
    assert torch.isnan(shift.consistency[[single, none]]).all()
    torch.testing.assert_close(shift.vectors[single], shift.shifts[0])
    for values in (
        shift.magnitude,
        shift.recovery,
        shift.recovery_distance,
        shift.cosine_gain,
        shift.sample_overlap[1],
    ):
        assert torch.isnan(values[none])
        assert int(torch.isnan(values).sum()) == 1
    assert shift.fate[none] == "empty"
    assert shift.mean("consistency").count == CONCEPTS - 2
    assert shift.mean().count == CONCEPTS - 1
    carried = concept_shift(planted.base[some], planted.tuned[some], bank, tuned_bank, match="optimal_transport")
    assert carried.match[none] == -1
    for control in ("random", "shuffled"):
        assert shift.control(control).magnitude.isnan().tolist() == shift.magnitude.isnan().tolist()  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one finite direction"):
        shift.steering_vector(none)


def test_samples_in_which_no_concept_is_active_belong_to_none() -> None:
    values = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    base = States(values, AT, keys=("a", "b", "c", "d"))
    coder = SparseDictionary(torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2), AT)
    bank = ConceptBank.of(coder, base, method="sae")
    shift = concept_shift(base, base, bank, bank)
    assert shift.owner.tolist() == [0, -1, 0, -1]
    with pytest.raises(
        InputError, match=r"found by 'sae', which is not fitted here .*sparse autoencoder.* tuned_bank="
    ):
        concept_shift(base, base, bank)


def test_a_dictionary_is_shifted_in_the_unit_of_its_codes() -> None:
    """Each state is a multiple of one of three directions, and becomes the same multiple of another one."""
    generator = torch.Generator().manual_seed(0)
    before, after = torch.linalg.qr(torch.randn(8, 6, generator=generator)).Q.T.split(3)
    owner, size = torch.arange(30) % 3, 5 + 20 * torch.rand(30, 1, generator=generator)
    keys = tuple(map(str, range(30)))
    base, tuned = (States(size * vectors[owner], AT, keys=keys) for vectors in (before, after))
    banks = [
        ConceptBank.of(NonNegative(vectors, 0.0), states, method="semi_nmf")
        for vectors, states in ((before, base), (after, tuned))
    ]
    shift = concept_shift(base, tuned, *banks)
    torch.testing.assert_close(shift.shifted, after.double(), atol=1e-5, rtol=0)
    for k in range(3):
        mean = float(size[owner == k].mean())
        assert float(shift.unit[k]) == pytest.approx(mean, rel=1e-5)
        assert float(shift.magnitude[k]) == pytest.approx(mean * 2**0.5, rel=1e-5)
    assert planted_shift().measured().unit.tolist() == [1.0] * CONCEPTS


def test_size_or_value_decides_which_concept_a_sample_has() -> None:
    values = torch.tensor([[1.0, -3.0], [2.0, 1.0]])
    base = States(values, AT, keys=("a", "b"))
    bank = ConceptBank.of(Centred(torch.eye(2), torch.zeros(2)), base, method="pca")
    assert concept_shift(base, base, bank, bank, by="absolute").owner.tolist() == [1, 0]
    assert concept_shift(base, base, bank, bank, by="signed").owner.tolist() == [0, 0]


def test_one_model_and_two_datasets() -> None:
    """Unpaired sets: the shift leads from a concept's states to its match's, and nothing is said of single samples."""
    planted = planted_shift()
    other = replace(planted.tuned, keys=tuple(f"other{row}" for row in range(len(planted.tuned))))
    shift = replace(planted, tuned=other).measured(pairs="none")
    true = planted.vectors[planted.number(shift)].double()
    assert bool(((shift.vectors - true).norm(dim=1) < 0.01 * true.norm(dim=1)).all())
    assert not shift.paired
    assert torch.isnan(shift.consistency).all()
    assert torch.isnan(shift.sample_overlap).all()
    assert shift.shifts.shape[0] == 0
    gone = int(shift.owner[0])
    kept = [row for row in range(len(other)) if int(shift.owner[row]) != gone]
    bank = extract_concepts(planted.base, CONCEPTS, method="kmeans")
    fewer = concept_shift(
        planted.base, other[kept], bank, extract_concepts(other[kept], 3, method="kmeans"), pairs="none"
    )
    assert fewer.match[gone] == -1
    assert fewer.fate[gone] == "vanished"
    assert torch.isnan(fewer.magnitude).tolist() == [k == gone for k in range(CONCEPTS)]


def test_a_direction_planted_in_a_model_is_the_shift_between_datasets_with_and_without_its_cause() -> None:
    made = lab.planted("direction")
    lengths = {}
    for name, hf_model in (("planted", made.model), ("twin", made.twin)):
        model = HookedMultimodal.from_hf(hf_model, made.processor)
        sets = [[(made.image(cause, seed=seed), made.prompt) for seed in range(6)] for cause in (False, True)]
        without, with_cause = (
            collect(
                model,
                some,
                at="blocks.0.hook_resid_post",
                positions="last",
                dtype="float32",
                progress=False,
            ).at()
            for some in sets
        )
        bank = extract_concepts(without, 1, method="kmeans")
        shift = concept_shift(without, with_cause, bank, pairs="none")
        lengths[name] = float(shift.magnitude)
        if name == "planted":
            direction = made.truth.direction
            assert direction is not None
            assert float(shift.steering_vector(0).direction @ direction) >= 0.99 * lengths[name]
    assert lengths["twin"] < 1e-3 * lengths["planted"]


def test_a_shift_of_real_layers_is_measured_on_every_family(subject: Subject) -> None:
    """The tuned model is the base with a vector added below the point that is read: every sample moves by it."""
    model = subject.model
    dataset = [(picture(seed), "describe the image") for seed in range(6)]
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))

    def states() -> States:
        at = "blocks.1.hook_resid_pre"
        options = {"positions": "last", "dtype": "float32", "batch_size": 3, "progress": False}
        return collect(model, dataset, at=at, **options).at()  # type: ignore[arg-type]

    base = states()
    with model.intervene(Add("blocks.0.hook_resid_post", direction)):
        tuned = states()
    shift = concept_shift(base, tuned, extract_concepts(base, 2, method="kmeans"))
    torch.testing.assert_close(shift.vectors, direction.double().expand(2, -1), atol=1e-4, rtol=1e-4)
    assert float(shift.consistency.nan_to_num(1.0).min()) > 0.999
    assert shift.fate == ("kept", "kept")


def test_choices_that_do_not_exist_are_refused() -> None:
    planted = planted_shift()
    bank = extract_concepts(planted.base, 2, method="kmeans")
    both = (planted.base, planted.tuned)
    with pytest.raises(InputError, match="average='mode' must be 'mean', 'median' or 'trimmed'"):
        concept_shift(*both, bank, average="mode")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="match='best' must be 'hungarian', 'greedy' or 'optimal_transport'"):
        concept_shift(*both, bank, match="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top_samples=0 must be at least 1"):
        concept_shift(*both, bank, top_samples=0)
    with pytest.raises(
        InputError, match=r"directions at blocks.9 \[sample d_model=32\], but the states are of blocks.1"
    ):
        concept_shift(*both, replace(bank, at="blocks.9"))
    shift = concept_shift(*both, bank)
    with pytest.raises(InputError, match="quantity='size' must be 'recovery', 'cosine_gain'"):
        shift.mean("size")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"concepts 0..1, not 2"):
        shift.steering_vector(2)


def test_correlations_are_of_what_is_known() -> None:
    shift = planted_shift(noise=2.0).measured()
    x, y = shift.consistency.numpy(), shift.recovery.numpy()
    r, _, count, *_ = shift.correlation()
    assert (r, count) == (pytest.approx(np.corrcoef(x, y)[0, 1]), CONCEPTS)
    assert np.isnan(correlation_of(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])).r)
    assert np.isnan(correlation_of(torch.ones(3), torch.tensor([1.0, 3.0, 2.0])).p)


@pytest.mark.parametrize("pairs", ["all", "none"])
def test_shifts_survive_files(pairs: str, tmp_path: Path) -> None:
    shift = planted_shift().measured(pairs=pairs)
    shift.save(tmp_path / "shift.safetensors")
    again = ConceptShift.load(tmp_path / "shift.safetensors")
    assert again.to_frame().equals(shift.to_frame())
    assert (again.most_active, again.fate, again.source) == (shift.most_active, shift.fate, ("base", "tuned"))
    for name in get_args(Quantity):
        assert torch.equal(again.values(name).nan_to_num(), shift.values(name).nan_to_num())
    bank = extract_concepts(planted_shift().base, 2, method="kmeans")
    bank.save(tmp_path / "bank.safetensors")
    with pytest.raises(InputError, match=r"is no concept shift \(format 'mmlens.ConceptBank/1'"):
        ConceptShift.load(tmp_path / "bank.safetensors")
