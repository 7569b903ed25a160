"""Back-patching, routes and ablated objects on planted models, where what they find is known, and on their twins."""

from dataclasses import replace

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject


def hooked(kind: str, *, twin: bool = False) -> tuple[HookedMultimodal, mm.MultimodalBatch]:
    planted = mm.lab.planted(kind)
    model = HookedMultimodal.from_hf(planted.twin if twin else planted.model, planted.processor)
    return model, model.prepare([planted.prompt] * 4, images=[[planted.image(seed=seed)] for seed in range(4)])


@pytest.mark.parametrize("twin", [False, True])
def test_an_answer_that_comes_too_late_is_given_back(twin: bool) -> None:
    """The colour is taken out of the embedded patch and comes back behind layer 1, where the head that reads it has been."""
    model, batch = hooked("direct_flow", twin=twin)
    with torch.no_grad():
        color = model.run_with_cache(batch, names="hook_embed")[1]["hook_embed"][0, batch.layout.image[0][4]]
    late = torch.zeros(32)
    late[12:15] = color[12:15]
    metric = mm.metrics.logit_difference("red", "black")
    patch = [batch.layout.image[s][4:5] for s in range(4)]
    with model.intervene(
        mm.Add("hook_embed", -late, positions=patch), mm.Add("blocks.1.hook_resid_post", late, positions=patch)
    ):
        sweep = mm.patching.back_patch(model, batch, metric=metric)
        text = mm.patching.back_patch(model, batch, metric=metric, positions="text")
    effect = sweep.effect.mean(-1)
    assert effect.isnan().sum() == 6  # not to an earlier layer
    if twin:
        assert effect.nan_to_num().abs().max() < 1.0
        return
    assert sweep.clean.max() < 0
    assert effect[1, 0] > 5
    assert effect[2, 0] > 5
    assert effect[2, 1].abs() < 0.5  # the head in layer 1 has read before
    assert text.effect.mean(-1)[1, 0] < 0.5 * effect[1, 0]
    best = mm.patching.split_best(sweep, control=text)
    assert best.group == "to layer 0"
    assert best.effect.low > 5
    assert best.control is not None
    assert best.beyond is not None
    assert best.beyond.mean == pytest.approx(best.effect.mean - best.control.mean)
    assert best.beyond.low > 2.5
    with pytest.raises(InputError, match="make both by the same call"):
        mm.patching.split_best(sweep, control=replace(text, points=text.points[::-1]))
    with pytest.raises(InputError, match="leaves no earlier layer"):
        mm.patching.back_patch(model, batch, metric=metric, window=3)


def test_a_pair_of_layers_that_is_best_by_chance_is_not_reported_as_good() -> None:
    """Noise in 6 x 6 cells: the best cell of all samples looks good on these, and is nothing on the others."""
    values = torch.randn(6, 6, 40, generator=torch.Generator().manual_seed(3))
    names = [f"blocks.{n}.hook_resid_post" for n in range(6)]
    sweep = mm.patching.PatchSweep(
        values, names, names, torch.zeros(40), torch.zeros(40), "back-patch", "m", boxes=(None,) * 6
    )
    found = [mm.patching.split_best(sweep, seed=seed) for seed in range(40)]
    assert sum(best.chosen_on for best in found) / 40 > 0.3
    assert abs(sum(best.effect.mean for best in found) / 40) < 0.15


def test_back_patching_by_hand(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    sweep = mm.patching.back_patch(model, batch, metric=mm.metrics.log_probability("red"))
    names = [f"blocks.{layer}.hook_resid_post" for layer in (0, 2)]
    _, cache = model.run_with_cache(batch, names=names)
    image = batch.layout.is_image[..., None]
    logits = model.run_with_hooks(batch, fwd_hooks=[(names[0], lambda x, hook: torch.where(image, cache[names[1]], x))])
    expected = logits[:, -1].log_softmax(-1)[:, model.to_single_token("red")]
    torch.testing.assert_close(sweep.values[2, 0], expected.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "open_route", "shut"),
    [("direct_flow", "image -> last", "image -> question"), ("question_flow", "question -> last", "image -> last")],
)
def test_the_planted_route_is_found(kind: str, open_route: str, shut: str) -> None:
    model, batch = hooked(kind)
    box = mm.lab.planted(kind).truth.box
    flow = mm.patching.information_flow(
        model, batch, metric=mm.metrics.probability("red"), window=3, progress=False,
    )  # fmt: skip
    lost = dict(zip(flow.groups, (-flow.effect / flow.clean).mean(-1).amax(0).tolist(), strict=True))
    assert lost[open_route] > 0.9
    assert lost[shut] < 0.1
    parted = mm.patching.information_flow(
        model, batch, metric=mm.metrics.probability("red"), window=3, objects=mm.positions.box(box), progress=False
    )
    by_route = dict(zip(parted.groups, (-parted.effect / parted.clean).mean(-1).amax(0).tolist(), strict=True))
    assert by_route["other patches -> question"] < 0.1
    assert (by_route["object -> question"] > 0.9) is (kind == "question_flow")


@pytest.mark.parametrize("twin", [False, True])
def test_an_ablated_object_takes_the_answer_along(twin: bool) -> None:
    model, batch = hooked("patch", twin=twin)
    planted = mm.lab.planted("patch")
    pictures = [mm.Sample((planted.image(color=color, seed=9),), planted.prompt) for color in ("red", "blue", "green")]
    mean = mm.patching.mean_image_row(model, pictures, progress=False)
    sweep = mm.patching.ablate_object(
        model, batch, objects=mm.positions.box(planted.truth.box), mean=mean, metric=mm.metrics.logit_difference("red", "black"),
        rings=(0, 1),
    )  # fmt: skip
    effect = dict(zip(sweep.groups, sweep.effect[0].mean(-1).tolist(), strict=True))
    assert list(effect)[:3] == ["object + 0 rings", "object + 1 rings", "random, as many as + 0"]
    assert "random, as many as + 1" not in effect  # one ring more is the whole picture
    if twin:
        assert abs(effect["object + 0 rings"]) < 1
    else:
        assert effect["object + 0 rings"] < -5
        assert abs(effect["random, as many as + 0"]) < 1
    with pytest.raises(InputError, match="names nothing in samples"):
        mm.patching.ablate_object(
            model, batch, objects=mm.positions.image - mm.positions.image,
            mean=mean, metric=mm.metrics.log_probability("red"),
        )  # fmt: skip


def test_rings_are_neighbours_and_the_mean_is_one(subject: Subject) -> None:
    """The run by hand: the mean row at the box's patches and all around them, and nowhere else."""
    model, batch = subject.model, subject.batches["left"]
    metric = mm.metrics.log_probability("red")
    _, cache = model.run_with_cache(batch, names="hook_embed")
    rows = torch.cat([cache["hook_embed"][s, batch.layout.image[s]] for s in range(2)])
    samples = [mm.Sample((batch.images[s][0],), (SHORT, LONG)[s]) for s in range(2)]
    mean = mm.patching.mean_image_row(model, samples, progress=False)
    torch.testing.assert_close(mean, rows.mean(0), atol=1e-5, rtol=1e-4)
    options = {"objects": mm.positions.box((0, 0, 8, 8)), "mean": mean, "metric": metric, "rings": (1,), "seeds": (0,)}
    if subject.name == "instructblip":
        with pytest.raises(NoPlaceError):
            mm.patching.ablate_object(model, batch, **options)
        return
    sweep = mm.patching.ablate_object(model, batch, **options)
    ablated = torch.zeros_like(batch.layout.is_token)
    for sample in range(2):
        grid = batch.layout.grid(sample=sample)
        near = (grid.cells <= 1).all(1)
        ablated[sample, grid.rows[near]] = True
    hook = ("hook_embed", lambda x, hook: torch.where(ablated[..., None], mean, x))
    expected = model.run_with_hooks(batch, fwd_hooks=[hook])[:, -1].log_softmax(-1)[:, model.to_single_token("red")]
    torch.testing.assert_close(sweep.values[0, 0], expected.detach(), atol=1e-4, rtol=1e-4)
