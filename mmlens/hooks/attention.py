"""Editable attention: one kernel for every tower, with six hook points in its path.

Transformers' attention modules look their kernel up by name. While an attention point of a tower has a hook, that
tower's configuration names mmlens's kernel; afterwards it names its own again. The kernel hands straight to the
tower's own one in modules without a hook, and where only `q`, `k`, `v` or `z` are hooked; only a hook on scores or
pattern makes it compute the attention step by step.

Queries, keys and values are seen here as they enter the product: `hook_rot_q` after rotary positions, `hook_q_normed` after a
norm of their own, `hook_q` where nothing comes behind their projection. With a KV cache, keys and values are all so far,
those of earlier steps included.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from mmlens.hooks.point import Point
from mmlens.hooks.site import Tap
from mmlens.hooks.split import Split

AttentionKind: TypeAlias = Literal["q", "k", "v", "attn_scores", "pattern", "z"]
#: The kinds in the order in which they are computed.
ATTENTION_KINDS: tuple[AttentionKind, ...] = ("q", "k", "v", "attn_scores", "pattern", "z")

#: The tower's own kernel: `(module, query, key, value, attention_mask, **options) -> (output, weights)`.
Kernel: TypeAlias = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@dataclass
class Tower:
    """The switch of one tower: it is on while any of the tower's attention points has a hook.

    Attributes:
        switch: called with True to put mmlens's kernel in, with False to restore the tower's own.
    """

    switch: Callable[[bool], None]
    _users: int = 0

    def acquire(self) -> None:
        """One more point needs the kernel."""
        self._users += 1
        if self._users == 1:
            self.switch(True)

    def release(self) -> None:
        """One point less; with the last one the tower's own kernel comes back."""
        self._users -= 1
        if self._users == 0:
            self.switch(False)


@dataclass
class _Path:
    """The taps in one attention module's path, by kind."""

    taps: dict[AttentionKind, list[Tap]] = field(default_factory=dict)

    def run(self, kind: AttentionKind, tensor: torch.Tensor) -> torch.Tensor:
        for tap in tuple(self.taps.get(kind, ())):
            tensor = tap(tensor)
        return tensor

    def has(self, *kinds: AttentionKind) -> bool:
        return any(self.taps.get(kind) for kind in kinds)


#: One path per hooked module. Weak, so that a discarded model takes its entry along; shared by all wrappers of a model.
_PATHS: "weakref.WeakKeyDictionary[nn.Module, _Path]" = weakref.WeakKeyDictionary()


class InAttention:
    """Attachment of one attention point.

    Args:
        module: the module that calls the kernel.
        kind: which tensor of the computation.
        tower: the switch of its tower.
        split: how its heads are split over processes; None where they are whole.
    """

    def __init__(self, module: nn.Module, kind: AttentionKind, tower: Tower, split: Split | None = None):
        self.module = module
        self.kind = kind
        self.tower = tower
        self.split = split
        self._taps: dict[Tap, Tap] = {}

    def attach(self, tap: Tap) -> None:
        """Put the tap in the module's path and make sure that the tower uses our kernel."""
        if self.split is not None:
            axis = -3 if self.kind in ("attn_scores", "pattern") else -2
            self._taps[tap] = partial(self.split.through, tap, axis)
        _PATHS.setdefault(self.module, _Path()).taps.setdefault(self.kind, []).append(self._taps.get(tap, tap))
        self.tower.acquire()

    def detach(self, tap: Tap) -> None:
        """Take the tap out; the tower may get its own kernel back."""
        path = _PATHS[self.module]
        tap = self._taps.pop(tap, tap)
        path.taps[self.kind] = [other for other in path.taps[self.kind] if other is not tap]
        if not path.has(*ATTENTION_KINDS):
            del _PATHS[self.module]
        self.tower.release()


def kernel_of(points: Mapping[str, Point], attention: str) -> nn.Module | None:
    """The module that calls the kernel of an attention; None where it is computed in code of its own.

    Args:
        points: the model's points.
        attention: what its names begin with, e.g. `blocks.2.attn`.
    """
    attachment = points[f"{attention}.hook_pattern"].attachment if f"{attention}.hook_pattern" in points else None
    return attachment.module if isinstance(attachment, InAttention) else None


def hooked_attention(
    kernel: Kernel,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    is_packed: bool = False,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention with the module's hook points in its path.

    Args:
        kernel: the tower's own kernel, used wherever the step-by-step computation is not needed.
        module: the calling module.
        query: `[batch head query d_head]`.
        key: `[batch kv_head key d_head]`; grouped heads are repeated after their point.
        value: `[batch kv_head key d_head]`.
        attention_mask: boolean (True: attend) or additive, broadcastable to `[batch head query key]`, or None.
        is_packed: the rows of several images lie in one sequence; points then have no batch axis.
        options: the caller's further keywords (`scaling`, `dropout`, `is_causal`, `softcap`, `cu_seq_lens_q`, ...);
            `indices` `[batch query chosen]` names the keys that each query may look at, in attention that chooses them.

    Returns:
        The output `[batch query head d_head]` and, if it was computed, the pattern `[batch head query key]`.
    """
    key_indices = options.pop("indices", None)
    if key_indices is not None:
        attention_mask = _chosen_only(key_indices, module, query, key, attention_mask, options)
    path = _PATHS.get(module)
    if path is None:
        return kernel(module, query, key, value, attention_mask, **options)

    def through(kind: AttentionKind, tensor: torch.Tensor, *, swap: bool) -> torch.Tensor:
        """Show hooks the TransformerLens layout (positions before heads; no batch axis in packed towers)."""
        if not path.has(kind):
            return tensor
        view = tensor.transpose(1, 2) if swap else tensor
        view = view[0] if is_packed else view
        # back through the same views even if untouched, so that what a hook was shown has a gradient
        new = path.run(kind, view)
        new = new[None] if is_packed else new
        return new.transpose(1, 2) if swap else new

    query = through("q", query, swap=True)
    key = through("k", key, swap=True)
    value = through("v", value, swap=True)
    if not path.has("attn_scores", "pattern"):
        output, weights = kernel(module, query, key, value, attention_mask, **options)
        return through("z", output, swap=False), weights

    visible, bias = _mask(module, query, key, attention_mask, options)
    scores = _scores(query, key, options) + bias if bias is not None else _scores(query, key, options)
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    scores = through("attn_scores", scores, swap=False)
    pattern = torch.softmax(scores, dim=-1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(query.dtype)
    if visible is not None:
        # a row that may attend to nothing (padding) gets nothing, as in torch's own kernel
        pattern = pattern.masked_fill(~visible.any(-1, keepdim=True), 0.0)
    pattern = through("pattern", pattern, swap=False)
    dropout = options.get("dropout") or 0.0
    weights = nn.functional.dropout(pattern, p=dropout, training=module.training)
    output = (weights @ _repeat(value, query.shape[1])).transpose(1, 2).contiguous()
    return through("z", output, swap=False), pattern


def _repeat(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat grouped key or value heads `[batch kv_head key d_head]` up to the number of query heads."""
    return tensor if tensor.shape[1] == heads else tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def _scores(query: torch.Tensor, key: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    scaling = options.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ _repeat(key, query.shape[1]).transpose(-1, -2) * scaling
    softcap = options.get("softcap")
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def looks_back(module: nn.Module, is_causal: bool | None) -> bool:
    """Whether queries see no later key where no mask says otherwise.

    Args:
        module: says by its own `is_causal` what holds if the caller did not.
        is_causal: what the caller said.
    """
    return bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)


def allowed_by(mask: torch.Tensor) -> torch.Tensor:
    """Which pairs a mask, or scores that it was added to, let attend, as booleans; very low numbers mean nobody looks."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def causal_pairs(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, is_causal: bool | None
) -> torch.Tensor | None:
    """Which pairs may attend where the caller gave no mask, `[1 1 query key]`; None if all may.

    Args:
        module, is_causal: as for `looks_back`.
        query, key: `[batch head query d_head]` and `[batch kv_head key d_head]`.
    """
    n_query, n_key = query.shape[2], key.shape[2]
    if not looks_back(module, is_causal) or n_query == 1:
        return None
    return torch.ones(n_query, n_key, dtype=torch.bool, device=query.device).tril(n_key - n_query)[None, None]


def _chosen_only(
    key_indices: torch.Tensor,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    options: dict[str, Any],
) -> torch.Tensor:
    """The mask of attention whose queries may look at chosen keys alone, `[batch query key_indices]`."""
    pairs = torch.zeros(len(key_indices), query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    pairs = pairs.scatter(-1, key_indices.long(), True)[:, None]
    mask = causal_pairs(module, query, key, options.get("is_causal")) if mask is None else mask
    if mask is None:
        return pairs
    return mask & pairs if mask.dtype == torch.bool else mask.masked_fill(~pairs, torch.finfo(mask.dtype).min)


def _mask(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    options: dict[str, Any],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What the caller's mask means: which pairs may attend, and what is added to the scores."""
    bias = options.get("position_bias")
    n_query, n_key = query.shape[2], key.shape[2]
    lengths = options.get("cu_seq_lens_q")
    if lengths is not None:
        chunk = torch.bucketize(torch.arange(n_query, device=query.device), lengths.to(query.device)[1:], right=True)
        return (chunk[:, None] == chunk[None, :])[None, None], bias
    if attention_mask is None:
        return causal_pairs(module, query, key, options.get("is_causal")), bias
    mask = attention_mask[..., :n_key]
    if mask.dtype == torch.bool:
        return mask, bias
    return allowed_by(mask), mask if bias is None else mask + bias
