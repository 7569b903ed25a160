"""Pictures of the logit lens: words by layer and position, and words on the patches of a picture."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from mmlens.analysis.lenses.result import LensSample
from mmlens.core.contract import checked
from mmlens.core.kinds import Index
from mmlens.core.palette import PARTS, SEQUENTIAL
from mmlens.inputs.images import Picture, load_image
from mmlens.viz.figures import LABEL, TICK, canvas, color_bar, dress, headline, heat_map, inches, name_rows
from mmlens.viz.points import point_rows
from mmlens.viz.words import shown, text_options

if TYPE_CHECKING:
    from mmlens.analysis.lenses.latent_lens import LatentReading
    from mmlens.analysis.lenses.patchscopes import PatchscopeReading
    from mmlens.analysis.lenses.result import LogitLens

#: More columns than this cannot be read; the last ones are shown.
_MOST_COLUMNS = 20
_LETTERS = 9
#: The smallest letters, in points.
_SMALLEST = 4.5


@checked
def plot_lens(lens: "LogitLens", *, sample: LensSample = 0, figure: Figure | SubFigure | None = None) -> Figure:
    """The best word at every point and position, coloured by its probability.

    Args:
        lens: from `mm.logit_lens`.
        sample: which sample.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    return _plot_lens(lens, sample, lens.tokens[sample].__getitem__, "token read at", figure)


def plot_patchscope(
    reading: "PatchscopeReading", *, sample: Index = 0, figure: Figure | SubFigure | None = None
) -> Figure:
    """The best next word of the target prompt for every state, coloured by its probability.

    Args:
        reading: from `mm.lenses.patchscope`.
        sample: which sample.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    return _plot_lens(reading, sample, str, "position of the state", figure)


def plot_latent(reading: "LatentReading", *, figure: Figure | SubFigure | None = None) -> Figure:
    """The word in context that each row of the first sample is most like, coloured by the cosine.

    Args:
        reading: from `mm.lenses.latent_lens`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    best = [[row[0] for row in samples[0]] for samples in reading.words.values()]
    cosines = torch.tensor([[word.cosine for word in row] for row in best])
    words = [[word.word for word in row] for row in best]
    names = list(map(str, reading.positions[0]))
    return _plot_words(
        list(reading.words), names, cosines, words, "position", "cosine", "nearest word in context", figure
    )


def _plot_lens(
    lens: "LogitLens | PatchscopeReading",
    sample: int,
    name_of: Callable[[int], str],
    x: str,
    figure: Figure | SubFigure | None,
) -> Figure:
    read = lens.positions[sample] >= 0
    names = [name_of(position) for position in lens.positions[sample][read].tolist()]
    words = [[lens.strings[token] for token in row] for row in lens.top_tokens[sample][:, read, 0].tolist()]
    best = lens.probabilities[sample][:, read, 0]
    return _plot_words(lens.points, names, best, words, x, "probability", "most probable next word", figure)


def _plot_words(
    points: Sequence[str],
    names: Sequence[str],
    values: Float[torch.Tensor, "point pos"],
    words: Sequence[Sequence[str]],
    x: str,
    what: str,
    title: str,
    figure: Figure | SubFigure | None,
) -> Figure:
    """Words by point and position, coloured by a value of 0 to 1; the last columns of many."""
    first = max(len(names) - _MOST_COLUMNS, 0)
    best, columns = values[:, first:], names[first:]
    figure = canvas(1.9 + max(0.62 * len(columns), 1.2), 1.3 + min(0.28, 9.5 / len(points)) * len(points), figure)
    axes = figure.subplots()
    scale = ScalarMappable(Normalize(0, 1), SEQUENTIAL)
    heat_map(axes, best, scale)
    width, height = inches(figure)
    cell = (width - 1.9) / len(columns), (height - 1.3) / len(points)
    size = max(_SMALLEST, min(TICK, cell[0] * 72 / (0.6 * _LETTERS), cell[1] * 72 / 1.3))
    for i, row in enumerate(words):
        for j, word in enumerate(row[first:]):
            color = "black" if float(best[i, j]) > 0.6 else "white"
            text = shown(word, _LETTERS)
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color=color, **text_options())
    rows, axis = point_rows(points)
    cut = f", last {len(columns)} of {len(names)}" if first else ""
    dress(axes, x=f"{x}{cut}", y=axis)
    axes.spines[:].set_visible(False)
    name_rows(axes, rows, height - 1.3)
    read = [shown(name, _LETTERS) for name in columns]
    axes.set_xticks(
        range(len(columns)), read, fontsize=TICK, rotation=60, ha="right", rotation_mode="anchor", **text_options()
    )
    color_bar(figure, scale, [axes], what)
    headline(figure, title)
    return figure.figure


@checked
def plot_patch_words(
    lens: "LogitLens",
    picture: Picture,
    *,
    point: str,
    sample: LensSample = 0,
    image: Index = 0,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """The picture with the best word written on every patch; the stronger the frame, the more probable the word.

    Args:
        lens: from `mm.logit_lens`, taken at image positions.
        picture: the picture.
        point: hook name.
        sample, image: which picture of the batch.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    picture = load_image(picture)
    index = lens.points.index(lens.point(point))
    where = {row: column for column, row in enumerate(lens.positions[sample].tolist())}
    grid = lens.layout.grid(sample=sample, image=image)
    boxes = [(row, box) for row, box in zip(grid.rows.tolist(), grid.boxes.tolist(), strict=True) if row in where]
    narrowest = min((right - start for _, (start, _, right, _) in boxes), default=picture.width)
    # inches per pixel: patches wide enough for a word, if that makes no more of the picture than a screen shows
    scale = min(0.62 / narrowest, 12.0 / picture.width, 10.0 / picture.height)
    scale = max(scale, min(4.0 / picture.width, 4.0 / picture.height))
    figure = canvas(picture.width * scale, picture.height * scale + 0.55, figure)
    axes = figure.subplots()
    axes.imshow(picture, alpha=0.55)
    width, height = inches(figure)
    scale = min(width / picture.width, (height - 0.55) / picture.height)
    for row, (start, top, right, bottom) in boxes:
        probability = float(lens.probabilities[sample, index, where[row], 0])
        letters = max(2, int(72 * scale * (right - start) / (0.6 * (_SMALLEST + 0.7))))
        word = shown(lens.strings[int(lens.top_tokens[sample, index, where[row], 0])], letters)
        size = max(_SMALLEST, min(LABEL, 72 * scale * (right - start) / (0.65 * max(len(word), 4))))
        axes.text(
            *((start + right) / 2 - 0.5, (top + bottom) / 2 - 0.5, word),
            ha="center",
            va="center",
            fontsize=size,
            path_effects=[withStroke(linewidth=1.2, foreground=(1, 1, 1, 0.6))],
            **text_options(),
        )
        frame = (start - 0.5, top - 0.5), right - start, bottom - top
        axes.add_patch(
            Rectangle(*frame, fill=False, edgecolor=PARTS["language"], linewidth=0.2 + 1.8 * probability, clip_on=False)
        )
    axes.set_axis_off()
    headline(figure, f"most probable next word at every patch, {point}\nthe thicker its frame, the more probable")
    return figure.figure
