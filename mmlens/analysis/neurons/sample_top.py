"""The best neurons of one sample of a dataset."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int


@dataclass(frozen=True)
class SampleTop:
    """The best neurons of one sample of a dataset.

    Attributes:
        name: the sample's name, or its key.
        indices: into the flattened scores, best first.
        scores: theirs.
    """

    name: str
    indices: Int[torch.Tensor, "k"]
    scores: Float[torch.Tensor, "k"]
