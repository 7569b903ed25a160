"""Positions as values: rules that say which tokens, patches and generated steps are meant, whatever batch runs.

`mm.positions.image`, `.text`, `.last`, `.prompt`, `.generated` and `.all` are rules; `word`, `box`, `mask`, `object`, `index`
and `row` make rules, and `|`, `&`, `-`, `~` join them. A rule is resolved when a run starts, for its batch and for the
sequence of each point: a box names patches in the vision encoder and image tokens in the language model. Every verb takes
rules, and what is short for them: `"image"`, `"moon"` (a word of the prompt), `3`, `slice(2, 5)`, `[0, -1]`.

    image      what stands for the pictures; image[1] the second one, image(frame=2) one frame of a video
    text       the prompt's tokens that stand for no picture, special ones included
    last       the last token of the prompt: the one that predicts the first new token
    prompt     everything that is read before the first new token
    generated  the new tokens of a generation
    all        prompt and generated
"""

import builtins
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, CountOrZero
from mmlens.core.regions import Box, Mask, Region
from mmlens.core.rule_groups import Each, Grid
from mmlens.core.rules import ALL, GENERATED, LAST, PROMPT, Image, Index, Named, Row, Word, span_of
from mmlens.core.whole_numbers import whole_number, whole_numbers

__all__ = [  # noqa: RUF022 - as the docstring has them
    "image",
    "text",
    "last",
    "prompt",
    "generated",
    "all",
    "word",
    "box",
    "mask",
    "object",
    "index",
    "row",
    "each",
    "grid",
]

image = Image()
text = Named("text")
last = LAST
prompt = PROMPT
generated = GENERATED
all = ALL
each = Each()


@checked
def index(*numbers: int | slice | Sequence[int] | torch.Tensor) -> Index:
    """Tokens by number, each sample's own: negative numbers count from the end of its prompt, padding has none.

    In towers they count the rows of the sample's own pictures.

    Args:
        numbers: numbers and slices, of which a slice that reaches past the prompt goes on into what is generated; or one list
            (or tensor) of numbers per sample.

    Example:
        >>> import mmlens as mm
        >>> mm.positions.index(0, -1) | mm.positions.image
        positions.index(0, -1) | positions.image
    """
    if not numbers:
        raise InputError("index() names no token; give numbers or slices, e.g. index(0, -1).")
    if isinstance(numbers[0], Sequence) or (isinstance(numbers[0], torch.Tensor) and numbers[0].ndim):
        return Index(tuple(tuple(whole_numbers(sample)) for sample in numbers), per_sample=True)
    return Index(tuple(span_of(n) if isinstance(n, slice) else whole_number(n, "index") for n in numbers))


@checked
def row(*rows: int | Sequence[int] | torch.Tensor) -> Row:
    """Rows by their raw number along the point's own sequence, as its tensor holds them: padding is counted.

    Args:
        rows: numbers, the same for all samples; or one list (or tensor) of numbers per sample.

    Example:
        >>> import mmlens as mm
        >>> mm.positions.row(3, 4), mm.positions.row([3, 4], [5])
        (positions.row(3, 4), positions.row([3, 4], [5]))
    """
    if not rows:
        raise InputError("row() names no row; give numbers, or one list of numbers per sample.")
    if isinstance(rows[0], int | np.integer):
        return Row((tuple(whole_number(number, "row") for number in rows),))
    if len(rows) == 1 and isinstance(rows[0], torch.Tensor) and rows[0].ndim == 2:
        rows = tuple(rows[0])
    per_sample = tuple(tuple(whole_numbers(numbers)) for numbers in rows)
    return Row(per_sample, per_sample=True)


@checked
def word(word: str | Sequence[str], *, which: int | None = None) -> Word:
    """The tokens of a word, all of its pieces, wherever it stands in the prompt or in what was written behind it.

    Upper and lower case are one, and what a tokenizer puts in front of a word is found with it; "moon" is not found in
    "moonlight". A sample without the word is refused.

    Args:
        word: the word, or several in a row ("traffic light"); or one per sample.
        which: which occurrence: 0 the first, -1 the last; every one by default.

    Example:
        >>> import mmlens as mm
        >>> mm.positions.word("moon", which=0)
        positions.word('moon', which=0)
    """
    words = (word,) if isinstance(word, str) else tuple(word)
    if not words or not builtins.all(isinstance(phrase, str) and phrase.strip() for phrase in words):
        raise InputError(f"word({word!r}) needs a word, or one word per sample.")
    phrases = tuple(" ".join(phrase.split()) for phrase in words)
    return Word(phrases, None if which is None else whole_number(which, "which"), not isinstance(word, str))


@checked
def box(
    box: Box | Sequence[float] | Sequence[Box | None], *, image: CountOrZero = 0, frame: int | None = None
) -> Region:
    """The patches that a box of the picture touches: vision rows, projector rows or image tokens, as the point has them.

    Args:
        box: (left, top, right, bottom) in pixels of the user's picture, right and bottom outside; or one per sample, None
            where a sample has none.
        image: which of the sample's pictures.
        frame: which frame of a video; every one by default.

    Example:
        >>> import mmlens as mm
        >>> mm.positions.image - mm.positions.box((8, 8, 24, 24))
        positions.image - positions.box((8, 8, 24, 24))
    """
    is_list = isinstance(box, Sequence) and len(box) > 0 and not _is_number(box[0])
    areas = tuple(None if area is None else _box(area) for area in (box if is_list else [box]))
    return _region(areas, image, frame, is_list, "box")


@checked
def mask(
    mask: torch.Tensor | np.ndarray | Sequence[torch.Tensor | np.ndarray | None],
    *,
    image: CountOrZero = 0,
    frame: int | None = None,
) -> Region:
    """The patches that a mask of the picture covers by half or more; if there are none, the one that it covers most.

    Args:
        mask: `[height width]`, True inside, of the user's picture; or one per sample, None where a sample has none.
        image: which of the sample's pictures.
        frame: which frame of a video; every one by default.
    """
    is_list = isinstance(mask, list | tuple)
    areas = tuple(None if area is None else _mask(area) for area in (mask if is_list else [mask]))
    return _region(areas, image, frame, is_list, "mask")


@checked
def object(object: Any, *, image: CountOrZero = 0, frame: int | None = None) -> Region:
    """The patches of a thing in the picture: of its mask, or of its box if it has no mask.

    Args:
        object: anything with `.mask` `[height width]` or `.box`, e.g. `scene.objects[0]`; or one per sample, None where a
            sample has none.
        image: which of the sample's pictures.
        frame: which frame of a video; every one by default.
    """
    is_list = isinstance(object, list | tuple)
    areas = tuple(None if area is None else _area(area) for area in (object if is_list else [object]))
    return _region(areas, image, frame, is_list, "object")


@checked
def grid(side: Count) -> Grid:
    """Groups for a sweep: the picture cut into blocks of `side x side` patches, named `r0c0`, `r0c1`, ... row by row.

    Args:
        side: patches along each side of a block.

    Example:
        >>> import mmlens as mm
        >>> mm.positions.grid(4)
        positions.grid(4)
    """
    if whole_number(side, "side") < 1:
        raise InputError(f"side={side} must be at least 1 patch.")
    return Grid(side)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) or (isinstance(value, torch.Tensor) and value.ndim == 0)


def _box(box: Any) -> Box:
    if (
        not isinstance(box, Sequence | np.ndarray | torch.Tensor)
        or len(box) != 4
        or not builtins.all(map(_is_number, box))
    ):
        raise InputError(
            f"box={box!r} must be (left, top, right, bottom) in pixels, or a list of these, one per sample."
        )
    ends = tuple(end if isinstance(end, int) else float(end) for end in box)
    if not builtins.all(map(math.isfinite, ends)):
        raise InputError(f"box={box!r} must be four finite numbers (left, top, right, bottom).")
    return ends[0], ends[1], ends[2], ends[3]


def _mask(mask: Any) -> Mask:
    if isinstance(mask, np.ndarray) and mask.dtype.kind not in "biuf":
        raise InputError(f"A mask is [height width] and holds truth values, found a numpy array of {mask.dtype}.")
    inside = torch.as_tensor(mask)
    if inside.ndim != 2 or inside.dtype != torch.bool:
        raise InputError(
            f"A mask is [height width] and holds truth values, found {list(inside.shape)} of {inside.dtype}; "
            "compare first, e.g. mask > 0.5."
        )
    return Mask(inside)


def _area(thing: Any) -> Box | Mask:
    if getattr(thing, "mask", None) is not None:
        return _mask(thing.mask)
    if getattr(thing, "box", None) is not None:
        return _box(thing.box)
    raise InputError(
        f"object() takes things with a .mask or a .box, e.g. scene.objects[0], found {type(thing).__name__}; for a box itself "
        "use positions.box(...)."
    )


def _region(
    areas: tuple[Box | Mask | None, ...],
    image: int,
    frame: int | None,
    is_list: bool,
    kind: Literal["box", "mask", "object"],
) -> Region:
    if not areas or (not is_list and areas[0] is None):
        raise InputError(f"{kind}() was given nothing; give one for all samples, or one per sample.")
    frame = None if frame is None else whole_number(frame, "frame")
    return Region(areas, whole_number(image, "image"), frame, is_list, kind)
