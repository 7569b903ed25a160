"""Pictures of sweeps: points by groups as a heat map, and effects over the picture that was patched."""

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mmlens.analysis.patching.result import PatchSweep
from mmlens.core.errors import InputError
from mmlens.core.names import HookName
from mmlens.models.images import Picture, load_image
from mmlens.viz.figures import Plot

_COLORS = "RdBu_r"
_DIRECTIONS = {"denoise": "clean into corrupted", "noise": "corrupted into clean", "knock-out": "attention cut"}
_FEW = 8  # groups: so many are named and their values written out


def plot_sweep(sweep: PatchSweep, *, points: Sequence[str] | None = None) -> Plot:
    """A sweep as a grid of points by groups: the change of the metric, red for a rise and blue for a fall.

    Args:
        sweep: from `mm.patch`.
        points: which points to draw; all by default.
    """
    chosen = _chosen(sweep, points)
    effect = sweep.effect.mean(-1)[chosen]
    rows, columns, heads = [_short(sweep.points[i]) for i in chosen], sweep.groups, False
    if len(sweep.groups) == 1:
        by_head = _by_head([sweep.points[i] for i in chosen])
        if by_head is not None:
            rows, columns, heads = (
                [_short(name) for name in by_head],
                [str(h) for h in range(len(effect) // len(by_head))],
                True,
            )
            effect = effect.reshape(len(rows), len(columns))
    limit = _limit(effect)
    few = len(columns) <= _FEW
    width = 2.6 + (0.8 if few else min(0.16, 14 / len(columns))) * len(columns)
    figure = Plot(figsize=(max(width, 4.8), 1.3 + min(0.34, 12 / len(rows)) * len(rows)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(effect.numpy(), cmap=_COLORS, vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    step = math.ceil(len(rows) / 36)
    axes.set_yticks(range(0, len(rows), step), rows[::step], fontsize=8)
    if few:
        axes.set_xticks(range(len(columns)), columns, fontsize=8)
        _write_values(axes, effect, limit)
    else:
        step = math.ceil(len(columns) / 24)
        axes.set_xticks(range(0, len(columns), step), columns[::step], fontsize=7, rotation=90)
    axes.set_xlabel(f"head, at {sweep.groups[0]}" if heads else "positions")
    axes.set_title(_title(sweep), fontsize=9, wrap=True)
    figure.colorbar(shown, ax=axes, shrink=0.8)
    return figure


def _by_head(points: Sequence[str]) -> list[str] | None:
    """The hook names of a sweep over all heads, if every point has as many, in order; else None."""
    split = [point.removesuffix("]").split("[h") for point in points]
    if any(len(pieces) != 2 or not pieces[1].isdigit() for pieces in split):
        return None
    names = list(dict.fromkeys(name for name, _ in split))
    count = len(split) // len(names)
    expected = [[name, str(head)] for name in names for head in range(count)]
    return names if count > 1 and split == expected else None


def plot_over_picture(sweep: PatchSweep, image: Picture, *, points: Sequence[str] | None = None) -> Plot:
    """Effects over the picture, one panel per point: each group's patches in the colour of its mean effect.

    Args:
        sweep: from `mm.patch`, with groups that have a place in the picture.
        image: the first sample's picture.
        points: which points to draw; at most 24.

    Raises:
        InputError: if no group has a place, or there are too many points for panels.
    """
    chosen = _chosen(sweep, points)
    placed = [j for j, boxes in enumerate(sweep.boxes) if boxes is not None]
    if not placed:
        raise InputError(
            "None of the sweep's groups has a place in the picture; sweep blocks of it (positions=mm.grid(k)), boxes or masks."
        )
    if len(chosen) > 24:
        raise InputError(f"{len(chosen)} points are too many panels; name at most 24 with points=[...].")
    picture = load_image(image)
    effect = sweep.effect.mean(-1)[chosen]
    limit = _limit(effect[:, placed])
    columns = min(len(chosen) + 1, 6)
    rows = math.ceil((len(chosen) + 1) / columns)
    figure = Plot(figsize=(1.9 * columns + 0.8, 2.1 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    panels[0].imshow(picture)
    panels[0].set_title("picture", fontsize=8)
    scale = figure.colorbar(_colors(limit), ax=list(panels), shrink=0.7)
    scale.ax.tick_params(labelsize=7)
    grey = picture.convert("L")
    for panel, values, i in zip(panels[1:], effect, chosen, strict=False):
        panel.imshow(grey, cmap="gray", alpha=0.45)
        for j in placed:
            boxes = sweep.boxes[j]
            color = _colors(limit).to_rgba(float(values[j]))
            for left, top, right, bottom in [] if boxes is None else boxes.tolist():
                panel.add_patch(
                    Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, color=color, alpha=0.75, lw=0)
                )
        panel.set_title(_short(sweep.points[i]), fontsize=8)
    for panel in panels:
        panel.set_axis_off()
    figure.suptitle(_title(sweep), fontsize=9)
    return figure


def _colors(limit: float):  # type: ignore[no-untyped-def]
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(-limit, limit), _COLORS)


def _limit(effect: torch.Tensor) -> float:
    return float(effect.abs().nan_to_num().max()) or 1.0


def _chosen(sweep: PatchSweep, points: Sequence[str] | None) -> list[int]:
    if points is None:
        return list(range(len(sweep.points)))
    wrong = [point for point in points if point not in sweep.points]
    if wrong or not len(points):
        raise InputError(
            f"points={list(points)} must name some of the sweep's points: {', '.join(sweep.points[:6])} ..."
        )
    return [sweep.points.index(point) for point in points]


def _write_values(axes: Axes, effect: torch.Tensor, limit: float) -> None:
    if len(effect) > 40:
        return
    for i, row in enumerate(effect.tolist()):
        for j, value in enumerate(row):
            color = "white" if abs(value) > 0.6 * limit else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)


def _title(sweep: PatchSweep) -> str:
    how = _DIRECTIONS.get(sweep.direction, sweep.direction)
    estimate = "" if sweep.method == "exact" else f", estimated by {sweep.method}"
    count = f", mean of {len(sweep.clean)} samples" if len(sweep.clean) > 1 else ""
    return f"change of {sweep.metric}\n{how}{estimate}{count}"


def _short(name: str) -> str:
    """The part's letter, the layer, and the kind: `v3 resid_pre`, `2 attn.z[h1]`."""
    parsed = HookName.parse(name)
    part = "" if parsed.part == "language" else parsed.part
    rest = parsed.rest.replace("hook_", "")
    return f"{part} {rest}".strip() if parsed.layer is None else f"{part} {parsed.layer} {rest}".strip()
