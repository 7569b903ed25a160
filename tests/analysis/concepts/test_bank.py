"""Every method keeps one contract; concepts that were planted in a model are found; banks survive files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from mmlens import lab
from mmlens.analysis.concepts.bank import ConceptBank, word_overlap
from mmlens.analysis.concepts.coders import NonNegative
from mmlens.analysis.concepts.extract import choose_n_concepts, extract_concepts
from mmlens.analysis.concepts.methods import CONCEPT_METHODS
from mmlens.analysis.concepts.methods.semi_nmf import SemiNMF
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.concepts.test_semi_nmf import planted
from tests.conftest import Subject
from tests.tiny import picture

METHODS = CONCEPT_METHODS.names


def states(*, positive: bool = False, **options: Any) -> States:
    values, _ = planted(120, 24, 4, noise=0.3, **options)
    values = values.abs() if positive else values
    return States(
        values, "blocks.1.hook_resid_post", keys=tuple(map(str, range(120))), tokens=("dog",) * 120, source="m"
    )


def bank_by(method: str) -> tuple[States, ConceptBank]:
    made = states(positive=method == "nmf")
    return made, extract_concepts(made, 4, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_one_contract(method: str) -> None:
    made, bank = bank_by(method)
    torch.testing.assert_close(bank.encode(made), bank.codes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bank.activations(made.values), bank.activation, atol=1e-4, rtol=1e-4)
    left = made.values - bank.decode(bank.codes)
    error = float(left.double().square().sum() / made.values.double().square().sum())
    assert bank.reconstruction_error == pytest.approx(error, rel=1e-4)
    assert bank.reconstruction_error > 0
    assert bank.reconstruction_error < 1 or method == "simple"  # whose samples may be worse than nothing
    again = extract_concepts(made, 4, method=method)
    assert torch.equal(again.vectors, bank.vectors)
    assert torch.equal(bank.activation.argmax(1), bank.codes.argmax(1)) or method == "pca"
    assert bank.keys == made.keys


def test_kmeans_pca_and_simple_are_what_their_names_say() -> None:
    made = states()
    data = made.values.numpy()
    centres = KMeans(4, n_init=10, random_state=0).fit(data)
    _, kmeans = bank_by("kmeans")
    np.testing.assert_allclose(kmeans.vectors.numpy(), centres.cluster_centers_, atol=1e-5)
    assert kmeans.codes.argmax(1).tolist() == centres.labels_.tolist()
    distances = np.linalg.norm(data[:, None] - centres.cluster_centers_[None], axis=-1)
    np.testing.assert_allclose(kmeans.activation.numpy(), 1 / (1 + distances), atol=1e-4)
    _, pca = bank_by("pca")
    np.testing.assert_allclose(pca.codes.numpy(), PCA(4, random_state=0).fit_transform(data), atol=1e-3)
    _, simple = bank_by("simple")
    longest = np.argsort(-np.linalg.norm(data, axis=1))[:4]
    np.testing.assert_array_equal(simple.vectors.numpy(), data[longest])
    _, nmf = bank_by("nmf")
    assert bool((nmf.vectors >= 0).all())
    assert bool((nmf.codes >= 0).all())


def test_a_direction_that_was_planted_in_a_model_is_found_and_its_twin_has_none() -> None:
    """One half of the pictures has the cause; the state at the answer moves along the planted direction and nowhere else."""
    made = lab.planted("direction")
    dataset = [(made.image(number % 2 == 0, seed=number), made.prompt) for number in range(24)]
    found = {}
    for name, hf_model in (("planted", made.model), ("twin", made.twin)):
        model = HookedMultimodal.from_hf(hf_model, made.processor)
        options: dict[str, Any] = {"at": "blocks.0.hook_resid_post", "positions": "last"}
        found[name] = collect(model, dataset, dtype="float32", batch_size=24, progress=False, **options).at()
    direction = made.truth.direction
    assert direction is not None
    pca = extract_concepts(found["planted"], 1, method="pca").vectors[0]
    assert abs(float(pca @ direction)) >= 0.99
    centres = extract_concepts(found["planted"], 2, method="kmeans").vectors
    between = torch.nn.functional.normalize(centres[0] - centres[1], dim=0)
    assert abs(float(between @ direction)) >= 0.99
    mixed = extract_concepts(found["planted"], 2, method=SemiNMF(penalty=0.01))
    span = torch.linalg.qr(mixed.vectors.T).Q
    assert float((span.T @ direction).norm()) >= 0.99
    cause = torch.tensor([number % 2 == 0 for number in range(24)])
    assert mixed.dominant()[cause].unique().tolist() != mixed.dominant()[~cause].unique().tolist()
    assert float((found["twin"].values @ direction).std()) < 1e-3 * float((found["planted"].values @ direction).std())


def test_the_most_active_states_come_first() -> None:
    _, bank = bank_by("pca")
    for concept, rows in enumerate(bank.top(5)):
        assert rows == bank.codes[:, concept].abs().topk(5).indices.tolist()
    for concept, rows in enumerate(bank.top(5, by="signed")):
        assert rows == bank.codes[:, concept].topk(5).indices.tolist()
    _, sparse = bank_by("semi_nmf")
    counts = [len(rows) for rows in sparse.top(120)]
    assert counts == (sparse.codes > 0).sum(0).tolist()  # where a concept is not active at all, no state stands for it
    frame = bank.to_frame()
    assert frame["dominant"].sum() == pytest.approx(1)
    with pytest.raises(InputError, match="by='size' must be 'absolute' or 'signed'"):
        bank.top(by="size")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_banks_survive_files(method: str, tmp_path: Path) -> None:
    made, bank = bank_by(method)
    bank.save(tmp_path / "bank.safetensors")
    again = ConceptBank.load(tmp_path / "bank.safetensors")
    for name in ("at", "method", "settings", "reconstruction_error", "keys", "tokens", "captions", "objective"):
        assert getattr(again, name) == getattr(bank, name)
    assert torch.equal(again.codes, bank.codes)
    assert torch.equal(again.activation, bank.activation)
    torch.testing.assert_close(again.encode(made), bank.encode(made), atol=1e-5, rtol=1e-5)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="is no concept bank"):
        ConceptBank.load(tmp_path / "other.safetensors")


def test_the_number_of_concepts_is_the_first_that_halves_the_error() -> None:
    values, _ = planted(80, 24, 4, noise=0.05)
    made = States(values, "here")
    chosen = choose_n_concepts(made, numbers=(1, 2, 3, 4), method=SemiNMF(penalty=0.1))
    errors = chosen.errors
    assert errors[3] == extract_concepts(made, 4, method=SemiNMF(penalty=0.1)).reconstruction_error
    assert chosen.n_concepts == next(
        n for n, error in zip(chosen.numbers, errors, strict=True) if error <= errors[0] / 2
    )
    assert errors[3] < 0.01 * errors[0]  # four were planted
    with pytest.raises(
        InputError, match=r"With 2 concepts \d+% of the error of 1 is left, so a drop of 99% is not reached"
    ):
        choose_n_concepts(made, numbers=(1, 2), drop=0.99)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"n_concepts": 25}, r"n_concepts=25 must lie in 1\.\.24: there are 120 states of width 24"),
        ({}, {"method": "knn"}, r"method='knn' is unknown; for finding concepts there are 'kmeans', .*'semi_nmf'"),
        ({}, {"method": "nmf"}, "needs states that are nowhere negative"),
        ({"values": torch.zeros(120, 4, 6)}, {}, r"are \[120, 4, 6\]; choose a point of the stream, or flatten"),
        ({"values": torch.full((120, 24), torch.nan)}, {}, r"The states \[0, 1, 2, 3, 4\] are not finite"),
    ],
)
def test_what_cannot_be_decomposed_is_refused(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        extract_concepts(replace(states(), **change), **{"n_concepts": 4, **options})


@pytest.mark.parametrize("penalty", [-1.0, float("nan"), float("inf")])
def test_a_penalty_is_a_finite_number(penalty: float) -> None:
    with pytest.raises(InputError, match=rf"penalty={penalty} must be (a finite number|at least 0)"):
        SemiNMF(penalty=penalty)


@pytest.mark.parametrize("method", METHODS)
def test_a_need_that_is_not_met_is_refused(method: str) -> None:
    cls = CONCEPT_METHODS[method]
    assert cls.needs <= {"states that are not negative", "batches of at least n_concepts states"}
    made = states(positive=method == "nmf")
    few: dict[str, Any] = {"method": method, "batch_size": 3}
    if "batches of at least n_concepts states" in cls.needs:
        with pytest.raises(InputError, match=rf"batch_size=3 must be at least n_concepts=4 for method='{method}'"):
            extract_concepts(made, 4, **few)
    else:
        assert len(extract_concepts(made, 4, **few)) == 4
    if "states that are not negative" in cls.needs:
        with pytest.raises(InputError, match=f"method='{method}' needs states that are nowhere negative"):
            extract_concepts(states(), 4, method=method)
    elif method != "nmf":
        assert len(extract_concepts(states(), 4, method=method)) == 4


def test_codes_that_the_method_solved_for_are_not_solved_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = states()
    expected = extract_concepts(made, 4, method="semi_nmf")
    monkeypatch.setattr(NonNegative, "encode", lambda *_: pytest.fail("codes were solved for again"))
    found = extract_concepts(made, 4, method="semi_nmf")
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.activation, expected.activation)


def test_a_bare_tensor_is_told_what_it_lacks() -> None:
    with pytest.raises(
        InputError,
        match=r"states=<tensor float32 \[\d+, \d+\]> must be states of one point; mm\.collect\(\.\.\.\)\.at\(point\) gives them, "
        r"and tensors become them by mm\.store\.States\(tensor, at=name\)",
    ):
        extract_concepts(states().values, 4)  # type: ignore[arg-type]
    given = States(states().values, at="blocks.1.hook_resid_post")
    assert torch.equal(extract_concepts(given, 4).vectors, extract_concepts(states(), 4).vectors)


def test_states_of_another_point_are_refused() -> None:
    made, bank = bank_by("semi_nmf")
    with pytest.raises(
        InputError, match=r"are directions at blocks\.1.* but the states are of blocks\.2\.hook_resid_post"
    ):
        bank.encode(replace(made, at="blocks.2.hook_resid_post"))
    with pytest.raises(InputError, match=r"codes must be \[sample concept=4\], found \[3, 7\]"):
        bank.decode(torch.zeros(3, 7))


def dictionary(**settings: Any) -> SparseDictionary:
    make = torch.Generator().manual_seed(0)
    W_enc, W_dec = torch.randn(24, 40, generator=make), torch.randn(40, 24, generator=make)
    b_enc, b_dec = torch.randn(40, generator=make), torch.randn(24, generator=make)
    return SparseDictionary(W_enc, b_enc, W_dec, b_dec, "blocks.1.hook_resid_post", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "topk", "k": 3},
        {"activation": "jumprelu", "threshold": torch.linspace(-1, 4, 40), "centred": False},
    ],
    ids=["relu", "topk", "jumprelu"],
)
def test_autoencoders_from_outside_keep_the_contract(settings: dict[str, Any], tmp_path: Path) -> None:
    made, sae = states(), dictionary(**settings)
    bank = ConceptBank.from_sae(sae, states=made)
    # by hand, a state at a time
    for state, code in zip(made.values[:20], bank.codes[:20], strict=True):
        hidden = (state - sae.b_dec if sae.centred else state) @ sae.W_enc + sae.b_enc
        expected = hidden.clamp_min(0)
        if sae.threshold is not None:
            expected = torch.where(hidden > sae.threshold, expected, 0)
        if sae.k:
            expected = torch.where(hidden >= hidden.sort(descending=True).values[2], expected, 0)
        torch.testing.assert_close(code, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(bank.decode(code[None])[0], expected @ sae.W_dec + sae.b_dec, atol=1e-3, rtol=1e-3)
    bank.save(tmp_path / "bank.safetensors")
    again = ConceptBank.load(tmp_path / "bank.safetensors").encode(made)
    assert torch.equal(again, bank.encode(made))


def test_what_is_no_bank_of_concepts_is_refused() -> None:
    with pytest.raises(InputError, match=r"are directions at blocks\.1\.hook_resid_post \[sample d_model=24\]"):
        ConceptBank.from_sae(dictionary(), states=replace(states(), at="blocks.2.hook_resid_post"))
    with pytest.raises(InputError, match=r"reads blocks\.1\.mlp\.hook_in; use it as features"):
        ConceptBank.from_sae(dictionary(at_in="blocks.1.mlp.hook_in"))
    with pytest.raises(InputError, match="gives each state its own norm back; use it as features"):
        ConceptBank.from_sae(dictionary(normalization="layer_norm"))


def test_overlap_is_the_papers_formula() -> None:
    words = [["a", "b", "c"], ["c", "d"], []]
    # 1/3 * 1/2 * (1/3 + 0/3 + 1/2 + 0/2 + 0 + 0)
    assert word_overlap(words) == pytest.approx((1 / 3 + 1 / 2) / 6)
    with pytest.raises(InputError, match="found 1, it takes two"):
        word_overlap([["a"]])


@pytest.mark.parametrize(
    "method", [cls.name for cls in CONCEPT_METHODS if "states that are not negative" not in cls.needs]
)
def test_concepts_of_every_family(subject: Subject, method: str) -> None:
    """Encoding one state at a time, from a forward of its own, gives the codes of the whole bank."""
    dataset = [picture(seed) for seed in range(6)]
    options: dict[str, Any] = {
        "at": "blocks.1.hook_resid_post",
        "positions": "last",
        "dtype": "float32",
    }
    store = collect(subject.model, dataset, batch_size=3, progress=False, **options)
    bank = extract_concepts(store, 3, method=SemiNMF(penalty=0.1) if method == "semi_nmf" else method)
    for number, image in enumerate(dataset):
        batch = subject.model.prepare("describe the image", images=image)
        _, cache = subject.model.run_with_cache(batch, names="blocks.1.hook_resid_post", positions="last")
        alone = bank.encode(cache["blocks.1.hook_resid_post"][:, 0])
        torch.testing.assert_close(alone[0], bank.codes[number], atol=1e-3, rtol=1e-3)
