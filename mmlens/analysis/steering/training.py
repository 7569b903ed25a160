"""The training of a predictor of steering vectors, epoch by epoch, and what a checkpoint keeps of it."""

import math
from collections.abc import Sequence

import torch

from mmlens.core.checkpoint import Checkpoint


class Training:
    """The weights of a predictor on their way.

    Args:
        weights: W1, b and W2 as they begin.
        generator: of the order of samples.
        absolute, cosine: weights of the loss's further terms.

    Attributes:
        best: the weights of the best epoch so far.
        best_epoch: its number, from 1.
    """

    def __init__(self, weights: Sequence[torch.Tensor], generator: torch.Generator, absolute: float, cosine: float):
        self.weights = [weight.detach().clone().requires_grad_() for weight in weights]
        self.best, self.best_epoch = [weight.detach().clone() for weight in weights], 0
        self._generator, self._absolute, self._cosine = generator, absolute, cosine
        self._optimiser = torch.optim.Adam(self.weights)
        self._score = math.inf

    def run(
        self,
        train: tuple[torch.Tensor, torch.Tensor],
        test: tuple[torch.Tensor, torch.Tensor] | None,
        epochs: int,
        learning_rate: float,
        batch_size: int,
        saved: Checkpoint,
    ) -> None:
        """Train for so many epochs, those that a checkpoint holds among them.

        Args:
            train: states and vectors.
            test: those that choose the epoch; None for the last one.
            epochs: how many.
            learning_rate: of Adam, falling along half a cosine.
            batch_size: samples a step.
            saved: what was trained before, and where it is kept.
        """
        for epoch in range(self._restore(saved), epochs):
            for group in self._optimiser.param_groups:
                group["lr"] = learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
            with torch.enable_grad():
                for rows in torch.randperm(len(train[0]), generator=self._generator).split(batch_size):
                    self._optimiser.zero_grad()
                    self._loss(train[0][rows], train[1][rows]).backward()
                    self._optimiser.step()
            with torch.no_grad():
                score = -float(epoch) if test is None else float(self._loss(*test))
            if score < self._score:
                self.best, self._score = [weight.detach().clone() for weight in self.weights], score
                self.best_epoch = epoch + 1
            self._keep(saved, epoch + 1)
        saved.save(now=True)

    def _loss(self, states: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        w_in, bias, w_out = self.weights
        vectors_of_states = torch.tanh(states @ w_in.T + bias) @ w_out.T
        error = vectors_of_states - vectors
        similarity = torch.cosine_similarity(vectors_of_states, vectors, dim=1).mean()
        return error.square().mean() + self._absolute * error.abs().mean() - self._cosine * similarity

    def _keep(self, saved: Checkpoint, epoch: int) -> None:
        moments = [self._optimiser.state[weight] for weight in self.weights]
        saved.tensors = {"generator": self._generator.get_state()}
        for number, (weight, best, moment) in enumerate(zip(self.weights, self.best, moments, strict=True)):
            saved.tensors |= {f"weight {number}": weight.detach(), f"best {number}": best}
            saved.tensors |= {f"{name} {number}": value for name, value in moment.items()}
        saved.parts = {"epoch": epoch, "best epoch": self.best_epoch, "score": self._score}
        saved.save()

    def _restore(self, saved: Checkpoint) -> int:
        """Take up what a checkpoint holds; how many epochs that are."""
        if not saved.parts:
            return 0
        self._generator.set_state(saved.tensors["generator"])
        for number, weight in enumerate(self.weights):
            weight.data.copy_(saved.tensors[f"weight {number}"])
            self.best[number] = saved.tensors[f"best {number}"]
            names = ("step", "exp_avg", "exp_avg_sq")
            self._optimiser.state[weight] = {name: saved.tensors[f"{name} {number}"].clone() for name in names}
        self.best_epoch, self._score = saved.parts["best epoch"], saved.parts["score"]
        return int(saved.parts["epoch"])
