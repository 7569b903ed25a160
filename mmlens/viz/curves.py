"""Curves as small SVG drawings: lines and, in grey, what their controls do; steps beside each other at equal distances."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from mmlens.core.palette import GREY, SERIES

#: In pixels.
WIDTH, _HEIGHT = 300, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 14, 36
_TICKS = 8


@dataclass(frozen=True)
class Line:
    """A line of a curve; NaN where there is none.

    Attributes:
        name: what it is of.
        values: step by step.
        lows, highs: the ends of its band; empty for none.
        is_control: drawn in grey, below the others.
    """

    name: str
    values: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()
    is_control: bool = False


def curve_svg(steps: Sequence[str], lines: Sequence[Line], *, x: str, unit: str, width: int = WIDTH) -> str:
    """Lines over steps, each value said under the pointer.

    Args:
        steps: their names, from left to right.
        lines: all of as many values.
        x: what the steps are.
        unit: of the values.
        width: in pixels; the height follows.
    """
    height = round(_HEIGHT * (1 + (width / WIDTH - 1) * 0.6))
    numbers = [v for line in lines for v in (*line.values, *line.lows, *line.highs) if v == v]
    least, most = min(numbers, default=0.0), max(numbers, default=1.0)
    margin = 0.06 * ((most - least) or abs(most) or 1)
    least, most = least - margin, most + margin
    room = (width - _LEFT - _RIGHT) / max(len(steps) - 1, 1)

    def up(value: float) -> float:
        return _TOP + (most - value) / (most - least) * (height - _TOP - _BOTTOM)

    def places(values: Sequence[float]) -> list[str]:
        return [f"{_LEFT + n * room:.1f},{up(value):.1f}" for n, value in enumerate(values) if value == value]

    body = []
    for value in _rounds(least, most):
        body.append(
            f'<text class="soft" x="{_LEFT - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{value:g}</text><line x1="{_LEFT}" '
            f'x2="{width - _RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}" stroke="currentColor" stroke-opacity=".12"/>'
        )
    colors = dict(zip([line.name for line in lines if not line.is_control], SERIES * len(lines), strict=False))
    for line in sorted(lines, key=lambda line: not line.is_control):
        color, kind = colors.get(line.name, GREY), "" if line.is_control else 'class="edges" '
        if len(line.lows):
            around = " ".join([*places(line.highs), *reversed(places(line.lows))])
            body.append(
                f'<polygon {kind}points="{around}" fill="{color}" fill-opacity="{0.45 if line.is_control else 0.18}"/>'
            )
        body.append(
            f'<polyline {kind}points="{" ".join(places(line.values))}" fill="none" stroke="{color}" stroke-width="2"/>'
        )
        is_short = len(steps) <= 3 * _TICKS
        body += [_dot(line, n, _LEFT + n * room, up, steps, x, unit, color, is_short) for n in range(len(steps))]
    every = -(-len(steps) // _TICKS)
    body += [
        f'<text class="soft" x="{_LEFT + n * room:.1f}" y="{height - _BOTTOM + 15}" text-anchor="middle">{escape(name)}</text>'
        for n, name in enumerate(steps)
        if n % every == 0
    ]
    middle = (_LEFT + width - _RIGHT) / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{escape(", ".join(line.name for line in lines), quote=True)}" font-size="11.5" '
        f'font-family="system-ui,sans-serif" fill="currentColor">{"".join(body)}'
        f'<text class="soft" x="{middle:.0f}" y="{height - 5}" text-anchor="middle">{escape(x)}</text></svg>'
    )


def _dot(
    line: Line,
    number: int,
    left: float,
    up: Callable[[float], float],
    steps: Sequence[str],
    x: str,
    unit: str,
    color: str,
    visible: bool,
) -> str:
    """A value that says itself under the pointer; drawn as a dot where there are few."""
    value = line.values[number]
    if value != value:
        return ""
    band = f" [{line.lows[number]:.3g}, {line.highs[number]:.3g}]" if len(line.lows) else ""
    return (
        f'<circle data-said="" cx="{left:.1f}" cy="{up(value):.1f}" r="{3.2 if visible else 5}" fill="{color}" '
        f'fill-opacity="{int(visible)}"><title>{escape(line.name)}, {escape(x)} {escape(steps[number])}: '
        f"{value:.3g} {escape(unit)}{band}</title></circle>"
    )


def _rounds(least: float, most: float) -> list[float]:
    """Three to six round numbers between two."""
    size = 10.0 ** floor(log10((most - least) / 3))
    size *= next(factor for factor in (5, 2, 1) if (most - least) / (size * factor) >= 3 or factor == 1)
    return [round(number * size, 10) for number in range(ceil(least / size), floor(most / size) + 1)]
