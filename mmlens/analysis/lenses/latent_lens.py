"""Latent lens: which words in context have states most like those of image rows.

    reading of row x at layer l  =  the k entries (word, context, layer) with the largest  cos(x, h),   h a state of a text

Source: Krojer et al., "LatentLens: Revealing Highly Interpretable Visual Tokens in LLMs", 2026
(https://arxiv.org/abs/2602.00462), section 3; the package latentlens. *Departs:* the package stacks what it finds layer by layer
and fails where a layer holds fewer than k entries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from mmlens.analysis.lenses.contextual_index import ContextualIndex
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.core.pictures import drawn_by
from mmlens.core.rules import Positions, as_rule
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.hooks.nodes import Points
from mmlens.inputs.batch import BatchLike
from mmlens.inputs.row_reader import RowReader
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

#: Numbers of an index that are in memory at a time.
_PIECE = 1 << 24


@dataclass(frozen=True)
class LatentWord:
    """A word in context whose state is like a row's.

    Attributes:
        word: the word.
        context: the text up to it.
        at: the hook point of its state.
        cosine: between both states.
    """

    word: str
    context: str
    at: str
    cosine: float


@checked_result
@dataclass(frozen=True, repr=False)
class LatentReading(Viewable, Saved):
    """What rows read as, by the words in context that they are most like.

    Attributes:
        words: by hook name, sample and row, the nearest words, best first.
        positions: per sample, the rows, counted among the sample's own tokens.
    """

    words: Mapping[str, tuple[tuple[tuple[LatentWord, ...], ...], ...]]
    positions: tuple[tuple[int, ...], ...]

    def __repr__(self) -> str:
        name, samples = next(iter(self.words.items()))
        best = ", ".join(row[0].word for row in (samples[0] if samples else ())[:6])
        return f"LatentReading({len(self.words)} points, {sum(map(len, self.positions))} rows; {name}: {best}, ...)"

    @checked
    def named(self, word: str | Sequence[str], *, k: Count = 1) -> dict[str, float]:
        """By hook name, the share of rows that have a word among their k nearest.

        Args:
            word: the word, or several that count.
            k: how many of the nearest.
        """
        wanted = {word.casefold()} if isinstance(word, str) else {one.casefold() for one in word}
        shares = {}
        for name, samples in self.words.items():
            hits = [any(w.word.casefold() in wanted for w in row[:k]) for sample in samples for row in sample]
            shares[name] = sum(hits) / len(hits)
        return shares

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The word in context that each row of the first sample is most like, coloured by the cosine.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("lens.plot_latent")(self, figure=figure)

    def to_frame(self) -> "pd.DataFrame":
        """A row per point, sample, row and word: its context, where its state is from, and the cosine."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"point": name, "sample": sample, "position": self.positions[sample][row], "rank": rank, **vars(found)}
                for name, samples in self.words.items()
                for sample, rows in enumerate(samples)
                for row, nearest in enumerate(rows)
                for rank, found in enumerate(nearest)
            ]
        )


@checked
@torch.no_grad()
def latent_lens(
    model: HookedMultimodal,
    batch: BatchLike,
    index: ContextualIndex,
    *,
    at: Points | None = None,
    positions: Positions = "image",
    k: Count = 5,
) -> LatentReading:
    """Read rows by the words in context whose states, of any layer of an index, are most like theirs.

    Args:
        model: the hooked model.
        batch: what to run on.
        index: from `contextual_index(...)`, or `mm.lenses.ContextualIndex.from_latentlens(folder, ...)`.
        at: which points' rows are read; by default those of the index.
        positions: which rows (see `mm.positions`); image rows by default.
        k: how many words each; fewer where the index holds fewer.

    Raises:
        InputError: for points of another width than the index, or positions that name nothing.

    Example:
        >>> import mmlens as mm
        >>> index = mm.lenses.contextual_index(model, ["a small red circle", "a big blue moon"], at="blocks.4.hook_resid_post")
        >>> len(latent_lens(model, batch, index, k=2).words["blocks.4.hook_resid_post"][0][0])
        2
    """
    nodes = model.graph.select(list(index.states) if at is None else at)
    widths = {states.values.shape[1] for states in index.states.values()}
    wrong = [node for node in nodes if {node.width} != widths]
    if wrong:
        raise InputError(
            f"The index holds states of width {', '.join(map(str, sorted(widths)))}, and {wrong[0].name} has {wrong[0].width}; "
            "make one of it."
        )
    reader = RowReader(as_rule(positions), batch, nodes)
    _, cache = model.run_with_cache(batch, names=[node.name for node in nodes])
    words = {}
    numbers: tuple[tuple[int, ...], ...] = ()
    for node in nodes:
        rows = reader.flat(node, cache[node.name])
        resolved = reader.resolved[node.name]
        numbers = tuple(tuple(own.tolist()) for own in resolved.numbers)
        nearest = _nearest(torch.nn.functional.normalize(rows.float().cpu(), dim=-1), index, k)
        counts = [len(own) for own in numbers]
        starts = [sum(counts[:sample]) for sample in range(len(counts))]
        words[node.name] = tuple(tuple(nearest[s : s + c]) for s, c in zip(starts, counts, strict=True))
    return LatentReading(words, numbers)


def _nearest(rows: Float[torch.Tensor, "row d_model"], index: ContextualIndex, k: int) -> list[tuple[LatentWord, ...]]:
    """The k entries most like each row, over all layers of an index, a piece of it at a time."""
    values, entries = torch.zeros(len(rows), 0), torch.zeros(len(rows), 0, dtype=torch.long)
    starts: list[tuple[str, int]] = []
    first = 0
    for name, states in index.states.items():
        starts.append((name, first))
        for piece in states.split(max(_PIECE // max(states.values.shape[1], len(rows)), 1)):
            cosines = rows @ torch.nn.functional.normalize(piece.values, dim=-1).T
            best, places = cosines.topk(min(k, cosines.shape[1]), dim=1)
            values, order = torch.cat([values, best], 1).sort(dim=1, descending=True, stable=True)
            entries = torch.cat([entries, places + first], 1).gather(1, order)[:, :k]
            values = values[:, :k]
            first += len(piece)
    return [
        tuple(_word(index, starts, entry, value) for entry, value in zip(*pair, strict=True))
        for pair in zip(entries.tolist(), values.tolist(), strict=True)
    ]


def _word(index: ContextualIndex, starts: Sequence[tuple[str, int]], entry: int, cosine: float) -> LatentWord:
    name, first = next((name, first) for name, first in reversed(starts) if first <= entry)
    states = index.states[name]
    return LatentWord(states.tokens[entry - first], states.captions[entry - first], name, cosine)
