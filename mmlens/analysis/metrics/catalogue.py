"""The metrics there are. A word of several tokens counts as a whole, each token behind those before it (teacher forced)."""

from collections.abc import Callable

import torch

from mmlens.analysis.metrics.forced import ForcedLogits
from mmlens.analysis.metrics.metric import Metric, Tokens, token_list
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index, Several


@checked
def log_probability(token: Tokens) -> Metric:
    """Log-probability of a word, in nats: the sum over its tokens, each behind those before it (teacher forced).

    Args:
        token: a word or an id, or one per sample. Of the ways to write a word (a blank in front, a capital) the one counts
            that is the most probable in the clean run.

    Example:
        >>> from mmlens.analysis.metrics import log_probability
        >>> measure = log_probability(5).on(model)
        >>> bool((measure(model(batch)[:, -1]) < 0).all())
        True
    """
    return _of_word("log p({})", "nats", token, _log_probability_of, _total_of)


@checked
def probability(token: Tokens) -> Metric:
    """Probability of a word, 0 to 1: the product over its tokens.

    Args:
        token: as for `log_probability`.
    """
    return _of_word("p({})", "probability", token, _probability_of, _probability_of_word)


@checked
def log_odds(token: Tokens) -> Metric:
    """Log-odds of a word, `log p - log (1 - p)`, in nats: still moves where p is close to 1.

    Args:
        token: as for `log_probability`.
    """
    return _of_word("log odds({})", "nats", token, _log_odds_of, _log_odds_of_word)


@checked
def logit_difference(answer: Tokens, other: Tokens) -> Metric:
    """Logit of one word minus the logit of another: the difference of their log-probabilities, which normalisers cancel in.

    Words of several tokens count as a whole (teacher forced): what two words share cancels, and behind the token at which they
    part the log-probabilities of what is left of each count too. Where both go on, verbs make two runs, one behind each word.

    Args:
        answer: as for `log_probability`; both words are written in one way.
        other: likewise.

    Example:
        >>> from mmlens.analysis.metrics import logit_difference
        >>> logit_difference("red", ["blue", "green"])
        Metric(logit('red') - logit(['blue', 'green']), logits)
    """
    pairs = zip(token_list(answer), token_list(other))
    if answer == other or any(first == second for first, second in pairs):
        raise InputError(
            f"logit_difference({_named(answer)}, {_named(other)}) is 0 whatever runs; name two different words."
        )
    return Metric(
        f"logit({_named(answer)}) - logit({_named(other)})",
        "logits",
        (_fixed(answer), _fixed(other)),
        _logit_difference_of,
        whole=False,
        of_words=_total_of,
        signs=(1.0, -1.0),
    )


@checked
def image_text_score(text: Index | Several[Index] | None = None) -> Metric:
    """Score of a picture with a text, of dual encoders (CLIP, SigLIP): their cosine times a factor, plus a bias.

    Args:
        text: number of the text among those of the batch, the same for all pictures or one for each; by default every
            picture's own.

    Example:
        >>> from mmlens.analysis.metrics import image_text_score
        >>> image_text_score(), image_text_score(1)
        (Metric(image-text score, logits), Metric(score(text 1), logits))
    """
    if text is None:
        return Metric("image-text score", "logits", (), _own_score_of, of_scores=True)
    return Metric(f"score(text {_named(text)})", "logits", (_fixed(text),), _own_score_of, whole=False, of_scores=True)


@checked
def rank(token: Tokens) -> Metric:
    """How many tokens are more probable than a word's; 0 where it is the answer. Of several tokens the worst counts.

    Args:
        token: as for `log_probability`.
    """
    return _of_word("rank({})", "tokens", token, _rank_of, _worst_rank_of)


@checked
def accuracy(answer: Tokens) -> Metric:
    """Whether greedy decoding writes a word, all of its tokens: 1 or 0.

    Args:
        answer: as for `log_probability`.
    """
    return _of_word("answer is {}", "share", answer, _is_greedy, _is_greedy_word)


@checked
def kl_divergence() -> Metric:
    """How far the answer is from the clean run's: `KL(clean || run) = sum_v p(v) (log p(v) - log q(v))`, in nats."""
    return Metric("KL(clean || run)", "nats", (), _kl_divergence_of, against_clean=True)


def _of_word(
    name: str,
    unit: str,
    token: Tokens,
    of: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor],
    of_words: Callable[[ForcedLogits], torch.Tensor],
) -> Metric:
    """A metric of one word: of one token at the predicting position, and of several."""
    return Metric(name.format(_named(token)), unit, (_fixed(token),), of, of_words=of_words)


def _fixed(tokens: Tokens) -> Tokens:
    """Tokens that do not change any more."""
    return tokens if isinstance(tokens, str | int) else tuple(tokens)


def _named(tokens: Tokens) -> str:
    """A token as it is printed; the first few of several."""
    if isinstance(tokens, str | int):
        return repr(tokens)
    return "[" + ", ".join(map(repr, tokens[:3])) + (", ...]" if len(tokens) > 3 else "]")


def _pick(logits: torch.Tensor, columns: torch.Tensor, token: int = 0) -> torch.Tensor:
    return logits.gather(-1, columns[:, token : token + 1])[:, 0]


def _log_probability_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    return _pick(logits, columns) - logits.logsumexp(-1)


def _probability_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    return _log_probability_of(logits, columns, clean).exp()


def _probability_of_word(forced: ForcedLogits) -> torch.Tensor:
    return forced.total.exp()


def _total_of(forced: ForcedLogits) -> torch.Tensor:
    return forced.total


def _log_odds_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    target = _pick(logits, columns)
    others = logits.scatter(-1, columns[:, :1], float("-inf")).logsumexp(-1)
    return target - others


def _log_odds_of_word(forced: ForcedLogits) -> torch.Tensor:
    total = forced.total
    return total - torch.log(-torch.expm1(total.clamp(max=-torch.finfo(total.dtype).eps)))


def _logit_difference_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    return _pick(logits, columns) - _pick(logits, columns, 1)


def _own_score_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    if columns.shape[1]:
        return _pick(logits, columns)
    if logits.shape[0] != logits.shape[1]:
        raise InputError(
            f"image_text_score() is that of every picture with its own text, and there are {logits.shape[0]} pictures and "
            f"{logits.shape[1]} texts; name the text that all are scored with, image_text_score(0), or prepare as many."
        )
    return logits.diagonal()


def _rank_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    return (logits > _pick(logits, columns)[:, None]).sum(-1).to(logits.dtype)


def _worst_rank_of(forced: ForcedLogits) -> torch.Tensor:
    return forced.worst_rank


def _is_greedy(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    return (logits.argmax(-1) == columns[:, 0]).to(logits.dtype)


def _is_greedy_word(forced: ForcedLogits) -> torch.Tensor:
    return (forced.worst_rank == 0).to(forced.logits.dtype)


def _kl_divergence_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    if clean is None or clean.shape != logits.shape:
        shape = None if clean is None else list(clean.shape)
        raise InputError(f"The clean run's logits are {shape}, those compared {list(logits.shape)} [batch vocab].")
    p, q = clean.log_softmax(-1), logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)
