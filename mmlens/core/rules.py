"""Rules of positions: what is meant, before a batch says which rows that is; users make them with `mm.positions`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch

from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts, With
from mmlens.core.sequence_rows import SequenceRows
from mmlens.core.whole_numbers import whole_number, whole_numbers

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

    def __str__(self) -> str:
        return type(self).__name__

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
        return Image(whole_number(number, "image"), self.frame)

    def __call__(self, number: int | None = None, *, frame: int | None = None) -> "Image":
        """One picture, or one frame of a video.

        Args:
            number: which of the sample's pictures or videos; as before by default.
            frame: which frame; as before by default.
        """
        return Image(
            self.number if number is None else whole_number(number, "image"),
            self.frame if frame is None else whole_number(frame, "frame"),
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
        numbers = [list(numbers) for numbers in self.rows] if self.per_sample else self.rows[0]
        return f"row({', '.join(map(str, numbers))})"

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


@dataclass(frozen=True, repr=False)
class RandomRows(Rule):
    """As many random other rows of each sample's prompt as a rule means, or all others where there are fewer.

    They are of pictures where all of the rule's are, of text where none is; of either where there are too few of these.

    Attributes:
        rule: the rule; what it means of new tokens is meant as it is.
        seed: of the draw, which no other sample of the batch changes.
        before: rows from the first that this rule means on are left out; None for none.
    """

    rule: Rule
    seed: int = 0
    before: Rule | None = None

    def leaves(self) -> list[Rule]:
        """The rules that it is made of."""
        return self.rule.leaves()

    def __str__(self) -> str:
        return f"as many random rows as {_inner(self.rule, str)}"

    def __repr__(self) -> str:
        return f"<{self}, seed {self.seed}>"


#: What `positions=` takes: a rule or its word; a word of the prompt; an index, several, a slice (of each sample's own tokens);
#: a tensor of them, `[row]` or `[batch row]`, or one per sample; or rows that a layout handed out.
Positions: TypeAlias = Annotated[
    Rule | str | int | slice | torch.Tensor | Sequence[int] | Sequence[torch.Tensor],
    Accepts(object),
    With(lambda arguments, positions, name: require_readable(as_rule, positions)),
]


def require_readable(reads: Callable[[Any], Any], positions: Any) -> Any:
    """The positions, if they can be read as a rule, or as groups."""
    reads(positions)
    return positions


ALL = Named("all")
PROMPT = Named("prompt")
LAST = Named("last")
GENERATED = Named("generated")


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
        return Index((span_of(positions),))
    if isinstance(positions, torch.Tensor | np.ndarray | np.integer):
        return _by_tensor(torch.as_tensor(positions))
    if isinstance(positions, int) and not isinstance(positions, bool):
        return Index((positions,))
    if isinstance(positions, Sequence) and not isinstance(positions, bytes) and len(positions):
        if all(isinstance(item, torch.Tensor) and item.ndim == 1 for item in positions):
            return _by_sample(positions)
        if not any(isinstance(item, Rule | str | slice | Sequence) for item in positions):
            return Index(tuple(whole_numbers(positions)))
        if any(isinstance(item, Rule | str | slice) for item in positions):
            raise InputError(
                f"positions={positions!r} are several rules where one is taken; join them: positions.image | positions.last."
            )
    raise InputError(
        f"positions={positions!r} are none: give a rule of mm.positions, one of {', '.join(map(repr, WORDS))}, a word of the "
        "prompt, whole numbers, a slice or a tensor."
    )


def _by_word(word: str) -> Rule:
    if word == "image":
        return Image()
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
    sequences = {getattr(sample_rows, "sequence", None) for sample_rows in rows}
    if len(sequences) > 1:
        raise InputError(
            f"positions mix rows of {' and '.join(sorted(str(s or 'no known sequence') for s in sequences))}; give those of one."
        )
    wrong = [n for n, sample_rows in enumerate(rows) if getattr(sample_rows, "sample", None) not in (None, n)]
    if wrong:
        raise InputError(
            f"positions hold one entry per sample, and those of samples {wrong} are rows of other samples."
        )
    numbers = tuple(tuple(whole_numbers(sample_rows)) for sample_rows in rows)
    (sequence,) = sequences
    if sequence is None:
        return Index(numbers, per_sample=True)
    return Row(numbers, True, sequence)


def span_of(span: slice) -> Span:
    """A slice as a value; raises InputError for one that goes backwards."""
    ends = [None if end is None else whole_number(end, "a slice") for end in (span.start, span.stop, span.step)]
    step = 1 if ends[2] is None else ends[2]
    if step < 1:
        raise InputError(f"positions={span!r} must go forward: its step is at least 1.")
    return Span(ends[0], ends[1], step)


def _inner(rule: Rule, show: Any) -> str:
    return f"({show(rule)})" if isinstance(rule, Joined) else str(show(rule))
