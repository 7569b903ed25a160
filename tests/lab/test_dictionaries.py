"""The captioner's sparse dictionaries: what is shipped, how good it is, and whether its card's truth holds on fresh scenes."""

import json

import pytest
import torch

import mmlens as mm
from mmlens.lab.checkpoints import DICTIONARIES
from mmlens.lab.training.dictionary_truth import TRUTHS, choose, truth_of

NAMES = {"language": 1, "vision": 1, "projector": 1, "transcoders": 6, "vision_transcoders": 4}


@pytest.fixture(scope="module")
def lab() -> mm.HookedMultimodal:
    return mm.lab.load()


def test_what_is_shipped() -> None:
    files = [path for path in DICTIONARIES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8e6
    assert {name: len(mm.lab.dictionaries(name)) for name in NAMES} == NAMES
    for layer, transcoder in enumerate(mm.lab.dictionaries("transcoders")):
        assert (transcoder.at, transcoder.at_in) == (f"blocks.{layer}.hook_mlp_out", f"blocks.{layer}.mlp.hook_in")
        assert transcoder.W_skip is not None
    with pytest.raises(mm.InputError, match="transcoders"):
        mm.lab.dictionaries("transcoder")


@pytest.mark.parametrize("name", NAMES)
def test_they_give_fresh_states_back(name: str, lab: mm.HookedMultimodal) -> None:
    """On scenes that neither they nor their card have seen."""
    drawn = mm.lab.scenes(12, seed=611)
    batch = lab.prepare(["describe the image"] * 12, images=[scene.image for scene in drawn])
    words = [lab.to_tokens(scene.caption, prepend_bos=False)[0, :5] for scene in drawn]
    batch = lab.extend(batch, torch.stack(words))
    for sae in mm.lab.dictionaries(name):
        card = mm.features.sae_card(lab, sae, batch, last=5)
        for kind, quality in card.kinds.items():
            assert quality.explained_variance > 0.85, (sae.at, kind)
            assert 4 < quality.l0 < 60, (sae.at, kind)
        # of a layer whose zeros cost next to nothing, the share says little
        assert card.ce_recovered > 0.75 or card.ce_replaced - card.ce < 0.05, sae.at


def test_truth_is_what_scenes_show() -> None:
    scene = mm.lab.scene(seed=7)
    (truth,) = (truth_of([scene]).unflatten(0, (8, 8)),)
    named = dict(zip(TRUTHS, truth.unbind(-1), strict=True))
    for row, column in torch.cartesian_prod(torch.arange(8), torch.arange(8)).tolist():
        patch = (slice(12 * row, 12 * row + 12), slice(12 * column, 12 * column + 12))
        covers = [(thing, float(thing.mask[patch].mean())) for thing in scene.objects]
        for name, kind in TRUTHS.items():
            value = float(named[name][row, column])
            if kind == "place":
                empty = all(cover == 0 for _, cover in covers)
                assert value == (name == scene.place) if empty else value != value
            else:
                cover = max((c for thing, c in covers if name in (thing.color, thing.shape)), default=0.0)
                assert value == 1 if cover >= 0.5 else value == 0 if cover == 0 else value != value


def test_a_choice_is_the_best_of_all_by_hand() -> None:
    make = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (60, 5), generator=make).float()  # with ties
    truth = (scores[:, 1:4] + torch.randn(60, 3, generator=make) > 2).float()
    truth[::7] = torch.nan
    best = choose(scores, truth)

    def f1(candidate: int, threshold: float, number: int) -> float:
        says, known = scores[:, candidate] >= threshold, truth[:, number]
        right = float((says & (known == 1)).sum())
        return 2 * right / (2 * right + float((says & (known == 0)).sum()) + float((~says & (known == 1)).sum()))

    for number in range(3):
        by_hand = max(f1(candidate, threshold, number) for candidate in range(5) for threshold in range(4))
        assert by_hand > 0.5
        assert float(best.f1[number]) == pytest.approx(by_hand)
        assert f1(int(best.index[number]), float(best.threshold[number]), number) == pytest.approx(by_hand)
    torch.testing.assert_close(best.judged(scores, truth), best.f1)


def test_the_cards_truth_holds_on_fresh_scenes(lab: mm.HookedMultimodal) -> None:
    """Features and thresholds as the card has them, on other scenes: as good as it says, and better than the shuffled control."""
    card = json.loads((DICTIONARIES / "card.json").read_text())["dictionaries"]["language"]["truth"]
    drawn = mm.lab.scenes(60, seed=612)
    (sae,) = mm.lab.dictionaries("language")
    store = mm.collect(lab, drawn, at=sae.at, positions="image", dtype="float32", progress=False)
    codes, truth = sae.encode(store.at().values), truth_of(drawn)
    for method, low, high in (("feature", -0.12, 0.12), ("feature, truth of other scenes", -0.15, 0.15)):
        says = torch.stack([codes[:, entry["index"]] >= entry["threshold"] for entry in card[method].values()], 1)
        right, wrong = (says & (truth == 1)).sum(0), (says & (truth == 0)).sum(0)
        f1 = 2 * right / (right + wrong + (truth == 1).sum(0)).clamp_min(1)
        if method == "feature":
            stated = sum(entry["f1"] for entry in card[method].values()) / len(card[method])
            assert low < float(f1.mean()) - stated < high
            fresh = float(f1.mean())
        else:
            assert float(f1.mean()) < fresh - 0.3
