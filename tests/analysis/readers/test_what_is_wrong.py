"""What is wrong with files and folders is said before anything runs: where, what was expected, what to do."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.lab import Scene
from tests.analysis.readers import published


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return mm.lab.scenes(3, seed=2)


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    """A file with a change of its content."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    return published.write(path, content)


def test_missing_pictures_are_named_and_can_be_left_out(scenes: Sequence[Scene], tmp_path: Path) -> None:
    path = published.coco_captions(scenes, tmp_path)
    gone = tmp_path / "val2014" / published.coco_name(42)
    gone.unlink()
    message = rf"1 pictures that COCO captions, captions_val2014\.json names are not under .*: {gone.name}\. There are 3 files"
    with pytest.raises(InputError, match=f"{message}.*missing='skip' leaves their samples out"):
        mm.data.coco_captions(path, tmp_path, progress=False)
    data = mm.data.coco_captions(path, tmp_path, missing="skip", progress=False)
    assert ([sample.name for sample in data], data.missing) == (["41", "43"], (gone.name,))
    assert "1 left out, their pictures are not there" in repr(data)
    with pytest.raises(InputError, match="3 pictures that"):
        mm.data.coco_captions(path, tmp_path / "annotations", missing="skip", progress=False)
    with pytest.raises(
        InputError, match=r"images='.*nowhere' is not there; it must be the folder that holds the pictures"
    ):
        mm.data.coco_captions(path, tmp_path / "nowhere", progress=False)


def test_a_name_that_several_files_have_is_refused(scenes: Sequence[Scene], tmp_path: Path) -> None:
    path = published.coco_captions(scenes, tmp_path)
    published.draw(scenes[0], tmp_path / "copy" / published.coco_name(42))
    with pytest.raises(
        InputError, match=r"is 2 files under .*copy/COCO.*val2014/COCO.*Pass the folder of the pictures"
    ):
        mm.data.coco_captions(path, tmp_path, progress=False)
    assert len(mm.data.coco_captions(path, tmp_path / "val2014", progress=False)) == 3


def test_files_of_another_kind_say_what_they_lack(scenes: Sequence[Scene], tmp_path: Path) -> None:
    questions, annotations = published.vqa_v2(scenes, tmp_path)
    instances = published.coco_instances(scenes, tmp_path)
    cases: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: mm.data.coco_captions(instances, tmp_path, progress=False),
            r"annotations 1 of instances_val2014\.json has no 'caption'; it has 'segmentation'",
        ),
        (
            lambda: mm.data.vqa_v2(annotations, images=tmp_path, progress=False),
            "no file of VQAv2 questions: it has no 'questions', but .*These are annotations: pass them second",
        ),
        (
            lambda: mm.data.gqa(instances, tmp_path, progress=False),
            "question 'info' of instances_val2014.json has no 'imageId'",
        ),
        (
            lambda: mm.data.visual_genome(instances, tmp_path, progress=False),
            "it must be a list of pictures, found an object with 'info'",
        ),
        (
            lambda: mm.data.karpathy(questions, tmp_path, progress=False),
            "no file of Karpathy's splits: it has no 'images'",
        ),
        (lambda: mm.data.pope(instances, tmp_path, progress=False), "line 1 of .* has no 'label'"),
        (
            lambda: mm.data.sbu_captions(instances, tmp_path, progress=False),
            "no file of SBU captions: it has no 'captions'",
        ),
        (lambda: mm.data.coco_captions(tmp_path / "a.json", tmp_path), "There is no COCO captions at"),
        (
            lambda: mm.data.sbu_captions(tmp_path / "captions.txt", tmp_path),
            "holds SBU's captions as text; pass the file of their addresses as urls=",
        ),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()


def test_files_that_do_not_match_say_so(scenes: Sequence[Scene], tmp_path: Path) -> None:
    questions, annotations = published.vqa_v2(scenes, tmp_path)
    whole = json.loads(annotations.read_text(encoding="utf-8"))

    def call() -> Any:
        return mm.data.vqa_v2(questions, annotations, images=tmp_path, progress=False)

    published.write(annotations, {**whole, "annotations": whole["annotations"][1:]})
    with pytest.raises(
        InputError, match=r"1 questions of .*questions.json have no partner in .*annotations.json: ids 41000"
    ):
        call()
    published.write(annotations, {**whole, "annotations": [*whole["annotations"], whole["annotations"][0]]})
    with pytest.raises(InputError, match="has the id 41000 twice, the second time as annotations 10 of"):
        call()
    other = [{**entry, "image_id": 43} for entry in whole["annotations"]]
    published.write(annotations, {**whole, "annotations": other})
    with pytest.raises(InputError, match=r"question 41000 is about the picture 41 in .*, and about 43 in"):
        call()

    graphs = published.gqa(scenes, tmp_path / "gqa")
    changed(graphs[1], lambda content: content.pop("2354787"))
    with pytest.raises(
        InputError, match=r"1 pictures of .* have no scene graph in .*: 2354787. Take two files of one split"
    ):
        mm.data.gqa(graphs[0], tmp_path / "gqa", scene_graphs=graphs[1], progress=False)

    captions, urls = published.sbu_text(scenes, tmp_path / "sbu")
    urls.write_text("http://static.flickr.com/a.jpg\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"3 captions in .* and 1 addresses in .*; they belong together one by one"):
        mm.data.sbu_captions(captions, tmp_path, urls=urls, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(image_id=7), "annotations of 1 pictures that it does not list: ids 7"),
        (
            lambda c: c["annotations"][0].update(category_id=999),
            "annotations of the categories 999, which it does not list",
        ),
        (
            lambda c: c["annotations"].append(c["annotations"][0]),
            "has the id 4100 twice, the second time as annotations [0-9]+ of instances_val2014.json",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, 3]),
            r"'bbox' of annotations 1 .* must be \[left, top, width",
        ),
        (
            lambda c: c["annotations"][0].update(image_id="41"),
            "'image_id' of annotations 1 .* must be a whole number, found '41'",
        ),
        (
            lambda c: c["images"][1].update(id=41),
            "has two pictures of the id 41: COCO_val2014_0+41.jpg, COCO_val2014_0+42.jpg",
        ),
        (
            lambda c: c["images"][0].pop("file_name"),
            "images 1 of .* has no 'file_name'; it has .*nearest: 'flickr_url'|file_name",
        ),
        (lambda c: c.pop("annotations"), "no file of COCO instances: it has no 'annotations', but 'info'"),
    ],
)
def test_damaged_coco_instances(
    scenes: Sequence[Scene], tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    path = changed(published.coco_instances(scenes, tmp_path), change)
    with pytest.raises(InputError, match=message):
        mm.data.coco_instances(path, tmp_path, progress=False)


def test_masks_of_another_size_say_so(scenes: Sequence[Scene], tmp_path: Path) -> None:
    path = published.coco_instances(scenes, tmp_path)
    changed(path, lambda content: [entry.update(height=0) for entry in content["images"]])
    sample = mm.data.coco_instances(path, tmp_path, progress=False)[0]
    with pytest.raises(InputError, match=r"gives no height and width of COCO_val2014_0+41.jpg, which masks need"):
        _ = sample.regions[scenes[0].objects[0].shape]


def test_damaged_pope(scenes: Sequence[Scene], tmp_path: Path) -> None:
    path = published.pope(scenes, tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    for wrong, message in (
        ([*lines, lines[0]], r"has the id 'random/1' twice, the second time as line 7 of coco_pope_random\.json"),
        ([lines[0].replace('"yes"', '"maybe"')], "'label' of line 1 of .* must be 'yes' or 'no', found 'maybe'"),
        ([lines[0], '{"question_id": 2, "image": "a.jpg"'], "Line 2 of .* is broken JSON at column"),
        ([], "holds no samples"),
    ):
        path.write_text("\n".join(wrong), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            mm.data.pope(path, tmp_path, progress=False)


def test_declared_mappings(scenes: Sequence[Scene], tmp_path: Path) -> None:
    path = published.jsonl(scenes, tmp_path)

    def read(**fields: Any) -> Any:
        return mm.data.from_jsonl(path, fields, progress=False)

    for call, message in (
        (
            lambda: read(images="image", prompt="quesiton"),
            "object 1 of demos.jsonl has no 'quesiton'; .*nearest: 'question'",
        ),
        (lambda: read(name="id"), "say at least where 'images' or 'prompt' are"),
        (lambda: read(images="image", question="question"), "question"),
        (lambda: read(images="id", prompt="question")[0].pictures, "A picture must be a PIL image, a path"),
        (lambda: mm.data.from_rows({"a": 1}, {"prompt": "a"}), "must be rows that can be counted and indexed"),
        (lambda: mm.data.from_rows(iter([1]), {"prompt": "a"}), "Make a list of a stream"),
        (lambda: mm.data.from_rows([1], {"prompt": "a"}), "row 1 of list must be a mapping, found 1"),
        (lambda: mm.data.from_rows([], {"prompt": "a"}), "list holds no samples"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    (tmp_path / "train2014" / "1.jpg").unlink()
    with pytest.raises(InputError, match=r"1 pictures that demos.jsonl names are not under .*: train2014/1.jpg"):
        read(images="image")
    data = mm.data.from_jsonl(path, {"images": "image", "name": "id"}, missing="skip", progress=False)
    assert [sample.name for sample in data] == ["0", "2"]
