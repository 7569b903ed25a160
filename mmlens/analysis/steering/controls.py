"""What a steering vector is compared with, all of its norm, at its point: words alone, and two kinds of random directions.

    words        g * (W_U[target] - W_U[source])         what writes the words, g the gain of the final norm
    covariance   sum_m z_m (x_m - mean x),  z_m ~ N(0, 1)    a draw from the normal distribution with the states' covariance
    isotropic    z ~ N(0, I)

A vector that does no more than the first writes words, whatever its states were. An isotropic direction lies almost outside
of the few dimensions in which states differ, so that beating it says little; one of the second kind lies within them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float

from mmlens.analysis.statistics.intervals import Interval
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Several, Text
from mmlens.core.rules import as_rule
from mmlens.hooks.nodes import Node
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.point_rows import GROWING
from mmlens.inputs.row_reader import RowReader
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal

#: The kinds of control.
ControlKind = Literal["words", "covariance", "isotropic"]


@checked
@torch.no_grad()
def unembedding_difference(
    model: HookedMultimodal, *, source: Text | Several[Text], target: Text | Several[Text], at: str
) -> SteeringVector:
    """The direction that writes one word rather than another: what a steering vector has to beat to be more than that.

        g * (mean of W_U[target words] - mean of W_U[source words])      g: the gain of the final norm

    Args:
        model: the hooked model.
        source, target: words, by their first tokens; of several the mean.
        at: the hook point, of the language model's stream.

    Raises:
        InputError: for words that the tokenizer does not know, or a point that the unembedding does not read.

    Example:
        >>> vector = unembedding_difference(model, source="yes", target="no", at="blocks.4.hook_resid_post")
        >>> vector.direction @ (model.W_U[:, model.to_single_token("no")] - model.W_U[:, model.to_single_token("yes")]) > 0
        tensor(True)
    """
    sides = [[words] if isinstance(words, str) else list(words) for words in (source, target)]
    weights = word_weights(model, *sides)
    if not reads_words(model, model.graph[at]):
        raise InputError(
            f"{at} is not in the language model's stream, so that no direction there writes words; choose e.g. "
            "blocks.*.hook_resid_post."
        )
    if not weights.any():
        raise InputError(
            f"source={source!r} and target={target!r} begin with the same tokens; choose words that differ."
        )
    return SteeringVector(word_direction(model, weights), at, {"method": "unembedding difference"})


def reads_words(model: HookedMultimodal, node: Node) -> bool:
    """Whether directions at a point are such as the unembedding reads."""
    return node.part == "language" and node.width == model.cfg.d_model and node.axes.split()[-1] == "d_model"


@torch.no_grad()
def word_direction(model: HookedMultimodal, weights: Float[torch.Tensor, "vocab"]) -> Float[torch.Tensor, "d_model"]:
    """The direction of the stream that raises tokens by their weights: `g * (W_U @ weights)`."""
    direction = model.W_U.float() @ weights.to(model.W_U.device, torch.float32)
    # norms differ in how they hold their gain; a vector of signs has the mean 0 and the size 1 that none of them changes
    signs = torch.ones_like(direction)
    signs[::2] = -1.0
    parameter = next(model.unembed.parameters())
    sides = model.ln_final(torch.stack([signs, -signs])[None].to(parameter.device, parameter.dtype))[0].float()
    return (direction * ((sides[0] - sides[1]) / 2 * signs.to(sides)).to(direction)).cpu()


def word_weights(model: HookedMultimodal, source: Sequence[str], target: Sequence[str]) -> Float[torch.Tensor, "vocab"]:
    """Weights of the tokens that words begin with: those of the target words sum to 1, those of the source words to -1."""
    weights = torch.zeros(model.W_U.shape[1])
    for words, sign in ((source, -1.0), (target, 1.0)):
        tokens = [model.to_word_tokens(word)[0] for word in words]
        for token in tokens:
            weights[token] += sign / len(tokens)
    return weights


def token_weights(model: HookedMultimodal, before: Sequence[str], after: Sequence[str]) -> Float[torch.Tensor, "vocab"]:
    """How often each token is said more (or less) in some texts than in others, per text."""
    shares = []
    for texts in (before, after):
        tokens = [token for text in texts for token in model.tokenizer.encode(text, add_special_tokens=False)]
        counts = torch.bincount(torch.tensor(tokens, dtype=torch.long), minlength=model.W_U.shape[1])
        shares.append(counts / max(len(texts), 1))
    return shares[1] - shares[0]


def word_verdict(beyond: Interval | None) -> str:
    """Whether a vector is more than word writing, from its paired difference from the unembedding difference; None without."""
    if beyond is None:
        return "no words to compare with"
    return "more than the words" if beyond.low > 0 else "no more than the words"


class StateDraws:
    """Random directions with the covariance of states, summed up batch by batch: no state is kept.

    Args:
        model: the hooked model.
        points: hook names.
        seeds: one direction each.
    """

    def __init__(self, model: HookedMultimodal, points: Iterable[str], seeds: Sequence[int]):
        self.model, self.seeds = model, seeds
        self._nodes = [model.graph[name] for name in dict.fromkeys(points)]
        self._generators = {
            (node.name, seed): torch.Generator().manual_seed(seed) for node in self._nodes for seed in seeds
        }
        self._sums: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._means: dict[str, tuple[torch.Tensor, int]] = {}

    def hooks(self, batch: MultimodalBatch) -> list[tuple[str, Callable[..., None]]]:
        """Hooks that add the states of a batch: at the last position where the sequence is language's, else everywhere."""
        pairs = []
        for node in self._nodes:
            rule = as_rule("last" if node.sequence in GROWING else "all")
            pairs.append((node.name, self._adder(node, RowReader(rule, batch, [node]))))
        return pairs

    def _adder(self, node: Node, reader: RowReader) -> Callable[..., None]:
        @reads_only
        def add(activation: torch.Tensor, hook: Any) -> None:
            states = reader.flat(node, activation.detach()).double().cpu()
            total, count = self._means.get(node.name, (torch.zeros(states.shape[-1], dtype=torch.double), 0))
            self._means[node.name] = total + states.sum(0), count + len(states)
            for seed in self.seeds:
                key = node.name, seed
                z = torch.randn(len(states), generator=self._generators[key], dtype=torch.double)
                weighted, weight = self._sums.get(
                    key, (torch.zeros(states.shape[-1], dtype=torch.double), torch.zeros(()))
                )
                self._sums[key] = weighted + z @ states, weight + z.sum()

        return add

    def direction(self, point: str, seed: int) -> Float[torch.Tensor, "d_model"] | None:
        """A draw, of no particular norm; None where the states do not differ."""
        total, count = self._means[point]
        weighted, weight = self._sums[point, seed]
        direction = weighted - weight * total / count
        scale = (total / count).norm()
        return direction.float() if float(direction.norm()) > 1e-6 * max(float(scale), 1e-6) else None


def controls_of(
    model: HookedMultimodal,
    vector: SteeringVector,
    points: Sequence[str],
    kinds: Sequence[ControlKind],
    *,
    seeds: Sequence[int],
    draws: StateDraws | None,
    weights: Float[torch.Tensor, "vocab"] | None,
) -> Mapping[tuple[ControlKind, int], SteeringVector]:
    """The controls of one vector, each of its norm, by kind and seed; kinds that it cannot have are left out.

    Args:
        model: the hooked model.
        vector: what they are compared with.
        points: where it acts.
        kinds: of control.
        seeds: of the random ones.
        draws: of states' covariances, at the first of the points.
        weights: of the tokens that the vector is to write; None where they are not known.
    """
    vectors: dict[tuple[ControlKind, int], SteeringVector] = {}
    readable = all(reads_words(model, model.graph[name]) for name in points)
    if "words" in kinds and weights is not None and weights.any() and readable:
        vectors["words", 0] = vector.with_direction(word_direction(model, weights), "unembedding difference")
    for seed in seeds:
        direction = draws.direction(points[0], seed) if "covariance" in kinds and draws is not None else None
        if direction is not None:
            vectors["covariance", seed] = vector.with_direction(
                direction, "random direction with the states' covariance", seed
            )
    for seed in seeds if "isotropic" in kinds else ():
        vectors["isotropic", seed] = vector.random(seed=seed)
    return vectors
