"""Deltas of rows found by gradient descent, until the model's other answers agree with the new word."""

from dataclasses import dataclass
from typing import ClassVar

from mmlens.core.kinds import Count, NonNegative
from mmlens.interventions.edits.method import EDIT_METHODS
from mmlens.interventions.edits.methods.through import Through


@EDIT_METHODS.register("belief")
@dataclass(frozen=True)
class Belief(Through):
    """Rows optimised as by `Through`, and taught the answers to other questions that agree with the edit.

    A word that is swapped is no belief: after an edit of red to blue "what color is the star" may be answered "blue", and "is
    there a blue star" still "no". The loss of `Through` gets one more term,

        agreement * mean over samples of the worst -log p(token of the answer that agrees)

    over the questions of `consistency`, and training stops only once these answers too have the probability `stop_at`. Rows
    that write the source where it is said are seldom those that decide about its presence: give more rows, of earlier layers
    among them, and controls of every kind of question that is taught, or the edit is a plain "no" (or "yes").

    Attributes:
        agreement: weight of the questions that are to agree.
        n_steps: at most; a step takes one batch of prompts, one of controls and one of questions.
        penalty, keep, keep_controls, repetition, learning_rate, stop_at, stop_kl, frozen_last, seed: as of `Through`; stop_at
            holds for the questions too.

    Source: the criterion of consistency of Cohen et al., "Evaluating the Ripple Effects of Knowledge Editing in Language
    Models", TACL 2024 (https://arxiv.org/abs/2307.12976). *Departs:* they measure it, here it is taught; the objective is ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "a target word", "consistency"})
    title: ClassVar[str] = "belief"

    agreement: NonNegative = 1.0
    n_steps: Count = 200

    @property
    def weights(self) -> dict[str, float]:
        return {**super().weights, "agreement": self.agreement}
