"""Every figure, small and at the sizes of a 7B model: on the canvas, nothing over anything else, no larger than a screen."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mmlens.viz.figures import TALLEST, WIDEST, Plot, canvas, rows_and_columns
from mmlens.viz.maps import plot_maps
from mmlens.viz.neurons import plot_layers
from tests.viz import made

LAYERS = [f"blocks.{i}.hook_resid_pre" for i in range(32)]
HEADS = [f"blocks.{i}.attn.hook_z[h{head}]" for i in range(40) for head in range(32)]
LONG = ["the object that the question asks after", "as many patches of the picture, drawn at random", "last"]

FIGURES: dict[str, Callable[[], Figure]] = {
    "sweep of few": lambda: made.sweep(LAYERS[:4], ["object", "rest of picture", "words", "last"]).plot(),
    "sweep of one cell": lambda: made.sweep(["projector.hook_out"], ["all"]).plot(),
    "sweep with long names": lambda: made.sweep(LAYERS[:5], LONG, metric="log p('$a$ long caption' * 9), nats").plot(),
    "sweep of words": lambda: made.sweep(LAYERS, [f"{i} {made.TOKENS[i % 10]}" for i in range(40)]).plot(),
    "sweep of 600 positions": lambda: made.sweep(LAYERS, [f"{i} word" for i in range(600)]).plot(),
    "sweep of kinds": lambda: made.sweep(
        [f"blocks.{i}.hook_{kind}" for i in range(40) for kind in ("resid_pre", "attn_out", "mlp_out")], ["a", "b"]
    ).plot(),
    "sweep of mixed points": lambda: made.sweep(["hook_embed", *LAYERS, "vision.hook_embed"], ["image", "last"]).plot(),
    "heads": lambda: made.sweep(HEADS, ["last"]).plot(),
    "nearly all heads": lambda: made.sweep(HEADS[:-1], ["last"]).plot(),
    "heads at groups": lambda: made.sweep(HEADS, ["image", "text", "last"]).plot(),
    "agreement": lambda: made.estimated(made.sweep([*LAYERS, "hook_embed"], ["image", "last"])).plot(),
    "over a picture": lambda: made.sweep(LAYERS[:6], list("abcd"), made.blocks(2)).plot(made.picture()),
    "over a wide picture": lambda: made.sweep(LAYERS[:11], list(map(str, range(64))), made.blocks(8, width=96)).plot(
        made.picture(96, 48)
    ),
    "lens": lambda: made.lens(4, 6).plot(),
    "lens of one position": lambda: made.lens(32, 1).plot(),
    "lens of 40 layers": lambda: made.lens(40, 30).plot(),
    "words of patches": lambda: made.lens(1, 64, patches=8).plot_picture(np.asarray(made.picture())),
    "neurons": lambda: made.neurons(40, 500).plot(k=200),
    "layers": lambda: plot_layers(made.neurons(6, 50)),
    "maps": lambda: plot_maps(made.picture(), [made.heat(), made.heat()]),
    "maps of wide pictures": lambda: plot_maps(made.picture(96, 40), [made.heat(96, 40)] * 4),
    "properties": lambda: made.measured(3, 4).plot(),
    "one property": lambda: made.measured(1, 1).plot(),
    "properties by 12 methods": lambda: made.measured(12, 2).plot(),
    "properties over k": lambda: made.measured(2, 2, ks=(1, 2, 5, 20, 100)).plot(),
    "edits": lambda: made.edits(3).plot(),
    "30 edits": lambda: made.edits(30, groups=1).plot(),
    "edits by penalty": lambda: made.edits(4, one_method=True, penalties=True).plot(),
    "dose": lambda: made.dose(1).plot(),
    "dose at six points": lambda: made.dose(6).plot(),
    "dose at 32 points": lambda: made.dose(32).plot(),
    "steering": lambda: made.steering(3, 2).plot(),
    "steering without scores": lambda: made.steering(1, 1, seeds=0, scored=False).plot(),
    "steering by ten in twelve sets": lambda: made.steering(12, 10).plot(),
    "shift": lambda: made.shift(10).plot(),
    "shift, crowded": lambda: replace(made.shift(25), consistency=torch.linspace(0.70, 0.75, 25)).plot(),
    "shift of 100": lambda: made.shift(100).plot(),
    "shift board": lambda: made.shift_board(20).plot(),
    "board": lambda: made.board(3, 3).plot(),
    "board of 12": lambda: made.board(12, 2).plot(),
    "board without pictures": lambda: made.board(2, 0, maps=False).plot(),
}


def drawn(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Draw a figure; all words that are drawn, and where: labels of ticks beyond the limits are not."""
    seen: list[Text] = []
    draw = Text.draw

    def noted(self: Text, *args: Any, **options: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            seen.append(self)
        draw(self, *args, **options)

    canvas = FigureCanvasAgg(figure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        canvas.draw()
    return [(text, text.get_window_extent(canvas.get_renderer())) for text in seen]


def overlapping(boxes: list[Bbox]) -> list[tuple[int, int]]:
    """Pairs of boxes that share more than a rim."""
    low, high = (np.array([getattr(box, corner) for box in boxes]) for corner in ("min", "max"))
    rim = 0.75
    share = (low[:, None] + rim < high[None] - rim) & (low[None] + rim < high[:, None] - rim)
    return [(i, j) for i, j in np.argwhere(share.all(-1)).tolist() if i < j]


@pytest.mark.parametrize("name", FIGURES)
def test_words_are_on_the_canvas_nothing_is_over_anything_else_and_it_fits_a_screen(name: str) -> None:
    figure = FIGURES[name]()
    seen = drawn(figure)
    width, height = figure.get_size_inches()
    assert 2.0 < width <= WIDEST
    assert 1.2 < height <= TALLEST
    cut = [text.get_text() for text, box in seen if (box.min < -1).any() or (box.max > figure.bbox.max + 1).any()]
    assert not cut
    level = [(text.get_text(), box) for text, box in seen if text.get_rotation() in (0.0, 90.0)]
    assert len(level) > 1
    assert [(level[i][0], level[j][0]) for i, j in overlapping([box for _, box in level])] == []
    parts = [figure, *figure.subfigs]
    all_axes = [axes for part in parts for axes in part.axes]
    for legend in [each for part in parts for each in part.legends]:
        assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in all_axes)
    panels = [axes for axes in all_axes if axes.has_data() and not hasattr(axes, "_colorbar")]
    assert all(min(axes.get_window_extent().size) > 25 for axes in panels), "a panel is squashed"


def test_nothing_of_matplotlib_is_changed_and_no_figure_stays_open(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    figure = made.dose(2).plot()
    figure.savefig(tmp_path / "dose.svg")
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_dollar_signs_make_no_formulas() -> None:
    for name in ("sweep with long names", "lens", "words of patches", "board", "shift board"):
        priced = [text for text, _ in drawn(FIGURES[name]()) if "$" in text.get_text()]
        assert priced, name
        assert not any(text.get_parse_math() for text in priced), name


def test_no_new_figure_is_larger_than_a_screen() -> None:
    assert canvas(40, 70).get_size_inches().tolist() == [WIDEST, TALLEST]  # type: ignore[union-attr]


def test_letters_stay_letters_in_svg(tmp_path: Path) -> None:
    made.sweep(LAYERS[:2], ["image", "last"]).plot().savefig(tmp_path / "sweep.svg")
    written = (tmp_path / "sweep.svg").read_text(encoding="utf-8")
    assert ">layer (resid_pre)</text>" in written
    assert ">change (logits)</text>" in written


def test_a_figure_can_be_a_part_of_another() -> None:
    figure = plt.figure(figsize=(11, 4))
    try:
        left, right = figure.subfigures(1, 2)
        assert made.sweep(LAYERS[:4], ["image", "last"]).plot(figure=left) is figure
        assert made.dose(2).plot(figure=right) is figure
        seen = drawn(figure)
        assert len(left.axes) == 2  # the map and its colours
        assert len(right.axes) == 2
        middle = figure.bbox.width / 2
        for text, box in seen:
            own = text.get_figure(root=False)
            assert box.x1 <= middle + 1 if own is left else box.x0 >= middle - 1, text.get_text()
    finally:
        plt.close(figure)


INTO: dict[str, Callable[..., Figure]] = {
    "over a picture": lambda **o: made.sweep(LAYERS[:3], list("abcd"), made.blocks(2)).plot(made.picture(), **o),
    "lens": lambda **o: made.lens(3, 2).plot(**o),
    "words of patches": lambda **o: made.lens(1, 4, patches=2).plot_picture(made.picture(), **o),
    "neurons": lambda **o: made.neurons(4, 50).plot(**o),
    "maps": lambda **o: plot_maps(made.picture(), [made.heat()], **o),
    "properties": lambda **o: made.measured(2, 2).plot(**o),
    "edits": lambda **o: made.edits(2).plot(**o),
    "dose at 32 points": lambda **o: made.dose(32).plot(**o),
    "steering": lambda **o: made.steering(2, 1).plot(**o),
    "shift board": lambda **o: made.shift_board(2).plot(**o),
    "board": lambda **o: made.board(1, 1).plot(**o),
}


@pytest.mark.parametrize("name", INTO)
def test_every_figure_can_be_a_part_and_keeps_to_it(name: str) -> None:
    figure = Plot(figsize=(10, 5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    right.subplots().plot([0, 1])
    assert INTO[name](figure=left) is figure
    assert figure.get_size_inches().tolist() == [10, 5]
    drawn(figure)
    own = [axes for part in (left, *left.subfigs) for axes in part.axes]
    assert own
    assert all(axes.get_window_extent().x1 <= figure.bbox.width / 2 for axes in own)
    assert len(right.axes) == 1


def test_no_panel_stands_alone_in_its_row() -> None:
    for count in range(1, 60):
        rows, columns = rows_and_columns(count, 5)
        assert columns <= 6
        assert (rows - 1) * columns < count <= rows * columns
        assert count - (rows - 1) * columns > 1 or count == 1


@pytest.mark.parametrize("count", [1, 6, 12])
def test_a_grid_has_no_empty_panels(count: int) -> None:
    figure = made.sweep(LAYERS[:count], ["a"], made.blocks(1)).plot(made.picture())
    assert len(figure.axes) == count + 2  # the points, the picture, the colours
