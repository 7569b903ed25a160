"""Ranking heads: the planted one comes first and its box is found; on the twin and on shuffled pictures it is not."""

import math
from pathlib import Path

import pytest
import torch

import mmlens as mm
from mmlens.analysis.heads.methods.localisation import LocalisationHeads, elbow
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject


@pytest.mark.parametrize("method", ["localisation", "visual"])
def test_a_planted_head_is_ranked_first_and_not_on_the_twin(method: str) -> None:
    planted = mm.lab.planted("direct_flow")
    samples = [mm.Sample((planted.image(seed=seed),), planted.prompt) for seed in range(4)]
    truth = mm.Head(planted.truth.head_layer, planted.truth.head)
    rankings = {
        side: mm.rank_heads(HookedMultimodal.from_hf(hf, planted.processor), samples, method=method, progress=False)
        for side, hf in (("planted", planted.model), ("twin", planted.twin))
    }
    assert rankings["planted"].top(1)[0] == truth
    readings = {side: ranking.readings["entropy"][truth.layer, truth.index] for side, ranking in rankings.items()}
    assert readings["planted"] < 0.05
    assert not readings["twin"] < 0.5  # NaN where nothing stands out
    model = HookedMultimodal.from_hf(planted.model, planted.processor)
    batch = model.prepare([planted.prompt], images=[[samples[0].images[0]]])
    (heat,) = mm.attention_map(model, batch, heads=rankings["planted"].top(1))
    assert heat is not None
    assert divmod(int(heat.values.argmax()), 3) == (planted.truth.row, planted.truth.column)
    regions = [mm.Sample(s.images, s.prompt, boxes={"patch": (planted.truth.box,)}) for s in samples[:1]]
    table = mm.lenses.score_maps([heat], regions)
    assert table["pointing"].value == 1.0
    assert table["inside"].value > 2 * table["area"].value


def test_entropy_and_elbow_by_hand() -> None:
    method = LocalisationHeads()
    empty, one, two = torch.zeros(6, 6), torch.zeros(6, 6), torch.zeros(6, 6)
    one[1:3, 1:3] = 0.1
    two[0, 0] = two[5, 5] = 0.1
    raster = torch.stack([empty, one, two])[None]
    entropy = method.read(raster.flatten(2), raster)["entropy"][0]
    assert math.isinf(entropy[0])
    assert entropy[1] == 0
    assert float(entropy[2]) == pytest.approx(math.log(2))
    diagonal = torch.zeros(6, 6)
    diagonal[range(6), range(6)] = 0.1  # neighbours by their corners are one component
    assert method.read(diagonal.flatten()[None, None], diagonal[None, None])["entropy"][0, 0] == 0
    # 50 planted strong heads among 1024: as many are candidates, and the height of the elbow itself
    generator = torch.Generator().manual_seed(0)
    sums = torch.cat([0.2 * torch.rand(974, generator=generator), 0.8 + 0.2 * torch.rand(50, generator=generator)])
    assert int((sums >= elbow(sums)).sum()) == 51


def test_a_head_with_nothing_to_see_is_ranked_in_no_sample() -> None:
    method = LocalisationHeads(best=2)
    entropy = torch.tensor([[[math.inf, 0.5, 0.2, 0.9]], [[math.inf, 0.1, 0.2, 0.9]]])
    score, _ = method.score({"attention": torch.full((2, 1, 4), 0.5), "entropy": entropy})
    assert score.tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_readings_are_those_of_the_pattern(subject: Subject, tmp_path: Path) -> None:
    model, batch = subject.model, subject.batches["left"]
    if subject.name == "instructblip":
        with pytest.raises(NoPlaceError):
            mm.rank_heads(model, batch)
        return
    ranking = mm.rank_heads(model, batch, method="visual", layers=[1, 2])
    _, cache = model.run_with_cache(batch, names="blocks.*.attn.hook_pattern")
    for number, layer in enumerate((1, 2)):
        shares = (cache[f"blocks.{layer}.attn.hook_pattern"][:, :, -1] * batch.layout.is_image[:, None]).sum(-1).mean(0)
        torch.testing.assert_close(ranking.scores[number], shares)
        assert ranking[mm.Head(layer, 1)] == pytest.approx(float(shares[1]))
    boxes = [(0, 0, place.size[1], place.size[0] // 2) for place in batch.layout.places]
    upper = mm.rank_heads(model, batch, method="visual", layers=[1, 2], keys=mm.positions.box(boxes))
    rows = [batch.layout.patches(box, sample=sample) for sample, box in enumerate(boxes)]
    pattern = cache["blocks.2.attn.hook_pattern"][:, :, -1]
    truth = torch.stack([pattern[sample, :, patches].sum(-1) for sample, patches in enumerate(rows)]).mean(0)
    torch.testing.assert_close(upper.scores[1], truth)
    assert (upper.scores < ranking.scores).all()
    with pytest.raises(InputError, match="no patch of the picture"):
        mm.rank_heads(model, batch, keys="last")
    best = ranking.top(1)[0]
    assert ranking[best] == pytest.approx(float(ranking.scores.max()))
    assert ranking.to_frame().iloc[0]["head"] == str(best)
    ranking.save(tmp_path / "ranking")
    again = mm.lenses.HeadRanking.load(tmp_path / "ranking")
    assert again.top(4) == ranking.top(4)
    assert again.plot().axes
    with pytest.raises(InputError, match="was not ranked"):
        ranking[mm.Head(0, 0)]
    with pytest.raises(InputError, match="No sample has a picture"):
        mm.rank_heads(model, [mm.Sample((), "describe the image")], progress=False)
