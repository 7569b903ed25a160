"""Words of a model as they can be drawn: tokens hold line ends, dollar signs and letters that the font may not have."""

from functools import cache
from textwrap import wrap
from typing import Any

from matplotlib import font_manager

from mmlens.analysis.metrics import unit_of

#: Fonts with letters that matplotlib's own lacks; those that are installed stand in for it, letter by letter.
_FURTHER = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti TC",
    "Microsoft YaHei",
    "SimHei",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Noto Sans",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
)
_MISSING, _CUT = "□", "…"
#: How tokenizers write a space before a word, and what is shown for letters without a shape.
_SHAPES = {"▁": " ", "Ġ": " ", "Ċ": "⏎", "\n": "⏎", "\r": "⏎", "\t": "⇥"}


@cache
def font_families() -> tuple[str, ...]:
    """matplotlib's own font, and behind it what is installed of fonts with further letters."""
    names = set(font_manager.get_font_names())
    return ("DejaVu Sans", *(name for name in _FURTHER if name in names))


@cache
def _letters() -> frozenset[int]:
    """The letters that these fonts have."""
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in font_families())
    return frozenset(letter for font in fonts for letter in font.get_charmap())


def text_options() -> dict[str, Any]:
    """Options of matplotlib for text that a model or a user wrote: no formulas between dollar signs, more letters."""
    return {"parse_math": False, "fontfamily": list(font_families())}


def shown(token: str, longest: int | None = None) -> str:
    """A token as it is drawn: without the space before it, line ends as signs, letters without a shape as boxes, cut.

    Args:
        token: as the tokenizer gives it.
        longest: letters, at most.

    Example:
        >>> shown(" moon"), shown("▁moon"), shown("\\n"), shown("  "), shown("unbelievably", 9)
        ('moon', 'moon', '⏎', '␣', 'unbeliev…')
    """
    letters = "".join(_SHAPES.get(letter, letter) for letter in token)
    words = " ".join(letters.split()) or ("␣" if letters else "")
    text = "".join(letter if ord(letter) in _letters() else _MISSING for letter in words)
    return text if longest is None or len(text) <= longest else text[: max(longest - 1, 1)] + _CUT


def shortened(name: str, longest: int) -> str:
    """A name without its middle, if it is too long: names of one kind differ at their ends.

    Example:
        >>> shortened("prompts with a long name, 3", 16)
        'prompts …name, 3'
    """
    text = shown(name)
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return text[: longest - 1 - end] + _CUT + text[len(text) - end :]


def with_unit(name: str, metric: str) -> str:
    """A name, and in brackets the unit of the metric, if it has one.

    Example:
        >>> with_unit("change", "log p('moon'), nats")
        'change (nats)'
    """
    unit = unit_of(metric)
    return f"{name} ({unit})" if unit else name


def counted(number: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "set"), counted(3, "set")
        ('1 set', '3 sets')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def wrapped(words: str, width: int, lines: int | None = None) -> str:
    """Words in lines of at most so many letters; what does not fit in the number of lines is cut.

    Args:
        words: the text.
        width: letters per line.
        lines: how many, at most.

    Example:
        >>> wrapped("as many other patches of the picture", 14, lines=2)
        'as many other\\npatches of the…'
    """
    pieces = wrap(shown(words), max(width, 4))
    if lines is not None and len(pieces) > lines:
        pieces = pieces[:lines]
        pieces[-1] = pieces[-1][: max(width, 4)] + _CUT
    return "\n".join(pieces)
