"""Learning to steer: a small network from a state of the prompt to the sample's steering vector.

    g(c) = W2 tanh(W1 c + b),    loss = mean (z - g)^2 + mean |z - g| - w cos(z, g)

Source: Parekh et al., "Learning to Steer: Input-dependent Steering for Multimodal LLMs", 2025
(https://arxiv.org/abs/2508.12815), section 3.2 (L2S); the loss with its last two terms is that of the published code
(github.com/jayneelparekh/learn-to-steer), the paper's page has the first alone: `absolute=0, cosine=0`. *Departs:* W2 begins with
the leading directions of z about 0 and not about their mean, which the network has no other place for; states and vectors are
scaled to unit size for training, and back; a tenth of the samples decides which epoch is kept. The published network is as wide
as the model has *positions*, which on LLaVA-1.5 happens to be its width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float

from mmlens.analysis.store.states import States
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Fraction, NonNegative, Positive, Seed
from mmlens.core.saved import Saved
from mmlens.interventions.steering_table import SteeringTable
from mmlens.interventions.vector_predictor import VectorPredictor


@checked
@dataclass(frozen=True, repr=False)
class LearnedPredictor(VectorPredictor, Saved):
    """A network that predicts a sample's steering vector from a state of its prompt; `mm.Steer(predictor)` acts with it.

    Attributes:
        w_in: `[hidden d_state]`.
        bias: `[hidden]`.
        w_out: `[d_model hidden]`.
        at: the hook point to steer at.
        read_at: the hook point whose state at the prompt's last token it reads.
        provenance: how it was trained: samples, epochs, the cosine on the samples that chose the epoch.
    """

    w_in: Float[torch.Tensor, "hidden d_state"]
    bias: Float[torch.Tensor, "hidden"]
    w_out: Float[torch.Tensor, "d_model hidden"]
    at: str
    read_at: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (len(self.w_in) == len(self.bias) == self.w_out.shape[1]):
            raise InputError(
                f"The layers do not fit: w_in {list(self.w_in.shape)} [hidden d_state], bias {list(self.bias.shape)} [hidden], "
                f"w_out {list(self.w_out.shape)} [d_model hidden]."
            )
        for name in ("w_in", "bias", "w_out"):
            object.__setattr__(self, name, getattr(self, name).detach().float().cpu())

    def __repr__(self) -> str:
        cosine = self.provenance.get("cosine")
        score = "" if cosine is None else f", cosine {cosine:.3f} on held-out samples"
        return f"LearnedPredictor({self.read_at} -> {self.at}, {len(self.bias)} hidden{score})"

    @property
    def width(self) -> int:
        """How many entries a vector has."""
        return len(self.w_out)

    @property
    def state_width(self) -> int:
        """How many entries the state that it reads has."""
        return self.w_in.shape[1]

    @checked
    def predict(self, states: Float[torch.Tensor, "sample d_state"]) -> Float[torch.Tensor, "sample d_model"]:
        """A vector for each state.

        Raises:
            InputError: for states of another width.
        """
        if states.ndim != 2 or states.shape[1] != self.state_width:
            raise InputError(f"States must be [sample d_state={self.state_width}], found {list(states.shape)}.")
        return torch.tanh(states.float().cpu() @ self.w_in.T + self.bias) @ self.w_out.T


@checked
def learn_predictor(
    states: States,
    vectors: SteeringTable,
    *,
    hidden: Count = 100,
    epochs: Count = 100,
    learning_rate: Positive = 1e-3,
    absolute: NonNegative = 1.0,
    cosine: NonNegative = 0.1,
    held_out: Fraction = 0.1,
    batch_size: Count = 64,
    seed: Seed = 0,
) -> LearnedPredictor:
    """Train a network that predicts steering vectors from states of prompts (L2S).

    Args:
        states: of the last token of each prompt: `mm.collect(model, data, at=..., positions="last").at()`; the completions must
            not be in them.
        vectors: of the same samples, found by their keys: `contrastive_vectors(...)[point]`.
        hidden: width of the hidden layer.
        epochs: passes over the samples; the best on the held-out ones is kept.
        learning_rate: of Adam, falling along half a cosine. The paper has 5e-5 and 1e-4, of unscaled states.
        absolute, cosine: weights of the loss's further terms.
        held_out: share of the samples that choose the epoch, at least one; 0 keeps the last epoch.
        batch_size: samples a step.
        seed: of the first weights, and of the order of samples.

    Raises:
        InputError: for fewer than four samples, or states without a vector.

    Example:
        >>> import mmlens as mm
        >>> context = mm.store.States(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), "blocks.2.hook_resid_post")
        >>> table = mm.steering.SteeringTable(context.values @ torch.eye(8)[:, [1, 0, 2, 3]], "blocks.4.hook_resid_post")
        >>> mm.steering.learn_predictor(context, table, hidden=16, epochs=20).width
        4
    """
    if states.keys and vectors.keys:
        vectors = vectors.of(states.keys)
    if vectors.by != "sample" or len(states) != len(vectors.vectors) or len(states) < 4 or states.values.ndim != 2:
        raise InputError(
            f"A predictor is trained on at least 4 samples' states [sample d_state] and as many vectors by sample, found "
            f"{list(states.values.shape)} and {vectors!r}."
        )
    generator = torch.Generator().manual_seed(seed)
    c, z = states.values.detach().float().cpu(), vectors.vectors
    mean, spread = c.mean(0), c.std(0).clamp_min(1e-6 * float(c.std().clamp_min(1e-12)))
    size = float(z.norm(dim=1).square().mean().sqrt() / z.shape[1] ** 0.5)
    c, z = (c - mean) / spread, z / size
    order = torch.randperm(len(c), generator=generator)
    n_held = min(max(round(held_out * len(c)), 1), len(c) // 2) if held_out else 0
    test, train = order[:n_held], order[n_held:]
    weights = _first_weights(c.shape[1], z[train], hidden, generator)
    optimiser = torch.optim.Adam(weights, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    best, score, kept_epoch = [w.detach().clone() for w in weights], float("inf"), epochs
    for epoch in range(epochs):
        with torch.enable_grad():
            for rows in train[torch.randperm(len(train), generator=generator)].split(batch_size):
                optimiser.zero_grad()
                _loss(weights, c[rows], z[rows], absolute, cosine).backward()
                optimiser.step()
        schedule.step()
        with torch.no_grad():
            value = float(_loss(weights, c[test], z[test], absolute, cosine)) if n_held else -float(epoch)
        if value < score:
            best, score, kept_epoch = [w.detach().clone() for w in weights], value, epoch + 1
    w_in, bias, w_out = best
    predictor = LearnedPredictor(
        w_in / spread, bias - w_in @ (mean / spread), w_out * size, vectors.at, states.at,
        {"samples": len(c), "epochs": kept_epoch, "settings": {"absolute": absolute, "cosine": cosine, "seed": seed}},
    )  # fmt: skip
    rows = test if n_held else train
    cosines = torch.cosine_similarity(predictor.predict(states.values[rows]), vectors.vectors[rows], dim=1)
    return LearnedPredictor(
        predictor.w_in, predictor.bias, predictor.w_out, predictor.at, predictor.read_at,
        {**predictor.provenance, "cosine": float(cosines.mean())},
    )  # fmt: skip


def _first_weights(d_state: int, vectors: torch.Tensor, hidden: int, generator: torch.Generator) -> list[torch.Tensor]:
    """W1, b and W2: the columns of the last begin with the leading directions of the vectors."""
    w_in = torch.randn(hidden, d_state, generator=generator) / d_state**0.5
    w_out = torch.randn(vectors.shape[1], hidden, generator=generator) / hidden**0.5 * 0.1
    _, singular, directions = torch.linalg.svd(vectors, full_matrices=False)
    k = min(hidden, len(directions))
    w_out[:, :k] = (directions[:k] * (singular[:k, None] / len(vectors) ** 0.5)).T
    return [w.requires_grad_() for w in (w_in, torch.zeros(hidden), w_out)]


def _loss(
    weights: list[torch.Tensor], c: torch.Tensor, z: torch.Tensor, absolute: float, cosine: float
) -> torch.Tensor:
    w_in, bias, w_out = weights
    error = (predicted := torch.tanh(c @ w_in.T + bias) @ w_out.T) - z
    similarity = torch.cosine_similarity(predicted, z, dim=1).mean()
    return error.square().mean() + absolute * error.abs().mean() - cosine * similarity
