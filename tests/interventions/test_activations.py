"""Replacing, adding, scaling, clamping, noise: which rows change, by how much, and what is refused."""

from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.interventions.activations import Add, Clamp, Noise, Replace, Scale, spread
from mmlens.interventions.corruptions import swap
from tests.conftest import Subject
from tests.interventions.passes import never_entered
from tests.tiny import picture

NAME = "blocks.1.hook_resid_pre"


@pytest.mark.parametrize("rows", [torch.tensor([1, 4]), torch.tensor([[1, 4], [0, 2]]), "all"])
def test_replacing_touches_exactly_the_rows_asked_for(llava: Subject, rows: Any) -> None:
    batch = llava.batches["left"]
    name = "blocks.1.hook_resid_pre"
    _, clean = llava.model.run_with_cache(batch, names=name)
    values = torch.full_like(clean[name], 7.0)
    with llava.model.intervene(Replace(name, values, positions=rows)):
        _, cache = llava.model.run_with_cache(batch, names=name)
    changed = (cache[name] != clean[name]).any(-1)
    expected = torch.zeros_like(changed)
    for sample, is_token in enumerate(batch.layout.is_token):
        own = is_token.nonzero().flatten()  # of each sample's own tokens
        expected[sample, own if isinstance(rows, str) else own[rows if rows.ndim == 1 else rows[sample]]] = True
    assert torch.equal(changed, expected)
    assert (cache[name][expected] == 7).all()


def test_values_that_do_not_fit_are_refused(llava: Subject) -> None:
    batch = llava.batches["left"]
    for values, message in (
        (torch.zeros(2, 5, 8), r"values for hook_embed must be \[batch pos d_model\] with 32 last, found \[2, 5, 8\]"),
        (torch.zeros(2, 5, 32), r"are \[2, 5, 32\] \[batch pos d_model\], and the batch that runs has 2 samples of 23"),
        (
            torch.zeros(1, 23, 32),
            r"are \[1, 23, 32\] \[batch pos d_model\], and the batch that runs has 2 samples of 23",
        ),
    ):
        with (
            pytest.raises(InputError, match=message),
            llava.model.intervene(Replace("hook_embed", values, positions=[1])),
            never_entered(llava.model),
        ):
            llava.model(batch)
    # what a tower holds is known once it runs
    with (
        pytest.raises(InputError, match=r"are \[2, 4, 24\], the run's activation \[2, 17, 24\]"),
        llava.model.intervene(Replace("vision.hook_embed", torch.zeros(2, 4, 24))),
    ):
        llava.model(batch)


def seen_after(model: Any, batch: Any, what: Any) -> torch.Tensor:
    with model.intervene(what):
        return model.run_with_cache(batch, names=NAME)[1][NAME]


@pytest.mark.parametrize("word", ["image", "last", "all"])
@torch.no_grad()
def test_the_arithmetic_holds_at_the_rows_and_nowhere_else(subject: Subject, word: Any) -> None:
    model, batch = subject.model, subject.batches["left"]
    before = model.run_with_cache(batch, names=NAME)[1][NAME]
    at = torch.zeros(before.shape[:2], dtype=torch.bool)
    for sample in range(2):
        rows = {"image": batch.layout.image[sample], "last": batch.layout.last[sample], "all": slice(None)}[word]
        at[sample, rows] = True
    direction = torch.linspace(-1, 1, before.shape[-1])
    where = {"positions": word}
    for what, expected in (
        (Add(NAME, direction, alpha=3.0, **where), before + 3 * direction),
        (Scale(NAME, -0.5, **where), -0.5 * before),
        (Clamp(NAME, low=-0.3, high=0.2, **where), before.clip(-0.3, 0.2)),
    ):
        after = seen_after(model, batch, what)
        assert torch.equal(after, torch.where(at[..., None], expected, before))
        assert not torch.equal(after, before)


@torch.no_grad()
def test_noise_has_its_spread_and_is_decided_by_the_seed(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    before = model.run_with_cache(batch, names=NAME)[1][NAME]
    one, again, other = (seen_after(model, batch, Noise(NAME, sigma=0.5, seed=seed)) - before for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert float(one.std()) == pytest.approx(0.5, rel=0.1)
    assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.1


def test_the_spread_is_the_deviation_around_the_mean_vector() -> None:
    rows = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)) * 2.5 + torch.arange(6) * 10
    assert spread(rows) == pytest.approx(2.5, rel=0.05)


@torch.no_grad()
def test_positions_of_the_prompt_and_all_positions_in_generation(subject: Subject) -> None:
    """`all` holds for every new token; positions of the prompt are met once, in the prompt's own pass."""
    model, batch = subject.model, subject.batches["left"]
    name = "blocks.2.hook_resid_post"
    width = model.cfg.d_model
    far = 100 * torch.ones(width)
    plain = model.trace_generation(batch, names=name, max_new_tokens=3).states[name]
    with model.intervene(Add(name, far)):
        everywhere = model.trace_generation(batch, names=name, max_new_tokens=3).states[name]
    with model.intervene(Add(name, far, positions="last")):
        once = model.trace_generation(batch, names=name, max_new_tokens=3).states[name]
    assert (everywhere.mean(-1) > 50).all()
    assert (once[:, 0].mean(-1) > 50).all()
    assert (once[:, 1:].mean(-1) < 50).all()
    assert (plain.mean(-1) < 50).all()


@torch.no_grad()
def test_replaced_rows_of_the_prompt_decide_the_next_tokens(subject: Subject) -> None:
    """With another run's embeddings in the place of its own, a batch goes on as the other does."""
    model, batch = subject.model, subject.batches["left"]
    other = swap(model, batch, [[picture(8, p[0].height, p[0].width)] for p in batch.images])
    _, cache = model.run_with_cache(other, names="hook_embed")
    with model.intervene(Replace("hook_embed", cache["hook_embed"], positions="image")):
        found = model.trace_generation(batch, names="hook_logits", max_new_tokens=4)
    expected = model.trace_generation(other, names="hook_logits", max_new_tokens=4)
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-4)
    plain = model.trace_generation(batch, names="hook_logits", max_new_tokens=4)
    assert (plain.logits[:, 0] - expected.logits[:, 0]).abs().max() > 0.01


@torch.no_grad()
def test_replaced_logits_decide_the_first_token_of_a_generation(llava: Subject) -> None:
    """A generation works out the logits of the end alone; they are replaced by the values of the end."""
    model, batch = llava.model, llava.batches["left"]
    values = torch.zeros(*batch["input_ids"].shape, model.cfg.d_vocab)
    values[:, :, 7] = 1.0  # every other position asks for another token
    values[0, -1, 11] = values[1, -1, 13] = 50.0
    with model.intervene(Replace("hook_logits", values)):
        found = model.trace_generation(batch, names="hook_logits", max_new_tokens=1)
    assert found.tokens[:, 0].tolist() == [11, 13]
    torch.testing.assert_close(found.logits[:, 0], values[:, -1])


def test_what_cannot_happen_is_refused(llava: Subject, qwen: Subject) -> None:
    width = torch.ones(32)
    batch = llava.batches["left"]
    cases: list[tuple[Any, str]] = [
        (Add("hook_embed", torch.ones(5)), r"as wide as hook_embed \[batch pos d_model\], 32; found shape \[5\]"),
        (
            Add("hook_embed", width, positions="picture"),
            "'picture' does not stand in the text of samples .* the rules that are words: 'all', 'image', 'text', 'last'",
        ),
        (Add("hook_embed", width, positions=[-24]), r"name \[-24\], outside the 19 tokens of sample 0"),
        (Scale("hook_embed", 2.0, positions=99), r"positions.index\(99\) name \[99\], outside the 19"),
        (
            Scale("hook_embed", 2.0, positions=[torch.tensor([1])]),
            "given for 1 samples, and the batch has 2; give one list",
        ),
        (
            Scale("vision.hook_embed", 2.0, positions="text"),
            "'text' has no meaning at vision.hook_embed, whose vision sequence holds rows of pictures and no tokens",
        ),
    ]
    for what, message in cases:
        for run in (llava.model, llava.model.generate):
            with pytest.raises(InputError, match=message), llava.model.intervene(what), never_entered(llava.model):
                run(batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Add("hook_embed", torch.ones(32), positions=slice(5, 0, -1)),
            "must go forward: its step is at least 1",
        ),
        (
            lambda: Add("hook_embed", torch.ones(32), positions=[]),
            r"positions=\[\] are none: give a rule of mm.positions",
        ),
        (lambda: Add("hook_embed", torch.zeros(32)), r"direction=<tensor float32 \[32\]> must be not all zeros"),
        (lambda: Add("hook_embed", torch.full((32,), float("nan"))), "holds NaN or infinity"),
        (lambda: Add("hook_embed", torch.ones(32), 1j), "alpha=1j must be a finite number"),
        (lambda: Scale("hook_embed", float("inf")), "factor=inf must be a finite number"),
        (lambda: Replace("hook_embed", torch.full((1, 2, 3), float("nan"))), "holds NaN or infinity"),
        (lambda: Clamp("hook_embed"), "neither low nor high"),
        (lambda: Clamp("hook_embed", low=1.0, high=0.0), "needs low <= high, found low=1.0 and high=0.0"),
        (lambda: Clamp("hook_embed", low=float("-inf")), "low=-inf must be a finite number"),
        (lambda: Noise("hook_embed", sigma=0), "sigma=0 must be above 0"),
        (lambda: Noise("hook_embed", sigma=-1.0), "sigma=-1.0 must be above 0"),
    ],
)
def test_what_cannot_be_an_intervention(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
