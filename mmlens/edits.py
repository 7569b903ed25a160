"""Edits of weights: rows scaled, zeroed, taught another word; values first, applied with `model.edited` or `model.apply`."""

from mmlens.analysis.edits.outcome import EditReport
from mmlens.analysis.edits.report import edit_report
from mmlens.interventions.edits.edit import Edit, Provenance
from mmlens.interventions.edits.methods.belief import Belief
from mmlens.interventions.edits.methods.direct import Direct
from mmlens.interventions.edits.methods.through import Through
from mmlens.interventions.edits.rank_one import rank_one
from mmlens.interventions.edits.rows import noise_neurons, scale_neurons, zero_neurons
from mmlens.interventions.edits.words import remove_word, replace_token

__all__ = [  # noqa: RUF022
    "Belief",
    "Direct",
    "Edit",
    "edit_report",
    "EditReport",
    "noise_neurons",
    "Provenance",
    "rank_one",
    "remove_word",
    "replace_token",
    "scale_neurons",
    "Through",
    "zero_neurons",
]
