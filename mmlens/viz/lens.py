"""Pictures of the logit lens: words by layer and position, and words on the patches of a picture."""

from typing import TYPE_CHECKING

from matplotlib.patches import Rectangle
from PIL import Image

from mmlens.core.names import HookName
from mmlens.viz.figures import Plot

if TYPE_CHECKING:
    from mmlens.analysis.lenses.result import LogitLens

#: More columns than this cannot be read; the last ones are shown.
_MOST_COLUMNS = 24


def plot_lens(lens: "LogitLens", *, sample: int = 0) -> Plot:
    """The best word at every point and position, coloured by its probability.

    Args:
        lens: from `mm.logit_lens`.
        sample: which sample.
    """
    rows = lens.positions[sample].tolist()[-_MOST_COLUMNS:]
    first = lens.positions.shape[1] - len(rows)
    best = lens.probabilities[sample, :, first:, 0]
    words = lens.top_tokens[sample, :, first:, 0]
    figure = Plot(figsize=(1.8 + 0.62 * len(rows), 1.3 + 0.3 * len(lens.points)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(best.numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for i, row in enumerate(words.tolist()):
        for j, token in enumerate(row):
            color = "black" if float(best[i, j]) > 0.6 else "white"
            axes.text(j, i, _short(lens.strings[token]), ha="center", va="center", fontsize=7, color=color)
    axes.set_yticks(range(len(lens.points)), [_label(point) for point in lens.points], fontsize=7)
    labels = [_short(lens.tokens[sample][row].strip()) for row in rows]
    axes.set_xticks(range(len(rows)), labels, fontsize=7, rotation=60, ha="right", rotation_mode="anchor")
    cut = f" (the last {len(rows)} of {lens.positions.shape[1]} positions)" if first else ""
    axes.set_title(f"most probable next word{cut}", fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="probability")
    return figure


def plot_patch_words(lens: "LogitLens", picture: Image.Image, *, point: str, sample: int = 0, image: int = 0) -> Plot:
    """The picture with the best word written on every patch; the stronger the frame, the more probable the word.

    Args:
        lens: from `mm.logit_lens`, taken at image positions.
        picture: the picture.
        point: hook name.
        sample, image: which picture of the batch.
    """
    index = lens.points.index(point)
    where = {row: column for column, row in enumerate(lens.positions[sample].tolist())}
    grid = lens.layout.grid(sample=sample, image=image)
    scale = max(1.0, 640 / max(picture.size))
    figure = Plot(figsize=(picture.width * scale / 100, picture.height * scale / 100 + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, alpha=0.55)
    for row, (left, top, right, bottom) in zip(grid.rows.tolist(), grid.boxes.tolist(), strict=True):
        if row not in where:
            continue
        probability = float(lens.probabilities[sample, index, where[row], 0])
        word = lens.strings[int(lens.top_tokens[sample, index, where[row], 0])]
        size = max(4.0, min(9.0, 72 / 100 * scale * (right - left) / (0.62 * max(len(word), 4))))
        axes.text((left + right) / 2, (top + bottom) / 2, word, ha="center", va="center", fontsize=size, color="black")
        frame = (left, top), right - left, bottom - top
        axes.add_patch(Rectangle(*frame, fill=False, edgecolor="#5a4fa3", linewidth=0.3 + 1.7 * probability))
    axes.set_title(f"most probable word of every patch, {point}", fontsize=9)
    axes.set_axis_off()
    return figure


def _label(point: str) -> str:
    parsed = HookName.parse(point)
    if parsed.layer is None:
        return point
    tower = "" if parsed.part == "language" else f"{parsed.part} "
    return f"{tower}{parsed.layer} {parsed.rest.replace('hook_', '')}"


def _short(word: str) -> str:
    return word if len(word) <= 9 else f"{word[:8]}…"
