"""Tokens that a batch was extended by as new ones are generated ones to whatever reads or changes rows."""

import pytest
import torch

import mmlens as mm
from mmlens.analysis.patching.groups import groups_on
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.point_rows import prompt_point
from tests.conftest import Subject

STEPS = 3


def point_of(subject: Subject) -> str:
    return next(
        node.name for node in subject.model.graph if node.name.startswith("blocks.") and node.kind == "resid_post"
    )


def forced(subject: Subject, *, as_new: bool = True) -> MultimodalBatch:
    batch = subject.batches["left"]
    tokens = torch.arange(5, 5 + batch.size * STEPS).reshape(batch.size, STEPS)
    return subject.model.extend(batch, tokens, as_new=as_new)


def test_what_is_cached_at_generated_positions_are_the_forced_tokens(subject: Subject) -> None:
    batch, point = forced(subject), point_of(subject)
    whole = subject.model.run_with_cache(batch, names=point)[1][point]
    _, cache = subject.model.run_with_cache(batch, names=point, positions="generated")
    assert torch.equal(cache[point], whole[:, -STEPS:])
    assert [len(rows) for rows in cache.samples(point)] == [STEPS] * batch.size
    both = subject.model.run_with_cache(batch, names=point, positions=mm.positions.last | mm.positions.generated)[1]
    assert torch.equal(both[point], whole[:, -STEPS - 1 :])


def test_a_batch_without_forced_tokens_has_no_generated_positions(subject: Subject) -> None:
    batch, point = forced(subject, as_new=False), point_of(subject)
    with pytest.raises(InputError, match="generated names nothing in samples"):
        subject.model.run_with_cache(batch, names=point, positions="generated")


def test_what_is_patched_at_generated_positions_are_the_forced_tokens(llava: Subject) -> None:
    """The same as a hook that writes the other run's last rows by hand, read where the word after the prompt is predicted."""
    model, batch, point = llava.model, forced(llava), point_of(llava)
    other = model.extend(llava.batches["left"], batch["input_ids"][:, -STEPS:].flip(1), as_new=True)
    values = model.run_with_cache(other, names=point)[1][point]

    def write(activation: torch.Tensor, hook: object) -> torch.Tensor:
        return torch.cat([activation[:, :-STEPS], values[:, -STEPS:]], dim=1)

    with model.hooks([(point, write)]):
        by_hand = model(batch)
    with model.intervene(mm.Replace(point, values, positions="generated")):
        assert torch.equal(model(batch), by_hand)
    assert not torch.equal(by_hand, model(batch))
    prompt_alone = mm.Replace(point, values[:, :-STEPS], positions="generated")
    with model.intervene(prompt_alone), pytest.raises(InputError, match="of the prompt's 23 positions alone"):
        model(batch)


def test_every_forced_token_is_a_group_of_its_own(llava: Subject) -> None:
    batch = forced(llava)
    groups = groups_on(batch, prompt_point(llava.model.graph), mm.positions.each("all"))
    length = batch["input_ids"].shape[1]
    assert [group.rows[1].tolist() for group in groups[-STEPS:]] == [[length - STEPS + n] for n in range(STEPS)]
    of_new = groups_on(batch, prompt_point(llava.model.graph), mm.positions.each("generated"))
    assert [[rows.tolist() for rows in group.rows] for group in of_new] == [
        [[length - STEPS + n]] * batch.size for n in range(STEPS)
    ]


def test_what_is_steered_at_generated_positions_are_the_forced_tokens(llava: Subject) -> None:
    model, batch, point = llava.model, forced(llava), point_of(llava)
    direction = torch.ones(model.cfg.d_model)
    with model.intervene(mm.Add(point, direction, positions="generated")):
        steered = model.run_with_cache(batch, names=point)[1][point]
    plain = model.run_with_cache(batch, names=point)[1][point]
    assert torch.equal(steered[:, :-STEPS], plain[:, :-STEPS])
    assert torch.equal(steered[:, -STEPS:], plain[:, -STEPS:] + direction)
