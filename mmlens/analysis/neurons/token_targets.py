"""Tokens that neurons are scored for, each with the position that predicts it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.core.rules import LAST
from mmlens.hooks.nodes import Node
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.positions import resolve
from mmlens.models.direct_path import logit_directions, score_directions
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class TokenTargets:
    """Tokens of a batch, one entry each: sample `sample` predicts `token` at so many positions before its last.

    Attributes:
        batch: what is run; tokens of a word stand in it up to the last but one (teacher forcing).
        sample, back, token: one number per entry.
        owner: which scores an entry is added to: those of the same word in the same sample.
    """

    batch: MultimodalBatch
    sample: Int[torch.Tensor, "entry"]
    back: Int[torch.Tensor, "entry"]
    token: Int[torch.Tensor, "entry"]
    owner: Int[torch.Tensor, "entry"]

    def rows(self, node: Node) -> Int[torch.Tensor, "entry"]:
        """Where each entry's token is predicted, on the sequence of a point; in a dual encoder, the row that its tower's
        embedding is made of: the last of a text, the class row of a picture.
        """
        if self.batch.apart and (node.part != "language" or node.sequence == "pooled"):
            return torch.zeros_like(self.sample)
        last = torch.cat(resolve(LAST, self.batch, node).rows)[:, 1]
        return last[self.sample] - self.back

    def summed(
        self, scores: Float[torch.Tensor, "entry layer neuron"], owners: int
    ) -> Float[torch.Tensor, "owner layer neuron"]:
        """The sum over the entries of each of so many owners: the tokens of a word add up."""
        return scores.new_zeros(owners, *scores.shape[1:]).index_add_(0, self.owner, scores)

    def rounds(self) -> list[Int[torch.Tensor, "some"]]:
        """Entries in groups that hold at most one per sample."""
        before = [int((self.sample[:entry] == self.sample[entry]).sum()) for entry in range(len(self.sample))]
        numbers = torch.tensor(before)
        return [(numbers == number).nonzero().flatten() for number in range(max(before) + 1)]


def word_targets(
    model: HookedMultimodal, batch: MultimodalBatch, words: Sequence[tuple[int, ...]]
) -> list[TokenTargets]:
    """Words as the next thing that every sample says. Words of one token are read off one and the same run.

    Args:
        model: the hooked model.
        batch: whose last position predicts each word's first token.
        words: token ids of each word.

    Returns:
        What to run, one after another; owners are `word * batch.size + sample`.

    Raises:
        InputError: for words of several tokens behind padding.
    """
    n = batch.size
    samples = torch.arange(n)
    targets = []
    single = [(number, tokens[0]) for number, tokens in enumerate(words) if len(tokens) == 1]
    if single:
        number, token = torch.tensor(single).repeat_interleave(n, 0).unbind(1)
        sample = samples.repeat(len(single))
        targets.append(TokenTargets(batch, sample, torch.zeros_like(sample), token, number * n + sample))
    for place, tokens in enumerate(words):
        if len(tokens) > 1:
            sample, step = samples.repeat(len(tokens)), torch.arange(len(tokens)).repeat_interleave(n)
            ids = torch.tensor(tokens)
            teacher = model.extend(batch, ids[:-1].expand(n, -1))
            targets.append(TokenTargets(teacher, sample, len(tokens) - 1 - step, ids[step], place * n + sample))
    return targets


def score_targets(batch: MultimodalBatch) -> list[TokenTargets]:
    """The score of every picture with its own text, in the place of a token's logit.

    Args:
        batch: of a dual encoder.

    Raises:
        InputError: if it has another number of texts than of pictures.
    """
    if not batch.paired:
        raise InputError(
            f"Neurons are scored for every picture's score with its own text, and the batch has {batch.texts} texts for "
            f"{batch.size} pictures; prepare as many (repeat some)."
        )
    samples = torch.arange(batch.size)
    return [TokenTargets(batch, samples, torch.zeros_like(samples), samples, samples)]


def written_directions(
    model: HookedMultimodal, targets: TokenTargets, part: Part, *, normed: bool
) -> tuple[Float[torch.Tensor, "token d_model"], Int[torch.Tensor, "entry"]]:
    """What a part's stream is multiplied by to give the logits of tokens, or scores; and which one is each entry's.

    Args:
        model: the hooked model.
        targets: the tokens, or scores.
        part: whose stream.
        normed: read the stream in front of the final norm, whose divisor is left out; False reads it as if there were none.
    """
    if targets.batch.apart:
        return score_directions(model, targets.batch, part, normed=normed), torch.arange(len(targets.sample))
    tokens, indices = targets.token.unique(return_inverse=True)
    if normed:
        return logit_directions(model, tokens), indices
    return model.W_U.T[tokens.to(model.W_U.device)], indices


def tokens_of(model: HookedMultimodal, token: str | int) -> tuple[int, ...]:
    """The token ids of a word as it stands in a text, with a blank in front where the tokenizer marks words so.

    Raises:
        InputError: if the tokenizer does not know the word, or the model has no such id.
    """
    vocab = model.graph["hook_logits"].width or model.W_U.shape[1]
    if isinstance(token, str):
        return tuple(model.to_word_tokens(token))
    if isinstance(token, bool) or not isinstance(token, int):
        raise InputError(f"A token is a word or an id, found {type(token).__name__}: {token!r}.")
    if not 0 <= token < vocab:
        raise InputError(f"There is no token {token}; ids run from 0 to {vocab - 1}.")
    return (token,)


def token_text(model: HookedMultimodal, tokens: tuple[int, ...]) -> str:
    """The text of token ids; the ids themselves for a model without a tokenizer."""
    if model.processor is None:
        return " ".join(f"#{token}" for token in tokens)
    return model.to_string(list(tokens)).strip()


def states_at(
    model: HookedMultimodal, targets: TokenTargets, names: Sequence[str]
) -> dict[str, Float[torch.Tensor, "entry *rest"]]:
    """Language-model points at the positions that predict the tokens, `[entry ...]`, from one forward pass.

    Args:
        model: the hooked model.
        targets: the tokens.
        names: hook points with a batch and a position axis in front.
    """
    states: dict[str, torch.Tensor] = {}
    cache: dict[tuple[str, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        node, device = model.graph[hook.name], activation.device
        if (node.sequence, device) not in cache:
            rows = targets.rows(node)
            cache[node.sequence, device] = targets.sample.to(device), rows.to(device)
        states[hook.name] = activation.detach()[cache[node.sequence, device]]

    hook: Callable[..., None] = keep
    with torch.no_grad():
        model.run_with_hooks(targets.batch, fwd_hooks=[(list(names), hook)])
    return states


def in_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
