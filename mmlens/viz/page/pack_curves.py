"""What curves over strengths, sizes and steps show: lines in the band of their controls, and their table."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmlens.analysis.circuits.curve_result import CircuitCurve
from mmlens.analysis.features.training.result import SAETraining
from mmlens.analysis.metrics import unit_of
from mmlens.analysis.statistics.intervals import Interval, draws_interval
from mmlens.analysis.steering.dose_result import DoseCurve
from mmlens.analysis.tuning.tune import Tune
from mmlens.viz.curves import Line, curve_svg
from mmlens.viz.page.pack import Pack
from mmlens.viz.page.pack_frames import frame_pack

_WIDTH = 440


def _band(name: str, intervals: Sequence[Interval], is_control: bool = False) -> Line:
    """A line with its intervals."""
    lows, highs = [i.low for i in intervals], [i.high for i in intervals]
    return Line(name, [i.mean for i in intervals], lows, highs, is_control)


def _dose(curve: DoseCurve) -> tuple[str, str]:
    point, _ = curve.best
    order = sorted(curve.alphas)
    lines = [_band("steering vector", [curve.interval(point, a) for a in order])]
    if "words" in curve.kinds:
        lines.append(_band("unembedding difference", [curve.control(point, a, control="words") for a in order]))
    if "isotropic" in curve.kinds:
        place = curve.points.index(point)
        draws = curve.controls[:, place].mean(-1).numpy()[:, [curve.alphas.index(a) for a in order]]
        lines.append(Line("random vectors of equal norm", draws.mean(0), draws.min(0), draws.max(0), True))
    svg = curve_svg([f"{a:g}" for a in order], lines, x=f"alpha, at {point}", unit=unit_of(curve.metric), width=_WIDTH)
    return (
        svg,
        f"Mean of {len(curve.baseline)} samples at {point}, the best of {len(curve.points)} points; {_legend(lines)}",
    )


def _circuit(curve: CircuitCurve) -> tuple[str, str]:
    sizes = range(len(curve.shares))
    lines = [
        _band("edges that help first", [curve.at(size, by="signed") for size in sizes]),
        _band("strongest edges first", [curve.at(size, by="absolute") for size in sizes]),
    ]
    if len(curve.random):
        draws = curve.ratios(curve.random)
        lines.append(_band("random circuits", [draws_interval(draws[:, size].numpy()) for size in sizes], True))
    steps = [f"{float(share):.2g}" for share in curve.shares]
    svg = curve_svg(steps, lines, x=f"share of {curve.counted} kept", unit="of the gap", width=_WIDTH)
    return svg, f"Faithfulness, the share of the metric's gap; {_legend(lines)}"


def _training(training: SAETraining) -> tuple[str, str]:
    history = training.history
    lines = [Line("unexplained", [p.unexplained for p in history]), Line("dead", [p.dead for p in history])]
    return _steps([str(p.step) for p in history], lines, "share")


def _tune(tune: Tune) -> tuple[str, str]:
    every = -(-len(tune.losses) // 200)
    means = [float(np.mean(tune.losses[n : n + every])) for n in range(0, len(tune.losses), every)]
    return _steps([str(n * every) for n in range(len(means))], [Line("loss", means)], "nats a token")


def _steps(steps: list[str], lines: list[Line], unit: str) -> tuple[str, str]:
    return curve_svg(steps, lines, x="step", unit=unit, width=_WIDTH), f"In {unit}; {_legend(lines)}"


def _legend(lines: Sequence[Line]) -> str:
    """What the colours are: in words, since a drawing is said too."""
    names = ("blue", "orange", "green", "pink")
    shown = [line.name for line in lines if not line.is_control]
    said = [f"{color}: {name}" for color, name in zip(names, shown, strict=False)]
    return ", ".join([*said, *(f"grey: {line.name}" for line in lines if line.is_control)]) + "."


_DRAWN: dict[type, Callable[[Any], tuple[str, str]]] = {
    DoseCurve: _dose,
    CircuitCurve: _circuit,
    SAETraining: _training,
    Tune: _tune,
}
#: Results that are drawn as curves.
CURVES = tuple(_DRAWN)


def curve_pack(result: Any, picture: Image.Image | None, run: bool = False) -> Pack:
    """The answer, the curve, and the table of its numbers."""
    pack = frame_pack(result, None)
    drawing, caption = _DRAWN[type(result)](result)
    return Pack(pack.headline, caption, drawing=drawing, tables=pack.tables, notes=pack.notes)
