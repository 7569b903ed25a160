"""Packs: what the viewer is given of a result, named arrays over named axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from mmlens.core.errors import InputError

#: What an array may run over: a layer has its slider, a head its matrix, a token its row, an item (a neuron, a concept) its list;
#: a patch lies in the picture, and a group of positions that lies nowhere is a column of a heat map.
Axis = Literal["layer", "head", "item", "token", "group", "patch"]
#: The axes along which an array is drawn; the others choose what is drawn. Heads are drawn as a matrix, by layer.
DRAWN: tuple[Axis, ...] = ("group", "patch", "head")
#: How an array is coloured: zero in the middle, from zero up, or from its least to its largest value.
Scale = Literal["signed", "positive", "range"]


@dataclass(frozen=True)
class PackArray:
    """Numbers that the viewer draws.

    Attributes:
        name: short and unique in its pack.
        title: what they are.
        values: the numbers; NaN where there is none.
        axes: what they run over; the last one is drawn.
        unit: theirs.
        scale: how they are coloured.
        limit: the value at which colours are full; `"array"`: the largest magnitude; `"each"`: that of the map that is looked at
            and of its control, where maps are of very different strength.
        control: the array that stands beside it, on the same scale.
        texts: what stands in the cells of a heat map, `[row column]`; the numbers by default.
        run: which run it is of, where several are compared: runs have their buttons, and Space flips between the first two.
    """

    name: str
    title: str
    values: Float[np.ndarray, "..."]
    axes: tuple[Axis, ...]
    unit: str = ""
    scale: Scale = "positive"
    limit: float | Literal["array", "each"] = "array"
    control: str = ""
    texts: tuple[tuple[str, ...], ...] | None = None
    run: str = ""


@dataclass(frozen=True)
class PackWords:
    """Words at places of the picture: the best few, layer by layer.

    Attributes:
        ids: numbers of `strings`, best first; of the runs in the order of their arrays, where several are compared.
        probabilities: theirs, 0 to 1.
        strings: the words.
    """

    ids: Int[np.ndarray, "*run layer patch k"]
    probabilities: Float[np.ndarray, "*run layer patch k"]
    strings: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A picture of an item's own, such as those in which a concept is most active, side by side.

    Attributes:
        picture: what is shown.
        boxes: of its patches, in its pixels; None where nothing is laid over it.
        caption: what stands below.
    """

    picture: Image.Image
    boxes: Float[np.ndarray, "patch 4"] | None = None
    caption: str = ""


@dataclass(frozen=True)
class Slider:
    """A slider over a drawing: how many of its ranked parts are shown, the strongest first.

    Attributes:
        name: what it counts, such as "edges".
        quantity: by what they are ranked.
        start: how many are shown at first.
    """

    name: str
    quantity: str
    start: int = 40


def largest_of(values: np.ndarray) -> float:
    """The largest magnitude among the finite numbers; 0 where there are none."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0))


@dataclass(frozen=True)
class PackTable:
    """Rows that are folded away below the view.

    Attributes:
        title: what they are.
        columns: their names.
        rows: their cells, strings and numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True)
class Pack:
    """All that one view shows; what a result does not have is absent.

    Attributes:
        headline: the answer: a sentence with unit, number of samples and control.
        caption: how it was found.
        arrays: the numbers; the first is shown first.
        picture: what the patches are of.
        boxes: of the patches in its pixels: left, top, right, bottom.
        labels: names along each axis; numbers where there are none.
        start: what is chosen along an axis when the view opens; the first by default.
        words: of a lens.
        outlines: boxes that are known to be right (of a lab scene), drawn dashed.
        sheets: in place of the one picture: of each item its own; of each run of each item, `[item run]`, where there are runs.
        runs: names of the runs, where there are no arrays that name them.
        drawing: an SVG; see `mmlens.viz.page.drawings`.
        ranked: the slider over its parts; None where it has no ranks.
        tables: folded away; the first one is open where there is nothing else to look at.
        notes: what a reader has to know: what was left out, why there is no picture.
    """

    headline: str
    caption: str = ""
    arrays: tuple[PackArray, ...] = ()
    picture: Image.Image | None = None
    boxes: Float[np.ndarray, "patch 4"] | None = None
    labels: Mapping[Axis, Sequence[str]] = field(default_factory=dict)
    start: Mapping[Axis, int] = field(default_factory=dict)
    words: PackWords | None = None
    outlines: tuple[tuple[float, float, float, float], ...] = ()
    sheets: tuple[Sheet, ...] = ()
    runs: tuple[str, ...] = ()
    drawing: str = ""
    ranked: Slider | None = None
    tables: tuple[PackTable, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths: dict[Axis, int] = {axis: len(names) for axis, names in self.labels.items()}
        if self.boxes is not None:
            lengths["patch"] = len(self.boxes)
        elif self.sheets:
            lengths["patch"] = max(0 if sheet.boxes is None else len(sheet.boxes) for sheet in self.sheets)
        names = [array.name for array in self.arrays]
        for array in self.arrays:
            if array.values.ndim != len(array.axes) or not array.axes or array.axes[-1] not in DRAWN:
                raise InputError(
                    f"The array {array.name!r} of a pack is {array.values.shape} over the axes {array.axes}; it needs a name for "
                    f"each axis, and its last one is drawn: {' or '.join(DRAWN)}."
                )
            for axis, length in zip(array.axes, array.values.shape, strict=True):
                if lengths.setdefault(axis, length) != length:
                    raise InputError(
                        f"The array {array.name!r} of a pack has {length} along {axis!r}, where there are {lengths[axis]}."
                    )
            if array.control and array.control not in names:
                raise InputError(
                    f"The array {array.name!r} names the control {array.control!r}, and the pack has {names}."
                )
        placed = bool(self.sheets) or (self.picture is not None and self.boxes is not None)
        if any(array.axes[-1] == "patch" for array in self.arrays) and not placed:
            raise InputError("Patches lie in a picture: a pack of them needs picture and boxes.")
