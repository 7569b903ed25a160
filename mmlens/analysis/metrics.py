"""Metrics: functions of the logits at the predicting position, with one value per sample.

A word of several tokens is measured by its first one, as a model that is about to say the word says that first; two words that
begin alike are told apart behind what they share (`model.extend`). `word_log_probability` is that of all tokens of a word.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float, Int

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index, Must, Several, Text, With
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

#: `logits [batch vocab]` at the predicting position to one value per sample `[batch]`.
MetricFunction: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
#: A token: a string or an id.
Token: TypeAlias = Text | Index
#: A token, the same for all samples, or one per sample.
Tokens: TypeAlias = Token | Several[Token]

_Function: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


@checked
@dataclass(frozen=True)
class Metric:
    """A metric with a name and a unit; tokens are looked up when it meets a model.

    Attributes:
        name: how it is printed.
        unit: of its values.
        tokens: the tokens it asks about, each as a string or id, the same for all samples or one per sample.
        function: from logits `[batch vocab]`, the columns of its tokens in them `[batch token]`, and the clean run's logits,
            to values `[batch]`.
        whole: whether it reads logits of the whole vocabulary, not those of its tokens alone.
        against_clean: whether it compares with the clean run.
    """

    name: str
    unit: str
    tokens: tuple[Tokens, ...]
    function: _Function = field(repr=False)
    whole: bool = True
    against_clean: bool = False

    @checked
    def on(self, model: HookedMultimodal, *, clean: Float[torch.Tensor, "batch vocab"] | None = None) -> "Measure":
        """The metric as a function of logits.

        Args:
            model: whose tokens are meant.
            clean: the clean run's logits, for a metric that compares with them.

        Raises:
            InputError: if a token is not a single token of this model, or the clean run is missing.
        """
        if self.against_clean and clean is None:
            raise InputError(f"{self.name} compares with the clean run; pass clean=logits [batch vocab].")
        columns = [_ids(model, tokens) for tokens in self.tokens]
        _require_apart(model, self, columns)
        counts = {len(ids) for ids in columns if len(ids) > 1}
        if len(counts) > 1:
            raise InputError(
                f"{self.name} was given tokens for {sorted(counts)} samples; give one each, or one for all."
            )
        size = max(counts, default=1)
        ids = torch.stack([ids.expand(size) for ids in columns], dim=1) if columns else torch.zeros(1, 0).long()
        return Measure(self, ids, clean)

    def __repr__(self) -> str:
        return f"Metric({self.name}, {self.unit})"


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric that knows its token ids: call it with logits `[batch vocab]`.

    Attributes:
        metric: what it measures.
        ids: its tokens, `[batch token]`, or one row for all samples.
        clean: the clean run's logits, if it compares with them.
    """

    metric: Metric
    ids: Int[torch.Tensor, "batch token"]
    clean: torch.Tensor | None = field(default=None, repr=False)

    @property
    def reads(self) -> tuple[int, ...] | None:
        """The token ids whose logits it reads; None for the whole vocabulary."""
        return None if self.metric.whole else tuple(self.ids.unique().tolist())

    def __call__(self, logits: Float[torch.Tensor, "batch vocab"]) -> Float[torch.Tensor, "batch"]:
        """Values of samples, from all their logits."""
        return self._of(logits, self.ids)

    @checked
    def of_read(self, logits: Float[torch.Tensor, "batch token"]) -> Float[torch.Tensor, "batch"]:
        """Values of samples, from the logits that it `reads`, in that order."""
        if self.reads is None:
            return self(logits)
        return self._of(logits, torch.searchsorted(torch.tensor(self.reads), self.ids))

    def _of(self, logits: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        if len(columns) not in (1, len(logits)):
            raise InputError(
                f"{self.metric.name} has tokens for {len(columns)} samples, and there are logits of {len(logits)}."
            )
        columns = columns.expand(len(logits), -1).to(logits.device)
        clean = None if self.clean is None else self.clean.to(logits)
        return self.metric.function(logits, columns, clean)


def _ids(model: HookedMultimodal, tokens: Tokens) -> torch.Tensor:
    token_list = [tokens] if isinstance(tokens, str | int) else tokens
    ids = torch.tensor([_first_token(model, t) if isinstance(t, str) else t for t in token_list])
    size = _vocabulary(model)
    wrong = ids[ids >= size].tolist()
    if wrong:
        raise InputError(f"A metric was given the token ids {wrong}; the vocabulary has ids 0..{size - 1}.")
    return ids


def _first_token(model: HookedMultimodal, word: str) -> int:
    """The token that a word begins with.

    Raises:
        InputError: for several words, or one that the tokenizer does not know.
    """
    if len(word.split()) > 1:
        return model.to_single_token(word)  # which says what the tokenizer makes of it
    return model.to_word_tokens(word)[0]


def _require_apart(model: HookedMultimodal, metric: "Metric", columns: list[torch.Tensor]) -> None:
    """Check that two words which are compared do not begin with one token.

    Raises:
        InputError: says which, and how they are told apart.
    """
    if len(columns) != 2 or len(columns[0]) != len(columns[1]):
        return
    shared = columns[0][columns[0] == columns[1]].tolist()
    if shared:
        raise InputError(
            f"{metric.name} compares words that begin with the same token {model.to_string(shared[0])!r} (id {shared[0]}), which "
            f"is all that the predicting position tells. Put it behind the prompt, model.extend(batch, torch.tensor("
            f"[[{shared[0]}]] * batch.size)), and compare the ids that follow (model.to_word_tokens(word))."
        )


@checked
@torch.no_grad()
def word_log_probability(
    model: HookedMultimodal, batch: BatchLike, word: Text | Several[Text]
) -> Float[torch.Tensor, "batch"]:
    """Log-probability of a whole word, in nats: the sum over its tokens, each behind those before it (teacher forced).

    Args:
        model: the hooked model.
        batch: prompts, padded on the left.
        word: the word, or one per sample.

    Raises:
        InputError: for another number of words than samples, or a word that the tokenizer does not know.

    Example:
        >>> from mmlens.analysis.metrics import log_probability, word_log_probability
        >>> whole = word_log_probability(model, batch, "red")
        >>> bool(torch.allclose(whole, log_probability("red").on(model)(model(batch)[:, -1]), atol=1e-4))
        True
    """
    words = [word] * batch.size if isinstance(word, str) else list(word)
    if len(words) != batch.size:
        raise InputError(f"{len(words)} words were given for {batch.size} samples; give one for all, or one each.")
    rows = [model.to_word_tokens(each) for each in words]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])
    written = torch.arange(longest)[None] < torch.tensor([len(row) for row in rows])[:, None]
    behind = batch if longest == 1 else model.extend(batch, tokens[:, :-1])
    logits = model(behind)[:, -longest:].float().cpu()
    own = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return (own * written).sum(-1)


def _vocabulary(model: HookedMultimodal) -> int:
    return model.graph["hook_logits"].width or model.W_U.shape[-1]


def _held(tokens: Tokens) -> Tokens:
    """Tokens that do not change any more."""
    return tokens if isinstance(tokens, str | int) else tuple(tokens)


def _pick(logits: torch.Tensor, columns: torch.Tensor, token: int = 0) -> torch.Tensor:
    return logits.gather(-1, columns[:, token : token + 1])[:, 0]


def _named(tokens: Tokens) -> str:
    """A token as it is printed; the first few of several."""
    if isinstance(tokens, str | int):
        return repr(tokens)
    return "[" + ", ".join(map(repr, tokens[:3])) + (", ...]" if len(tokens) > 3 else "]")


def _log_probability_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    return _pick(logits, columns) - logits.logsumexp(-1)


@checked
def log_probability(token: Tokens) -> Metric:
    """Log-probability of a token, in nats.

    Args:
        token: a string or id, or one per sample.

    Example:
        >>> from mmlens.analysis.metrics import log_probability
        >>> measure = log_probability(5).on(model)
        >>> bool((measure(model(batch)[:, -1]) < 0).all())
        True
    """
    return Metric(f"log p({_named(token)})", "nats", (_held(token),), _log_probability_of)


def _probability_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    return (_pick(logits, columns) - logits.logsumexp(-1)).exp()


@checked
def probability(token: Tokens) -> Metric:
    """Probability of a token, 0 to 1.

    Args:
        token: a string or id, or one per sample.
    """
    return Metric(f"p({_named(token)})", "probability", (_held(token),), _probability_of)


def _log_odds_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    target = _pick(logits, columns)
    others = logits.scatter(-1, columns[:, :1], float("-inf")).logsumexp(-1)
    return target - others


@checked
def log_odds(token: Tokens) -> Metric:
    """Log-odds of a token, `log p - log (1 - p)`, in nats: still moves where p is close to 1.

    Args:
        token: a string or id, or one per sample.
    """
    return Metric(f"log odds({_named(token)})", "nats", (_held(token),), _log_odds_of)


def _logit_difference_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    return _pick(logits, columns) - _pick(logits, columns, 1)


@checked
def logit_difference(answer: Tokens, other: Tokens) -> Metric:
    """Logit of one token minus the logit of another.

    Args:
        answer: a string or id, or one per sample.
        other: likewise.

    Example:
        >>> from mmlens.analysis.metrics import logit_difference
        >>> logit_difference("red", ["blue", "green"])
        Metric(logit('red') - logit(['blue', 'green']), logits)
    """

    pairs = zip(*([token] if isinstance(token, str | int) else token for token in (answer, other)))
    if answer == other or any(first == second for first, second in pairs):
        raise InputError(
            f"logit_difference({_named(answer)}, {_named(other)}) is 0 whatever runs; name two different tokens."
        )

    return Metric(
        f"logit({_named(answer)}) - logit({_named(other)})",
        "logits",
        (_held(answer), _held(other)),
        _logit_difference_of,
        whole=False,
    )


def _rank_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    return (logits > _pick(logits, columns)[:, None]).sum(-1).to(logits.dtype)


@checked
def rank(token: Tokens) -> Metric:
    """How many tokens are more probable than a token; 0 where it is the answer.

    Args:
        token: a string or id, or one per sample.
    """
    return Metric(f"rank({_named(token)})", "tokens", (_held(token),), _rank_of)


def _accuracy_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    return (logits.argmax(-1) == columns[:, 0]).to(logits.dtype)


@checked
def accuracy(answer: Tokens) -> Metric:
    """Whether a token is the most probable one: 1 or 0.

    Args:
        answer: a string or id, or one per sample.
    """
    return Metric(f"answer is {_named(answer)}", "share", (_held(answer),), _accuracy_of)


def _kl_divergence_of(logits: torch.Tensor, columns: torch.Tensor, clean: torch.Tensor | None) -> torch.Tensor:
    if clean is None or clean.shape != logits.shape:
        shape = None if clean is None else list(clean.shape)
        raise InputError(f"The clean run's logits are {shape}, those compared {list(logits.shape)} [batch vocab].")
    p, q = clean.log_softmax(-1), logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@checked
def kl_divergence() -> Metric:
    """How far the answer is from the clean run's: `KL(clean || run) = sum_v p(v) (log p(v) - log q(v))`, in nats."""
    return Metric("KL(clean || run)", "nats", (), _kl_divergence_of, against_clean=True)


def as_function(
    metric: Metric | MetricFunction, model: HookedMultimodal, *, clean: torch.Tensor | None = None
) -> MetricFunction:
    """Make a function of what the caller gave: a metric of this module, or any function of logits `[batch vocab]`.

    Args:
        metric: the metric.
        model: whose tokens are meant.
        clean: the clean run's logits `[batch vocab]`, for metrics that compare with them.
    """
    return metric.on(model, clean=clean) if isinstance(metric, Metric) else metric


@checked
def unit_of(metric: str) -> str:
    """The unit of a metric, which stands behind its last comma; empty without one.

    Example:
        >>> unit_of("logit('red') - logit('blue'), logits"), unit_of("my own")
        ('logits', '')
    """
    return metric.rpartition(", ")[2] if ", " in metric else ""


def metric_name(metric: Metric | MetricFunction) -> str:
    """A metric's name and unit, as results print it."""
    metric = metric.metric if isinstance(metric, Measure) else metric
    return f"{metric.name}, {metric.unit}" if isinstance(metric, Metric) else getattr(metric, "__name__", "metric")


def require_values(values: object, size: int, metric: Metric | MetricFunction) -> torch.Tensor:
    """What a metric returned, if it is one number per sample.

    Raises:
        InputError: if it is not.
    """
    values = _one_each(values, size)
    if values.isnan().any():
        samples = values.isnan().nonzero().flatten().tolist()
        raise InputError(
            f"The metric {metric_name(metric)} is NaN for the samples {samples}; it must give a number for each."
        )
    return values


def _one_each(values: object, size: int) -> torch.Tensor:
    if not isinstance(values, torch.Tensor) or values.shape != (size,):
        shape = list(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise InputError(
            f"A metric must give one value per sample, [batch={size}] from logits [batch vocab]; found {shape}."
        )
    return values


def require_metric(metric: Metric | MetricFunction, model: HookedMultimodal, size: int) -> None:
    """Try a metric on made-up logits, so that one that cannot work is refused before any forward pass.

    Raises:
        InputError: for tokens that the model lacks, tokens for another number of samples, a wrong shape, or a function that
            fails on logits `[batch vocab]`.
    """
    logits = torch.linspace(-1, 1, _vocabulary(model)).repeat(size, 1)
    measure = as_function(metric, model, clean=logits)
    try:
        values = measure(logits)
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"The metric {metric_name(metric)} failed on logits {list(logits.shape)} [batch vocab] ({error}). A metric is given "
            "the predicting position's logits alone: leave the position out, logits[:, token]."
        ) from error
    _one_each(values, size)


def _tried(arguments: Mapping[str, Any], metric: Any, name: str) -> Any:
    """The metric, if it works for the model and the batch among the arguments."""
    model = arguments["model"]
    batch = next(
        (arguments[key] for key in ("clean", "batch", "data") if isinstance(arguments.get(key), MultimodalBatch)), None
    )
    if batch is None and isinstance(metric, Metric):
        metric.on(model, clean=torch.zeros(1, 1))  # how many samples a dataset has is not known yet
    else:
        require_metric(metric, model, 1 if batch is None else batch.size)
    return metric


#: A metric as verbs take it: of this module, or any function of logits `[batch vocab]` to values `[batch]`.
MetricLike: TypeAlias = Annotated[
    Metric | MetricFunction,
    Must(
        "a metric of mm.metrics, e.g. logit_difference('red', 'blue'), or a function from logits [batch vocab] to values [batch]",
        lambda value: True,
        instead=True,
    ),
    With(_tried),
]


def predicting_logits(
    model: HookedMultimodal, logits: Float[torch.Tensor, "batch pos vocab"], last: Int[torch.Tensor, "batch"]
) -> Float[torch.Tensor, "batch vocab"]:
    """Logits at each sample's predicting position: the prompt's last, or the last that a decoder has written."""
    if model.graph["hook_logits"].sequence == "decoder":
        return logits[:, -1]
    return logits[torch.arange(len(logits), device=logits.device), last.to(logits.device)]


def per_sample(
    metric: MetricFunction,
    model: HookedMultimodal,
    logits: Float[torch.Tensor, "batch pos vocab"],
    last: Int[torch.Tensor, "batch"],
) -> Float[torch.Tensor, "batch"]:
    """Apply a metric at each sample's predicting position.

    Args:
        metric: a function of logits `[batch vocab]`.
        model: whose logits they are.
        logits: of all positions.
        last: the prompt's last position, `batch.layout.last`; a decoder's own last one counts instead.

    Raises:
        InputError: if it does not give one value per sample.
    """
    return require_values(metric(predicting_logits(model, logits, last)), len(logits), metric)
