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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts, Count, CountOrZero, With
from mmlens.core.sequence_rows import SequenceRows

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

#: (left, top, right, bottom) in pixels of the user's picture; right and bottom are outside.
Box: TypeAlias = tuple[float, float, float, float]

#: The words that are rules by themselves.
WORDS = ("all", "image", "text", "last", "prompt", "generated")


class Rule:
    """What is meant, before a batch says which rows that is; a value: it prints itself, and joins with others."""

    def __or__(self, other: "Positions") -> "Rule":
        return Joined("|", self, as_rule(other))

    def __and__(self, other: "Positions") -> "Rule":
        return Joined("&", self, as_rule(other))

    def __sub__(self, other: "Positions") -> "Rule":
        return Joined("-", self, as_rule(other))

    def __ror__(self, other: "Positions") -> "Rule":
        return as_rule(other) | self

    def __rand__(self, other: "Positions") -> "Rule":
        return as_rule(other) & self

    def __rsub__(self, other: "Positions") -> "Rule":
        return as_rule(other) - self

    def __invert__(self) -> "Rule":
        return Complement(self)

    def leaves(self) -> "list[Rule]":
        """The rules that it is joined of."""
        return [self]

    def __repr__(self) -> str:
        return f"positions.{self}"


@dataclass(frozen=True, repr=False)
class Named(Rule):
    """A rule that is a word: `all`, `text`, `last`, `prompt`, `generated`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, repr=False)
class Image(Rule):
    """What stands for pictures: for all of a sample, for one of them, or for one frame of a video.

    Attributes:
        number: which of the sample's pictures or videos; None for all.
        frame: which frame; None for all.
    """

    number: int | None = None
    frame: int | None = None

    def __getitem__(self, number: int) -> "Image":
        return Image(_whole(number, "image"), self.frame)

    def __call__(self, number: int | None = None, *, frame: int | None = None) -> "Image":
        """One picture, or one frame of a video.

        Args:
            number: which of the sample's pictures or videos; None for all.
            frame: which frame; None for all.
        """
        return Image(
            None if number is None else _whole(number, "image"), None if frame is None else _whole(frame, "frame")
        )

    def __str__(self) -> str:
        label = "image" if self.number is None else f"image[{self.number}]"
        return label if self.frame is None else f"{label}(frame={self.frame})"


@dataclass(frozen=True)
class Span:
    """A slice of a sample's own tokens; new tokens of a generation follow those of the prompt.

    Attributes:
        start, stop: as in a slice; negative ones count from the end of the sample's own prompt.
        step: 1 or more.
    """

    start: int | None
    stop: int | None
    step: int

    def bounds(self, length: int) -> tuple[int, float]:
        """Start and stop, counted from the first of `length` tokens of the prompt."""
        start = 0 if self.start is None else self.start if self.start >= 0 else max(length + self.start, 0)
        if self.stop is None:
            return start, math.inf
        return start, self.stop if self.stop >= 0 else max(length + self.stop, 0)

    def __str__(self) -> str:
        ends = ["" if end is None else str(end) for end in (self.start, self.stop)]
        return ":".join(ends if self.step == 1 else [*ends, str(self.step)])


@dataclass(frozen=True, repr=False)
class Index(Rule):
    """Tokens by number, counted within each sample's own: padding has no number.

    Attributes:
        items: numbers and spans, the same for all samples; or with `per_sample` a tuple of numbers for each.
        per_sample: whether each sample has its own.
    """

    items: tuple[Any, ...]
    per_sample: bool = False

    def __str__(self) -> str:
        items = [list(item) for item in self.items] if self.per_sample else self.items
        return ", ".join(map(str, items))

    def __repr__(self) -> str:
        return f"positions.index({self})"


@dataclass(frozen=True, repr=False)
class Row(Rule):
    """Rows by their raw number along a sequence, the one use where padding is counted (and refused where it is named).

    Attributes:
        rows: the numbers, one tuple for all samples, or with `per_sample` a tuple for each.
        per_sample: whether each sample has its own.
        sequence: the sequence that they count along; None for whichever the point lies on.
        sample: the one sample whose rows they are; None if that is not known.
    """

    rows: tuple[tuple[int, ...], ...]
    per_sample: bool = False
    sequence: str | None = None
    sample: int | None = None

    def __str__(self) -> str:
        label = [list(numbers) for numbers in self.rows] if self.per_sample else ", ".join(map(str, self.rows[0]))
        return f"row({label})"

    def __repr__(self) -> str:
        on = "" if self.sequence is None else f" of the {self.sequence} sequence"
        return f"positions.{self}{on}"


@dataclass(frozen=True, repr=False)
class Word(Rule):
    """The tokens of a word, in the prompt or in what was written behind it.

    Attributes:
        words: the word (or several in a row), one for all samples, or with `per_sample` one for each.
        which: which occurrence; None for every one.
        per_sample: whether each sample has its own.
    """

    words: tuple[str, ...]
    which: int | None = None
    per_sample: bool = False

    def __str__(self) -> str:
        return ", ".join(self.words) + ("" if self.which is None else f"[{self.which}]")

    def __repr__(self) -> str:
        words = list(self.words) if self.per_sample else repr(self.words[0])
        return f"positions.word({words}{'' if self.which is None else f', which={self.which}'})"


@dataclass(frozen=True, eq=False)
class Mask:
    """The pixels of a region, `[height width]`; equal to itself alone.

    Attributes:
        inside: True at its pixels.
    """

    inside: torch.Tensor


@dataclass(frozen=True, repr=False)
class Region(Rule):
    """The patches that a part of the picture falls on, in whatever tower the point lies in.

    A box names every patch that it touches; a mask those of which it covers half, or else the one that it covers most.

    Attributes:
        areas: a box or mask for all samples, or with `per_sample` one for each (None: nothing in that sample).
        image: which of the sample's pictures.
        frame: which frame of a video; None for all.
        per_sample: whether each sample has its own.
        kind: how it was made: `"box"`, `"mask"` or `"object"`.
    """

    areas: tuple[Box | Mask | None, ...]
    image: int = 0
    frame: int | None = None
    per_sample: bool = False
    kind: Literal["box", "mask", "object"] = "box"

    def __str__(self) -> str:
        if self.per_sample or not isinstance(self.areas[0], tuple):
            return self.kind
        return f"box{tuple(int(end) if end == int(end) else round(end, 2) for end in self.areas[0])}"

    def __repr__(self) -> str:
        areas = [tuple(area.inside.shape) if isinstance(area, Mask) else area for area in self.areas]
        more = f", image={self.image}" if self.image else ""
        more += "" if self.frame is None else f", frame={self.frame}"
        return f"positions.{self.kind}({areas if self.per_sample else areas[0]}{more})"


@dataclass(frozen=True, repr=False)
class Joined(Rule):
    """Two rules joined: what either means (`|`), both (`&`), or the first without the second (`-`)."""

    sign: str
    left: Rule
    right: Rule

    def leaves(self) -> list[Rule]:
        """The rules that it is joined of."""
        return [*self.left.leaves(), *self.right.leaves()]

    def __str__(self) -> str:
        return f"{_inner(self.left, str)} {self.sign} {_inner(self.right, str)}"

    def __repr__(self) -> str:
        return f"{_inner(self.left, repr)} {self.sign} {_inner(self.right, repr)}"


@dataclass(frozen=True, repr=False)
class Complement(Rule):
    """Everything that a rule does not mean: of the prompt, and of what is generated."""

    rule: Rule

    def leaves(self) -> list[Rule]:
        """The rules that it is joined of."""
        return self.rule.leaves()

    def __str__(self) -> str:
        return f"~{_inner(self.rule, str)}"

    def __repr__(self) -> str:
        return f"~{_inner(self.rule, repr)}"


@dataclass(frozen=True)
class Each:
    """Groups for a sweep: every position by itself, or every position of a rule.

    Attributes:
        of: the rule.
    """

    of: Rule = Named("prompt")

    def __call__(self, of: "Positions") -> "Each":
        """Every position of a rule by itself."""
        return Each(as_rule(of))

    def __repr__(self) -> str:
        return "positions.each" if self.of == Named("prompt") else f"positions.each({self.of!r})"


@dataclass(frozen=True)
class Grid:
    """Groups for a sweep: the picture in blocks of patches, `r0c0`, `r0c1`, ... row by row.

    Attributes:
        side: patches along each side of a block; fewer at the right and lower edge where they do not divide.
    """

    side: int

    def __repr__(self) -> str:
        return f"positions.grid({self.side})"


#: What `positions=` takes: a rule or its word; a word of the prompt; an index, several, a slice (of each sample's own tokens);
#: a tensor of them, `[row]` or `[batch row]`, or one per sample; or rows that a layout handed out.
Positions: TypeAlias = Annotated[
    Rule | str | int | slice | torch.Tensor | Sequence[int] | Sequence[torch.Tensor],
    Accepts(builtins.object),
    With(lambda arguments, positions, name: _readable(as_rule, positions)),
]

#: What a sweep takes: rules by name, several rules (each named by what it prints), one rule, `each`, or `grid(k)`.
Groups: TypeAlias = Annotated[
    Mapping[str, Positions] | Sequence[Rule | str | int | slice] | Positions | Each | Grid,
    Accepts(builtins.object),
    With(lambda arguments, positions, name: _readable(as_groups, positions)),
]


def _readable(reads: Callable[[Any], Any], positions: Any) -> Any:
    """The positions, if they can be read as a rule, or as groups."""
    reads(positions)
    return positions


image = Image()
text = Named("text")
last = LAST = Named("last")
prompt = Named("prompt")
generated = GENERATED = Named("generated")
all = ALL = Named("all")
each = Each()


def index(*numbers: int | slice) -> Index:
    """Tokens by number, each sample's own: negative numbers count from the end of its prompt, padding has none.

    In towers they count the rows of the sample's own pictures.

    Args:
        numbers: numbers and slices; a slice that reaches past the prompt goes on into what is generated.

    Example:
        >>> import mmlens as mm
        >>> mm.positions.index(0, -1) | mm.positions.image
        positions.index(0, -1) | positions.image
    """
    if not numbers:
        raise InputError("index() names no token; give numbers or slices, e.g. index(0, -1).")
    return Index(tuple(_span(n) if isinstance(n, slice) else _whole(n, "index") for n in numbers))


def row(*rows: int | Sequence[int] | torch.Tensor) -> Row:
    """Rows by their raw number along the point's own sequence, as its tensor holds them: padding is counted.

    Args:
        rows: numbers, the same for all samples; or one list (or tensor) of numbers per sample.

    Example:
        >>> import mmlens as mm
        >>> mm.positions.row(3, 4), mm.positions.row([3, 4], [5])
        (positions.row(3, 4), positions.row([[3, 4], [5]]))
    """
    if not rows:
        raise InputError("row() names no row; give numbers, or one list of numbers per sample.")
    if isinstance(rows[0], int | np.integer):
        return Row((tuple(_whole(number, "row") for number in rows),))
    if len(rows) == 1 and isinstance(rows[0], torch.Tensor) and rows[0].ndim == 2:
        rows = tuple(rows[0])
    per_sample = tuple(tuple(_numbers(numbers)) for numbers in rows)
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
    return Word(phrases, None if which is None else _whole(which, "which"), not isinstance(word, str))


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
    is_list = not (isinstance(box, Sequence | np.ndarray | torch.Tensor) and len(box) == 4 and _is_number(box[0]))
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
    if _whole(side, "side") < 1:
        raise InputError(f"side={side} must be at least 1 patch.")
    return Grid(side)


def as_rule(positions: Any) -> Rule:
    """The rule that `positions=` means.

    Raises:
        InputError: for what is none: truth values, fractions, empty lists, slices that go backwards.
    """
    if isinstance(positions, Rule):
        return positions
    if isinstance(positions, str):
        return _by_word(positions)
    if isinstance(positions, slice):
        return Index((_span(positions),))
    if isinstance(positions, torch.Tensor | np.ndarray | np.integer):
        return _by_tensor(torch.as_tensor(positions))
    if isinstance(positions, int) and not isinstance(positions, bool):
        return Index((positions,))
    if isinstance(positions, Sequence) and len(positions):
        if builtins.all(isinstance(item, torch.Tensor) and item.ndim == 1 for item in positions):
            return _by_sample(positions)
        if not builtins.any(isinstance(item, Rule | str | slice | Sequence) for item in positions):
            return Index(tuple(_numbers(positions)))
        if builtins.any(isinstance(item, Rule | str | slice) for item in positions):
            raise InputError(
                f"positions={positions!r} are several rules where one is taken; join them: positions.image | positions.last."
            )
    raise InputError(
        f"positions={positions!r} are none: give a rule of mm.positions, one of {', '.join(map(repr, WORDS))}, a word of the "
        "prompt, whole numbers, a slice or a tensor."
    )


def as_groups(positions: Any) -> dict[str, Rule] | Each | Grid:
    """What a sweep's `positions=` means: rules by name, or a way to make them.

    Raises:
        InputError: for no groups, or what are no rules.
    """
    if isinstance(positions, Each | Grid):
        return positions
    if isinstance(positions, str) and positions == "each":
        return each
    if isinstance(positions, Mapping):
        if not positions:
            raise InputError("positions are empty: name at least one group.")
        return {str(name): as_rule(rule) for name, rule in positions.items()}
    is_list = isinstance(positions, list | tuple) and builtins.any(
        isinstance(item, Rule | str | slice) for item in positions
    )
    rules = [as_rule(item) for item in positions] if is_list else [as_rule(positions)]
    return {str(rule): rule for rule in rules}


def named_rules(positions: Any) -> dict[str, Rule]:
    """Rules by name, where no others are taken.

    Raises:
        InputError: for `each` and `grid(k)`, and for what are no rules.
    """
    groups = as_groups(positions)
    if isinstance(groups, Each | Grid):
        raise InputError(f"{positions!r} are groups of a sweep over positions; name rules, e.g. 'image' and 'text'.")
    return groups


def as_json(rule: Any) -> Any:
    """A rule as JSON holds it; `from_json` reads it.

    Raises:
        InputError: for a mask, which is a picture and no text.
    """
    if isinstance(rule, Mask):
        raise InputError("A rule with a mask cannot be written down; name a box: positions.box(...).")
    if isinstance(rule, Rule | Span):
        values = {field.name: as_json(getattr(rule, field.name)) for field in fields(rule)}  # type: ignore[arg-type]
        return {"rule": type(rule).__name__, **values}
    return [as_json(item) for item in rule] if isinstance(rule, tuple) else rule


def from_json(value: Any) -> Any:
    """The rule that `as_json` wrote."""
    if isinstance(value, dict):
        kinds = {kind.__name__: kind for kind in (Named, Image, Span, Index, Row, Word, Region, Joined, Complement)}
        return kinds[value["rule"]](**{name: from_json(item) for name, item in value.items() if name != "rule"})
    return tuple(from_json(item) for item in value) if isinstance(value, list) else value


def _by_word(word: str) -> Rule:
    if word == "image":
        return image
    if word == "each":
        raise InputError("positions='each' names groups of a sweep; here one rule is taken, e.g. 'all'.")
    if word in WORDS:
        return Named(word)
    if not word.strip():
        raise InputError(f"positions={word!r} is no word; the rules that are words: {', '.join(map(repr, WORDS))}.")
    return Word((" ".join(word.split()),))


def _by_tensor(rows: torch.Tensor) -> Rule:
    if rows.dtype == torch.bool or rows.is_floating_point() or rows.is_complex():
        raise InputError(f"positions must be whole numbers, found {rows.dtype}; use .nonzero() on a mask.")
    if rows.ndim > 2 or not rows.numel():
        raise InputError(
            f"positions must be [row], or [batch row] with a row for each sample, found shape {list(rows.shape)}."
        )
    if isinstance(rows, SequenceRows):
        per_sample = rows.ndim == 2 or rows.per_sample
        table = rows.plain.reshape(len(rows), -1) if per_sample else rows.plain.reshape(1, -1)
        return Row(tuple(map(tuple, table.tolist())), per_sample, rows.sequence, rows.sample)
    if rows.ndim == 2:
        return Index(tuple(map(tuple, rows.tolist())), per_sample=True)
    return Index(tuple(rows.reshape(-1).tolist()))


def _by_sample(rows: Sequence[torch.Tensor]) -> Rule:
    """One tensor per sample: own numbers, or rows that a layout handed out."""
    sequences = {getattr(some, "sequence", None) for some in rows}
    if len(sequences) > 1:
        raise InputError(
            f"positions mix rows of {' and '.join(sorted(str(s or 'no known sequence') for s in sequences))}; give those of one."
        )
    wrong = [n for n, some in enumerate(rows) if getattr(some, "sample", None) not in (None, n)]
    if wrong:
        raise InputError(
            f"positions hold one entry per sample, and those of samples {wrong} are rows of other samples."
        )
    numbers = tuple(tuple(_numbers(some)) for some in rows)
    (sequence,) = sequences
    if sequence is None:
        return Index(numbers, per_sample=True)
    return Row(numbers, True, sequence)


def _numbers(numbers: Any) -> list[int]:
    """Whole numbers as Python's own."""
    if isinstance(numbers, torch.Tensor):
        if numbers.dtype == torch.bool or numbers.is_floating_point():
            raise InputError(f"positions must be whole numbers, found {numbers.dtype}; use .nonzero() on a mask.")
        return [int(number) for number in numbers.reshape(-1).tolist()]
    return [_whole(number, "positions") for number in numbers]


def _whole(number: Any, name: str) -> int:
    if isinstance(number, torch.Tensor) and number.ndim == 0 and number.dtype != torch.bool:
        number = number.item()
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise InputError(f"{name} must be whole numbers, found {number!r}.")
    return int(number)


def _span(span: slice) -> Span:
    ends = [None if end is None else _whole(end, "a slice") for end in (span.start, span.stop, span.step)]
    step = 1 if ends[2] is None else ends[2]
    if step < 1:
        raise InputError(f"positions={span!r} must go forward: its step is at least 1.")
    return Span(ends[0], ends[1], step)


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
    return ends  # type: ignore[return-value]


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
    frame = None if frame is None else _whole(frame, "frame")
    return Region(areas, _whole(image, "image"), frame, is_list, kind)


def _inner(rule: Rule, show: Any) -> str:
    return f"({show(rule)})" if isinstance(rule, Joined) else str(show(rule))
