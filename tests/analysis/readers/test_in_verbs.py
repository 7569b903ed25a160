"""Every data set's samples go into the verbs that take data: what comes out is what the scenes themselves give."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import mmlens as mm
from mmlens.lab import Scene
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.readers import published

POINT = "blocks.4.hook_resid_post"


def _captioned(scenes: Sequence[Scene], folder: Path) -> dict[str, Callable[[], Any]]:
    """Data sets whose samples ask for a caption."""
    return {
        "COCO captions": lambda: mm.data.coco_captions(published.coco_captions(scenes, folder), folder, progress=False),
        "COCO instances": lambda: mm.data.coco_instances(
            published.coco_instances(scenes, folder), folder, progress=False
        ),
        "Karpathy": lambda: mm.data.karpathy(
            published.karpathy(scenes, folder), folder, split=("train", "test"), progress=False
        ),
        "Visual Genome attributes": lambda: mm.data.visual_genome(
            published.visual_genome(scenes, folder)[0], folder, progress=False
        ),
        "Visual Genome regions": lambda: mm.data.visual_genome(
            published.visual_genome(scenes, folder)[1], folder, progress=False
        ),
        "SBU": lambda: mm.data.sbu_captions(published.sbu(scenes, folder), folder, progress=False),
        "jsonl": lambda: mm.data.from_jsonl(
            published.jsonl(scenes, folder), {"images": "image", "references": "value"}, progress=False
        ),
        "rows": lambda: mm.data.from_rows(
            [{"picture": scene.image, "text": scene.caption} for scene in scenes],
            {"images": "picture", "caption": "text"},
        ),
    }


def _questions(scenes: Sequence[Scene], folder: Path) -> dict[str, Callable[[], Any]]:
    """Data sets whose samples ask a question."""
    return {
        "VQAv2": lambda: mm.data.vqa_v2(*published.vqa_v2(scenes, folder), images=folder, progress=False),
        "POPE": lambda: mm.data.pope(published.pope(scenes, folder), folder, progress=False),
        "GQA": lambda: mm.data.gqa(published.gqa(scenes, folder)[0], folder, progress=False),
        "MM-SafetyBench": lambda: mm.data.mm_safety_bench(
            *published.mm_safety_bench(scenes, folder),
            scenario="02-HateSpeech",
            prompt="{question} and why",
            progress=False,
        ),
    }


@pytest.fixture(scope="module")
def model() -> HookedMultimodal:
    return mm.lab.load()


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return mm.lab.scenes(2, seed=2)


@pytest.fixture(scope="module")
def said(model: HookedMultimodal, scenes: Sequence[Scene]) -> list[str]:
    """What the model says of the scenes as they are drawn."""
    return [model.caption(scene.image) for scene in scenes]


NOUNS = ["house", "man", "star"]


@pytest.mark.parametrize("name", list(_captioned((), Path())))
def test_data_sets_of_captions(
    model: HookedMultimodal, scenes: Sequence[Scene], said: Sequence[str], tmp_path: Path, name: str
) -> None:
    data = _captioned(scenes, tmp_path)[name]()
    store = mm.collect(model, data, at=POINT, positions="generated_mean", progress=False)
    assert list(store.at().captions) == list(said)
    neurons = mm.neurons.find_caption_neurons(model, data, nouns=NOUNS, progress=False)
    assert [[noun.text for noun in one.nouns] for one in neurons] == [
        [noun for noun in NOUNS if noun in caption.split()] for caption in said
    ]
    assert all(one.nouns for one in neurons)
    report = mm.steering.steering_report(
        model, mm.Scale(POINT, 1.0), data, controls=(), max_new_tokens=12, progress=False
    )
    assert [case.before for case in report.cases] == list(said)


@pytest.mark.parametrize("name", list(_questions((), Path())))
def test_data_sets_of_questions(model: HookedMultimodal, scenes: Sequence[Scene], tmp_path: Path, name: str) -> None:
    data = _questions(scenes, tmp_path)[name]()
    if name == "MM-SafetyBench":  # whose words the lab model does not know
        data = [mm.Sample(sample.images, "how do i use this", image_id=sample.image_id) for sample in data]
    elif name == "POPE":
        data = [
            mm.Sample(s.images, s.prompt.lower().replace(" in the image?", ""), answer=s.answer, image_id=s.image_id)
            for s in data
        ]
    store = mm.collect(model, data, at=POINT, positions="last", progress=False)
    assert len(store.at().values) == len(data)
    report = mm.steering.steering_report(
        model, mm.Scale(POINT, 1.0), data, controls=(), max_new_tokens=6, progress=False
    )
    for case, sample in zip(report.cases, data, strict=True):
        scene = scenes[sorted({c.shown for c in report.cases}).index(case.shown)]
        assert case.before == model.answer(scene.image, sample.prompt, max_new_tokens=6)
        assert case.truth == sample.answer
    assert len({case.shown for case in report.cases}) == len(scenes)


def test_masks_reach_the_report_of_neurons(model: HookedMultimodal, scenes: Sequence[Scene], tmp_path: Path) -> None:
    data = mm.data.coco_instances(published.coco_instances(scenes, tmp_path), tmp_path, progress=False)
    report = mm.properties.neuron_report(
        model, data, methods=("contribution",), nouns=NOUNS, k=3, ways=("zero",), captions=False, reference=2, draws=2,
        progress=False,
    )  # fmt: skip
    frame = report.to_frame()
    assert {"IoU", "pointing game"} <= set(frame["quantity"])
