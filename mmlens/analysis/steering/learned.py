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
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float

from mmlens.analysis.steering.training import Training
from mmlens.analysis.store.states import States
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.kinds import Count, Fraction, NonNegative, PathLike, Positive, Seed
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
    checkpoint: PathLike | None = None,
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
        checkpoint: file that keeps what is trained; a call that was stopped is gone on with by the same call, to the bit.

    Raises:
        InputError: for fewer than four samples, states without a vector, or the checkpoint of another training.

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
    if not c.isfinite().all():
        raise InputError(f"{states!r} holds states that are not finite; collect them anew, in dtype='float32', say.")
    mean, spread = c.mean(0), _spread(c)
    size = float(z.norm(dim=1).square().mean().sqrt() / z.shape[1] ** 0.5)
    order = torch.randperm(len(c), generator=generator)
    n_held = min(max(round(held_out * len(c)), 1), len(c) // 2) if held_out else 0
    pairs = (c - mean) / spread, z / size
    test, train = ((pairs[0][rows], pairs[1][rows]) for rows in (order[:n_held], order[n_held:]))
    settings = {"absolute": absolute, "cosine": cosine, "seed": seed}
    training = Training(_first_weights(c.shape[1], train[1], hidden, generator), generator, absolute, cosine)
    progress = Checkpoint(
        checkpoint,
        "training of a predictor",
        lambda exact: {
            "states": identity_of((states.values, states.at)), "vectors": identity_of((vectors.vectors, vectors.at)),
            "settings": identity_of((settings, hidden, epochs, learning_rate, n_held, batch_size)),
        },
    )  # fmt: skip
    training.run(train, test if n_held else None, epochs, learning_rate, batch_size, progress)
    w_in, bias, w_out = training.best
    about = {"samples": len(c), "epochs": training.best_epoch, "settings": settings}
    w_in, bias = w_in / spread, bias - w_in @ (mean / spread)
    predictor = LearnedPredictor(w_in, bias, w_out * size, vectors.at, states.at, about)
    rows = order[:n_held] if n_held else order
    cosines = torch.cosine_similarity(predictor.predict(states.values[rows]), vectors.vectors[rows], dim=1)
    return replace(predictor, provenance={**about, "cosine": float(cosines.mean())})


def _spread(states: torch.Tensor) -> torch.Tensor:
    """The standard deviation of each entry; of entries that hardly vary that of all, so that no later state is huge in them."""
    spread, overall = states.std(0), states.std().clamp_min(1e-12)
    return torch.where(spread < 1e-3 * overall, overall, spread)


def _first_weights(d_state: int, vectors: torch.Tensor, hidden: int, generator: torch.Generator) -> list[torch.Tensor]:
    """W1, b and W2: the columns of the last begin with the leading directions of the vectors."""
    w_in = torch.randn(hidden, d_state, generator=generator) / d_state**0.5
    w_out = torch.randn(vectors.shape[1], hidden, generator=generator) / hidden**0.5 * 0.1
    _, singular, directions = torch.linalg.svd(vectors, full_matrices=False)
    k = min(hidden, len(directions))
    w_out[:, :k] = (directions[:k] * (singular[:k, None] / len(vectors) ** 0.5)).T
    return [w.requires_grad_() for w in (w_in, torch.zeros(hidden), w_out)]
