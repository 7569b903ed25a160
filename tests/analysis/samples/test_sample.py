"""A dataset in any of its forms gives the same samples."""

import base64
import pickle
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlens import lab
from mmlens.analysis.samples.regions import LazyMasks
from mmlens.analysis.samples.sample import Sample, as_samples, batches
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from tests.conftest import Subject


def test_every_form_of_a_picture_is_the_same_sample() -> None:
    image = lab.scene(3).image
    forms = [image, np.asarray(image), (image, "describe the image"), {"image": image}, {"images": [image]}]
    assert len({sample.key for sample in as_samples([*forms, Sample((image,)), lab.scene(3)])}) == 1


def test_a_sample_is_its_pixels_whatever_holds_them(tmp_path: Path) -> None:
    image = lab.scene(3).image
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    opened = (tmp_path / "a.png").open("rb")
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    holders = [str(tmp_path / "a.png"), data, bytearray(data), memoryview(data), BytesIO(data), opened, url]
    holders += [{"bytes": data, "path": None}, {"path": str(tmp_path / "a.png")}, np.asarray(image)]
    samples = [Sample((holder,), regions={"moon": np.eye(2, dtype=bool)}) for holder in holders]
    opened.close()
    truth = Sample((image,), regions={"moon": np.eye(2, dtype=bool)})
    for sample in samples:
        again = pickle.loads(pickle.dumps(sample))
        assert sample == again == truth
        assert identity_of(sample) == identity_of(truth)
        assert len(repr(sample)) < 150
    assert len({*samples, truth}) == 1
    assert Sample((image,)) != truth
    assert Sample((image,), answer="a") != Sample((image,))
    assert {sample.key for sample in as_samples([*holders[:5], *holders[6:]])} == {truth.key}
    for holder in (*holders[:5], *holders[6:]):
        with pytest.raises(InputError, match=r"put a single one into a list|holds tensors"):
            as_samples(holder)  # type: ignore[arg-type]


def test_the_key_changes_with_a_pixel_and_with_the_prompt() -> None:
    image = lab.scene(3).image
    other = image.copy()
    other.putpixel((5, 5), (1, 2, 3))
    assert len({sample.key for sample in as_samples([image, other, (image, "what color")])}) == 3


def test_a_scene_brings_its_truth() -> None:
    scene = next(scene for scene in lab.scenes(50) if len({thing.shape for thing in scene.objects}) > 1)
    (sample,) = as_samples([scene])
    assert sample.caption == scene.caption
    for thing in scene.objects:
        assert sample.regions[thing.shape][thing.mask].all()
    assert sample.as_writing.images == ()
    assert sample.as_writing.prompt == f"{scene.written()} describe the image"


def test_masks_are_made_when_the_first_is_read() -> None:
    made: list[int] = []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"moon": np.ones((2, 3), dtype=bool)}

    sample = Sample((Image.new("RGB", (3, 2)),), regions=LazyMasks(make, ["moon"]))
    assert (list(sample.regions), len(sample.regions), made) == (["moon"], 1, [])
    assert (sample.regions["moon"].all(), sample.regions["moon"].shape, made) == (True, (2, 3), [1])
    for wrong in ({"moon": np.ones((2, 3))}, {"moon": np.ones(3, dtype=bool)}, {"moon": None}):
        with pytest.raises(InputError, match=r"regions=.* must be a mapping from nouns to masks: boolean arrays"):
            Sample((), regions=wrong)  # type: ignore[arg-type]


def test_batches_stream(llava: Subject) -> None:
    read = []

    def stream() -> Iterator[Image.Image]:
        for number in range(5):
            read.append(number)
            yield Image.new("RGB", (64, 64), (number, 0, 0))

    made = batches(llava.model, stream(), batch_size=2, progress=False)
    samples, batch = next(made)
    assert (len(samples), batch.size, read) == (2, 2, [0, 1])
    assert [batch.size for _, batch in made] == [2, 1]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("a.png", "put a single one into a list"),
        ([{"picture": 1}], "keys that mean nothing here: 'picture'"),
        (3, "dataset=3 must be an iterable"),
    ],
)
def test_what_is_no_dataset_is_refused(dataset: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(as_samples(dataset))  # type: ignore[arg-type]


def test_a_sample_without_writing_says_so() -> None:
    with pytest.raises(InputError, match="has no writing"):
        _ = Sample((Image.new("RGB", (4, 4)),)).as_writing
