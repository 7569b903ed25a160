"""`concept_shift`: what fine-tuning does to each concept."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int

from mmlens.analysis.concepts.bank import By, ConceptBank
from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.concepts.methods import CONCEPT_METHODS
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.shift.fates import contingency, fates
from mmlens.analysis.shift.matching import Match, match_concepts
from mmlens.analysis.shift.measures import Average, average_shift, consistency_of
from mmlens.analysis.shift.pairing import Pairs, paired
from mmlens.analysis.shift.result import ConceptShift, MostActive
from mmlens.analysis.store.states import States
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count

_MOST_ACTIVE = 50


@checked
@torch.no_grad()
def concept_shift(
    base_states: States,
    tuned_states: States,
    bank: ConceptBank,
    tuned_bank: ConceptBank | None = None,
    *,
    pairs: Pairs = "all",
    match: Match = "hungarian",
    average: Average = "mean",
    alpha: float = 1.0,
    by: By = "absolute",
    top_samples: Count | None = None,
) -> ConceptShift:
    """Measure how concepts move when a model is tuned, and whether moving them so gives the tuned model's concepts.

        A_k = {m : k = argmax_i |v_i(x_m)|}        the samples of concept k, in the base model
        d_m = b_m - a_m                            how far the state of sample m moved
        D_k = mean of d_m over A_k
        u_k + alpha * D_k                          the shifted concept, beside its match among the tuned model's

    Concepts are best places where states lie: k-means, as in the paper, or simple. Those of a dictionary (semi-NMF, NMF, sparse
    autoencoders) are directions, of which a state holds a number, its code; the shift is divided by the mean code over `A_k`,
    which is 1 for places. Principal components have no sign and start from a mean: shifting them says little.

    With `pairs="none"` the two sets are of different samples (one model, two datasets). Then `D_k` is the mean of the matched
    tuned concept's states minus the mean of `A_k`: such a shift ends at its match, so that recovery says nothing, and there is
    no consistency.

    Args:
        base_states: states of the base model.
        tuned_states: states of the tuned model (`with model.adapter("name"):`) on the same samples, at the same point.
        bank: concepts of the base model at this point.
        tuned_bank: those of the tuned model; found in `tuned_states` as those of `bank` were (method, settings, number) if None.
        pairs: `"all"`: each sample must be in both sets; `"common"`: those that both have (the paper: both captions have the
            word); `"none"`: see above. Samples are told by hash and word.
        match: how concepts are matched; see `match_concepts`.
        average: of a concept's shifts: the median (or trimmed mean) of its samples' differences, not the difference of two
            medians; those, without pairs.
        alpha: how much of the shift is added.
        by: the concept of a sample is the one with the largest activation by size (the paper) or by value (its code).
        top_samples: how many of the most active samples are compared; by default 50, or a quarter of all if that is less.

    Returns:
        Shift, magnitude, consistency, recovery and fate of each concept.

    Raises:
        InputError: for states that are no pairs, concepts of another point, or an unknown choice.

    Example:
        >>> import mmlens as mm
        >>> values = 9 * torch.eye(8)[torch.arange(40) % 3] + 0.1 * torch.randn(40, 8)
        >>> base = mm.store.States(values, "blocks.1.hook_resid_post", keys=tuple(map(str, range(40))))
        >>> tuned = mm.store.States(base.values + 1, base.at, keys=base.keys)
        >>> mm.concept_shift(base, tuned, mm.extract_concepts(base, 3, method="kmeans")).fate
        ('kept', 'kept', 'kept')

    Source: Khayatan, Shukor, Parekh, Dapogny, Cord, "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering
    Alignment", ICCV 2025 (https://arxiv.org/abs/2501.03012), section on concept shift.
    *Departs:* overlaps are shares of what there is, not of a fixed 15 or 50; samples in which no concept is active belong to
    none; shifts of dictionaries are in the unit of codes (the paper has k-means alone); fates are decided by where samples go.
    Shifts are in double precision.
    """
    base, target_states = paired(base_states, tuned_states, pairs=pairs)
    before = _bank_of(bank, base)
    owner = _owners(before, by)
    target_bank = _alike(bank, tuned_states) if tuned_bank is None else tuned_bank
    after = _bank_of(target_bank, target_states)
    other = _owners(after, by)
    count = len(bank)
    n_samples = torch.bincount(owner[owner >= 0], minlength=count)
    target_counts = torch.bincount(other[other >= 0], minlength=len(target_bank))
    partners = match_concepts(bank.vectors, target_bank.vectors, match=match, masses=(n_samples, target_counts))
    start, end = base.values.double().cpu(), target_states.values.double().cpu()
    shifts = torch.zeros(0, bank.vectors.shape[1], dtype=torch.double)
    if pairs == "none":
        ends = [(start[owner == k], end[(other == j) & (other >= 0)]) for k, j in enumerate(partners.tolist())]
        changes = [average_shift(b, average) - average_shift(a, average) for a, b in ends]
        consistency = torch.full((count,), torch.nan, dtype=torch.double)
        origin = _owners(_bank_of(bank, target_states), by)
    else:
        shifts = end - start
        changes = [average_shift(shifts[owner == k], average) for k in range(count)]
        consistency = torch.tensor([consistency_of(shifts[owner == k]) for k in range(count)], dtype=torch.double)
        origin = owner
    fate, extra = fates(contingency(origin, other, (count, len(target_bank))), partners)
    if pairs == "none":  # no sample of the new data holds what samples of the old did
        fate = tuple("vanished" if f == "empty" and n else f for f, n in zip(fate, n_samples.tolist(), strict=True))
    result = ConceptShift(
        torch.stack(changes), bank.vectors.double().cpu(), target_bank.vectors.double().cpu(), partners, consistency,
        n_samples, owner, _units(before, owner), shifts, alpha, fate, extra, None, bank.at, match, average,
        (base.source, target_states.source),
    )  # fmt: skip
    if pairs == "none":
        return result
    k = top_samples or min(_MOST_ACTIVE, max(1, len(base) // 4))
    return replace(result, most_active=_most_active(result, before, after, bank, target_states, k, by))


def _alike(bank: ConceptBank, states: States) -> ConceptBank:
    """Concepts of other states, found as those of a bank were."""
    if bank.method not in CONCEPT_METHODS:
        raise InputError(
            f"The concepts were found by {bank.method!r}, which is not fitted here (a sparse autoencoder is trained elsewhere); "
            "give those of the tuned model: tuned_bank=mm.concepts.ConceptBank.from_sae(mm.load_sae(path), states=tuned_states)."
        )
    return extract_concepts(states, len(bank), method=CONCEPT_METHODS[bank.method](**bank.settings))


def _bank_of(bank: ConceptBank, states: States) -> ConceptBank:
    """The same concepts, with the activations of other states."""
    if bank.at != states.at or states.values.ndim != 2 or states.values.shape[1] != bank.vectors.shape[1]:
        raise InputError(
            f"The concepts are directions at {bank.at} [sample d_model={bank.vectors.shape[1]}], but the states are of "
            f"{states.at} {list(states.values.shape)}; take both at one point."
        )
    return ConceptBank.of(bank.coder, states, method=bank.method)


def _owners(bank: ConceptBank, by: By) -> Int[torch.Tensor, "sample"]:
    """The most active concept of each state; -1 where none is active."""
    best = bank.strengths(by).max(1)
    return torch.where(best.values > 0, best.indices, -1)


def _units(bank: ConceptBank, owner: Int[torch.Tensor, "sample"]) -> Float[torch.Tensor, "concept"]:
    """The mean size of each concept's code over its samples; NaN without any."""
    codes = bank.codes.double().abs()
    return torch.stack([codes[owner == k, k].mean() for k in range(len(bank))])


def _most_active(
    shift: ConceptShift,
    before: ConceptBank,
    after: ConceptBank,
    bank: ConceptBank,
    target_states: States,
    k: int,
    by: By,
) -> MostActive:
    """The samples of each concept: before, shifted (among the tuned model's states), and of its match."""
    finite = shift.vectors.isfinite().all(1)
    vectors: Float[torch.Tensor, "concept d_model"] = torch.where(finite[:, None], shift.shifted, shift.base)
    coder: Any = bank.coder
    name = "W_dec" if isinstance(coder, SparseDictionary) else "vectors"
    shifted_bank = ConceptBank.of(replace(coder, **{name: vectors.to(bank.vectors)}), target_states, method=bank.method)
    first, second, last = (
        [tuple(bank_of_side.keys[row] for row in rows) for rows in bank_of_side.top(k, by=by)]
        for bank_of_side in (before, shifted_bank, after)
    )
    return MostActive(
        tuple(first),
        tuple(rows if ok else () for rows, ok in zip(second, finite.tolist(), strict=True)),
        tuple(last[j] if j >= 0 else () for j in shift.match.tolist()),
    )
