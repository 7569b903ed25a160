"""Patchscopes: put a state into another prompt and let the model say in words what it holds.

A state at (point, position) of a run takes the place of a state at (`target_at`, `target_position`) of a target prompt; the
model then continues that prompt. A prompt that asks to repeat the word makes it name what the state stands for.

Source: Ghandeharioun et al., "Patchscopes: A Unifying Framework for Inspecting Hidden Representations of Language Models",
ICML 2024 (https://arxiv.org/abs/2401.06102), section 3 (equation 1; the mapping f is the identity here).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int

from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Index, Text
from mmlens.core.pictures import drawn_by
from mmlens.core.progress import ProgressBar
from mmlens.core.rules import Positions
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.hooks.nodes import Node, Points
from mmlens.inputs.batch import BatchLike
from mmlens.inputs.images import Picture
from mmlens.inputs.point_rows import prompt_point
from mmlens.inputs.positions import resolve
from mmlens.models.hooked import HookedMultimodal, WritingModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True)
class PatchscopeReading(Viewable, Saved):
    """What the target prompt was continued with, for every state that was put in.

    Attributes:
        points: hook names of the states, in execution order.
        positions: their positions; -1 behind the last of a sample that has fewer than another, where probabilities are NaN.
        top_tokens: ids of the most probable next tokens of the target prompt, best first.
        probabilities: theirs, 0 to 1.
        text: the greedy continuation, `[sample][point][pos]`; empty strings if none was asked for.
        target_at: where the states were put in.
        strings: the tokens as strings, by id.
    """

    points: list[str]
    positions: Int[torch.Tensor, "sample pos"]
    top_tokens: Int[torch.Tensor, "sample point pos k"]
    probabilities: Float[torch.Tensor, "sample point pos k"]
    text: list[list[list[str]]]
    target_at: str
    strings: dict[int, str] = field(repr=False)

    def __repr__(self) -> str:
        samples, points, positions, k = self.top_tokens.shape
        first_word = next((word for sample in range(samples) for (word,) in self.top(1, sample=sample)[-1][-1:]), "")
        return (
            f"PatchscopeReading({points} points x {positions} positions x {samples} samples into {self.target_at}, top {k}; "
            f"{self.points[-1]} at the last of them says {first_word!r})"
        )

    @checked
    def top(self, k: Count = 1, *, sample: Index = 0) -> list[list[list[str]]]:
        """The k most probable next words, `[point][pos]`.

        Raises:
            InputError: for more words than were kept, or a sample that there is not.
        """
        self._require_sample(sample)
        if not 1 <= k <= self.top_tokens.shape[-1]:
            raise InputError(f"k={k} must lie in 1..{self.top_tokens.shape[-1]}, the number of tokens that were kept.")
        tokens = self.top_tokens[sample, :, self.positions[sample] >= 0, :k].tolist()
        return [[[self.strings[token] for token in row] for row in point] for point in tokens]

    def to_frame(self) -> "pd.DataFrame":
        """One row per sample, point and position: the best next word, its probability, and the continuation."""
        import pandas as pd

        rows = []
        for sample, point, pos in torch.cartesian_prod(*map(torch.arange, self.top_tokens.shape[:3])).tolist():
            if self.positions[sample, pos] < 0:
                continue
            row = {
                "sample": sample,
                "point": self.points[point],
                "position": int(self.positions[sample, pos]),
                "word": self.strings[int(self.top_tokens[sample, point, pos, 0])],
                "probability": float(self.probabilities[sample, point, pos, 0]),
                "text": self.text[sample][point][pos],
            }
            rows.append(row)
        return pd.DataFrame(rows)

    def _require_sample(self, sample: int) -> None:
        if sample >= len(self.top_tokens):
            raise InputError(f"sample={sample} must lie in 0..{len(self.top_tokens) - 1}, the samples that were read.")

    @checked
    def plot(self, *, sample: Index = 0, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The best next word for every state, coloured by its probability.

        Args:
            sample: which sample.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        self._require_sample(sample)
        return drawn_by("lens.plot_patchscope")(self, sample=sample, figure=figure)


@checked
@torch.no_grad()
def patchscope(
    model: WritingModel,
    batch: BatchLike,
    *,
    at: Points,
    positions: Positions,
    target_prompt: str,
    target_images: Sequence[Picture] = (),
    target_position: int = -1,
    target_at: Text | None = None,
    k: Count = 5,
    max_new_tokens: Count = 0,
    batch_size: Count = 32,
    progress: bool = True,
) -> PatchscopeReading:
    """Decode states by putting them into a target prompt.

    Args:
        model: the hooked model.
        batch: the run that the states are taken from.
        at: points in the width of the language model's stream, e.g. `"blocks.*.hook_resid_post"`.
        positions: which positions of the prompt (see `mm.positions`).
        target_prompt: the prompt that they are put into, e.g. a few repetitions `"cat cat ; red red ; x"` that end with a word
            to be replaced; the chat template is put around it as in `prepare`.
        target_images: pictures of the target prompt; none by default.
        target_position: which of its positions is replaced; negative numbers count from the end.
        target_at: the point at which it is replaced; by default the point that the state came from.
        k: how many of the most probable next tokens are kept.
        max_new_tokens: how far the prompt is continued, greedily.
        batch_size: target prompts per run.
        progress: show a progress bar.

    Returns:
        The next tokens of the target prompt, and its continuations.

    Raises:
        InputError: for points of another width, or positions outside the prompts; before any forward pass.

    Example:
        >>> scope = patchscope(
        ...     model,
        ...     batch,
        ...     at="blocks.2.hook_resid_post",
        ...     positions="last",
        ...     target_prompt="what is this",
        ...     progress=False,
        ... )
        >>> len(scope.top(3)[0][0])
        3
    """
    nodes = model.graph.select(at)
    targets = [model.graph[target_at or node.name] for node in nodes]
    for node in [*nodes, *targets]:
        _require_stream(model, node)
    found_rows = resolve(positions, batch, prompt_point(model.graph)).rows
    pairs, counts = torch.cat(found_rows), [len(rows) for rows in found_rows]
    pictures = list(target_images)
    prompt_batch = model.prepare(target_prompt, images=[pictures])
    length = prompt_batch["input_ids"].shape[1]
    if not -length <= target_position < length:
        tokens = model.to_str_tokens(prompt_batch["input_ids"][0])
        raise InputError(
            f"target_position={target_position} lies outside the {length} positions of the target prompt: {tokens}."
        )
    vocab = model.graph["hook_logits"].width or 0
    if not 1 <= k <= vocab or max_new_tokens < 0 or batch_size < 1:
        raise InputError(
            f"k={k} must lie in 1..{vocab}, max_new_tokens={max_new_tokens} be at least 0 and batch_size={batch_size} at "
            "least 1."
        )
    _, cache = model.run_with_cache(batch, names=nodes)
    target = _Target(model, target_prompt, pictures, target_position % length, length, k, max_new_tokens)
    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    texts: list[str] = []
    with ProgressBar(total=len(nodes) * len(pairs), desc="patchscope", disable=not progress) as bar:
        for node, into in zip(nodes, targets, strict=True):
            states = cache[node.name][pairs[:, 0], pairs[:, 1]]
            for chunk in states.split(batch_size):
                top, probability, written_tokens = target.read(into.name, chunk)
                results.append((top, probability))
                texts += written_tokens
                bar.update(len(chunk))
    tokens, likely = (torch.cat(part).unflatten(0, (len(nodes), -1)) for part in zip(*results, strict=True))
    top_tokens = _padded(tokens, counts, 0)
    probabilities = _padded(likely, counts, torch.nan)
    rows = _padded(pairs[None, :, 1], counts, -1)[:, 0]
    said_at = iter(texts)
    by_point = [[[next(said_at) for _ in range(count)] for count in counts] for _ in nodes]
    text = [[by_point[point][sample] for point in range(len(nodes))] for sample in range(batch.size)]
    strings = {int(token): model.to_string(token).strip() for token in top_tokens.unique()}
    return PatchscopeReading(nodes.names, rows, top_tokens, probabilities, text, target_at or "the same point", strings)


def _padded(values: torch.Tensor, counts: Sequence[int], filler: float) -> torch.Tensor:
    """Values `[point row ...]` of all samples' rows, by sample: `[sample point pos ...]`."""
    by_sample = [sample_values.transpose(0, 1) for sample_values in values.split(list(counts), dim=1)]
    return torch.nn.utils.rnn.pad_sequence(by_sample, batch_first=True, padding_value=filler).transpose(1, 2)


def _require_stream(model: HookedMultimodal, node: Node) -> None:
    """Refuse points whose states do not fit into the language model's stream."""
    width = model.W_U.shape[0]
    if (node.axes, node.width, node.sequence) != ("batch pos d_model", width, "language"):
        raise InputError(
            f"{node.name} is [{node.axes}] with {node.width} last, on the {node.sequence} sequence; patchscopes move "
            f"states of the prompt's stream, [batch pos d_model={width}]."
        )


@dataclass(frozen=True)
class _Target:
    """The prompt that states are put into.

    Attributes:
        model: the hooked model.
        prompt, pictures: what it is made of.
        position: which of its positions is replaced.
        length: number of its positions.
        k: how many of the next tokens are kept.
        max_new_tokens: how far it is continued.
    """

    model: HookedMultimodal
    prompt: str
    pictures: list[Picture]
    position: int
    length: int
    k: int
    max_new_tokens: int

    def read(self, at: str, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Put states `[row d_model]` in, one per copy of the prompt; the next tokens, their probabilities, the text."""
        count = len(states)
        batch = self.model.prepare([self.prompt] * count, images=[self.pictures] * count)

        def put(activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
            if activation.shape[1] != self.length:
                return None  # a later step of a generation, which sees the prompt through its keys and values
            activation[:, self.position] = states.to(activation)
            return activation

        with self.model.hooks([(at, put)]):
            if self.max_new_tokens:
                trace = self.model.trace_generation(
                    batch, names="hook_logits", max_new_tokens=self.max_new_tokens, use_cache=True
                )
                logits, text = trace.logits[:, 0], trace.text
            else:
                logits, text = self.model(batch)[:, -1], [""] * count
        probability, top = logits.float().softmax(-1).topk(self.k, dim=-1)
        return top.cpu(), probability.cpu(), text
