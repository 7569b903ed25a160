"""The logit lens: what a state inside the model would say if it were the last one.

A state x of the language model's stream is read as logits by the model's own last two steps:

    logits = unembed(ln_final(x))

Rows of a picture are read too. States of the vision encoder have another width and are carried over first: the tower is
left early, so that the projector receives the state of an earlier block in the place of the last one's, and what it makes of
it is read at the picture's positions.

Source: nostalgebraist, "interpreting GPT: the logit lens", 2020 (https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru);
Neo et al., "Towards Interpreting Visual Information Processing in Vision-Language Models", ICLR 2025
(https://arxiv.org/abs/2410.07149), section 4, for image tokens.
Departs: each probability stands beside that of the same token at the same place under a control batch (say, the picture
with its patches shuffled), which tells what the lens reads out of the picture from what it says anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from mmlens.analysis.lenses.result import LogitLens
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.core.progress import ProgressBar
from mmlens.core.rules import Positions, as_rule
from mmlens.hooks.cache import record_activations
from mmlens.hooks.nodes import Node, Points
from mmlens.hooks.session import HookPair
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.inputs.point_rows import prompt_point
from mmlens.inputs.positions import resolve
from mmlens.models.hooked import HookedMultimodal, WritingModel

#: Positions read at a time: `[pos vocab]` logits of a large vocabulary are the largest tensor here.
_CHUNK = 256


@checked
@torch.no_grad()
def logit_lens(
    model: WritingModel,
    batch: BatchLike,
    *,
    at: Points = "blocks.*.hook_resid_post",
    positions: Positions | None = None,
    k: Count = 5,
    words: Sequence[str | int] = (),
    final_norm: bool = True,
    control: BatchLike | None = None,
    progress: bool = True,
) -> LogitLens:
    """Read states as if they were the last ones: the best tokens at each point and position.

    Args:
        model: the hooked model.
        batch: what to run on.
        at: points of the language model in the width of its stream, `projector.hook_out`, or streams of the vision encoder;
            the last two are read where the picture stands in the language model.
        positions: which positions of the prompt (see `mm.positions`): all by default, or the picture's if `at` names points of
            vision encoder or projector, which reach the language model there alone. A sample may have fewer than another.
        k: how many of the best tokens are kept.
        words: words (their first tokens) or ids whose probability is kept at every place, for `.map` and `.overlay`.
        final_norm: pass states through the final norm first, as the model does; False reads them raw.
        control: a batch of the same layout, e.g. `mm.corrupt.shuffle(model, batch, seed=0)`, whose probabilities stand beside.
        progress: show a progress bar.

    Returns:
        Tokens and probabilities. Where a family scales or caps what its head returns, so does the lens.

    Raises:
        InputError: for a point that cannot be read so (the message says why), a control of another layout, or a `k` outside
            the vocabulary; before any forward pass.
    """
    nodes = model.graph.select(at)
    read = {node.name: _route(model, node) for node in nodes}
    vocab = model.graph["hook_logits"].width or 0
    if not 1 <= k <= vocab:
        raise InputError(f"k={k} must lie in 1..{vocab}, the size of the vocabulary.")
    ids = [model.to_word_tokens(word)[0] if isinstance(word, str) else int(word) for word in words]
    rows = _rows(model, batch, positions, [node.name for node in nodes if node.part != "language"])
    if control is not None and not torch.equal(control.layout.is_image, batch.layout.is_image):
        raise InputError("The control has image tokens at other positions than the batch; use texts of equal length.")
    runs = 1 if control is None else 2
    with ProgressBar(total=len(nodes) * runs, desc="logit lens", disable=not progress) as bar:
        reader = _Asking(model, read, rows, ids, k, final_norm, bar)
        top, best, token_values = reader.of(batch)
        beside = None if control is None else reader.of(control, top)[1:]
    strings = {int(token): model.to_string(token).strip() for token in top.unique()}
    names = tuple(model.to_string(i).strip() if isinstance(w, int) else w for w, i in zip(words, ids, strict=True))
    ids_of_text = batch.inputs.get("input_ids")
    if ids_of_text is None:  # embeddings have no names
        tokens = [[str(row) for row in range(batch.layout.is_token.shape[1])] for _ in range(batch.size)]
    else:
        tokens = [model.to_str_tokens(sample) for sample in ids_of_text]
    control_best, control_asked = (None, None) if beside is None else beside
    return LogitLens(
        nodes.names, rows, top, best, names, token_values, control_best, control_asked, strings, tokens, batch.layout
    )


def _rows(
    model: HookedMultimodal, batch: MultimodalBatch, positions: Positions | None, names: list[str]
) -> torch.Tensor:
    """The positions of the language model that are read, `[sample pos]`; -1 behind the last of a sample that has fewer."""
    rule = as_rule(("image" if names else "all") if positions is None else positions)
    rows = [pairs[:, 1] for pairs in resolve(rule, batch, prompt_point(model.graph)).rows]
    table = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    if names and not batch.layout.is_image.gather(1, table.clamp(min=0))[table >= 0].all():
        raise InputError(
            f"{', '.join(names[:3])} reach the language model at image positions alone, and positions={positions!r} names "
            "others; use positions='image'."
        )
    return table


def _route(model: HookedMultimodal, node: Node) -> tuple[str, str | None]:
    """Where a point's states are read, and, for vision streams, where they leave the tower.

    Raises:
        InputError: if they cannot be read as words.
    """
    graph = model.graph
    width, stream = model.W_U.shape[0], graph["hook_embed"]
    if node.part == "language":
        if node.width != width or node.axes != "batch pos d_model" or node.sequence != "language":
            raise InputError(
                f"{node.name} is [{node.axes}] with {node.width} last, on the {node.sequence} sequence; the lens reads "
                f"states of the prompt's stream, [batch pos d_model={width}]: hook_resid_*, hook_attn_out, hook_mlp_out."
            )
        return node.name, None
    if stream.name not in graph.downstream("projector.hook_out").names or stream.sequence != "language":
        raise InputError(
            f"{node.name} cannot be read: this family's projector hands its features to cross-attention, so they "
            "never stand in the language model's stream."
        )
    if node.name == "projector.hook_out":
        return "hook_embed", None
    if node.part != "vision" or node.role != "stream":
        raise InputError(
            f"{node.name} cannot be read: of the vision encoder and the projector, only streams of the encoder "
            "(vision.blocks.*.hook_resid_post) and projector.hook_out can be carried to the language model."
        )
    handed_on = [graph[name] for name in graph.digraph.predecessors("projector.hook_in")]
    if len(handed_on) != 1:
        raise InputError(
            f"{node.name} cannot be read: the projector reads {len(handed_on)} blocks of the tower side by side, so no "
            "single state can take their place."
        )
    leaves = handed_on[0]
    if (node.axes, node.width, node.sequence) != (leaves.axes, leaves.width, leaves.sequence):
        raise InputError(
            f"{node.name} is [{node.axes}] with {node.width} last, and the projector reads {leaves.name}, [{leaves.axes}] "
            f"with {leaves.width} last; a state of another shape cannot be carried through the projector."
        )
    return "hook_embed", leaves.name


@dataclass(frozen=True)
class _Asking:
    """One lens, to be taken on one batch or two.

    Attributes:
        model: the hooked model.
        read: per point, where its states are read, and where vision streams leave the tower.
        rows: the positions that are read, `[sample pos]`; -1 where a sample has fewer.
        ids: the tokens whose probability is wanted everywhere.
        k: how many of the best tokens are kept.
        final_norm: whether states pass the final norm.
        bar: counts points.
    """

    model: HookedMultimodal
    read: dict[str, tuple[str, str | None]]
    rows: torch.Tensor
    ids: list[int]
    k: int
    final_norm: bool
    bar: ProgressBar

    def of(
        self, batch: MultimodalBatch, given: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Top tokens (or the given ones), their probabilities, and those of the asked ones, `[sample point pos ...]`."""
        states, plain = self._states(batch)
        parts = []
        for point, name in enumerate(self.read):
            tokens = None if given is None else given[:, point]
            parts.append(
                self._words(states[name], tokens) if plain else self._words_behind(batch, states[name], tokens)
            )
            self.bar.update()
        top, best, token_values = (torch.stack(part, dim=1) for part in zip(*parts, strict=True))
        is_empty = (self.rows < 0)[:, None, :, None]
        return top, best.masked_fill(is_empty, torch.nan), token_values.masked_fill(is_empty, torch.nan)

    def _states(self, batch: MultimodalBatch) -> tuple[dict[str, torch.Tensor], bool]:
        """The states of every point, `[sample pos d_model]`, and whether the model's logits are what its head returns.

        One run, and one more per vision point.
        """
        leaf_points = {name: leaves for name, (_, leaves) in self.read.items() if leaves is not None}
        plain = {name: source for name, (source, leaves) in self.read.items() if leaves is None}
        logits, cache = self.model.run_with_cache(batch, names=sorted({*plain.values(), *leaf_points, "hook_logits"}))
        hook_logits = cache["hook_logits"]
        # some rows at a time: logits are by far the largest tensors here
        is_head = hook_logits.shape != logits.shape or all(
            torch.allclose(part.to(whole), whole, rtol=1e-4, atol=1e-5)
            for part, whole in zip(hook_logits.split(_CHUNK, 1), logits.split(_CHUNK, 1), strict=True)
        )
        states = {name: self._read(cache[source]) for name, source in plain.items()}
        for name, leaves in leaf_points.items():
            states_by_point: dict[str, torch.Tensor] = {}
            early: list[HookPair] = [
                (leaves, lambda activation, hook, state=cache[name]: state),
                ("hook_embed", record_activations(states_by_point, None, None)),
            ]
            self.model.run_with_hooks(batch, fwd_hooks=early)
            states[name] = self._read(states_by_point["hook_embed"])
        return states, is_head

    @cached_property
    def _index(self) -> torch.Tensor:
        """Positions with a sample's first one in the place of those that it lacks, so that every entry can be read."""
        return torch.where(self.rows < 0, self.rows[:, :1].clamp(min=0), self.rows)

    def _read(self, activation: torch.Tensor) -> torch.Tensor:
        """The states at the positions, `[sample pos d_model]`."""
        index = self._index.to(activation.device)
        return activation.gather(1, index[..., None].expand(*index.shape, activation.shape[-1]))

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """What the head returns for states."""
        return self.model.unembed(self.model.ln_final(states) if self.final_norm else states)

    def _words_behind(
        self, batch: MultimodalBatch, states: torch.Tensor, tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `_words`, where the model scales or caps what its head returns: one more run, which does so."""
        logits_here = self._logits(states)
        index = self._index.to(logits_here.device)[..., None].expand_as(logits_here)
        out = self.model.run_with_hooks(
            batch, fwd_hooks=[("hook_logits", lambda activation, hook: activation.scatter(1, index, logits_here))]
        )
        return self._chosen(out.gather(1, index.to(out.device)), tokens)

    def _chosen(
        self, logits: torch.Tensor, tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Top tokens (or the given ones), their probabilities, and those of the asked ones."""
        probability = logits.float().softmax(-1)
        if tokens is None:
            best, top = probability.topk(self.k, dim=-1)
        else:
            top = tokens.to(probability.device)
            best = probability.gather(-1, top)
        return top.cpu(), best.cpu(), probability[..., self.ids].cpu()

    def _words(
        self, states: torch.Tensor, tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same of one point's states, `[sample pos ...]`."""
        pieces = []
        for start in range(0, states.shape[1], _CHUNK):
            chunk = slice(start, start + _CHUNK)
            pieces.append(self._chosen(self._logits(states[:, chunk]), None if tokens is None else tokens[:, chunk]))
        top, best, token_values = (torch.cat(part, dim=1) for part in zip(*pieces, strict=True))
        return top, best, token_values
