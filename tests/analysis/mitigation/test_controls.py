"""Random controls change as much as the method, of something else; and a sample's control is the one that it has alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.analysis.mitigation.controls import RandomDonors, random_like
from mmlens.analysis.mitigation.method import Force
from mmlens.core.rules import RandomRows, as_rule
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject

AT, EMBEDDED = "blocks.1.hook_resid_post", "hook_embed"
BOX = mm.positions.box((0, 0, 8, 8))


def drawn(width: int) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(7))


def vector(model: HookedMultimodal) -> mm.steering.SteeringVector:
    return mm.steering.SteeringVector(drawn(model.cfg.d_model), AT)


#: Interventions that move states, as functions of the model and the width of the batch.
MOVES: dict[str, Callable[[HookedMultimodal], Any]] = {
    "add": lambda model: mm.Add(AT, drawn(model.cfg.d_model), 0.7),
    "scale": lambda model: mm.Scale(AT, 0.5, positions="image"),
    "clamp": lambda model: mm.Clamp(AT, low=-0.5, high=0.5),
    "project": lambda model: mm.ProjectOut(vector(model)),
    "steer": lambda model: mm.Steer(vector(model), 0.7, positions="prompt"),
}


def states(model: HookedMultimodal, batch: mm.MultimodalBatch, act: Any, at: str = AT) -> torch.Tensor:
    with model.intervene(*([] if act is None else [act])):
        return model.run_with_cache(batch, names=at)[1][at]


@pytest.mark.parametrize("name", MOVES)
def test_states_are_moved_as_far_in_another_direction(subject: Subject, name: str) -> None:
    model, batch = subject.model, subject.batches["left"]
    act = MOVES[name](model)
    control = random_like(act, model, 3)
    plain, moved, other = (states(model, batch, one) for one in (None, act, control))
    real = batch.layout.is_token
    lengths = [(x - plain).norm(dim=-1)[real] for x in (moved, other)]
    torch.testing.assert_close(*lengths, atol=1e-4, rtol=1e-4)
    assert lengths[0].max() > 1e-2
    cosines = torch.cosine_similarity(moved - plain, other - plain, dim=-1)[real]
    assert cosines[lengths[0] > 1e-2].abs().max() < 0.95
    again = states(model, batch, random_like(act, model, 3))
    assert torch.equal(other, again)
    assert not torch.equal(other, states(model, batch, random_like(act, model, 4)))


def test_tables_and_predictors_have_directions_as_long_that_no_other_sample_changes(subject: Subject) -> None:
    model = subject.model
    table = mm.steering.SteeringTable(torch.randn(2, model.cfg.d_model), AT, keys=("a", "b"))
    control = random_like(mm.Steer(table), model, 0)
    assert isinstance(control, mm.Steer)
    torch.testing.assert_close(control.vector.vectors.norm(dim=1), table.vectors.norm(dim=1))
    alone = random_like(mm.Steer(table.of(["b"])), model, 0)
    assert torch.equal(alone.vector.vectors[0], control.vector.vectors[1])
    assert not torch.equal(control.vector.vectors[0], control.vector.vectors[1])
    weights = [torch.randn(*shape) for shape in ((3, model.cfg.d_model), (3,), (model.cfg.d_model, 3))]
    predictor = mm.steering.LearnedPredictor(*weights, AT, "blocks.0.hook_resid_post")
    random = random_like(mm.Steer(predictor), model, 0).vector
    context = torch.randn(4, model.cfg.d_model)
    torch.testing.assert_close(random.predict(context).norm(dim=1), predictor.predict(context).norm(dim=1))
    torch.testing.assert_close(random.predict(context)[2], random.predict(context[2:3])[0])


def test_rows_of_an_object_become_as_many_others_of_the_picture(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    values = torch.full_like(model.run_with_cache(batch, names=EMBEDDED)[1][EMBEDDED], 3.0)
    act = mm.Replace(EMBEDDED, values, positions=BOX)
    changed = [(states(model, batch, one, EMBEDDED) == 3.0).all(-1) for one in (act, random_like(act, model, 0))]
    assert torch.equal(changed[0].sum(1), changed[1].sum(1))
    assert not (changed[0] & changed[1]).any()
    assert not (changed[1] & ~batch.layout.is_image).any()
    ablate_all = mm.Replace(EMBEDDED, values, positions="image")  # no other rows of the picture: as far, elsewhere
    lengths = [(states(model, batch, one, EMBEDDED) - states(model, batch, None, EMBEDDED)).norm(dim=-1)
               for one in (ablate_all, random_like(ablate_all, model, 0))]  # fmt: skip
    torch.testing.assert_close(*lengths)


def test_a_boost_of_a_tower_has_its_signs_there(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    boost = mm.mitigation.BoostAttention("all", slice(0, 4), alpha=0.7, part="vision")
    at = "vision.blocks.0.attn.hook_attn_scores"
    plain, raised, signed = (states(model, batch, one, at) for one in (None, boost, random_like(boost, model, 2)))
    up, down = (signed - plain).flatten(2).amax(-1) > 0, (signed - plain).flatten(2).amin(-1) < 0
    assert torch.equal(up, ~down)
    torch.testing.assert_close((signed - plain).abs(), (raised - plain).abs())


@pytest.mark.parametrize("side", ["left", "right"])
def test_cut_keys_become_as_many_that_are_seen(subject: Subject, side: str) -> None:
    """And are those that the sample has alone."""
    model, batch, at = subject.model, subject.batches[side], "blocks.1.attn.hook_pattern"
    keys = mm.positions.index(1, 2)
    control = random_like(mm.KnockOut("last", keys, layers=[1]), model, 1)
    pattern = states(model, batch, control, at)
    ends = [int(own.nonzero()[-1]) for own in batch.layout.is_token]
    for sample, (end, question) in enumerate(zip(ends, (SHORT, LONG), strict=True)):
        row = pattern[sample, :, end]
        cut = (row == 0).all(0) & batch.layout.is_token[sample]
        cut[end + 1 :] = False
        assert int(cut.sum()) == 2
        own = (cut.nonzero().flatten() - int(batch.layout.is_token[sample].long().argmax())).tolist()
        assert not {1, 2} & set(own)
        alone = model.prepare([question], images=[list(batch.images[sample])])
        torch.testing.assert_close(states(model, alone, control, at)[0, :, -1, own], row[:, cut])


def test_the_rule_says_what_it_is_and_takes_what_there_is(llava: Subject) -> None:
    rule = RandomRows(as_rule("image"), 2)
    assert repr(rule) == "<as many random rows as image, seed 2>"
    model, batch = llava.model, llava.batches["left"]
    _, cache = model.run_with_cache(batch, names=EMBEDDED, positions=rule)
    text = (batch.layout.is_token & ~batch.layout.is_image).sum(1)
    assert [len(rows) for rows in cache.samples(EMBEDDED)] == torch.minimum(text, batch.layout.is_image.sum(1)).tolist()


def test_ablated_units_become_others_of_their_blocks(llava: Subject) -> None:
    model = llava.model
    act = mm.Ablate(["L1.h2", "L2.u3", "L2.u4"], value=[0.0, 1.0, 2.0])
    control = random_like(act, model, 0)
    assert [str(unit)[:4] for unit in control.units] == ["L1.h", "L2.u", "L2.u"]
    assert not set(control.units) & set(act.units)
    assert list(control.value) == [0.0, 1.0, 2.0]
    whole_block = mm.Ablate([f"L1.h{head}" for head in range(model.cfg.n_heads)])
    assert random_like(whole_block, model, 0) is None
    assert Force((whole_block, MOVES["add"](model))).control(model, 0) is None  # half a control is weaker


def test_random_columns_lose_what_sinks_would() -> None:
    """By hand: the same queries changed, as much attention moved, of other columns; what there is where it is too little."""
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand(2, 3, 4, 9, generator=generator).softmax(-1)
    image = torch.tensor([0, 0, 1, 1, 1, 1, 0, 0, 0]).bool()[None, None, None]
    sink = torch.tensor([0, 1, 1, 0, 0, 0, 0, 0, 0]).bool()[None, None, None]
    prompt = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1, 0]]).bool()[:, None, None]
    pattern = pattern * (prompt | (torch.arange(9) == 8))
    pattern = pattern / pattern.sum(-1, keepdim=True)
    query = torch.tensor([[[False, True, True, True]]])
    method = mm.mitigation.RedistributeSinks(factor=0.5, least_image=0.0, most_sink=1.0)
    control = RandomDonors(1, factor=0.5, least_image=0.0, most_sink=1.0)
    (by_sink, is_changed), (new, also) = (one.moved(pattern, image, sink, query, prompt) for one in (method, control))
    assert torch.equal(is_changed, also)
    assert not torch.equal(by_sink, new)
    torch.testing.assert_close(new.sum(-1), torch.ones(2, 3, 4))
    assert torch.equal(new[:, :, 0], pattern[:, :, 0])
    lost, freed = (pattern - new).clamp_min(0).sum(-1), (pattern - by_sink).clamp_min(0).sum(-1)
    torch.testing.assert_close(lost, freed)
    assert torch.equal(new[..., 1:3], pattern[..., 1:3])  # sinks keep theirs
    assert torch.equal(new[..., 8], pattern[..., 8])  # what was written is no donor
    alone = control.moved(pattern[:1, ..., 1:], image[..., 1:], sink[..., 1:], query, prompt[:1, ..., 1:])[0]
    torch.testing.assert_close(alone, new[:1, ..., 1:])
    greedy = RandomDonors(1, factor=0.0, least_image=0.0, most_sink=1.0)
    heavy = torch.tensor([0.0, 0.45, 0.45, 0.05, 0.05, 0, 0, 0, 0])[None, None, None]
    taken, some = greedy.moved(heavy, image, sink, torch.ones(1, 1, 1).bool(), prompt[1:])
    torch.testing.assert_close(taken.sum(), torch.tensor(1.0))
    assert not some.any() or bool((taken[..., 3:5].sum() - 0.1).abs() < 1e-6)
