"""Concepts in pictures and words: the samples in which each is most active, where in them, and what it writes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from PIL import Image

from mmlens.analysis.concepts.bank import By, ConceptBank, word_overlap
from mmlens.analysis.concepts.words import Keep, concept_words
from mmlens.analysis.heatmap import HeatMap, map_of_rows
from mmlens.analysis.samples.sample import Dataset, Sample, as_samples, batches
from mmlens.core.contract import checked
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.kinds import Count, Index, Several, Text
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.models.hooked import HookedMultimodal, WritingModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@dataclass(frozen=True)
class GroundedConcept:
    """One concept, to be looked at.

    Attributes:
        concept: its number in the bank.
        words: what it writes, best first.
        rows: the states in which it is most active, strongest first.
        activations: how active it is in these.
        captions: what the model said of these samples.
        pictures: their (first) pictures.
        maps: over each picture, the projection of its positions' states on the concept's direction, in the unit of the
            point; empty where these have no place. They do not reliably show where a thing is: see `ground_concepts`.
    """

    concept: int
    words: tuple[str, ...]
    rows: tuple[int, ...]
    activations: tuple[float, ...]
    captions: tuple[str, ...] = field(repr=False)
    pictures: tuple[Image.Image, ...] = field(repr=False)
    maps: tuple[HeatMap, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class ConceptGrounding(Viewable, Saved):
    """All concepts of a bank, in words and pictures.

    Attributes:
        concepts: one each.
        at, method: of the bank.
        placeless: why there are no maps; None where there are.
    """

    concepts: tuple[GroundedConcept, ...]
    at: str
    method: str
    placeless: str | None = None

    def __repr__(self) -> str:
        lines = [f"ConceptGrounding({len(self.concepts)} concepts by {self.method} at {self.at})"]
        return "\n".join(
            [*lines, *(f"  {concept.concept}: {', '.join(concept.words[:8])}" for concept in self.concepts)]
        )

    @checked
    def __getitem__(self, concept: Index) -> GroundedConcept:
        if concept >= len(self.concepts):
            raise InputError(f"There is no concept {concept}: there are {len(self.concepts)}, counted from 0.")
        return self.concepts[concept]

    @property
    def words(self) -> list[list[str]]:
        """The words of each concept."""
        return [list(concept.words) for concept in self.concepts]

    @property
    def overlap(self) -> float:
        """How far the concepts' words are the same; 0 is best. See `word_overlap`."""
        return word_overlap(self.words)

    def to_frame(self) -> "pd.DataFrame":
        """A row per concept: words, and rows, activations and captions of its samples."""
        import pandas as pd

        rows = [
            {
                "concept": concept.concept,
                "words": ", ".join(concept.words),
                "rows": list(concept.rows),
                "activations": list(concept.activations),
                "captions": list(concept.captions),
            }
            for concept in self.concepts
        ]
        return pd.DataFrame(rows)

    @checked
    def plot(
        self,
        *,
        concepts: Several[Index] | None = None,
        pictures: Count = 4,
        maps: bool = True,
        figure: "Figure | SubFigure | None" = None,
    ) -> "Figure":
        """A concept board: a row per concept with its words, its pictures, and the maps over them.

        Args:
            concepts: which; the first ten by default.
            pictures: per concept, at most.
            maps: lay the maps over the pictures, where there are any; read `ground_concepts` on what they do not show.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        draw = drawn_by("concepts.plot_board")
        return draw(self, concepts=concepts, pictures=pictures, maps=maps, figure=figure)


@checked
def ground_concepts(
    model: WritingModel,
    bank: ConceptBank,
    dataset: Dataset,
    *,
    k: Count = 5,
    words: Count = 10,
    by: By = "absolute",
    through_norm: bool = True,
    keep: Keep | None = None,
    maps: bool = True,
    prompt: Text | None = None,
    batch_size: Count = 8,
    progress: bool = True,
) -> ConceptGrounding:
    """Show each concept by the words it writes and the samples in which it is most active.

    Do not read the maps as localisation. A concept is a direction of the states that predict words; the states of picture
    positions need not write along it, and often do so beside the thing, or everywhere alike. Which places matter is told by
    changing them: `patch` and `causal_trace` on the picture's positions.

    Args:
        model: the hooked model.
        bank: its concepts.
        dataset: where the bank's samples come from; they are found by their pixels and prompt, in any order.
        k: samples per concept.
        words: words per concept.
        by: whether samples are ranked by the size of activations (the paper) or by their value (its code).
        through_norm, keep: as for `concept_words`.
        maps: also run the model on these samples, for maps over their pictures.
        prompt: as for `collect`.
        batch_size: samples at a time.
        progress: show a progress bar.

    Returns:
        Words, pictures and maps, with `.plot()`.

    Raises:
        InputError: if the dataset lacks samples of the bank, or the concepts write no words.

    Example:
        >>> import mmlens as mm
        >>> scenes = mm.lab.scenes(16)
        >>> store = mm.collect(model, scenes, at="blocks.4.hook_resid_post", token=mm.lab.NOUNS, progress=False)
        >>> bank = mm.extract_concepts(store, 2)
        >>> board = mm.concepts.ground_concepts(model, bank, scenes, k=2, maps=False, progress=False)
        >>> len(board[0].pictures)
        2

    Source: Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), section 3.3 (five samples with the largest |v_k|).
    *Departs:* the maps over the pictures are ours: `h . u_k / ||u_k||` for the state h of each picture position.
    """
    vocabularies = concept_words(model, bank, k=words, through_norm=through_norm, keep=keep)
    best = bank.top(k, by=by)
    by_key = find_samples(bank, dataset, [row for rows in best for row in rows], prompt=prompt)
    heat_maps: dict[tuple[int, str], HeatMap] = {}
    placeless = None
    if maps:
        requests: dict[str, list[int]] = {}
        for concept, rows in enumerate(best):
            for row in rows:
                requests.setdefault(bank.keys[row], []).append(concept)
        heat_maps, placeless = _maps(model, bank, by_key, requests, batch_size=batch_size, progress=progress)
    strengths = bank.strengths(by)
    concepts = []
    for concept, (concept_vocabulary, rows) in enumerate(zip(vocabularies, best, strict=True)):
        samples = [by_key[bank.keys[row]] for row in rows]
        concepts.append(
            GroundedConcept(
                concept,
                tuple(concept_vocabulary),
                tuple(rows),
                tuple(strengths[rows, concept].tolist()),
                tuple(bank.captions[row] for row in rows) if bank.captions else (),
                tuple(sample.pictures[0] for sample in samples if sample.images),
                tuple(heat_maps[concept, bank.keys[row]] for row in rows if (concept, bank.keys[row]) in heat_maps),
            )
        )
    return ConceptGrounding(tuple(concepts), bank.at, bank.method, placeless)


def find_samples(
    bank: ConceptBank, dataset: Dataset, rows: Sequence[int], *, prompt: str | None = None
) -> dict[str, Sample]:
    """The samples of some of a bank's states, by key.

    Raises:
        InputError: if the bank does not know its samples, or the dataset lacks some.
    """
    if rows and not bank.keys:
        raise InputError("The bank does not know which samples its states come from; extract it from collected states.")
    return samples_by_key(dataset, {bank.keys[row] for row in rows}, prompt=prompt)


def samples_by_key(dataset: Dataset, keys: set[str], *, prompt: str | None = None) -> dict[str, Sample]:
    """The samples with some keys.

    Raises:
        InputError: if the dataset lacks some.
    """
    samples: dict[str, Sample] = {}
    for sample in as_samples(dataset, prompt=prompt):
        if len(samples) == len(keys):
            break
        if sample.key in keys:
            samples[sample.key] = sample
    missing = sorted(keys - set(samples))
    if missing:
        raise InputError(
            f"The dataset lacks {len(missing)} of {len(keys)} samples that the concepts are shown by ({', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''}); pass the dataset and prompt that the states were collected with."
        )
    return samples


@torch.no_grad()
def _maps(
    model: HookedMultimodal,
    bank: ConceptBank,
    by_key: dict[str, Sample],
    requests: dict[str, list[int]],
    *,
    batch_size: int,
    progress: bool,
) -> tuple[dict[tuple[int, str], HeatMap], str | None]:
    """Maps by concept and sample; and why there are none."""
    if model.graph[bank.at].sequence != "language":
        return {}, f"{bank.at} does not live on the sequence that the picture is part of"
    pictures = [sample for sample in by_key.values() if sample.images]
    units = torch.nn.functional.normalize(bank.vectors, dim=1)
    heat_maps: dict[tuple[int, str], HeatMap] = {}
    for samples, batch in batches(model, pictures, batch_size=batch_size, progress=progress, desc="maps"):
        _, cache = model.run_with_cache(batch, names=bank.at)
        states = cache[bank.at].float()
        along = states @ units.T.to(states.device)
        for number, sample in enumerate(samples):
            for concept in requests[sample.key]:
                try:
                    heat = map_of_rows(
                        batch.layout, along[number, :, concept], sample=number, title=f"concept {concept}"
                    )
                except NoPlaceError as error:
                    return {}, str(error)
                heat_maps[concept, sample.key] = heat
    return heat_maps, None
