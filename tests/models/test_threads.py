"""Threads and tasks on one model: each sees its own runs alone, or is refused by name."""

import asyncio
import contextvars
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.models import claims
from mmlens.models.hooked import HookedMultimodal
from tests.tiny import TINY, picture

AT = ["vision.blocks.*.hook_resid_post", "blocks.*.hook_resid_mid", "blocks.*.attn.hook_z", "blocks.*.mlp.hook_post"]
TEXTS = ["what color is the circle", "where is the red square", "describe the image", "how many circles are there"]


@pytest.fixture
def model() -> HookedMultimodal:
    return TINY[0].make()


@pytest.fixture
def batches(model: HookedMultimodal) -> list[Any]:
    return [model.prepare(text, images=picture(seed)) for seed, text in enumerate(TEXTS)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0.05)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two runs gave the same up to rounding: in another thread memory may lie otherwise, and sums with it."""
    return torch.allclose(found, expected, atol=1e-5, rtol=0)


def together(*functions: Callable[[], Any]) -> list[Any]:
    """What functions return, each run in a thread of its own; the first exception is raised."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(function) for function in functions]]


@torch.no_grad()
def test_caches_of_several_threads_are_those_of_one(model: HookedMultimodal, batches: list[Any]) -> None:
    alone = [model.run_with_cache(batch, names=AT) for batch in batches]

    def many(number: int) -> list[tuple[torch.Tensor, Any]]:
        with torch.no_grad():
            return [model.run_with_cache(batches[number], names=AT) for _ in range(10)]

    for (logits, cache), found in zip(alone, together(*(lambda n=n: many(n) for n in range(4))), strict=True):
        for other_logits, other in found:
            assert same(other_logits, logits)
            assert all(same(other[name], cache[name]) for name in cache)


@torch.no_grad()
def test_sweeps_in_two_threads_are_those_of_one(model: HookedMultimodal, batches: list[Any]) -> None:
    def sweep(clean: int, corrupted: int) -> torch.Tensor:
        metric = mm.metrics.logit_difference("red", "blue")
        pair = model.prepare(TEXTS[0], images=picture(clean)), model.prepare(TEXTS[0], images=picture(corrupted))
        return mm.patch(model, *pair, at="blocks.*.hook_resid_pre", metric=metric, progress=False).values

    alone = sweep(0, 1), sweep(2, 3)
    for expected, found in zip(alone, together(lambda: sweep(0, 1), lambda: sweep(2, 3)), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_is_in_force_in_one_thread_is_refused_in_another(
    model: HookedMultimodal, batches: list[Any], impatient: None
) -> None:
    plain = model(batches[0])
    edit = mm.edits.zero_neurons(model, "L1.u3")
    for context, name in (
        (lambda: model.intervene(mm.Ablate("L0.u3")), r"Ablate\("),
        (lambda: model.edited(edit), r"Edit\(zero"),
        (lambda: model.hooks([("hook_embed", lambda x, hook: 0 * x)]), "hooks"),
    ):
        with context():
            changed = model(batches[0])
            message = (
                rf"^A forward pass in the thread 'other' cannot begin: {name}.* is in force on the same weights in "
            )
            for wrapper in (model, HookedMultimodal.from_hf(model.hf_model, model.processor)):
                with pytest.raises(InputError, match=message):
                    in_thread(lambda wrapper=wrapper: wrapper(batches[0]))
            with pytest.raises(InputError, match=r"^Edit\(zero.* in the thread 'other' cannot begin: "):
                in_thread(lambda: model.apply(edit))
            assert same(model(batches[0]), changed)
        assert same(in_thread(lambda: model(batches[0])), plain)
        assert not torch.equal(changed, plain)


def test_weights_that_another_thread_edits_are_not_read(model: HookedMultimodal, impatient: None) -> None:
    row = model.blocks[1].mlp.W_out[3].clone()  # type: ignore[union-attr]
    with model.hooks([("hook_embed", lambda x, hook: 0 * x)]):  # leaves the weights alone
        assert torch.equal(in_thread(lambda: model.blocks[1].mlp.W_out[3]), row)  # type: ignore[union-attr]
    with model.edited(mm.edits.zero_neurons(model, "L1.u3")):
        for read in (lambda: model.W_out, lambda: model.W_U, lambda: model.part("vision"), lambda: model.cfg):
            with pytest.raises(InputError, match=r"^Reading weights in the thread 'other' cannot begin: Edit\(zero"):
                in_thread(read)
        assert not model.blocks[1].mlp.W_out[3].any()  # type: ignore[union-attr]
    assert torch.equal(in_thread(lambda: model.blocks[1].mlp.W_out[3]), row)  # type: ignore[union-attr]


def in_thread(function: Callable[[], Any]) -> Any:
    """What a function returns in a thread called "other"."""
    results: list[Any] = []

    def run() -> None:
        try:
            with torch.no_grad():
                results.append(function())
        except BaseException as error:  # noqa: BLE001 - handed on
            results.append(error)

    thread = threading.Thread(target=run, name="other")
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


@torch.no_grad()
def test_a_run_waits_for_one_that_is_under_way(model: HookedMultimodal, batches: list[Any]) -> None:
    plain = model(batches[1])
    started, go_on = threading.Event(), threading.Event()

    def slowly(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        started.set()
        assert go_on.wait(60)
        return 0 * activation

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: model.run_with_hooks(batches[0], fwd_hooks=[("hook_embed", slowly)]))
        assert started.wait(60)
        second = pool.submit(lambda: model(batches[1]))
        assert not second.done()
        go_on.set()
        assert not torch.equal(first.result(), model(batches[0]))
        assert same(second.result(), plain)


@torch.no_grad()
def test_a_thread_that_gets_the_context_sees_what_is_in_force(model: HookedMultimodal, batches: list[Any]) -> None:
    with model.intervene(mm.Scale("hook_embed", 0.0, positions="image")):
        here = model.generate(batches[0], max_new_tokens=3)
        context = contextvars.copy_context()
        there = in_thread(lambda: context.run(model.generate, batches[0], max_new_tokens=3))
    assert torch.equal(there, here)


@torch.no_grad()
def test_tasks_of_one_thread_are_kept_apart(model: HookedMultimodal, batches: list[Any]) -> None:
    async def holds(entered: asyncio.Event, over: asyncio.Event) -> torch.Tensor:
        with model.hooks([("hook_embed", lambda x, hook: 0 * x)]):
            entered.set()
            await over.wait()
            return model(batches[0])

    async def both() -> torch.Tensor:
        entered, over = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(holds(entered, over))
        await entered.wait()
        with pytest.raises(InputError, match="hooks is in force on the same weights in another task of this thread"):
            model(batches[0])
        over.set()
        return await task

    changed = asyncio.run(both())
    assert not torch.equal(changed, model(batches[0]))


@torch.no_grad()
def test_a_thread_that_ended_inside_a_with_is_named(model: HookedMultimodal, batches: list[Any]) -> None:
    stack = ExitStack()
    in_thread(lambda: stack.enter_context(model.hooks([("hook_embed", lambda x, hook: 0 * x)])))
    with pytest.raises(InputError, match="in the thread 'other', which has ended without leaving it"):
        model(batches[0])
    stack.close()
    assert model.hook_dict["hook_embed"].attached is False
    model(batches[0])


@torch.no_grad()
def test_runs_know_their_own_thread(model: HookedMultimodal, batches: list[Any]) -> None:
    """Interventions at positions resolve them against the batch of their own thread's run."""
    seen: list[Any] = []

    def look(activation: torch.Tensor, hook: Any) -> None:
        seen.append((model.current_run is not None, in_thread(lambda: model.current_run)))

    model.run_with_hooks(batches[0], fwd_hooks=[("blocks.0.hook_resid_pre", look)])
    assert seen == [(True, None)]
    assert model.current_run is None


# -- contexts that end in other ways than they should -----------------------------------------------------------------


@torch.no_grad()
def test_contexts_closed_in_another_order_leave_nothing(model: HookedMultimodal, batches: list[Any]) -> None:
    before = {name: weight.clone() for name, weight in model.hf_model.named_parameters()}
    plain = model(batches[0])
    edit, other = mm.edits.zero_neurons(model, "L1.u3"), mm.edits.noise_neurons(model, "L1.u3", sigma=0.5, seed=0)
    makers: list[Callable[[], Any]] = [
        lambda: model.intervene(mm.Ablate("L0.u3", positions="last")),
        lambda: model.intervene(mm.Scale("hook_embed", 0.0, positions=[0])),
        lambda: model.edited(edit),
        lambda: model.hooks([("blocks.1.attn.hook_pattern", lambda x, hook: 0 * x)]),
        lambda: model.edited(other),
    ]
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        contexts = [make() for make in makers]
        for context in contexts:
            context.__enter__()
        for number in order:
            contexts[number].__exit__(None, None, None)
        assert same(model(batches[0]), plain)
        assert all(torch.equal(weight, before[name]) for name, weight in model.hf_model.named_parameters())
        assert not any(point.attached for point in model.hook_dict.values())
        assert same(in_thread(lambda: model(batches[0])), plain)


@torch.no_grad()
def test_a_generator_that_is_left_half_way_leaves_nothing(model: HookedMultimodal, batches: list[Any]) -> None:
    plain = model(batches[0])

    def steps() -> Iterator[torch.Tensor]:
        with model.intervene(mm.Ablate("L0.u3")), model.edited(mm.edits.zero_neurons(model, "L1.u3")):
            while True:
                yield model(batches[0])

    generator = steps()
    assert not torch.equal(next(generator), plain)
    del generator
    assert same(model(batches[0]), plain)
    assert model.edits == ()
    generator = steps()
    next(generator)
    in_thread(generator.close)  # as where the garbage collector runs in another thread
    assert same(model(batches[0]), plain)
    assert same(in_thread(lambda: model(batches[0])), plain)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@torch.no_grad()
def test_an_interrupted_run_leaves_nothing(
    model: HookedMultimodal, batches: list[Any], error: type[BaseException]
) -> None:
    plain = model(batches[0])

    def stop(activation: torch.Tensor, hook: Any) -> None:
        raise error("here")

    for run in (
        lambda: model.run_with_hooks(batches[0], fwd_hooks=[("blocks.1.hook_resid_mid", stop)]),
        lambda: model.generate(batches[0], max_new_tokens=2),
    ):
        with pytest.raises(error, match=re.escape("here")), model.hooks([("blocks.1.attn.hook_pattern", stop)]):
            run()
        assert model.current_run is None
        assert same(model(batches[0]), plain)
        assert same(in_thread(lambda: model(batches[0])), plain)
