"""How values become what files hold, and come back as they were; what no file holds is refused before one is written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmlens import positions
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.packing import UNSAVED, form_of
from mmlens.core.results import JsonKind, TensorKind
from mmlens.core.saved import Saved
from mmlens.core.unit_sets import Units
from mmlens.core.units import Feature, Head
from tests.viz import made


@dataclass(frozen=True)
class Inner:
    """A part."""

    where: tuple[int, int] | None
    values: torch.Tensor | tuple[torch.Tensor, ...]
    inner: "Inner | None" = None


@dataclass(frozen=True)
class Outer(Saved):
    """A result of many kinds of fields."""

    inner: Inner
    parts: Mapping[int, tuple[Inner, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    unit: Head | None = None
    share: float = 0.5
    picture: Image.Image | None = None
    array: np.ndarray = field(default_factory=lambda: np.zeros(0))
    model: Any = field(default=None, metadata=UNSAVED)


INNER = Inner((1, 2), torch.arange(3), Inner(None, (torch.ones(2).half(), torch.zeros(0, 4))))
#: Values of which no annotation tells what they are.
LOOSE: dict[str, Any] = {
    "plain": [1, 2.5, None, True, "ü"],
    "tuple": (1, ("a", [2])),
    "slice": slice(1, None, 2),
    "number": np.float32(1.5).item(),
    "pairs": {3: "three", (1, 2): "pair"},
    "dollar": {"$tuple": 1},
    "rule": (positions.last | "image") - positions.index([1]),
    "units": Units(["L1.h2", "L0.u3"]),
    "unit": Feature(3, 7),
    "path": Path("a/b"),
    "tensor": torch.eye(2, dtype=torch.bfloat16),
    "array": np.arange(4).reshape(2, 2),
    "nan": float("inf"),
}


@pytest.mark.parametrize("name", LOOSE)
def test_what_no_annotation_tells_comes_back_as_it_was(name: str) -> None:
    tensors: dict[str, torch.Tensor] = {}
    form = form_of(Any)
    data = json.loads(json.dumps(form.pack(LOOSE[name], name, tensors)))
    assert identity_of(form.unpack(data, name, tensors)) == identity_of(LOOSE[name])


def test_nested_results_come_back_and_what_is_not_kept_has_its_default(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    result = Outer(INNER, {2: (INNER, INNER)}, LOOSE, Head(1, 2), float("nan"), image, np.arange(3.0), object())
    again = Outer.load(result.save(tmp_path / "outer"))
    assert again.model is None
    assert again.picture is not None
    assert (np.asarray(again.picture) == np.asarray(image)).all()
    plain = [replace(one, model=None, picture=None) for one in (again, result)]
    assert identity_of(plain[0]) == identity_of(plain[1])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
def test_pictures_keep_their_pixels(mode: str, tmp_path: Path) -> None:
    image = made.picture(5, 3).convert(mode)
    again = Outer.load(Outer(INNER, picture=image).save(tmp_path / "outer")).picture
    assert again is not None
    assert again.mode == ("RGB" if mode == "CMYK" else mode)
    assert (np.asarray(again.convert("RGB")) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (Outer(INNER, settings={"f": [print]}), r"settings\.f\.0=.* must be something that files hold"),
        (Outer(INNER, share="half"), "share='half' must be a number"),  # type: ignore[arg-type]
        (Outer(replace(INNER, where=(1,))), r"inner\.where=\(1,\) must be \(a whole number, a whole number\)"),  # type: ignore[arg-type]
        (Outer(INNER, array=np.array(["a"])), "array=.* must be a tensor or an array of numbers"),
    ],
)
def test_what_no_file_holds_is_refused_before_one_is_written(result: Outer, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^Outer cannot be written into .*outer: {message}"):
        result.save(tmp_path / "outer")
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_right_kind_with_wrong_content_says_what_is_wrong(tmp_path: Path) -> None:
    good: dict[str, torch.Tensor] = {}
    content = form_of(Outer).pack(Outer(INNER), "", good)
    kind = TensorKind("mmlens.Outer", 1, "outer", dict.fromkeys(content, Any))
    for name, value, message in (
        ("share", "half", "share='half' must be a number"),
        ("inner", {"where": None}, "inner=.* must be an Inner"),
        ("array", "nowhere", "array='nowhere' must be a tensor"),
        ("unit", "L1.x", "names no unit"),
    ):
        kind.write(tmp_path / "outer", good, {**content, name: value})
        with pytest.raises(InputError, match=f"outer is no outer that can be read: .*{message}"):
            Outer.load(tmp_path / "outer")
    JsonKind("mmlens.Outer", 2, "outer").write(tmp_path / "outer", {})
    with pytest.raises(InputError, match="outer is an outer of version 2, and this mmlens reads version 1"):
        Outer.load(tmp_path / "outer")
