"""Cross-modality: whether a picture and the same content in writing call on the same neurons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from mmlens.analysis.nouns.caption_nouns import Nouns
from mmlens.analysis.properties.cases import (
    Case,
    MethodChoice,
    NeuronChoice,
    UnmeasurableError,
    another,
    counts,
    neuron_shares,
    repeated_cases,
)
from mmlens.analysis.properties.likelihood import CaptionRun
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.quantities import Quantity, Value
from mmlens.analysis.properties.run import run
from mmlens.analysis.samples.sample import Dataset
from mmlens.core.contract import checked
from mmlens.core.kinds import Count, Seed, Several
from mmlens.models.hooked import WritingModel

OTHER_WRITING = Quantity("shared with the writing of another noun", "share of neurons", better="lower")
OTHER_PICTURE = Quantity("shared with the picture of another noun", "share of neurons", better="lower")
SHARED = Quantity("shared with the writing", "share of neurons", control=OTHER_WRITING.name)
OTHER_CORRELATION = Quantity("correlation with the writing of another noun", "Pearson r of all scores", better="lower")
CORRELATION = Quantity("correlation with the writing", "Pearson r of all scores", control=OTHER_CORRELATION.name)
READ = Quantity("log odds of the writing's noun, the picture's neurons zeroed", "change in nats", better="lower")
SEEN = Quantity("log odds of the picture's noun, the writing's neurons zeroed", "change in nats", better="lower")


@dataclass(frozen=True)
class CrossModality:
    """See `cross_modality`.

    Attributes:
        ks: for how many neurons the share is taken.
        settings: how samples are captioned.
        ablate: whether each side's neurons are zeroed on the other side.
    """

    ks: tuple[int, ...]
    settings: CaptionSettings = field(default_factory=CaptionSettings, repr=False)
    ablate: bool = True

    @property
    def label(self) -> str:
        """Its name."""
        return "cross modality"

    @property
    def quantities(self) -> Sequence[Quantity]:
        """Share, correlation, their controls, and the effect of ablation across."""
        return SHARED, OTHER_WRITING, OTHER_PICTURE, CORRELATION, OTHER_CORRELATION, READ, SEEN

    def measure(self, cases: Sequence[Case]) -> Iterator[Value]:
        """Let the model describe the writings, and compare."""
        pictures = [
            case for case in cases if case.occurrence.sample.images and case.occurrence.sample.writing is not None
        ]
        family = pictures[0].occurrence.model.family if pictures else None
        if family is not None and family.writes_placeholders:
            raise UnmeasurableError(
                f"The family {family.name} needs a picture with every text, so a writing cannot stand in its place."
            )
        twins = repeated_cases(pictures, self.settings, form=lambda sample: sample.as_writing)
        writings = list(twins.values())
        for case in pictures:
            twin_case = twins.get((case.occurrence.number, case.occurrence.noun))
            if twin_case is not None:
                yield from self._compare(case, twin_case, another(writings, twin_case), another(pictures, case))
                if self.ablate:
                    yield from _ablated(case, twin_case)

    def _compare(
        self, case: Case, twin_case: Case, other_read: Case | None, other_seen: Case | None
    ) -> Iterator[Value]:
        pairs = [(SHARED, twin_case), (OTHER_WRITING, other_read), (OTHER_PICTURE, other_seen)]
        for k in self.ks:
            for quantity, other in pairs:
                for method, share in neuron_shares(case, other, k):
                    yield case.value(quantity.name, method, share, k=k)
        for method, scores in case.scores.items():
            for quantity, other in ((CORRELATION, twin_case), (OTHER_CORRELATION, other_read)):
                if other is not None:
                    pair = torch.stack([scores.scores.flatten(), other.scores[method].scores.flatten()])
                    yield case.value(quantity.name, method, float(torch.corrcoef(pair.double())[0, 1]))


def _ablated(case: Case, twin_case: Case) -> Iterator[Value]:
    """Zero the neurons found on one side, and see what becomes of the noun on the other."""
    for quantity, found_at, judged_at in ((READ, case, twin_case), (SEEN, twin_case, case)):
        run = CaptionRun(judged_at.occurrence)
        sets, step = found_at.sets(), judged_at.occurrence.step
        for method, after in zip(sets, run.with_neurons(list(sets.values())), strict=True):
            yield case.value(quantity.name, method, float((after.log_odds - run.before.log_odds)[step]))


@checked
def cross_modality(
    model: WritingModel,
    dataset: Dataset,
    *,
    methods: MethodChoice = ("contribution", "random"),
    k: Count | Several[Count] = 20,
    nouns: Nouns = None,
    draws: Count = 20,
    seed: Seed = 0,
    progress: bool = True,
) -> Measurements:
    """Compare the neurons of every noun with those found when the picture's content stands there in writing.

    Args:
        model: the hooked model.
        dataset: samples with pictures and `writing`; see `mmlens.analysis.samples.sample`.
        methods: how neurons are chosen; `"random"` adds random neurons beside each: of the same layers, and as active too.
        k: how many neurons; several for a curve.
        nouns: as for `mm.neurons.caption_nouns`.
        draws: how many sets of random neurons of either kind.
        seed: of the random neurons.
        progress: show a progress bar.

    Returns:
        The share of top-k neurons in common and the correlation of all scores, beside another noun's writing and picture;
        and the change of the noun's log-odds when the neurons found on pictures are zeroed on the writing, and the
        other way round.

    Raises:
        UnmeasurableError: if the model takes no text without a picture (Q-Formers).

    Example:
        >>> found = cross_modality(model, [scene], k=5, nouns=["person"], progress=False)
        >>> found.interval("shared with the writing", "contribution").mean > 0.2
        True

    Source: the name of these neurons, Pan et al., 2024 (https://arxiv.org/abs/2311.07470); the test is ours.
    """
    ks = counts(k)
    settings = CaptionSettings(nouns)
    choice = NeuronChoice.of(methods, max(ks), seed, draws)
    return run(model, dataset, [CrossModality(ks, settings)], choice, settings=settings, progress=progress)
