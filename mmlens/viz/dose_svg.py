"""Dose curves as small drawings: what ablating more and more units does, in the band of what random ones do."""

from collections.abc import Sequence

from mmlens.core.palette import GREY, PARTS

#: In pixels.
WIDTH, _HEIGHT = 300, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 14, 34


def dose_svg(
    doses: Sequence[int],
    values: Sequence[float],
    controls: Sequence[Sequence[float]],
    *,
    start: float,
    unit: str,
    name: str,
) -> str:
    """A curve from the intact model on, and the range of the control's draws as a grey band.

    Args:
        doses: how many units were ablated.
        values: what was measured, dose by dose.
        controls: the same for each draw, `[dose][draw]`.
        start: what was measured in the intact model.
        unit: of the values.
        name: what they are of.
    """
    lows, highs = [start, *(min(draws) for draws in controls)], [start, *(max(draws) for draws in controls)]
    curve = [start, *values]
    least, most = min(*curve, *lows), max(*curve, *highs)
    margin = 0.06 * ((most - least) or 1)
    least, most = least - margin, most + margin
    step = (WIDTH - _LEFT - _RIGHT) / len(doses)

    def at(number: int, value: float) -> str:
        y = _TOP + (most - value) / (most - least) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{_LEFT + number * step:.1f},{y:.1f}"

    band = [at(number, value) for number, value in enumerate(highs)]
    band += [at(number, value) for number, value in reversed(list(enumerate(lows)))]
    line = [at(number, value) for number, value in enumerate(curve)]
    color = PARTS["language"]
    ticks = "".join(
        f'<text x="{_LEFT + number * step:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{dose}</text>'
        for number, dose in enumerate([0, *doses])
    )
    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="3.2" fill="{color}"><title>{dose} ablated: {value:.2f} {unit}</title></circle>'
        for (x, y), dose, value in zip((point.split(",") for point in line), [0, *doses], curve, strict=True)
    )
    marks = "".join(
        f'<text x="{_LEFT - 6}" y="{float(at(0, value).split(",")[1]) + 4:.1f}" text-anchor="end">{value:.1f}</text>'
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at(0, value).split(",")[1]}" y2="{at(0, value).split(",")[1]}" '
        'stroke="currentColor" stroke-opacity=".12"/>'
        for value in sorted({start, curve[-1]})
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {_HEIGHT}" width="{WIDTH}" role="img" aria-label="{name}" font-size="11.5" '
        f'font-family="system-ui,sans-serif" fill="currentColor">{marks}'
        f'<polygon points="{" ".join(band)}" fill="{GREY}" fill-opacity=".45"/>'
        f'<polyline points="{" ".join(line)}" fill="none" stroke="{color}" stroke-width="2"/>{dots}{ticks}'
        f'<text x="{(_LEFT + WIDTH) / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">neurons ablated</text></svg>'
    )
