"""Contract for every family that reads videos: the tensors are those of Hugging Face, and a row knows its frames and pixels.

Each model is a tiny random one of the real class. Its videos have an odd number of frames, so that the last one is repeated
where a row stands for two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.core.names import PARTS
from mmlens.declarations.registry import families
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.verify import verify
from tests.conftest import LONG, SHORT, bare_copy
from tests.contracts.test_families import held, points_of, rows_of, some_boxes, touched
from tests.contracts.test_painting import painted
from tests.families import FAMILIES
from tests.tiny import TINY, picture


@dataclass(frozen=True)
class Filmed:
    """A family that reads videos.

    Attributes:
        name: of its tiny model.
        size: (height, width) of the frames.
        reach: how many pixels around a painted box a resampling may spread the paint.
    """

    name: str
    size: tuple[int, int] = (32, 32)
    reach: float = 0.0


FILMED = [
    Filmed("qwen2_vl", (32, 48)),
    Filmed("qwen2_5_vl", (48, 80)),
    # all frames of a video share a budget of pixels, which larger ones would be squeezed into
    Filmed("qwen3_vl"),
    Filmed("qwen3_5"),
    Filmed("qwen2_5_omni", (48, 80)),
    Filmed("qwen3_omni", (32, 48)),
    Filmed("exaone4_5", (48, 80)),
    Filmed("cohere_compass"),
    Filmed("glm4v"),
    Filmed("hyperclovax_vision_v2", (48, 80)),
    # the sides of a wide frame are cropped away
    Filmed("llava_next_video", (32, 48)),
    Filmed("llava_onevision"),
    Filmed("internvl"),
    # squeezed with a cubic filter
    Filmed("internvl_rms", (40, 70), reach=7),
]
_TINY = {tiny.name: tiny for tiny in (*TINY, *FAMILIES)}
_MADE: dict[str, HookedMultimodal] = {}


@pytest.fixture(params=FILMED, ids=lambda filmed: filmed.name)
def filmed(request: pytest.FixtureRequest) -> Filmed:
    """Each family in turn."""
    return request.param


@pytest.fixture
def model(filmed: Filmed) -> Iterator[HookedMultimodal]:
    """Its model, made once; fails the test that leaves a hook behind."""
    if filmed.name not in _MADE:
        _MADE[filmed.name] = _TINY[filmed.name].make()
    made = _MADE[filmed.name]
    yield made
    assert not any(point.attached for point in made.hook_dict.values())


def videos_of(filmed: Filmed, frames: int = 3, samples: int = 2) -> list[torch.Tensor]:
    """A video of noise per sample, `[frame height width 3]`."""
    return [torch.stack([picture(10 * s + n, *filmed.size) for n in range(frames)]) for s in range(samples)]


def batch_of(filmed: Filmed, model: HookedMultimodal) -> MultimodalBatch:
    """Two samples of different length."""
    return model.prepare([SHORT, LONG], videos=videos_of(filmed))


def test_all_families_with_videos_are_here() -> None:
    declared = {family.name for family in families().values() if family.videos is not None}
    assert declared == {filmed.name.removesuffix("_rms") for filmed in FILMED}


def test_every_point_fires_and_moves_the_logits(filmed: Filmed, model: HookedMultimodal) -> None:
    if filmed.name not in ("qwen2_vl", "qwen3_vl", "llava_next_video", "llava_onevision", "internvl"):
        pytest.skip("its videos take the way of one of these through the same points")
    report = verify(model, batch_of(filmed, model), progress=False)
    assert report.ok, repr(report)
    assert all(point.calls == 1 for point in report.points), [p.name for p in report.points if p.calls != 1]


@torch.no_grad()
def test_logits_and_generation_are_those_of_bare_hugging_face(filmed: Filmed, model: HookedMultimodal) -> None:
    batch = batch_of(filmed, model)
    bare = bare_copy(model)
    assert torch.equal(model(batch), bare(**batch, use_cache=False).logits)
    ours = model.generate(batch, max_new_tokens=4)
    assert torch.equal(ours, bare.generate(**batch, do_sample=False, max_new_tokens=4))


@torch.no_grad()
def test_another_frame_moves_the_logits(filmed: Filmed, model: HookedMultimodal) -> None:
    video = videos_of(filmed, samples=1)[0]
    clean = model(model.prepare(SHORT, videos=video))
    for number in range(len(video)):
        other = video.clone()
        other[number] = picture(99, *filmed.size)
        assert (model(model.prepare(SHORT, videos=other)) - clean).abs().max() > 1e-4


@torch.no_grad()
def test_one_painted_box_of_one_frame_changes_the_rows_that_the_layout_names(
    filmed: Filmed, model: HookedMultimodal
) -> None:
    videos = videos_of(filmed)
    batch = model.prepare([SHORT, SHORT], videos=videos)
    before = held(model, batch)
    boxes = list(some_boxes(*filmed.size))
    rng = np.random.default_rng(0)
    for sample, video in enumerate(videos):
        for frame in range(len(video)):
            for box in (boxes[0], *(boxes[int(n)] for n in rng.choice(len(boxes), 2, replace=False))):
                changed = [each.clone() for each in videos]
                changed[sample][frame] = painted(video[frame], box)
                after = held(model, model.prepare([SHORT, SHORT], videos=changed))
                for name in points_of(model):
                    part: Any = model.graph[name].sequence
                    grid = batch.layout.grid(part, sample=sample, frame=frame)
                    differs = (before[name] != after[name]).any(-1)
                    differs = differs if differs.ndim == 2 else differs[None]
                    moved = set(map(tuple, differs.nonzero().tolist()))
                    left, top, right, bottom = box
                    r = filmed.reach
                    assert moved <= rows_of(grid, touched(grid, (left - r, top - r, right + r, bottom + r))), (
                        name,
                        box,
                    )
                    assert moved >= rows_of(grid, touched(grid, (left + r, top + r, right - r, bottom - r))), (
                        name,
                        box,
                    )


@torch.no_grad()
def test_the_layout_knows_how_many_rows_there_are(filmed: Filmed, model: HookedMultimodal) -> None:
    batch = batch_of(filmed, model)
    _, cache = model.run_with_cache(batch, names=points_of(model))
    for name, value in cache.items():
        node = model.graph[name]
        if (node.part, node.sequence) != ("projector", "vision"):
            assert batch.layout.length(node.sequence) == value.shape[node.position_axis], name


def test_every_frame_has_rows_in_every_part(filmed: Filmed, model: HookedMultimodal) -> None:
    layout = batch_of(filmed, model).layout
    shared = {places.frames for places in layout.places}
    assert sorted(shared) in ([(0,), (1,), (2,)], [(0, 1), (2,)])
    for part in PARTS:
        rows = [layout.grid(part, sample=1, frame=frame).rows for frame in range(3)]
        assert all(len(each) for each in rows)
    # all image tokens but those that end a video are some frame's, in order
    tokens = torch.cat([places.views("language")[0].rows for places in layout.places if places.sample == 1])
    assert torch.equal(tokens, layout.image[1][: len(tokens)])
    assert len(layout.image[1]) - len(tokens) in (0, 1)


def test_generated_tokens_leave_the_frames_where_they_are(filmed: Filmed, model: HookedMultimodal) -> None:
    batch = batch_of(filmed, model)
    longer = model.extend(batch, model.to_tokens([SHORT, SHORT])[:, :2])
    assert longer.layout.places == batch.layout.places
    assert torch.equal(longer.layout.is_image[:, :-2], batch.layout.is_image)


def test_several_videos_in_a_sample(filmed: Filmed, model: HookedMultimodal) -> None:
    one, two, three = videos_of(filmed, samples=3)
    layout = model.prepare([SHORT, SHORT], videos=[[one, two], [three]]).layout
    assert [(p.sample, p.image) for p in layout.places if 0 in p.frames] == [(0, 0), (0, 1), (1, 0)]
    assert set(layout.grid(image=0, frame=2).rows.tolist()) < set(range(int(layout.grid(image=1, frame=0).rows.min())))


def test_tensors_alone_tell_the_frames(filmed: Filmed, model: HookedMultimodal) -> None:
    batch = model.prepare(SHORT, videos=videos_of(filmed, frames=4, samples=1))
    if "pixel_values_videos" not in batch:
        pytest.skip(f"{filmed.name} takes frames as it takes pictures, so that tensors alone do not tell them apart")
    again = model.batch(dict(batch))
    assert [p.frames for p in again.layout.places] == [p.frames for p in batch.layout.places]
    for frame in range(4):
        rows = [b.layout.grid(frame=frame).rows for b in (batch, again)]
        assert torch.equal(*rows)


def test_a_frame_that_is_not_there(filmed: Filmed, model: HookedMultimodal) -> None:
    layout = batch_of(filmed, model).layout
    with pytest.raises(InputError, match=r"is a video of 3 frames, and frame=None is none of them; pass frame=0\.\.2"):
        layout.patches((0, 0, 4, 4))
    with pytest.raises(InputError, match="and frame=3 is none of them"):
        layout.boxes([0], frame=3)
