"""A dictionary while it is trained: EleutherAI's sparsify on states in units of their own spread, and what comes of it.

    loss = |y - y'|^2 / |y - mean y|^2  +  aux / 32         aux: the same of what dead features can give of the rest

Source: sparsify's SparseCoder, https://github.com/EleutherAI/sparsify; auxiliary loss: Gao et al., "Scaling and evaluating sparse
autoencoders", 2024 (https://arxiv.org/abs/2406.04093), appendix A.2.
*Departs:* sparsify 1.3.3 computes the auxiliary loss through a function whose backward pass leaves the encoder out, so that dead
features cannot come back by it; here both ways learn. Choosing over a batch (BatchTopK: Bussmann et al., 2024,
https://arxiv.org/abs/2412.06410), which sparsify does not have, is computed here from its weights.
"""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional as F

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.core.errors import InputError

#: How a dictionary chooses features: the k largest of a row; or k of a row on average, which one threshold stands for in use.
Selection = Literal["topk", "jumprelu"]
_AUXILIARY = 1 / 32
#: Rows by which the threshold is found.
_SAMPLE = 8192


def require_sparsify() -> Any:
    """The package sparsify.

    Raises:
        InputError: if it is not installed.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it says by print that there is no Triton
            import sparsify
    except ImportError as error:
        raise InputError(
            "Training a sparse dictionary needs EleutherAI's sparsify, which is not installed: pip install 'mmlens[sae]' "
            f"(or pip install eai-sparsify). Dictionaries that are there are loaded without it. ({error})"
        ) from error
    return sparsify


@dataclass(frozen=True)
class StateUnit:
    """The unit of states: their mean, and their spread a coordinate.

    Attributes:
        mean: `[d]`.
        spread: root of the mean squared distance from it, a coordinate.
    """

    mean: torch.Tensor
    spread: float

    @classmethod
    def of(cls, rows: torch.Tensor) -> "StateUnit":
        """The unit of rows.

        Raises:
            InputError: if all of them are equal.
        """
        mean = rows.double().mean(0)
        spread = float((rows.double() - mean).square().mean().sqrt())
        if spread == 0:
            raise InputError("All states are equal, so there is nothing that features could tell apart.")
        return cls(mean.float(), spread)


class SparseCoder:
    """A dictionary in training.

    Args:
        x, y: rows of what is read and to be given back, by whose spread both are scaled, and from whose mean training begins.
        n_features: how many.
        k: features of a row.
        selection: how they are chosen.
        transcodes: whether it reads another point than it gives back.
        skip: whether what is read also goes past the features.
        lr: highest learning rate; None for sparsify's.
        dead_after: rows without a code after which a feature is dead.
        seed: of the first weights.
        device: where it is trained.
    """

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        *,
        n_features: int,
        k: int,
        selection: Selection,
        transcodes: bool,
        skip: bool,
        lr: float | None,
        dead_after: int,
        seed: int,
        device: torch.device,
    ):
        sparsify = require_sparsify()
        self._unit = StateUnit.of(y)
        self._read = StateUnit.of(x).spread if transcodes else self._unit.spread
        config = sparsify.SparseCoderConfig(num_latents=n_features, k=k, transcode=transcodes, skip_connection=skip)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            self._coder: Any = sparsify.SparseCoder(y.shape[1], config, dtype=torch.float32)
        self._coder.b_dec.data = self._unit.mean / self._unit.spread
        self._coder.to(device)
        self._k, self._selection, self._transcodes = k, selection, transcodes
        self._dead_after, self._device = dead_after, device
        #: sparsify's rule, for Adam
        self._lr = lr if lr is not None else 2e-4 / (n_features / 2**14) ** 0.5
        self._adam = torch.optim.Adam(self._coder.parameters(), lr=self._lr)
        self.idle = torch.zeros(n_features, dtype=torch.int64, device=device)

    @property
    def dead(self) -> torch.Tensor:
        """Which features are dead."""
        return self.idle >= self._dead_after

    def step(self, x: torch.Tensor, y: torch.Tensor, share: float) -> dict[str, float]:
        """Learn from some rows.

        Args:
            x, y: what is read, and to be given back.
            share: how much of the run is done, which decides the learning rate.

        Returns:
            The share of the variance that is not explained, and the auxiliary loss.
        """
        x, y = x.to(self._device) / self._read, y.to(self._device) / self._unit.spread
        for group in self._adam.param_groups:
            group["lr"] = self._lr * min(1.0, 20 * share + 0.01, 4 * (1 - share) + 0.01)
        dead, coder = self.dead, self._coder
        with torch.enable_grad():
            recons, is_active = self._by_row(x, y) if self._selection == "topk" else self._by_batch(x)
            rest = (y - recons).square().sum() / (y - y.mean(0)).square().sum()
            auxiliary = self._auxiliary(x, (y - recons).detach(), dead) if dead.any() else torch.tensor(0.0)
            (rest + _AUXILIARY * auxiliary).backward()
        if not self._transcodes:
            coder.remove_gradient_parallel_to_decoder_directions()
        self._adam.step()
        self._adam.zero_grad()
        if not self._transcodes:  # a transcoder's rows begin at zero; they are made unit at the end
            coder.set_decoder_norm_to_unit_norm()
        self.idle = torch.where(is_active, 0, self.idle + len(y))
        return {"unexplained": float(rest.detach()), "auxiliary": float(auxiliary.detach())}

    def _by_row(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is given back by the k largest of each row, and which features fired."""
        result = self._coder(x, y)
        is_active = torch.zeros_like(self.idle, dtype=torch.bool)
        is_active[result.latent_indices[result.latent_acts > 0]] = True
        return result.sae_out, is_active

    def _by_batch(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is given back by the k largest of a row on average, chosen over all rows together."""
        coder, active = self._coder, self._pre_codes(x).relu()
        codes = active * (active > _least(active, self._k))
        recons = codes @ coder.W_dec + coder.b_dec
        return (recons if coder.W_skip is None else recons + x @ coder.W_skip.T), (codes > 0).any(0)

    def _pre_codes(self, x: torch.Tensor) -> torch.Tensor:
        coder = self._coder
        return F.linear(x if self._transcodes else x - coder.b_dec, coder.encoder.weight, coder.encoder.bias)

    def _auxiliary(self, x: torch.Tensor, error: torch.Tensor, dead: torch.Tensor) -> torch.Tensor:
        """How much of what was not given back the dead features leave, at most d/2 of them in a row."""
        rows = dead.nonzero().flatten()
        codes = self._pre_codes(x)[:, rows].relu()
        limit = error.shape[1] // 2
        if len(rows) > limit:
            best = codes.topk(limit, dim=-1, sorted=False)
            codes = torch.zeros_like(codes).scatter(-1, best.indices, best.values)
        left = (codes @ self._coder.W_dec[rows] - error).square().sum() / error.square().sum().clamp_min(1e-12)
        return min(len(rows) / limit, 1.0) * left

    # -- what a checkpoint holds ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that training goes on with, as it is now."""
        state = {f"weights.{name}": value for name, value in self._coder.state_dict().items()} | {"idle": self.idle}
        for number, moments in self._adam.state_dict()["state"].items():
            state |= {f"adam.{number}.{name}": value for name, value in moments.items()}
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Be what `state()` gave."""
        prefix = "weights."
        weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self._coder.load_state_dict(weights)
        self.idle = state["idle"].to(self._device)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in state.items():
            if name.startswith("adam."):
                _, number, moment = name.split(".")
                moments.setdefault(int(number), {})[moment] = value
        self._adam.load_state_dict({**self._adam.state_dict(), "state": moments})

    # -- what comes of it ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def dictionary(self, at: str, at_in: str | None, x: torch.Tensor) -> SparseDictionary:
        """The dictionary, in the unit of the states, its rows of length 1.

        Args:
            at, at_in: its points.
            x: rows that were read, by which a threshold is found.
        """
        coder, out, read = self._coder, self._unit.spread, self._read
        norms = coder.W_dec.norm(dim=1).clamp_min(1e-8)
        by_row = self._selection == "topk"
        # one threshold of what codes are made of: after it codes are scaled to rows of length 1
        threshold = None if by_row else _least(self._pre_codes(x[:_SAMPLE].to(self._device) / read), self._k)
        tensors = {
            "W_enc": coder.encoder.weight.T * norms * (out / read),
            "b_enc": coder.encoder.bias * norms * out,
            "W_dec": coder.W_dec / norms[:, None],
            "b_dec": coder.b_dec * out,
            "threshold": None if threshold is None else threshold * norms * out,
            "W_skip": None if coder.W_skip is None else coder.W_skip * (out / read),
        }
        settings: dict[str, Any] = {name: None if value is None else value.cpu() for name, value in tensors.items()}
        settings |= {"activation": "topk", "k": self._k} if by_row else {"activation": "jumprelu"}
        return SparseDictionary(**settings, at=at, at_in=at_in)


def _least(values: torch.Tensor, k: int) -> torch.Tensor:
    """What k values a row exceed on average, at least 0."""
    count = min(k * len(values), values.numel())
    return values.detach().flatten().kthvalue(values.numel() - count + 1).values.clamp_min(0)
