"""Generation, and the states that predicted each generated token."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.core.rules import Positions, Word, as_rule
from mmlens.core.view import Display
from mmlens.hooks.nodes import Node, Selection
from mmlens.hooks.point import reads_only
from mmlens.hooks.session import HookFunction
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.positions import resolve
from mmlens.models.contrast.method import ContrastMethod
from mmlens.models.generation_limits import refuse_right_padding
from mmlens.models.protocol import HookedModel


@dataclass(frozen=True)
class GenerationTrace(Display):
    """Generated tokens and, for each, the states that predicted it.

    Attributes:
        tokens: the new tokens; samples that ended early are padded.
        lengths: number of new tokens per sample, the end token included.
        states: by hook name, `[batch step ...]`: the point's tensor at the position that predicted token `step`. For
            points with an axis of keys, whose size grows, a list with one tensor per step. With `positions`, a list with the
            states of each sample's own rows, `[row ...]`. With `contrast` or guidance they are those of the conditional passes.
        logits: the model's logits of the prompt and what was written.
        scores: what each token was chosen from: the logits after transformers' processors, contrast and guidance.
        words: the new tokens as strings, per sample, up to its length.
        text: the generated text per sample, without special tokens.
        rows: with `positions`, per sample, the numbers of these rows among its own tokens, new ones behind those of the prompt.
        beside: in words, what else was run for the scores; the states are not those of these passes. Empty for nothing.
    """

    tokens: Int[torch.Tensor, "batch step"]
    lengths: Int[torch.Tensor, "batch"]
    states: dict[str, Any]
    logits: Float[torch.Tensor, "batch step vocab"]
    scores: Float[torch.Tensor, "batch step vocab"]
    words: list[list[str]]
    text: list[str]
    rows: list[Int[torch.Tensor, "row"]] | None = None
    beside: str = ""

    def __repr__(self) -> str:
        passes = f" in the conditional passes ({self.beside} beside them)" if self.beside else ""
        return (
            f"GenerationTrace: {self.text!r}, {self.tokens.shape[1]} steps, states of {len(self.states)} points{passes}"
        )

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.states)

    @checked
    def __getitem__(self, name: str) -> Any:
        if name not in self.states:
            raise InputError(f"The trace holds no {name!r}; it was taken at {', '.join(self.states)}.")
        return self.states[name]


def trace_generation(
    model: HookedModel,
    batch: MultimodalBatch,
    *,
    names: Names | Selection,
    max_new_tokens: int,
    use_cache: bool,
    positions: Positions | None = None,
    contrast: ContrastMethod | None = None,
    guidance_scale: float | None = None,
) -> GenerationTrace:
    """Generate greedily and record; see `HookedMultimodal.trace_generation`."""
    nodes = model.graph.select(names)
    _refuse_untraceable(nodes, model.graph["hook_logits"].sequence)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens} must be at least 1.")
    refuse_right_padding(model, batch.layout.is_token)
    if positions is not None:
        _require_positions(positions, batch, nodes, max_new_tokens - 1)
    steps: dict[str, list[torch.Tensor]] = {node.name: [] for node in nodes}
    with model.hooks([(nodes.names, _recorder(steps, nodes, every_row=positions is not None, use_cache=use_cache))]):
        out = model.generate(
            batch,
            max_new_tokens=max_new_tokens,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_logits=True,
            output_scores=True,
            contrast=contrast,
            **({} if guidance_scale is None else {"guidance_scale": guidance_scale}),
        )
    tokens = out.sequences[:, -len(out.logits) :].cpu()
    lengths = _lengths(tokens, model.stop_tokens)
    new = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    strings = {token: model.to_string(token) for token in tokens.unique().tolist()}
    states: dict[str, Any] = {name: _stacked(tensors) for name, tensors in steps.items()} if positions is None else {}
    rows = None
    if positions is not None:
        states, rows = _at_positions(positions, batch, nodes, steps, new, n_read=tokens.shape[1] - 1)
    logits = torch.stack(out.logits, dim=1)
    guidance = f"guidance of {guidance_scale:g}" if guidance_scale not in (None, 1) else ""
    return GenerationTrace(
        tokens=tokens,
        lengths=lengths,
        states=states,
        logits=logits,
        scores=logits if all(map(operator.is_, out.scores, out.logits)) else torch.stack(out.scores, dim=1),
        words=[[strings[token] for token in sample] for sample in new],
        text=model.decode(tokens),
        rows=rows,
        beside=guidance if contrast is None else f"contrast {contrast}",
    )


def _recorder(
    steps: dict[str, list[torch.Tensor]], nodes: Sequence[Node], *, every_row: bool, use_cache: bool
) -> HookFunction:
    """A hook that keeps a tensor of every step: the row that predicts the next token, or all rows that were read."""
    axes = {node.name: node.position_axis for node in nodes}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        # with a KV cache a step sees one new position, without one it sees all: the last predicts the next token
        if not every_row:
            steps[hook.name].append(activation.detach().select(axes[hook.name], -1).clone())
            return
        if not use_cache:
            steps[hook.name].clear()
        steps[hook.name].append(activation.detach())

    return keep


def _at_positions(
    positions: Positions,
    batch: MultimodalBatch,
    nodes: Sequence[Node],
    steps: Mapping[str, Sequence[torch.Tensor]],
    new: Sequence[Sequence[int]],
    *,
    n_read: int,
) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """The states of each sample's own rows by name, and the numbers of these rows.

    Args:
        positions: which rows.
        batch: the prompts.
        nodes: the points.
        steps: by name, all rows that were read, in their order.
        new: the new tokens of each sample.
        n_read: how many of them were read: the last one is written and not read.
    """
    read = [tokens[:n_read] for tokens in new]
    resolved = resolve(positions, batch, nodes[0], steps=n_read, written=read)
    counts = resolved.point.counts
    rows = [
        numbers[numbers < count + len(tokens)]
        for numbers, count, tokens in zip(resolved.all_numbers(n_read), counts, read, strict=True)
    ]
    states: dict[str, Any] = {}
    for node in nodes:
        samples = torch.cat(list(steps[node.name]), dim=node.position_axis).movedim(node.position_axis, 1)
        # padding stands in front of a sample's own tokens, and new ones follow behind the last of them
        first = samples.shape[1] - n_read - torch.tensor(counts)
        states[node.name] = [
            sample[(numbers + start).to(sample.device)].movedim(0, node.position_axis - 1)
            for sample, numbers, start in zip(samples, rows, first.tolist(), strict=True)
        ]
    return states, rows


def _require_positions(positions: Positions, batch: MultimodalBatch, nodes: Sequence[Node], steps: int) -> None:
    """Refuse positions that cannot be kept, before the run; words may yet be written.

    Raises:
        InputError: for rules that mean nothing, and points whose rows grow with the tokens.
    """
    keys = [node.name for node in nodes if "key" in node.axes.split() and "query" in node.axes.split()]
    if keys:
        raise InputError(
            f"{', '.join(keys[:4])} hold a number per pair of positions, of which every step has more; leave positions out, or "
            "read them once it is written: model.run_with_cache(model.extend(batch, trace.tokens), positions=...)."
        )
    if not any(isinstance(rule, Word) for rule in as_rule(positions).leaves()):
        resolve(positions, batch, nodes[0], steps=steps)


def _refuse_untraceable(nodes: Sequence[Node], point: str) -> None:
    """Refuse points that do not live on the sequence whose positions predict tokens, or that run over keys."""
    wrong = [node.name for node in nodes if node.sequence != point]
    if wrong:
        raise InputError(
            f"{', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''} do not live on the positions that predict tokens: the "
            "picture (and an encoder's prompt) is read once, before the first one. Read them with run_with_cache."
        )
    keys = [node.name for node in nodes if node.axes.split()[node.position_axis] == "key"]
    if keys:
        raise InputError(
            f"{', '.join(keys[:4])} run over all keys so far, not over the predicting position; read them with run_with_cache."
        )


def _lengths(tokens: torch.Tensor, stops: set[int]) -> torch.Tensor:
    """New tokens per sample, up to and including the first end token."""
    is_stop = (
        torch.isin(tokens, torch.tensor(sorted(stops), dtype=tokens.dtype))
        if stops
        else torch.zeros_like(tokens).bool()
    )
    first = is_stop.int().argmax(1) + 1
    return torch.where(is_stop.any(1), first, tokens.shape[1])


def _stacked(states: list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    return torch.stack(states, dim=1) if len({state.shape for state in states}) == 1 else states
