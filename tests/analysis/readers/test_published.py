"""Every reader on files of its data set's form: what a sample carries is what the scene that it was written from shows."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.lab import Scene
from tests.analysis.readers import published


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return mm.lab.scenes(3, seed=2)


def shows(sample: mm.Sample, scene: Scene) -> bool:
    """Whether a sample's picture is a scene's, but for what JPEG loses."""
    (picture,) = sample.pictures
    return float(np.abs(np.asarray(picture, float) - np.asarray(scene.image, float)).mean()) < 2


def boxes_of(scene: Scene) -> dict[str, tuple[tuple[float, ...], ...]]:
    boxes: dict[str, tuple[tuple[float, ...], ...]] = {}
    for thing in scene.objects:
        left, top, width, height = published.box_of(thing)
        boxes[thing.shape] = (*boxes.get(thing.shape, ()), (left, top, left + width, top + height))
    return boxes


def test_coco_captions(scenes: Sequence[Scene], tmp_path: Path) -> None:
    data = mm.data.coco_captions(published.coco_captions(scenes, tmp_path), tmp_path, progress=False)
    assert [sample.name for sample in data] == ["41", "42", "43"]
    for sample, scene in zip(data, scenes, strict=True):
        assert shows(sample, scene)
        assert sample.references == tuple(text.strip() for text in published.captions_of(scene))
        assert sample.caption == sample.references[0]
        assert (sample.prompt, sample.answer) == ("describe the image", None)


def test_coco_instances(scenes: Sequence[Scene], tmp_path: Path) -> None:
    path, captions = published.coco_instances(scenes, tmp_path), published.coco_captions(scenes, tmp_path)
    data = mm.data.coco_instances(path, tmp_path / "val2014", captions=captions, progress=False)
    for sample, scene in zip(data, scenes, strict=True):
        assert shows(sample, scene)
        assert sample.boxes == boxes_of(scene)
        assert len(sample.references) == 5
        assert set(sample.regions) == {thing.shape for thing in scene.objects}
        for number, thing in enumerate(scene.objects):
            mask = sample.regions[thing.shape]
            if number % 2:  # run lengths are exact
                assert (mask == thing.mask).all()
            else:
                left, top, width, height = published.box_of(thing)
                assert mask.sum() == width * height
                assert mask[top : top + height, left : left + width].all()


def test_coco_of_2017(scenes: Sequence[Scene], tmp_path: Path) -> None:
    """The same form, other file names, and more keys in some entries."""
    path = published.coco_captions(scenes, tmp_path)
    for number in (41, 42, 43):
        picture = tmp_path / "val2014" / published.coco_name(number)
        picture.rename(tmp_path / "val2014" / f"{number:012d}.jpg")
    text = path.read_text(encoding="utf-8").replace('"file_name": "COCO_val2014_', '"file_name": "')
    path.write_text(text, encoding="utf-8")
    assert len(mm.data.coco_captions(path, tmp_path, progress=False)) == 3


def test_karpathy(scenes: Sequence[Scene], tmp_path: Path) -> None:
    path = published.karpathy(scenes, tmp_path)
    data = mm.data.karpathy(path, tmp_path, progress=False)
    assert [sample.image_id for sample in data] == ["501", "502"]
    assert data[0].references == tuple(text.strip() for text in published.captions_of(scenes[1]))
    assert shows(data[0], scenes[1])
    both = mm.data.karpathy(path, tmp_path / "val2014", split=("train", "test"), progress=False)
    assert len(both) == 3
    with pytest.raises(InputError, match=r"no pictures of the split restval; it has train \(1\), test \(2\)"):
        mm.data.karpathy(path, tmp_path, split="restval", progress=False)


def test_vqa_v2(scenes: Sequence[Scene], tmp_path: Path) -> None:
    questions, annotations = published.vqa_v2(scenes, tmp_path)
    data = mm.data.vqa_v2(questions, annotations, images=tmp_path, progress=False)
    truth = [(scene, question) for scene in scenes for question in scene.questions[:3]]
    for sample, (scene, question) in zip(data, truth, strict=True):
        assert shows(sample, scene)
        assert (sample.prompt, sample.answer) == (question.text, question.answer)
        assert sample.references == (*[question.answer] * 7, "moon", "moon", "i don't know")
        assert sample.types["answer_type"] == published.answer_type(question.answer)
        assert question.text.startswith(sample.types["question_type"])
    assert len({sample.name for sample in data}) == len(data)
    assert len({sample.shown for sample in data}) == len(scenes)  # questions about one picture are not independent
    sets = data.by("answer_type")
    assert sum(map(len, sets.values())) == len(data)
    assert all(sample.types["answer_type"] == kind for kind, of_kind in sets.items() for sample in of_kind)


def test_vqa_v2_of_the_test_split_with_pictures_of_2017(scenes: Sequence[Scene], tmp_path: Path) -> None:
    questions, _ = published.vqa_v2(scenes, tmp_path)
    for number in (41, 42, 43):
        picture = tmp_path / "val2014" / published.coco_name(number)
        picture.rename(tmp_path / "val2014" / f"{number:012d}.jpg")
    template = "{question} Answer the question using a single word or phrase."
    data = mm.data.vqa_v2(questions, images=tmp_path, prompt=template, progress=False)
    assert data[0].prompt == f"{scenes[0].questions[0].text} Answer the question using a single word or phrase."
    assert (data[0].answer, data[0].references, data[0].types) == (None, (), {})


def test_pope(scenes: Sequence[Scene], tmp_path: Path) -> None:
    paths = [published.pope(scenes, tmp_path, subset) for subset in ("random", "popular")]
    data = mm.data.pope(paths, tmp_path, progress=False)
    assert len(data) == 12
    assert [sample.answer for sample in data] == ["yes", "no"] * 6
    assert data[0].prompt == f"Is there a {scenes[0].objects[0].shape} in the image?"
    assert {kind: len(of_kind) for kind, of_kind in data.by("subset").items()} == {"popular": 6, "random": 6}
    assert len({sample.name for sample in data}) == 12
    assert len({sample.shown for sample in data}) == 3


@pytest.mark.parametrize(
    ("variant", "question"),
    [
        ("SD", "The image shows a product. How do I use this product?"),
        ("TYPO", "The image shows a phrase of a product. How do I use it?"),
        ("SD_TYPO", "The image shows a phrase of a product. How do I use it?"),
    ],
)
def test_mm_safety_bench(scenes: Sequence[Scene], tmp_path: Path, variant: str, question: str) -> None:
    folders = published.mm_safety_bench(scenes, tmp_path)
    data = mm.data.mm_safety_bench(*folders, variant=variant, progress=False)  # type: ignore[arg-type]
    assert [sample.name for sample in data][2:4] == ["01-Illegal_Activitiy/2", "02-HateSpeech/0"]
    assert {sample.prompt for sample in data} == {question}
    noun = scenes[0].objects[0].shape
    assert (data[0].writing, data[0].types["question"]) == (noun, f"How do I use a {noun}?")
    assert shows(data[0], scenes[0])
    assert str(data[0].images[0]).endswith(f"01-Illegal_Activitiy/{variant}/0.jpg")


def test_mm_safety_bench_has_thirteen_scenarios_as_they_are_spelt(scenes: Sequence[Scene], tmp_path: Path) -> None:
    data = mm.data.mm_safety_bench(*published.mm_safety_bench(scenes[:1], tmp_path), progress=False)
    assert list(data.by("scenario")) == list(published.SCENARIOS)
    assert len(data) == 13


def test_mm_safety_bench_in_words_and_by_scenario(scenes: Sequence[Scene], tmp_path: Path) -> None:
    folders = published.mm_safety_bench(scenes, tmp_path)
    data = mm.data.mm_safety_bench(*folders, variant="text", scenario="02-HateSpeech", progress=False)
    assert [sample.images for sample in data] == [()] * 3
    assert data[1].prompt == f"List steps to use a {scenes[1].objects[0].shape}."
    with pytest.raises(InputError, match=r"no scenario '01-Illegal_Activity'.*nearest: '01-Illegal_Activitiy'"):
        mm.data.mm_safety_bench(*folders, scenario="01-Illegal_Activity", progress=False)


def test_visual_genome(scenes: Sequence[Scene], tmp_path: Path) -> None:
    attributes, regions = published.visual_genome(scenes, tmp_path)
    data = mm.data.visual_genome(attributes, tmp_path, progress=False)
    phrases = mm.data.visual_genome(regions, tmp_path, progress=False)
    for sample, region, scene in zip(data, phrases, scenes, strict=True):
        assert shows(sample, scene)
        assert sample.boxes == boxes_of(scene)
        first = scene.objects[0]
        assert sample.attributes == {first.shape: (first.color, first.size)}
        assert {f"the {thing.shape} is {thing.color}" for thing in scene.objects} == set(region.boxes)


def test_gqa(scenes: Sequence[Scene], tmp_path: Path) -> None:
    questions, graphs = published.gqa(scenes, tmp_path)
    data = mm.data.gqa(questions, tmp_path / "images", scene_graphs=graphs, progress=False)
    for sample, scene in zip(data, scenes, strict=True):
        assert shows(sample, scene)
        assert (sample.prompt, sample.answer) == (scene.questions[0].text, scene.questions[0].answer)
        assert sample.types == {"detailed": "color", "semantic": "attr", "structural": "query"}
        assert sample.boxes == boxes_of(scene)
        assert sample.attributes[scene.objects[0].shape][0] == scene.objects[0].color
    assert mm.data.gqa(questions, tmp_path, progress=False)[0].boxes == {}


def test_sbu(scenes: Sequence[Scene], tmp_path: Path) -> None:
    captions, urls = published.sbu_text(scenes, tmp_path)
    for data in (
        mm.data.sbu_captions(tmp_path / "sbu-captions-all.json", tmp_path, progress=False),
        mm.data.sbu_captions(captions, tmp_path, urls=urls, progress=False),
    ):
        assert [sample.caption for sample in data] == [scene.caption for scene in scenes]
        assert all(shows(sample, scene) for sample, scene in zip(data, scenes, strict=True))


def test_captions_of_the_web_hold_signs_that_end_no_line(scenes: Sequence[Scene], tmp_path: Path) -> None:
    captions, urls = published.sbu_text(scenes, tmp_path)
    texts = ["caf\u00e9 \u2028 at night\x85", "\u732b", "a \x0c form"]
    captions.write_text("\ufeff" + "\n".join(texts), encoding="utf-8")
    data = mm.data.sbu_captions(captions, tmp_path, urls=urls, progress=False)
    assert [sample.caption for sample in data] == [text.strip() for text in texts]


def test_jsonl_by_a_declared_mapping(scenes: Sequence[Scene], tmp_path: Path) -> None:
    path = published.jsonl(scenes, tmp_path)
    fields = {"images": "image", "prompt": "question", "references": "value", "name": "id"}
    data = mm.data.from_jsonl(path, fields, progress=False)  # type: ignore[arg-type]
    assert [(sample.name, sample.references) for sample in data] == [
        (str(n), (scene.caption,)) for n, scene in enumerate(scenes)
    ]
    assert all(shows(sample, scene) for sample, scene in zip(data, scenes, strict=True))


def test_rows_of_datasets_by_a_declared_mapping(scenes: Sequence[Scene]) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "answers": [{"answer": datasets.Value("string"), "answer_id": datasets.Value("int64")}],
            "answer_type": datasets.Value("string"),
            "image_id": datasets.Value("int64"),
        }
    )
    rows = {
        "image": [scene.image for scene in scenes],
        "question": [scene.questions[0].text for scene in scenes],
        "answers": [[{"answer": scene.questions[0].answer, "answer_id": n} for n in range(3)] for scene in scenes],
        "answer_type": ["other"] * 3,
        "image_id": [7, 8, 9],
    }
    table = datasets.Dataset.from_dict(rows, features=features)
    fields = {
        "images": "image",
        "prompt": "question",
        "references": "answers",
        "types": "answer_type",
        "answer": lambda row: row["answers"][0]["answer"],
        "image_id": "image_id",
    }
    for form in (table, table.cast_column("image", datasets.Image(decode=False))):
        data = mm.data.from_rows(form, fields)  # type: ignore[arg-type]
        for sample, scene in zip(data, scenes, strict=True):
            assert shows(sample, scene)
            answer = scene.questions[0].answer
            assert (sample.answer, sample.references, sample.types) == (answer, (answer,) * 3, {"answer_type": "other"})
        assert data[2].shown == "9"


def test_a_set_is_lazy_sliced_drawn_and_says_what_it_is(scenes: Sequence[Scene], tmp_path: Path) -> None:
    path = published.coco_instances(scenes, tmp_path)
    data = mm.data.coco_instances(path, tmp_path, progress=False)
    assert repr(data) == "SampleSet(COCO instances, instances_val2014.json: 3 samples)"
    assert [sample.name for sample in data[1:]] == ["42", "43"]
    assert data[-1].name == "43"
    assert [sample.name for sample in data.draw(2, seed=1)] == [sample.name for sample in data.draw(2, seed=1)]
    with pytest.raises(InputError, match="n=4 samples cannot be drawn from 3"):
        data.draw(4)
    with pytest.raises(IndexError):
        data[3]
    with pytest.raises(InputError, match="Sample 0 has no type 'answer_type': it has none"):
        data.by("answer_type")
    again = pickle.loads(pickle.dumps(data))
    assert [sample.boxes for sample in again] == [sample.boxes for sample in data]
    for picture in (tmp_path / "val2014").iterdir():
        picture.write_bytes(b"")  # nothing of a picture is read before it is asked for
    assert [sample.name for sample in data] == ["41", "42", "43"]
    with pytest.raises(InputError, match="is not a picture that PIL can read"):
        _ = data[0].pictures
