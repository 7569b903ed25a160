"""A dictionary's card: sums by hand over each sample's own rows, losses of Hugging Face with the states replaced."""

import pytest
import torch

import mmlens as mm
from mmlens.analysis.features.dictionary import SparseDictionary
from tests.analysis.features.test_splice import SITES, dictionary, made
from tests.tiny import picture

TEXTS = ["describe the image", "what color is the big circle"]


@pytest.mark.parametrize("site", [SITES[0], SITES[1]])
@torch.no_grad()
def test_a_card_is_what_rows_alone_say(site: str) -> None:
    model, batch = made("llava")
    sae = dictionary(model, site, activation="topk", k=8)
    card = mm.features.sae_card(model, sae, batch)
    alone = [model.prepare(text, images=picture(number)) for number, text in enumerate(TEXTS)]
    rows: dict[str, list[torch.Tensor]] = {"image": [], "text": []}
    losses, count = torch.zeros(3), 0
    for one in alone:
        states = model.run_with_cache(one, names=site)[1][site][0]
        is_image = one.layout.is_image[0] if site == SITES[0] else torch.ones(len(states), dtype=torch.bool)
        rows["image"].append(states[is_image])
        rows["text"].append(states[~is_image] if site == SITES[0] else states[:0])
        ids = one["input_ids"][0]
        target = ~one.layout.is_image[0, 1:]
        for number, change in enumerate((lambda y: y, lambda y: sae.decode(sae.encode(y)), torch.zeros_like)):
            logits = model.run_with_hooks(one, fwd_hooks=[(site, lambda y, hook, change=change: change(y))])[0]
            chosen = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
            losses[number] += chosen[target].sum()
        count += int(target.sum())
    assert set(card.kinds) == {kind for kind, states in rows.items() if torch.cat(states).numel()}
    fired = torch.zeros(len(sae))
    for kind, quality in card.kinds.items():
        y = torch.cat(rows[kind])
        codes = sae.encode(y)
        spread = ((y - y.mean(0)) ** 2).sum()
        assert quality.rows == len(y)
        assert quality.explained_variance == pytest.approx(
            float(1 - ((y - sae.decode(codes)) ** 2).sum() / spread), abs=1e-5
        )
        assert quality.l0 == pytest.approx(float((codes != 0).sum(1).float().mean()), abs=1e-6)
        fired += (codes != 0).sum(0)
    total = sum(quality.rows for quality in card.kinds.values())
    torch.testing.assert_close(card.firing, fired / total, atol=1e-6, rtol=1e-6)
    assert card.dead == pytest.approx(float((fired == 0).float().mean()))
    expected = losses / count
    for value, loss in zip((card.ce, card.ce_replaced, card.ce_zero), expected.tolist(), strict=True):
        assert value == pytest.approx(loss, abs=1e-4)
    recovered = (expected[2] - expected[1]) / (expected[2] - expected[0])
    assert card.ce_recovered == pytest.approx(float(recovered), abs=1e-3)


def test_a_dictionary_that_gives_everything_back_loses_nothing() -> None:
    model, _ = made("llava")
    eye = torch.eye(32)
    W = torch.cat([eye, -eye])
    whole = SparseDictionary(W.T.contiguous(), torch.zeros(64), W, torch.zeros(32), SITES[0])
    nothing = SparseDictionary(W.T.contiguous(), torch.full((64,), -1e6), W, torch.zeros(32), SITES[0])
    samples = [mm.Sample((picture(number),), prompt=text) for number, text in enumerate(TEXTS)]
    card = mm.features.sae_card(model, whole, samples, batch_size=1)
    assert [quality.explained_variance for quality in card.kinds.values()] == pytest.approx([1.0, 1.0], abs=1e-6)
    assert card.ce_recovered == pytest.approx(1.0, abs=1e-4)
    assert card.n_samples == 2
    assert card.kinds["image"].l0 == pytest.approx(32.0, abs=0.5)
    empty = mm.features.sae_card(model, nothing, samples)
    assert empty.ce_recovered == pytest.approx(0.0, abs=1e-4)
    assert empty.dead == 1.0
    assert all(quality.l0 == 0 and quality.explained_variance <= 0 for quality in empty.kinds.values())


def test_the_cross_entropy_of_answers_alone() -> None:
    model, batch = made("llava")
    sae = dictionary(model, SITES[0], activation="topk", k=8)
    answered = model.extend(batch, torch.tensor([[20, 21, 22], [23, 24, 25]]))
    card = mm.features.sae_card(model, sae, answered, last=3)
    with torch.no_grad():
        logits = model(answered)[:, -4:-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answered["input_ids"][:, -3:].flatten())
    assert card.ce == pytest.approx(float(expected), abs=1e-5)
    assert card.kinds == mm.features.sae_card(model, sae, answered).kinds


def test_monosemanticity_is_the_mean_over_pairs() -> None:
    make = torch.Generator().manual_seed(0)
    codes, embeddings = torch.rand(30, 6, generator=make), torch.randn(30, 9, generator=make)
    codes[:, 4] = 2.0  # the same on every picture
    codes[:, 5] = torch.eye(30)[3]  # strong on one alone
    found = mm.features.monosemanticity(codes, embeddings)
    cosines = torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings[None], dim=-1)
    for feature in range(4):
        r = (codes[:, feature] - codes[:, feature].min()) / (codes[:, feature].max() - codes[:, feature].min())
        pairs = [(n, m) for n in range(30) for m in range(n + 1, 30)]
        weights = torch.stack([r[n] * r[m] for n, m in pairs])
        expected = (weights * torch.stack([cosines[n, m] for n, m in pairs])).sum() / weights.sum()
        assert float(found[feature]) == pytest.approx(float(expected), abs=1e-5)
    assert found[4:].isnan().all()
    with pytest.raises(mm.InputError, match="at least two pictures, found codes of 30 and embeddings of 29"):
        mm.features.monosemanticity(codes, embeddings[1:])
