"""Multi-modal neurons: whether picture and words share the neurons behind a noun, and whether these carry it.

Source: Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL 2024
(https://arxiv.org/abs/2311.07470); beside every figure neurons of the same layers that are as active.
"""

from __future__ import annotations

from mmlens.analysis.properties.cases import NeuronChoice, Overall, Property
from mmlens.analysis.properties.causal import Causal
from mmlens.analysis.properties.cross_modality import OTHER_WRITING, SHARED, CrossModality
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.quantities import control_of
from mmlens.analysis.properties.run import run
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, TargetRange, absent
from mmlens.lab.phenomena.subject import Subject

_TOP, _DRAWS, _METHOD = 20, 10, "contribution"
_ZEROED = "log odds of the noun, zeroed"


def neurons(subject: Subject, sizes: Sizes) -> Measured:
    """Measure the top 20 neurons of the first noun of the model's own captions."""
    scenes = subject.world.scenes(sizes.share(0.12, least=6), sizes.stream(5))
    samples = [subject.sample(scene, None, name=str(number)) for number, scene in enumerate(scenes)]
    words = [word for noun in subject.world.nouns for word in subject.world.spellings(noun)]
    settings = CaptionSettings(words, per_sample=1, max_new_tokens=40)
    again = CaptionSettings(words, max_new_tokens=40)
    measures: list[Property | Overall] = [
        CrossModality((_TOP,), again, ablate=False),
        Causal(("zero",), (_TOP,), settings=again),
    ]
    choice = NeuronChoice.of((_METHOD, "random"), _TOP, sizes.seed, _DRAWS)
    report = run(subject.model, samples, measures, choice, settings=settings, progress=False)
    zeroed = Finding(
        f"log odds of the noun, its top {_TOP} zeroed", report.interval(_ZEROED, _METHOD), "nats",
        (Control("as active", report.draws(_ZEROED, _METHOD, control="matched"), TargetRange(-0.15, 0.15)),),
        TargetRange(high=-0.5),
    )  # fmt: skip
    if not (report.values["quantity"] == SHARED.name).any():
        why = "no noun of a caption was also said of the scene in words"
        return Measured([absent(f"top {_TOP} shared by picture and words", why, TargetRange(0.5)), zeroed])
    picture = report.interval(SHARED.name, _METHOD)
    overlap = Finding(
        f"top {_TOP} shared by picture and words", picture, "share of neurons",
        (
            Control("as active on either side", report.draws(SHARED.name, _METHOD, control="matched")),
            Control("words about another noun", report.interval(OTHER_WRITING.name, _METHOD), TargetRange(high=0.15)),
        ),
        TargetRange(0.5), subject.world.trained_in.get("neurons", ""),
    )  # fmt: skip
    beyond = Finding(
        "shared, beyond those as active", report.difference(SHARED.name, _METHOD, minus=control_of(_METHOD, "matched")),
        "share of neurons", target=TargetRange(0.3),
    )  # fmt: skip
    return Measured([overlap, beyond, zeroed])
