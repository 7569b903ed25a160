"""A metric: its name, unit and tokens, and the function from logits to one value per sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Float, Int

from mmlens.analysis.metrics.forced import ForcedLogits
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index, Several, Text
from mmlens.models.hooked import HookedMultimodal

#: `logits [batch vocab]` at the predicting position to one value per sample `[batch]`.
MetricFunction: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
#: A token: a word or an id.
Token: TypeAlias = Text | Index
#: A token, the same for all samples, or one per sample.
Tokens: TypeAlias = Token | Several[Token]

_Function: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
_OfWords: TypeAlias = Callable[[ForcedLogits], torch.Tensor]


@checked
@dataclass(frozen=True)
class Metric:
    """A metric with a name and a unit; words are looked up when it meets a model.

    Attributes:
        name: how it is printed.
        unit: of its values.
        tokens: what it asks about, each a word or an id, the same for all samples or one per sample.
        function: from logits `[batch vocab]`, the columns of its tokens in them `[batch token]`, and the clean run's logits,
            to values `[batch]`; where each word is one token.
        whole: whether it reads logits of the whole vocabulary, not those of its tokens alone.
        against_clean: whether it compares with the clean run.
        of_words: the same of words of several tokens, from the logits that predict them; None if it has no such meaning.
        of_scores: whether it reads scores of pictures and texts, which dual encoders alone give.
        signs: with which sign the log-probability of each word counts there, where it is a sum of them.
    """

    name: str
    unit: str
    tokens: tuple[Tokens, ...]
    function: _Function = field(repr=False)
    whole: bool = True
    against_clean: bool = False
    of_words: _OfWords | None = field(default=None, repr=False)
    signs: tuple[float, ...] = field(default=(1.0,), repr=False)
    of_scores: bool = False

    @checked
    def on(self, model: HookedMultimodal, *, clean: Float[torch.Tensor, "batch vocab"] | None = None) -> "Measure":
        """The metric as a function of the logits at the predicting position, for words of one token.

        Args:
            model: whose tokens are meant.
            clean: the clean run's logits, for a metric that compares with them.

        Raises:
            InputError: if a word is several tokens of this model, or the clean run is missing.
        """
        require_answer(model, self)
        if self.against_clean and clean is None:
            raise InputError(f"{self.name} compares with the clean run; pass clean=logits [batch vocab].")
        words = [
            [model.to_word_tokens(t) if isinstance(t, str) else [t] for t in token_list(slot)] for slot in self.tokens
        ]
        long = next((ids for column in words for ids in column if len(ids) > 1), None)
        if long is not None:
            raise InputError(
                f"{self.name} is about {model.to_string(long).strip()!r}, which is {len(long)} tokens "
                f"({', '.join(map(repr, map(model.to_string, long)))}), and one position predicts one. Verbs put its tokens "
                "behind the prompt by themselves, and so does mm.metrics.measure(model, batch, metric=...)."
            )
        columns = [[ids[0] for ids in column] for column in words]
        require_ids(model, [token for column in columns for token in column])
        size = sample_count(self.name, columns)
        ids = torch.stack([torch.tensor(column).expand(size) for column in columns], 1) if columns else _NO_IDS
        require_apart(model, self.name, [[(token,) for token in column] for column in columns])
        return Measure(self, ids, clean)

    def __repr__(self) -> str:
        return f"Metric({self.name}, {self.unit})"


_NO_IDS = torch.zeros(1, 0, dtype=torch.long)


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

    @checked
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


def token_list(tokens: Tokens) -> list[Token]:
    """A token for all samples, or one each, as a list."""
    return [tokens] if isinstance(tokens, str | int) else list(tokens)


def sample_count(name: str, columns: Sequence[Sequence[object]]) -> int:
    """For how many samples words were named; 1 if they are the same for all.

    Raises:
        InputError: if the words of a metric are for different numbers of samples.
    """
    counts = {len(column) for column in columns if len(column) > 1}
    if len(counts) > 1:
        raise InputError(f"{name} was given words for {sorted(counts)} samples; give one each, or one for all.")
    return max(counts, default=1)


def require_apart(model: HookedMultimodal, name: str, words: Sequence[Sequence[tuple[int, ...]]]) -> None:
    """Refuse to compare a word with itself; one of several may be the one that all are compared with.

    Raises:
        InputError: names it.
    """
    if len(words) == 2 and len(words[0]) == len(words[1]):
        word = next((first for first, second in zip(*words, strict=True) if first == second), None)
        if word is not None:
            raise InputError(
                f"{name} compares {model.to_string(list(word)).strip()!r} with itself, which is 0 whatever runs; name two words."
            )


def require_answer(model: HookedMultimodal, metric: Metric) -> None:
    """Refuse a metric of what a model does not give: scores of one that writes, words of a dual encoder.

    Raises:
        InputError: says which.
    """
    words = [token for slot in metric.tokens for token in token_list(slot) if isinstance(token, str)]
    if model.family.score is None and metric.of_scores:
        raise InputError(
            f"{metric.name} is of dual encoders (CLIP, SigLIP), and {model.family.name} writes words; take logit_difference or "
            "log_probability."
        )
    if model.family.score is not None and words:
        raise InputError(
            f"{model.family.name} is a dual encoder, whose scores are of the batch's texts and of no vocabulary: in the place of "
            f"{words[0]!r} give the number of a text, logit_difference(0, 1), or take image_text_score()."
        )


def require_ids(model: HookedMultimodal, ids: list[int]) -> None:
    """Refuse ids that the vocabulary does not have.

    Raises:
        InputError: names them.
    """
    if model.family.score is not None:
        return  # numbers of the batch's texts
    size = vocabulary_size(model)
    wrong = [token for token in dict.fromkeys(ids) if not 0 <= token < size]
    if wrong:
        raise InputError(f"A metric was given the token ids {wrong}; the vocabulary has ids 0..{size - 1}.")


def vocabulary_size(model: HookedMultimodal) -> int:
    """How many tokens a model has logits of."""
    return model.graph["hook_logits"].width or model.W_U.shape[-1]


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
