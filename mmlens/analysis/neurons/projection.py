"""What the rows of MLP output weights say about tokens."""

import torch
from jaxtyping import Float, Int

from mmlens.analysis.neurons.token_targets import in_float32
from mmlens.architectures.weights import MlpWeights
from mmlens.models.part_view import BlockWeights


def readable_mlps(blocks: list[BlockWeights]) -> list[MlpWeights]:
    """The MLPs of blocks.

    Raises:
        UnsupportedModelError: if their rows cannot be read (quantised, offloaded).
    """
    mlps = [block.mlp for block in blocks if block.mlp is not None]
    mlps[0].W_out  # noqa: B018 - reading it is the check
    return mlps


def projections(
    mlp: MlpWeights, directions: Float[torch.Tensor, "token d_model"], indices: Int[torch.Tensor, "entry"]
) -> Float[torch.Tensor, "entry neuron"]:
    """Products of every row of `W_out` with the direction of each entry's token.

    As `[token d_model] @ [d_model neuron]`, in the order of the weight's memory: the transposed product takes twice as
    long, and the whole of `W_out @ W_U` would hold `[neuron vocab]` numbers per layer.

    Args:
        mlp: of one layer.
        directions: one for each token.
        indices: the number of each entry's token.
    """
    weight = mlp.W_out.T
    return in_float32((directions.to(weight) @ weight)[indices.to(weight.device)])


def stack_layers(scores: list[torch.Tensor]) -> Float[torch.Tensor, "entry layer neuron"]:
    """Scores of all layers on the CPU; they may lie on several devices, and one transfer serves all where they do not."""
    return torch.stack([layer.to(scores[0].device) for layer in scores], dim=1).cpu()
