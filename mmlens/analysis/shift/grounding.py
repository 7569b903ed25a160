"""Shifted concepts in words and pictures: before, shifted, and their match in the tuned model."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from PIL import Image

from mmlens.analysis.concepts.grounding import samples_by_key
from mmlens.analysis.concepts.words import Keep, direction_words
from mmlens.analysis.samples.sample import Dataset
from mmlens.analysis.shift.measures import share_of
from mmlens.analysis.shift.result import ConceptShift
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Index, Several, Text
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.models.hooked import WritingModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@dataclass(frozen=True)
class Shown:
    """One side of a concept: what it writes, and the pictures in which it is most active, strongest first."""

    words: tuple[str, ...]
    pictures: tuple[Image.Image, ...] = field(default=(), repr=False)


@checked_result
@dataclass(frozen=True)
class ShiftGrounding(Viewable, Saved):
    """All concepts of a shift, in words and pictures.

    Attributes:
        shift: what is shown.
        before, shifted, after: per concept: the original, the shifted one, and its match; without words where there is none.
    """

    shift: ConceptShift
    before: tuple[Shown, ...]
    shifted: tuple[Shown, ...]
    after: tuple[Shown, ...]

    def __repr__(self) -> str:
        original, after_shift = self.text_overlap.nanmean(1).tolist()
        lines = [
            f"ShiftGrounding({len(self.before)} concepts; T-Overlap {original:.3f} original, {after_shift:.3f} shifted)"
        ]
        for concept, sides in enumerate(zip(self.before, self.shifted, self.after, strict=True)):
            words = " -> ".join(", ".join(side.words[:4]) or "(none)" for side in sides)
            lines.append(f"  {concept} ({self.shift.fate[concept]}): {words}")
        return "\n".join(lines)

    @property
    def text_overlap(self) -> Float[torch.Tensor, "2 concept"]:
        """T-Overlap: the share of the match's words that the original concept writes, and the shifted one; NaN for no match."""
        finite = self.shift.magnitude.isfinite()
        shares = [
            [share_of(set(first.words), set(second.words)) for first, second in zip(side, self.after, strict=True)]
            for side in (self.before, self.shifted)
        ]
        overlap = torch.tensor(shares)
        overlap[1, ~finite] = torch.nan
        return overlap

    def to_frame(self) -> "pd.DataFrame":
        """The shift's frame with the words of each side and their overlap."""
        original, after_shift = self.text_overlap.tolist()
        sides = {"before": self.before, "shifted": self.shifted, "after": self.after}
        words = {f"words_{name}": [", ".join(concept.words) for concept in side] for name, side in sides.items()}
        return self.shift.to_frame().assign(text_overlap_original=original, text_overlap_shifted=after_shift, **words)

    @checked
    def plot(
        self, *, concepts: Several[Index] | None = None, pictures: Count = 3, figure: "Figure | SubFigure | None" = None
    ) -> "Figure":
        """A row per concept: words and pictures before, shifted, after; beside them recovery against consistency.

        Args:
            concepts: which; by default the four with the most samples.
            pictures: per side, at most.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        wrong = [concept for concept in concepts or () if concept >= len(self.shift.vectors)]
        if wrong:
            raise InputError(f"concepts={wrong} must lie in 0..{len(self.shift.vectors) - 1}.")
        return drawn_by("shift.plot_shift_board")(self, concepts=concepts, pictures=pictures, figure=figure)


@checked
def ground_shift(
    model: WritingModel,
    shift: ConceptShift,
    dataset: Dataset | None = None,
    *,
    words: Count = 15,
    pictures: Count = 3,
    through_norm: bool = True,
    keep: Keep | None = None,
    prompt: Text | None = None,
) -> ShiftGrounding:
    """Show what concepts write and where they are active: before, shifted, and after tuning.

    Args:
        model: the tuned model, by whose final norm and unembedding all three are read.
        shift: from `concept_shift`.
        dataset: where the states come from; None leaves pictures out.
        words: words per concept, at most.
        pictures: samples per concept and side.
        through_norm, keep: as for `concept_words`.
        prompt: as for `collect`.

    Returns:
        Words, pictures, and T-Overlap.

    Raises:
        InputError: if the concepts write no words, if the samples are not in the dataset, or pictures are asked for where the
            two sets of states were not paired.

    Example:
        >>> import mmlens as mm
        >>> values = 9 * torch.eye(192)[torch.arange(40) % 3] + 0.1 * torch.randn(40, 192)
        >>> base = mm.store.States(values, "blocks.4.hook_resid_post", keys=tuple(map(str, range(40))))
        >>> tuned = mm.store.States(base.values + 1, base.at, keys=base.keys)
        >>> shift = mm.concept_shift(base, tuned, mm.extract_concepts(base, 3, method="kmeans"))
        >>> mm.concepts.ground_shift(model, shift, words=5).text_overlap[1].tolist()
        [1.0, 1.0, 1.0]

    Source: Khayatan et al., ICCV 2025 (https://arxiv.org/abs/2501.03012), T-Overlap: the share of words that two concepts have
    in common (published code: of 15 words).
    *Departs:* the share is of the words that the match has, which may be fewer; words are read through the final norm by default.
    """
    if dataset is not None and shift.most_active is None:
        raise InputError("The shift is of unpaired states, which have no pictures in common; leave the dataset out.")

    def words_for(vectors: Float[torch.Tensor, "concept d_model"]) -> list[tuple[str, ...]]:
        finite = vectors.isfinite().all(1)
        lists = direction_words(model, vectors.nan_to_num(), at=shift.at, k=words, through_norm=through_norm, keep=keep)
        return [tuple(row) if ok else () for row, ok in zip(lists, finite.tolist(), strict=True)]

    texts = [words_for(vectors) for vectors in (shift.base, shift.shifted, shift.matched)]
    keys: list[list[tuple[str, ...]]] = [[()] * len(shift.vectors)] * 3
    by_side = {}
    if dataset is not None and shift.most_active is not None:
        keys = [[rows[:pictures] for rows in side] for side in shift.most_active]
        by_side = samples_by_key(dataset, {key for side in keys for rows in side for key in rows}, prompt=prompt)
    sides = [
        tuple(
            Shown(text, tuple(by_side[key].pictures[0] for key in rows if by_side[key].images))
            for text, rows in zip(lists, key_set, strict=True)
        )
        for lists, key_set in zip(texts, keys, strict=True)
    ]
    return ShiftGrounding(shift, *sides)
