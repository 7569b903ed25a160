"""`LogitLens`: what states said, as words, as a frame, over the picture."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import torch
from jaxtyping import Float, Int
from PIL import Image

from mmlens.analysis.heatmap import HeatMap, map_of_rows
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Index, With
from mmlens.core.names import nearest_hint
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.inputs.images import Picture
from mmlens.inputs.layout import TokenLayout

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


def _of_the_lens(arguments: Mapping[str, Any], sample: int, name: str) -> int:
    count = len(arguments["self" if "self" in arguments else "lens"].positions)
    if sample >= count:
        raise InputError(f"{name}={sample} must lie in 0..{count - 1}.")
    return sample


#: One of the samples that were read.
LensSample: TypeAlias = Annotated[Index, With(_of_the_lens)]


@checked_result
@dataclass(frozen=True)
class LogitLens(Viewable, Saved):
    """What each state says: the best tokens and their probabilities.

    Attributes:
        points: hook names, in execution order.
        positions: which positions were read; -1 behind the last of a sample that has fewer than another, where probabilities
            are NaN.
        top_tokens: ids of the most probable tokens, best first.
        probabilities: theirs, 0 to 1.
        words: the words that were asked for by name.
        word_probabilities: theirs, at every point and position.
        control_probabilities: the probability of `top_tokens` at the same place under the control; None without one.
        control_word_probabilities: that of `words`.
        strings: the tokens as strings, by id.
        tokens: the tokens of the input as strings, per sample.
        layout: which positions are picture.

    Example:
        >>> import mmlens as mm
        >>> lens = mm.logit_lens(model, batch, at="blocks.*.hook_resid_post", positions="last", k=3)
        >>> len(lens.top(3)) == len(lens.points) == model.cfg.n_layers
        True
    """

    points: list[str]
    positions: Int[torch.Tensor, "sample pos"]
    top_tokens: Int[torch.Tensor, "sample point pos k"]
    probabilities: Float[torch.Tensor, "sample point pos k"]
    words: tuple[str, ...]
    word_probabilities: Float[torch.Tensor, "sample point pos word"]
    control_probabilities: Float[torch.Tensor, "sample point pos k"] | None
    control_word_probabilities: Float[torch.Tensor, "sample point pos word"] | None
    strings: dict[int, str] = field(repr=False)
    tokens: list[list[str]] = field(repr=False)
    layout: TokenLayout = field(repr=False)

    def __repr__(self) -> str:
        samples, points, positions, k = self.top_tokens.shape
        words = ", ".join(self.top(1, sample=0, position=-1)[-1])
        control = "" if self.control_probabilities is None else ", with a control"
        return (
            f"LogitLens({points} points x {positions} positions x {samples} samples, top {k}{control}; {self.points[-1]} at "
            f"the last of them says {words!r})"
        )

    @checked
    def top(self, k: Count = 1, *, sample: LensSample = 0, position: int = -1) -> list[list[str]]:
        """The k most probable words at each point.

        Args:
            k: how many.
            sample: which sample.
            position: which of the sample's positions that were read, counted among them.

        Raises:
            InputError: for more tokens than were kept, or a position that was not read.
        """
        if not 1 <= k <= self.top_tokens.shape[-1]:
            raise InputError(f"k={k} must lie in 1..{self.top_tokens.shape[-1]}, the number of tokens that were kept.")
        count = self.counts[sample]
        if not -count <= position < count:
            raise InputError(f"position={position} is none of the {count} positions of sample {sample} that were read.")
        return [[self.strings[int(t)] for t in row[position % count, :k]] for row in self.top_tokens[sample]]

    @property
    def counts(self) -> list[int]:
        """How many positions of each sample were read."""
        return (self.positions >= 0).sum(1).tolist()

    @property
    def excess(self) -> Float[torch.Tensor, "sample point pos k"]:
        """How much more probable the top tokens are than under the control.

        Raises:
            InputError: if there was no control.
        """
        if self.control_probabilities is None:
            raise InputError("This lens has no control; take it with logit_lens(..., control=another_batch).")
        return self.probabilities - self.control_probabilities

    @checked
    def map(self, word: str, *, point: str | int = -1, sample: LensSample = 0, image: Index = 0) -> HeatMap:
        """The probability of a word at every patch, as a map over the picture.

        Args:
            word: one of the words that were asked for.
            point: hook name, or its number among `points`.
            sample, image: which picture.

        Raises:
            InputError: if the word was not asked for, or patches were not read.
            NoPlaceError: if the language model's image tokens have no place (Q-Formers).
        """
        if word not in self.words:
            raise InputError(
                f"{word!r} was not asked for ({', '.join(self.words) or 'no word was'}); take the lens with "
                f"logit_lens(..., words=[{word!r}])."
            )
        name = self.point(point)
        probabilities = self.word_probabilities[sample, self.points.index(name), :, self.words.index(word)]
        values = torch.full((self.layout.is_token.shape[1],), float("nan"))
        read = self.positions[sample] >= 0
        values[self.positions[sample][read]] = probabilities[read]
        unread = [row for row in self.layout.grid(sample=sample, image=image).rows.tolist() if values[row].isnan()]
        if unread:
            raise InputError(
                f"A map needs every patch of the picture, and {len(unread)} were not read; take the lens with "
                "positions='image'."
            )
        return map_of_rows(self.layout, values, sample=sample, image=image, title=f"{word} at {name}")

    @checked
    def overlay(
        self, picture: Picture, *, word: str, point: str | int = -1, sample: LensSample = 0, image: Index = 0
    ) -> Image.Image:
        """The map of a word over the picture; arguments as for `map`."""
        return self.map(word, point=point, sample=sample, image=image).overlay(picture)

    @checked
    def point(self, point: str | int) -> str:
        """The hook name of a point that was read.

        Args:
            point: hook name, or its number among `points`, from the end if negative.

        Raises:
            InputError: if the lens was not taken there.
        """
        if isinstance(point, int):
            if not -len(self.points) <= point < len(self.points):
                raise InputError(f"point={point} must lie in {-len(self.points)}..{len(self.points) - 1}.")
            return self.points[point]
        if point not in self.points:
            raise InputError(f"The lens was not taken at {point!r}.{nearest_hint(point, self.points)}")
        return point

    def to_frame(self) -> "pd.DataFrame":
        """One row per sample, point, position and rank: the token read there, its probability and that of the control."""
        import pandas as pd

        rows = []
        for sample, point, pos, rank in torch.cartesian_prod(*map(torch.arange, self.top_tokens.shape)).tolist():
            at = (sample, point, pos, rank)
            position = int(self.positions[sample, pos])
            if position < 0:
                continue
            row = {
                "sample": sample,
                "point": self.points[point],
                "position": position,
                "token": self.tokens[sample][position],
                "rank": rank,
                "word": self.strings[int(self.top_tokens[at])],
                "probability": float(self.probabilities[at]),
            }
            if self.control_probabilities is not None:
                row["control"] = float(self.control_probabilities[at])
            rows.append(row)
        return pd.DataFrame(rows)

    @checked
    def plot(self, *, sample: LensSample = 0, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The best word at every point and position, coloured by its probability.

        Args:
            sample: which sample.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("lens.plot_lens")(self, sample=sample, figure=figure)

    @checked
    def plot_picture(
        self,
        picture: Picture,
        *,
        point: str | int = -1,
        sample: LensSample = 0,
        image: Index = 0,
        figure: "Figure | SubFigure | None" = None,
    ) -> "Figure":
        """The picture with the best word written on every patch.

        Args:
            picture: the picture.
            point: hook name, or its number among `points`.
            sample, image: which picture of the batch.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        draw = drawn_by("lens.plot_patch_words")
        return draw(self, picture, point=self.point(point), sample=sample, image=image, figure=figure)
