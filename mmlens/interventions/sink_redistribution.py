"""Attention that sinks get, given to the picture.

row j is a sink of layer i if  max_{d in D} |x_jd| / rms(x_j) > threshold,    x = blocks.{i}.hook_resid_pre, in the prompt
A_qj -> factor A_qj  at sinks;  what that frees goes to the picture's other columns, in proportion to what they have
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Fraction, Index, Positive, Several
from mmlens.hooks.nodes import Node
from mmlens.hooks.point import reads_only
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.interventions.passes import Follower, refuse_known_positions, run_of
from mmlens.interventions.positioned import RowMask, per_entry
from mmlens.interventions.touched import Touched
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run


@checked
@dataclass(frozen=True)
class RedistributeSinks:
    """Take attention from rows that draw it for nothing, and give it to the rest of the picture (VAR).

    Sinks are rows with a few very large coordinates, as the first token has them. Only heads that look at the picture are
    changed, at queries behind it: those that give it at least `least_image` of their attention, no more than `most_sink` of
    that to its sinks. Each query's attention still adds up to 1.

    Args:
        layers: block numbers; by default all from the third on, as in the paper.
        dims: the coordinates that make a sink (2533 and 1415 in LLaMA-2-7B); by default those in which the first token of the
            prompt itself exceeds the threshold, layer by layer.
        threshold: how large they must be, over the row's root mean square.
        factor: what sinks keep of their attention.
        least_image, most_sink: which heads and queries are changed.

    Attributes:
        touched: how many queries were changed, summed over heads and layers, in the last run; none where the prompt has no
            sinks, as small models often have not.

    Raises:
        InputError: for a factor of 1, which changes nothing.

    Example:
        >>> redistribute = RedistributeSinks(threshold=4.0)
        >>> with model.intervene(redistribute):
        ...     logits = model(batch)
        >>> redistribute.touched.tokens >= 0
        True

    Source: Kang et al., "See What You Are Told: Visual Attention Sink in Large Multimodal Models", ICLR 2025
    (https://arxiv.org/abs/2503.03321), section 4; github.com/seilk/VisAttnSink. *Departs:* the published code has the coordinates
    of two models as constants, takes one sample at a time, and an option to spare the last layer that never acts.
    """

    layers: Several[Index] | None = field(default=None, kw_only=True)
    dims: Several[Index] | None = field(default=None, kw_only=True)
    threshold: Positive = field(default=20.0, kw_only=True)
    factor: Fraction = field(default=0.6, kw_only=True)
    least_image: Fraction = field(default=0.2, kw_only=True)
    most_sink: Fraction = field(default=0.5, kw_only=True)
    touched: Touched = field(default_factory=Touched, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.factor == 1:
            raise InputError("factor=1 would leave sinks all of their attention; give less, e.g. factor=0.6.")

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """A hook that finds a layer's sinks, and one that changes its patterns, for each layer.

        Raises:
            InputError: for layers or coordinates that there are not.
        """
        pairs: list[HookPair] = []
        for stream, pattern in self._points(model):
            pairs += [(stream.name, self._finder(model, stream)), (pattern.name, self._changer(model, stream, pattern))]
        return pairs

    def starts(self, run: Run) -> None:
        """Refuse prompts without image tokens, before anything runs.

        Raises:
            InputError: if no sample has one.
        """
        refuse_known_positions(run)
        if not run.batch.layout.is_image.any():
            raise InputError(
                "RedistributeSinks gives attention to image tokens, and the prompts of this batch have none; give it a "
                "picture, and a model whose language model reads pictures as tokens."
            )
        if run.branch == "conditional":
            self.touched.forget()

    def _points(self, model: HookedMultimodal) -> list[tuple[Node, Node]]:
        graph = model.graph
        by_layer = {
            node.layer: (graph[f"blocks.{node.layer}.hook_resid_pre"], node)
            for node in graph
            if (node.part, node.kind, node.stack) == ("language", "attn.pattern", "blocks")
            and node.sequence == "language"
        }
        if not by_layer:
            raise InputError(f"{model.family.name} has no attention over image tokens whose pattern can be reached.")
        numbers = (
            [layer for layer in by_layer if layer is not None and layer >= 2] if self.layers is None else self.layers
        )
        missing = [layer for layer in numbers if layer not in by_layer]
        if missing or not numbers:
            raise InputError(f"layers={list(numbers)} must name some of the layers {', '.join(map(str, by_layer))}.")
        width = model.cfg.d_model
        if self.dims is not None and max(self.dims) >= width:
            raise InputError(f"dims={list(self.dims)} must name some of the {width} coordinates, 0..{width - 1}.")
        return [by_layer[layer] for layer in numbers]

    def _finder(self, model: HookedMultimodal, stream: Node) -> HookFunction:
        @reads_only
        def find(states: torch.Tensor, hook: Any) -> None:
            run = run_of(model, stream)
            beams = len(states) // run.batch.size
            run.remember((id(self), stream.name), lambda: self._sinks(run, states[::beams]))

        return find

    def _sinks(self, run: Run, states: Float[torch.Tensor, "batch pos d_model"]) -> Bool[torch.Tensor, "batch pos"]:
        is_token = run.batch.layout.is_token.to(states.device)
        return sink_rows(states, is_token, threshold=self.threshold, dims=self.dims)

    def moved(
        self,
        pattern: Float[torch.Tensor, "batch head query key"],
        is_image: Bool[torch.Tensor, "batch 1 1 key"],
        is_sink: Bool[torch.Tensor, "batch 1 1 key"],
        is_query: Bool[torch.Tensor, "batch 1 query"],
        is_prompt: Bool[torch.Tensor, "batch 1 1 key"],
    ) -> tuple[Float[torch.Tensor, "batch head query key"], Bool[torch.Tensor, "batch head query"]]:
        """The pattern with attention moved, and which queries of which heads were changed.

        Args:
            pattern: of a pass.
            is_image, is_sink, is_prompt: which of its keys are tokens of pictures, sinks, tokens of the prompt.
            is_query: which of its queries stand behind the picture.
        """
        return redistributed(
            pattern, is_image, is_sink, is_query,
            factor=self.factor, least_image=self.least_image, most_sink=self.most_sink,
        )  # fmt: skip

    def _changer(self, model: HookedMultimodal, stream: Node, node: Node) -> HookFunction:
        follow = Follower(model, node)

        def change(pattern: torch.Tensor, hook: Any) -> torch.Tensor | None:
            run, _, first = follow(pattern)
            sinks = run.remember((id(self), stream.name), lambda: torch.zeros(0, dtype=torch.bool))
            n_query, n_key = pattern.shape[-2:]
            image = run.batch.layout.is_image.to(pattern.device)
            behind = _behind(image, first, n_query)
            tokens = run.batch.layout.is_token.to(pattern.device)
            columns = [_columns(rows, first + n_query, n_key) for rows in (image, sinks, tokens)]
            is_image, is_sink, is_prompt, is_query = (per_entry(m, len(pattern), node, run) for m in (*columns, behind))
            new, is_changed = self.moved(
                pattern, is_image[:, None, None], is_sink[:, None, None], is_query[:, None], is_prompt[:, None, None]
            )
            self.touched.count(RowMask(True, first, run), node, is_changed[..., None])
            return new if is_changed.any() else None

        return change


def sink_rows(
    states: Float[torch.Tensor, "batch pos d_model"],
    is_token: Bool[torch.Tensor, "batch pos"],
    *,
    threshold: float,
    dims: Sequence[int] | None = None,
) -> Bool[torch.Tensor, "batch pos"]:
    """Which rows are sinks: those with a coordinate of the first token's large ones that is as large.

    Args:
        states: of the stream in front of a layer.
        is_token: False at padding.
        threshold: how large, over the row's root mean square.
        dims: the coordinates; by default those in which the sample's own first token exceeds the threshold.
    """
    sizes = states.float().abs() / states.float().square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
    is_large = sizes > threshold
    if dims is None:
        first = is_token.long().argmax(1)
        candidates = is_large[torch.arange(len(states), device=states.device), first][:, None]
    else:
        candidates = torch.zeros(states.shape[-1], dtype=torch.bool, device=states.device)
        candidates[list(dims)] = True
    return (is_large & candidates).any(-1) & is_token


def redistributed(
    pattern: Float[torch.Tensor, "batch head query key"],
    is_image: Bool[torch.Tensor, "batch 1 1 key"],
    is_sink: Bool[torch.Tensor, "batch 1 1 key"],
    is_query: Bool[torch.Tensor, "batch 1 query"],
    *,
    factor: float,
    least_image: float,
    most_sink: float,
) -> tuple[Float[torch.Tensor, "batch head query key"], Bool[torch.Tensor, "batch head query"]]:
    """The pattern with the sinks' attention given to the picture, and where it was changed; see `RedistributeSinks`."""
    to_image = (pattern * is_image).sum(-1)
    to_sinks = (pattern * (is_image & is_sink)).sum(-1)
    others = pattern * (is_image & ~is_sink)
    total, share = others.sum(-1), (1 - factor) * (pattern * is_sink).sum(-1)
    is_changed = is_query & (to_image >= least_image) & (to_sinks <= most_sink * to_image) & (total > 0) & (share > 0)
    return hand_on(pattern, is_sink, factor, others, share, is_changed), is_changed


def hand_on(
    pattern: Float[torch.Tensor, "batch head query key"],
    is_donor: Bool[torch.Tensor, "batch #head #query key"],
    factor: float | Float[torch.Tensor, "batch head query 1"],
    receivers: Float[torch.Tensor, "batch head query key"],
    amount: Float[torch.Tensor, "batch head query"],
    is_changed: Bool[torch.Tensor, "batch head query"],
) -> Float[torch.Tensor, "batch head query key"]:
    """The pattern in which donors keep a share of their attention, and what they lose goes to others as these have it.

    Args:
        pattern: of a pass.
        is_donor: which keys lose attention.
        factor: the share that they keep.
        receivers: the pattern at the keys that get it, 0 elsewhere.
        amount: how much they get.
        is_changed: the queries of heads in which this happens.
    """
    gain = receivers * (amount / receivers.sum(-1).clamp_min(1e-12))[..., None]
    return torch.where(is_changed[..., None], torch.where(is_donor, factor * pattern, pattern) + gain, pattern)


def _behind(image: Bool[torch.Tensor, "batch pos"], first: int, count: int) -> Bool[torch.Tensor, "batch query"]:
    """Which queries of a pass stand behind their sample's last image token."""
    ends = (image * torch.arange(1, image.shape[1] + 1, device=image.device)).amax(1)
    places = torch.arange(first, first + count, device=image.device)
    return (places[None] >= ends[:, None]) & (ends[:, None] > 0)


def _columns(rows: Bool[torch.Tensor, "batch pos"], end: int, count: int) -> Bool[torch.Tensor, "batch key"]:
    """Rows of the prompt as the keys of a pass: new tokens are none of them, and a cache may have dropped the first."""
    wide = torch.nn.functional.pad(rows, (0, max(end - rows.shape[1], 0)))[:, :end]
    return wide[:, end - count :] if count < end else torch.nn.functional.pad(wide, (0, count - end))
