"""What decides the study of Pan et al., 2024 (https://arxiv.org/abs/2311.07470)."""

from dataclasses import dataclass
from typing import Literal

from mmlens.core.contract import checked
from mmlens.core.kinds import Count, NonNegative, Positive, Several, Text


@checked
@dataclass(frozen=True)
class PanSettings:
    """What decides the study.

    Attributes:
        prompt: what is asked of each picture; the samples' own if None.
        activation: which number of a neuron is multiplied by what it writes: the down projection's input, or the activation
            function's output, as published.
        samples: pictures.
        max_new_tokens: of a caption.
        ks: how many neurons, for curves.
        words: of each neuron.
        causal_k, sigma, row_units: how many neurons get noise, of which size, and whether that is in units of their rows.
        causal_samples: pictures of the causal stage.
        edit_k, penalty: how many rows are edited, and the weight of the norm of their change.
        draws: sets of random neurons.
        together: pictures that have to share a neuron.
        concept_k, pictures: neurons of a noun over all of its pictures; nouns of fewer pictures are not counted.
    """

    prompt: Text | None = None
    activation: Literal["down_in", "act"] = "down_in"
    samples: Count = 60
    max_new_tokens: Count = 30
    ks: Several[Count] = (1, 5, 20)
    words: Count = 5
    causal_k: Count = 20
    sigma: Positive = 1.0
    row_units: bool = True
    causal_samples: Count = 24
    edit_k: Count = 5
    penalty: NonNegative = 0.1
    draws: Count = 5
    together: Count = 5
    concept_k: Count = 20
    pictures: Count = 3

    @classmethod
    def published(cls) -> "PanSettings":
        """The paper's, as far as its text, code and summaries tell: `sigma`, the number of neurons that get noise and those that
        are edited are not in its code's defaults."""
        return cls(
            prompt="Describe the image in few words.",
            activation="act",
            samples=1000,
            max_new_tokens=50,
            ks=(1, 10, 50, 100, 500, 1000),
            words=10,
            causal_k=5,
            sigma=0.5,
            row_units=False,
            causal_samples=1000,
            together=10,
            concept_k=500,
        )
