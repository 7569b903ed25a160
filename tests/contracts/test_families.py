"""Contract for every declared family: each point fires and moves the logits, and the wrapped model is Hugging Face's own.

The families of `tests.tiny` are held to more, contract by contract; here every other one is held to the same laws in
one run each: `verify` (parity without hooks, parity with all hooks, an edit at every point), generation, and painting.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from mmlens.core.errors import UnsupportedModelError
from mmlens.core.names import PARTS
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.patch_geometry import RowGrid
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.verify import verify
from tests.conftest import LONG, SHORT, answer_of, bare_copy
from tests.contracts.test_painting import POINTS, painted
from tests.families import FAMILIES
from tests.tiny import WORDS, Tiny, picture

_MADE: dict[str, HookedMultimodal] = {}


@pytest.fixture(params=FAMILIES, ids=lambda tiny: tiny.name)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Each family in turn."""
    return request.param


@pytest.fixture
def model(tiny: Tiny) -> Iterator[HookedMultimodal]:
    """Its model, made once; fails the test that leaves a hook behind."""
    if tiny.name not in _MADE:
        _MADE[tiny.name] = tiny.make()
    made = _MADE[tiny.name]
    yield made
    assert not any(point.attached for point in made.hook_dict.values())


def batch_of(tiny: Tiny, model: HookedMultimodal) -> MultimodalBatch:
    """Two samples of different length, padded on the left; two of the same length where the family cannot pad."""
    pictures = [[picture(number, *size)] for number, size in enumerate(tiny.sizes)]
    batch = model.prepare([SHORT, LONG if tiny.padded else SHORT], images=pictures)
    if "decoder_input_ids" in batch:
        # one token alone has nothing to attend to, so that edits of its queries and keys could not show
        batch = model.extend(batch, model.to_tokens([SHORT, SHORT])[:, :3])
    return batch


def test_every_point_fires_and_moves_the_logits(tiny: Tiny, model: HookedMultimodal) -> None:
    report = verify(model, batch_of(tiny, model), progress=False)
    assert report.ok, repr(report)
    assert all(point.calls == 1 for point in report.points), [p.name for p in report.points if p.calls != 1]


@torch.no_grad()
def test_identity_hooks_on_all_default_points_leave_the_logits_bit_equal(tiny: Tiny, model: HookedMultimodal) -> None:
    batch = batch_of(tiny, model)
    hooked = model.run_with_hooks(batch, fwd_hooks=[(model.default_points.names, lambda a, hook: a)])
    assert torch.equal(hooked, answer_of(bare_copy(model), batch))


@torch.no_grad()
def test_generation_is_that_of_bare_hugging_face(tiny: Tiny, model: HookedMultimodal) -> None:
    """One sample where Hugging Face writes something else beside another one."""
    alone = tiny.name.startswith(("kosmos2", "hunyuan"))
    batch = model.prepare(SHORT, images=picture(0, *tiny.sizes[0])) if alone else batch_of(tiny, model)
    if not tiny.writes:
        refuses_to_write(model, batch)
        return
    options = {"max_new_tokens": 4, "return_dict_in_generate": True, "output_logits": True}
    ours = model.generate(batch, **options)
    theirs = bare_copy(model).generate(**batch, do_sample=False, **options)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, theirs.logits, strict=True))


def refuses_to_write(model: HookedMultimodal, batch: MultimodalBatch) -> None:
    """A dual encoder says so by name, before anything runs."""
    for write in (model.generate, model.trace_generation):
        with pytest.raises(UnsupportedModelError, match="is a dual encoder"):
            write(batch, max_new_tokens=1)


@contextmanager
def only_words(model: HookedMultimodal) -> Iterator[None]:
    """Let a random model write words alone: an image token among the new ones could be read as no picture."""
    inner = getattr(model.hf_model, "language_model", None)
    configs = [c for c in (getattr(m, "generation_config", None) for m in (model.hf_model, inner)) if c is not None]
    words = {model.to_single_token(word) for word in WORDS}
    for config in configs:
        config.suppress_tokens = sorted(set(range(model.W_U.shape[1])) - words)
    try:
        yield
    finally:
        for config in configs:
            config.suppress_tokens = None


@torch.no_grad()
def test_a_trace_holds_the_states_of_a_plain_forward(tiny: Tiny, model: HookedMultimodal) -> None:
    batch = batch_of(tiny, model)
    if not tiny.writes:
        refuses_to_write(model, batch)
        return
    with only_words(model):
        trace = model.trace_generation(batch, names="blocks.*.hook_resid_post", max_new_tokens=3)
    logits, cache = model.run_with_cache(model.extend(batch, trace.tokens), names="blocks.*.hook_resid_post")
    prompt = batch["decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"].shape[1]
    window = slice(prompt - 1, prompt - 1 + trace.tokens.shape[1])
    for sample, length in enumerate(trace.lengths.tolist()):
        for name, states in cache.items():
            expected = states[sample, window][:length]
            torch.testing.assert_close(trace[name][sample, :length], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(trace.logits[sample, :length], logits[sample, window][:length], atol=1e-4, rtol=1e-4)


def test_only_downstream_points_change(tiny: Tiny, model: HookedMultimodal) -> None:
    """An edit moves nothing that the graph does not call downstream, and all residual streams that it does."""
    batch = batch_of(tiny, model)
    clean = dict(model.run_with_cache(batch)[1].items())
    for name in ("projector.hook_out", "blocks.1.hook_resid_mid", "blocks.0.hook_resid_post"):
        if name not in model.graph:
            continue
        with model.hooks([(name, lambda a, hook: a + 1)]):
            edited = dict(model.run_with_cache(batch)[1].items())
        moved = {other for other, value in edited.items() if not torch.equal(value, clean[other])}
        downstream = set(model.graph.downstream(name).names) & set(clean)
        assert moved - {name} <= downstream, name
        streams = {other for other in downstream if other.endswith("hook_resid_post")}
        assert streams <= moved, name


@torch.no_grad()
def test_the_layout_knows_how_many_rows_there_are(tiny: Tiny, model: HookedMultimodal) -> None:
    batch = batch_of(tiny, model)
    _, cache = model.run_with_cache(batch, names=points_of(model))
    for name, value in cache.items():
        node = model.graph[name]
        if (node.part, node.sequence) == ("projector", "vision"):
            continue  # a class row is left out of what the projector receives
        assert batch.layout.length(node.sequence) in (None, value.shape[node.position_axis]), name


def rows_of(view: RowGrid, chosen: torch.Tensor) -> set[tuple[int, int]]:
    """(entry, row) of the chosen rows of a view; entry 0 where there is no batch axis."""
    entries = view.index if isinstance(view.index, torch.Tensor) else torch.full_like(view.rows, view.index or 0)
    return set(zip(entries[chosen].tolist(), view.rows[chosen].tolist(), strict=True))


def touched(view: RowGrid, box: tuple[float, ...]) -> torch.Tensor:
    """Which rows of a view a box touches."""
    left, top, right, bottom = box
    b = view.boxes
    return (b[:, 0] < right - 1e-6) & (b[:, 2] > left + 1e-6) & (b[:, 1] < bottom - 1e-6) & (b[:, 3] > top + 1e-6)


def some_boxes(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """The whole picture, its corners, and random boxes."""
    rng = np.random.default_rng(0)
    yield 0, 0, width, height
    yield 0, 0, 1, 1
    yield width - 1, height - 1, width, height
    for _ in range(5):
        left, top = int(rng.integers(width)), int(rng.integers(height))
        yield left, top, int(rng.integers(left + 1, width + 1)), int(rng.integers(top + 1, height + 1))


@torch.no_grad()
def held(model: HookedMultimodal, batch: Any) -> dict[str, torch.Tensor]:
    """What the points with places hold, without attention or another mixer between patches."""
    mixing = ("hook_attn_out", "hook_mixer_out")
    cut = [name for name in model.graph.names if name.startswith("vision.") and name.endswith(mixing)]
    with model.hooks([(cut, lambda a, hook: torch.zeros_like(a))]):
        return dict(model.run_with_cache(batch, names=points_of(model))[1].items())


def points_of(model: HookedMultimodal) -> list[str]:
    """The points with places; an encoder-decoder model reads the picture in its encoder."""
    return [f"encoder.{name}" if f"encoder.{name}" in model.graph else name for name in POINTS]


def check_painting(tiny: Tiny, model: HookedMultimodal, pictures: list[list[torch.Tensor]]) -> None:
    """Paint boxes into each picture; exactly the rows that the layout names change (within the resampling's reach)."""
    texts = [SHORT] * len(pictures)
    batch = model.prepare(texts, images=pictures)
    before = held(model, batch)
    placed: dict[Any, set[tuple[int, int]]] = {
        part: {
            row
            for places in batch.layout.places
            for view in places.views(part)
            for row in rows_of(view, view.rows >= 0)
        }
        for part in PARTS
    }
    for sample, row in enumerate(pictures):
        for image, own in enumerate(row):
            for box in some_boxes(*own.shape[:2]):
                changed = [list(each) for each in pictures]
                changed[sample][image] = painted(own, box)
                after = held(model, model.prepare(texts, images=changed))
                for name in points_of(model):
                    part: Any = model.graph[name].sequence
                    views = batch.layout.place(sample, image).views(part)
                    if not views:
                        assert part in batch.layout.place(sample, image).placeless
                        continue
                    differs = (before[name] != after[name]).any(-1)
                    differs = differs if differs.ndim == 2 else differs[None]
                    moved = set(map(tuple, differs.nonzero().tolist()))
                    left, top, right, bottom = box
                    wide = (left - tiny.reach, top - tiny.reach, right + tiny.reach, bottom + tiny.reach)
                    may = set(itertools.chain.from_iterable(rows_of(view, touched(view, wide)) for view in views))
                    inside = (left + tiny.reach, top + tiny.reach, right - tiny.reach, bottom - tiny.reach)
                    must = set(itertools.chain.from_iterable(rows_of(view, touched(view, inside)) for view in views))
                    if tiny.summaries:
                        moved &= placed[part]
                    assert moved <= may, (name, box, moved - may)
                    assert must <= moved, (name, box, must - moved)


def test_one_painted_box_changes_the_rows_that_the_layout_names(tiny: Tiny, model: HookedMultimodal) -> None:
    if not tiny.has_places:
        pytest.skip(f"the rows of {tiny.name} have no place; test_rows_without_a_place_say_why")
    check_painting(tiny, model, [[picture(number, *size)] for number, size in enumerate(tiny.sizes)])


def test_painting_with_several_pictures_in_a_sample(tiny: Tiny, model: HookedMultimodal) -> None:
    if not (tiny.has_places and tiny.several):
        pytest.skip(f"{tiny.name}: one picture per sample, or rows without a place")
    first, second = tiny.sizes
    check_painting(tiny, model, [[picture(0, *first), picture(1, *second)], [picture(2, *first)]])


def test_rows_without_a_place_say_why(tiny: Tiny, model: HookedMultimodal) -> None:
    for places in batch_of(tiny, model).layout.places:
        assert set(places.grids) | set(places.placeless) == {"vision", "projector", "language"}
        assert all(len(why) > 20 for why in places.placeless.values())
        assert tiny.has_places == ("language" in places.grids)
