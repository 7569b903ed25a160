"""States, drawn along the directions in which they differ most."""

from collections import Counter

import torch
from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.store.states import States
from mmlens.viz.figures import canvas, dress, headline
from mmlens.viz.marks import CONTROL, legend_below, legend_entry, marks
from mmlens.viz.words import counted, shown

#: So many words have a colour each; the others are grey.
_WORDS = 7
#: Of so many rows directions are worked out.
_ROWS = 2000


def plot_states(states: States, *, figure: Figure | SubFigure | None = None) -> Figure:
    """States along their two leading principal directions, coloured by word.

    Args:
        states: of one point.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    values = states.values.detach().double().cpu().flatten(1)
    centred = values - values.mean(0)
    _, sizes, directions = torch.linalg.svd(centred[:: 1 + len(values) // _ROWS], full_matrices=False)
    places = torch.nn.functional.pad(centred @ directions[:2].T, (0, max(2 - len(directions), 0)))
    shares = torch.nn.functional.pad(sizes.square() / sizes.square().sum().clamp_min(1e-30), (0, 2))[:2].tolist()
    words = states.tokens or ("state",) * len(states)
    looks = marks(word for word, _ in Counter(words).most_common(_WORDS))
    figure = canvas(4.6, 4.0, figure)
    axes = figure.subplots()
    for word in dict.fromkeys(words):
        rows = [row for row, other in enumerate(words) if other == word]
        look = looks.get(word, CONTROL)
        axes.scatter(
            places[rows, 0], places[rows, 1], s=14, color=look.color, marker=look.shape, linewidth=0, alpha=0.8
        )
    others = [legend_entry("other words", CONTROL)] * (len(set(words)) > len(looks))
    legend_below(figure, [*(legend_entry(shown(word, 20), look) for word, look in looks.items()), *others])
    first, second = (f"principal direction {number} ({share:.0%})" for number, share in enumerate(shares, start=1))
    dress(axes, x=first, y=second, grid=True)
    headline(figure, f"{counted(len(states), 'state')} at {states.at}, {sum(shares):.0%} of what differs is seen here")
    return figure.figure
