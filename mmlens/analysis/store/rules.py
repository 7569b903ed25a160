"""Which states of a sample are kept: the one that predicts a word, those of what was generated, or those of the prompt."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import torch
from jaxtyping import Int

from mmlens.analysis.nouns import CaptionWord, caption_words
from mmlens.analysis.samples import Sample
from mmlens.analysis.store.prompt_rows import sample_rows
from mmlens.core.errors import InputError
from mmlens.core.places import Positions
from mmlens.hooks.graph import Node, Selection
from mmlens.hooks.point import reads_only
from mmlens.models.batch import MultimodalBatch
from mmlens.models.generation import GenerationTrace
from mmlens.models.hooked import HookedMultimodal

#: Which token of a word of several tokens is meant.
WordToken = Literal["last", "first"]
#: Which of the generated steps are meant.
Generated = Literal["generated", "generated_mean"]
#: The words of a text, as captions are split into them.
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")


@dataclass(frozen=True)
class Taken:
    """What a batch gave.

    Attributes:
        states: by hook name, `[row *width]`, where the model put them.
        counts: rows of each sample.
        steps, tokens: per row; see `Shard`.
        captions: per sample; empty where nothing was generated.
        words: per sample, the word that was found.
    """

    states: dict[str, torch.Tensor]
    counts: list[int]
    steps: list[int]
    tokens: list[int]
    captions: list[str]
    words: list[str | None]


class Rule(Protocol):
    """Says which states are kept."""

    def __str__(self) -> str:
        """In words; two rules that keep the same say the same."""

    def check(self, model: HookedMultimodal, nodes: Selection) -> None:
        """Refuse points or samples at which it cannot be followed."""

    def take(
        self, model: HookedMultimodal, nodes: Selection, samples: Sequence[Sample], batch: MultimodalBatch
    ) -> Taken:
        """Run a batch and keep what is asked for."""


def refuse_keys(nodes: Selection) -> None:
    """Refuse points that hold a row per pair of positions, whose size differs from sample to sample."""
    wrong = [node.name for node in nodes if "key" in node.axes.split() and "query" in node.axes.split()]
    if wrong:
        raise InputError(
            f"{', '.join(wrong[:4])} hold one number per pair of positions, so their rows differ in length from sample to "
            "sample and cannot be stored together; collect streams, neurons or heads (hook_z)."
        )


@dataclass(frozen=True)
class AtWord:
    """The state that predicts a word of the model's own caption: the first of the words that occurs in it.

    Attributes:
        words: the words, each as it is split into words itself ("traffic light" is two in a row).
        word_token: which token of the (last, or first) word.
        in_truth: keep only samples whose true caption has the word as well.
        max_new_tokens: of the generation.
    """

    words: tuple[tuple[str, ...], ...]
    word_token: WordToken
    in_truth: bool
    max_new_tokens: int

    @classmethod
    def of(cls, token: str | Sequence[str], word_token: WordToken, in_truth: bool, max_new_tokens: int) -> "AtWord":
        """The rule for a word or several.

        Raises:
            InputError: for what is no word, or an unknown `word_token`.
        """
        if word_token not in get_args(WordToken):
            raise InputError(f"word_token={word_token!r} must be 'last' or 'first'.")
        asked = [token] if isinstance(token, str) else list(token)
        split = {word: _split(word) for word in asked}
        wrong = [word for word, pieces in split.items() if not pieces]
        if wrong or not asked:
            raise InputError(f"token={token!r} holds no word to look for in captions{_listed(wrong)}.")
        # longest first, so that "traffic light" is found before "traffic" at the same place
        return cls(
            tuple(sorted(set(split.values()), key=lambda word: (-len(word), word))),
            word_token,
            in_truth,
            max_new_tokens,
        )

    def __str__(self) -> str:
        words = ", ".join(" ".join(word) for word in self.words)
        truth = ", true captions have it too" if self.in_truth else ""
        return f"the {self.word_token} token of the first of: {words}{truth}"

    def check(self, model: HookedMultimodal, nodes: Selection) -> None:
        """Nothing beyond what generation checks itself."""

    def take(
        self, model: HookedMultimodal, nodes: Selection, samples: Sequence[Sample], batch: MultimodalBatch
    ) -> Taken:
        """Generate, and keep the state that predicted the word, where the caption has it.

        Raises:
            InputError: if true captions are needed and a sample has none.
        """
        unknown = [sample.name or sample.key for sample in samples if sample.caption is None]
        if self.in_truth and unknown:
            raise InputError(
                f"in_truth=True needs true captions, but the samples {', '.join(unknown[:4])} have none; give "
                "Sample(caption=...), or mappings with 'caption'."
            )
        trace = model.trace_generation(batch, names=nodes, max_new_tokens=self.max_new_tokens)
        found = [self._find(model, trace, number, sample) for number, sample in enumerate(samples)]
        rows = [(number, step) for number, (_, step) in enumerate(found) if step is not None]
        return Taken(
            _picked(trace, nodes, rows),
            [int(step is not None) for _, step in found],
            [step for _, step in rows],
            [int(trace.tokens[number, step]) for number, step in rows],
            trace.text,
            [word for word, _ in found],
        )

    def _find(
        self, model: HookedMultimodal, trace: GenerationTrace, number: int, sample: Sample
    ) -> tuple[str | None, int | None]:
        """The word and the step that predicted its token."""
        said = _split(trace.text[number])
        if not any(_first(said, word) is not None for word in self.words):
            return None, None  # spares most samples the alignment
        written = caption_words(model, trace, sample=number)
        texts = tuple(word.text for word in written)
        places = [(place, word) for word in self.words if (place := _first(texts, word)) is not None]
        if not places:
            return None, None
        place, word = min(places, key=lambda found: found[0])
        if self.in_truth and _first(_split(sample.caption or ""), word) is None:
            return None, None
        return " ".join(word), self._step(written[place : place + len(word)])

    def _step(self, written: Sequence[CaptionWord]) -> int:
        if self.word_token == "first":
            return written[0].step
        return written[-1].step + len(written[-1].tokens) - 1


@dataclass(frozen=True)
class AtGenerated:
    """The states that predict what the model generates, up to its end token: each of them, or their mean.

    Attributes:
        which: every step, or the mean of all.
        max_new_tokens: of the generation.
    """

    which: Generated
    max_new_tokens: int

    def __str__(self) -> str:
        return "every generated token" if self.which == "generated" else "the mean over the generated tokens"

    def check(self, model: HookedMultimodal, nodes: Selection) -> None:
        """Nothing beyond what generation checks itself."""

    def take(
        self, model: HookedMultimodal, nodes: Selection, samples: Sequence[Sample], batch: MultimodalBatch
    ) -> Taken:
        """Generate, and keep the states of the tokens before the end token."""
        trace = model.trace_generation(batch, names=nodes, max_new_tokens=self.max_new_tokens)
        ended = [
            int(row[n - 1]) in model.stop_tokens for row, n in zip(trace.tokens, trace.lengths.tolist(), strict=True)
        ]
        lengths = [n - end for n, end in zip(trace.lengths.tolist(), ended, strict=True)]
        none: list[str | None] = [None] * len(samples)
        if self.which == "generated":
            rows = [(number, step) for number, n in enumerate(lengths) for step in range(n)]
            tokens = [int(trace.tokens[row]) for row in rows]
            return Taken(_picked(trace, nodes, rows), lengths, [step for _, step in rows], tokens, trace.text, none)
        spoke = [number for number, n in enumerate(lengths) if n]
        means = {
            node.name: torch.stack([trace[node.name][number, : lengths[number]].float().mean(0) for number in spoke])
            if spoke
            else trace[node.name][:0, 0]
            for node in nodes
        }
        counts = [int(n > 0) for n in lengths]
        return Taken(means, counts, [-1] * len(spoke), [-1] * len(spoke), trace.text, none)


@dataclass(frozen=True)
class AtPositions:
    """The states of the prompt at some positions, from one forward pass.

    Attributes:
        positions: as in run methods; numbers count within a sample's own tokens, so that padding does not matter.
    """

    positions: Positions = field(repr=False)

    def __str__(self) -> str:
        said = self.positions.tolist() if isinstance(self.positions, torch.Tensor) else self.positions
        return f"positions {said}"

    def check(self, model: HookedMultimodal, nodes: Selection) -> None:
        """Refuse tensors that hold positions per sample, and words that are not known."""
        if isinstance(self.positions, torch.Tensor) and self.positions.ndim > 1:
            raise InputError(
                f"positions must be the same for all samples of a dataset, found a tensor {list(self.positions.shape)}; give "
                "a word ('image', 'text', 'last', 'all'), indices or a slice."
            )
        if isinstance(self.positions, str) and self.positions not in ("all", "image", "text", "last"):
            raise InputError(
                f"positions={self.positions!r} is unknown; of the prompt there are 'all', 'image', 'text' and 'last' "
                "(generate=False), of what is generated 'generated' and 'generated_mean'."
            )

    def take(
        self, model: HookedMultimodal, nodes: Selection, samples: Sequence[Sample], batch: MultimodalBatch
    ) -> Taken:
        """Run once, and keep the rows."""
        states: dict[str, torch.Tensor] = {}
        rows_of: dict[str, list[Int[torch.Tensor, "row 2"]]] = {}
        by_name: dict[str, Node] = {node.name: node for node in nodes}
        for node in nodes:
            if node.sequence == "language":  # its length is known, so what cannot be is refused before the run
                rows_of[node.sequence] = sample_rows(batch.layout, self.positions, node, batch["input_ids"].shape)

        @reads_only
        def keep(activation: torch.Tensor, hook: Any) -> None:
            node = by_name[hook.name]
            if node.sequence not in rows_of:
                rows_of[node.sequence] = sample_rows(batch.layout, self.positions, node, activation.shape)
            index = torch.cat(rows_of[node.sequence]).to(activation.device)
            held = activation.detach()
            if "batch" not in node.axes.split():
                states[node.name] = held[index[:, 1]]
            else:
                states[node.name] = held[index[:, 0], index[:, 1]]

        with torch.no_grad(), model.hooks([(nodes.names, keep)]):
            model(batch)
        first, *others = sorted(rows_of.items(), key=lambda rows: rows[0] != "language")
        counts = [len(rows) for rows in first[1]]
        for sequence, rows in others:
            if [len(some) for some in rows] != counts:
                raise InputError(
                    f"positions={self.positions!r} mean {counts} rows on the {first[0]} sequence but {[len(r) for r in rows]} on "
                    f"the {sequence} sequence; collect points of the two in separate stores."
                )
        index = torch.cat(first[1])
        on_prompt = first[0] == "language" and index.numel()
        tokens = batch["input_ids"].cpu()[index[:, 0], index[:, 1]] if on_prompt else torch.full((len(index),), -1)
        steps = [position for rows in first[1] for position in self._within(batch, first[0], rows)]
        none: list[str | None] = [None] * len(samples)
        return Taken(states, counts, steps, tokens.tolist(), [""] * len(samples), none)

    def _within(self, batch: MultimodalBatch, sequence: str, rows: torch.Tensor) -> list[int]:
        """Rows counted within the sample's own tokens, padding left out."""
        if sequence != "language" or not len(rows):
            return rows[:, 1].tolist()
        before = (~batch.layout.is_token).int().cumsum(1)
        return (rows[:, 1] - before[rows[:, 0], rows[:, 1]]).tolist()


def _picked(trace: GenerationTrace, nodes: Selection, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    """The states of some (sample, step), by name, `[row *width]`."""
    numbers = torch.tensor([number for number, _ in rows], dtype=torch.long)
    steps = torch.tensor([step for _, step in rows], dtype=torch.long)
    found = {node.name: trace[node.name] for node in nodes}
    return {name: states[numbers.to(states.device), steps.to(states.device)] for name, states in found.items()}


def _listed(words: Sequence[str]) -> str:
    return f": {', '.join(map(repr, words))} is none" if words else ""


def _split(text: str) -> tuple[str, ...]:
    return tuple(match.lower() for match in _WORD.findall(text))


def _first(words: tuple[str, ...], wanted: tuple[str, ...]) -> int | None:
    """Where a word (or several in a row) first occurs."""
    width = len(wanted)
    return next((i for i in range(len(words) - width + 1) if words[i : i + width] == wanted), None)
