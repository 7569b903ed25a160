"""Attention of packed rows: those of many cells lie in one sequence, and every cell looks at the clean run besides itself.

Keys in front of a cell's first changed row are the clean run's. They are read where they are, by the queries of all cells at
once, and never copied; a cell's own window of keys, from there on, is the clean one with the cell's rows written over it.
"""

from collections.abc import Callable

import torch
from torch import nn

from mmlens.execution.query_groups import QueryGroup, RowSpan, lowest_score
from mmlens.execution.recording import Attended
from mmlens.hooks.attention import allowed_by


def attend(
    group: QueryGroup,
    attention: Attended,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Compute a group's attention.

    Args:
        group: the cells.
        attention: the clean run's attention of this block.
        query: `[head row d_head]`, packed.
        key, value: `[kv_head row d_head]`, packed; rows as the group's keys count them.
        out: `[row head d_head]`, where the result is put.
    """
    heads, _, d_head = query.shape
    n_kv, wide = key.shape[0], value.shape[-1]
    many, count, slots, window = heads // n_kv, group.count, group.slots, group.window
    q = query[:, group.taken] if group.full else _spread(query, group.taken, group.slot, count * slots)
    own_k, own_v = (
        _window(group, clean[group.sample], new) for clean, new in ((attention.key, key), (attention.value, value))
    )
    scale, cap = attention.options.get("scaling"), attention.options.get("softcap")
    if group.fused and cap is None:
        mixture = _fused(group, attention, q.view(heads, count, slots, d_head), own_k, own_v, scale)
        out[group.taken] = (mixture if group.full else mixture[group.slot]).to(out.dtype)
        return
    # queries of the heads that share a key lie behind each other: [kv_head cell (head slot) d_head]
    q = q.reshape(n_kv, many, count, slots, d_head).transpose(1, 2).reshape(n_kv, count, many * slots, d_head)
    q = (q * (d_head**-0.5 if scale is None else scale)).contiguous()
    front, inside = group.bias(attention)
    scores = q.new_empty(n_kv, count, many * slots, group.first + window)
    if group.first:
        before = attention.key[group.sample, :, : group.first]
        part = torch.matmul(q.view(n_kv, count * many * slots, d_head), before.transpose(1, 2))
        scores[..., : group.first] = _capped(part, cap).view(n_kv, count, many * slots, group.first)
        if front is not None:
            _add(scores[..., : group.first], front, many)
    scores[..., group.first :] = _capped(torch.matmul(q, own_k.transpose(2, 3)), cap)
    if inside is not None:
        _add(scores[..., group.first :], inside, many)
    weights = torch.softmax(scores, -1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(query.dtype)
    mixture = torch.matmul(weights[..., group.first :], own_v)
    if group.first:
        flat = weights.view(n_kv, count * many * slots, -1)[..., : group.first]
        mixture += torch.matmul(flat, attention.value[group.sample, :, : group.first]).view(mixture.shape)
    mixture = mixture.view(n_kv, count, many, slots, wide).permute(1, 3, 0, 2, 4).reshape(count * slots, heads, wide)
    # under autocast products come in another type than what they are written into
    out[group.taken] = (mixture if group.full else mixture[group.slot]).to(out.dtype)


def _fused(
    group: QueryGroup, attention: Attended, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """Torch's own kernel for a group that copies all its keys, `[(cell slot) head d_head]`."""
    heads, count, slots, _ = q.shape
    bias = group.bias(attention)[1]
    mixture = nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1),
        k.transpose(0, 1),
        v.transpose(0, 1),
        attn_mask=None if bias is None else bias[:, None],
        scale=scale,
        enable_gqa=k.shape[0] != heads,
    )
    return mixture.transpose(1, 2).reshape(count * slots, heads, v.shape[-1])


def _capped(scores: torch.Tensor, cap: float | None) -> torch.Tensor:
    return scores if cap is None else torch.tanh(scores / cap) * cap


def _add(scores: torch.Tensor, bias: torch.Tensor, many: int) -> None:
    """Add `[cell slot key]` to scores `[kv_head cell (head slot) key]`, in place."""
    scores.unflatten(2, (many, scores.shape[2] // many)).add_(bias[:, None])


def _spread(rows: torch.Tensor, source: torch.Tensor, slot: torch.Tensor, size: int) -> torch.Tensor:
    """Rows of cells of different length, each cell's in slots of its own."""
    result = rows.new_zeros(rows.shape[0], size, rows.shape[2])
    return result.index_copy_(1, slot, rows[:, source])


def _window(group: QueryGroup, clean: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Each cell's window of keys or values, `[kv_head cell key d_head]`."""
    n_kv, _, d_head = clean.shape
    shape = (n_kv, group.count, group.window, d_head)
    if group.replaced:
        return new[:, group.own].reshape(shape)
    # a copy in any case: what is contiguous already is the clean run's own (one cell of a model with one key head)
    keys = clean[:, None, group.first : group.last].expand(shape).clone(memory_format=torch.contiguous_format)
    keys = keys.view(n_kv, -1, d_head)
    return keys.index_copy_(1, group.place, new[:, group.own]).view(shape)


#: `(kind, tensor [head query key]) -> tensor`: changes scores and patterns of one cell.
Edit = Callable[[str, torch.Tensor], torch.Tensor]


def attend_by_steps(
    queries: RowSpan,
    keys: RowSpan,
    attention: Attended,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    edit: Edit,
) -> None:
    """Compute one cell's attention with its scores and pattern in reach; arguments as for `attend`.

    Args:
        queries, keys: the cell's rows.
        attention, query, key, value, out: as for `attend`.
        edit: changes scores and pattern.
    """
    sample, length = queries.sample, attention.key.shape[2]
    many = query.shape[0] // key.shape[0]

    def whole(clean: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        rows_of_sample = clean[sample].clone()
        rows_of_sample[:, keys.rows.to(rows_of_sample.device)] = new[:, keys.start : keys.stop].to(clean.dtype)
        return rows_of_sample.repeat_interleave(many, 0)

    q, k, v = query[:, queries.start : queries.stop], whole(attention.key, key), whole(attention.value, value)
    scale = attention.options.get("scaling")
    scores = q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = _capped(scores, attention.options.get("softcap"))
    rows = queries.rows.to(q.device)
    mask = _mask_rows(attention, sample, rows, length)
    if mask is not None and mask.dtype != torch.bool:  # it may hold more than who sees whom
        scores = scores + mask.clamp(min=lowest_score(mask.dtype)).to(scores.dtype)
    visible = None if mask is None else allowed_by(mask)
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    scores = edit("attn.attn_scores", scores)
    pattern = torch.softmax(scores, -1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(q.dtype)
    if visible is not None:
        pattern = pattern.masked_fill(~visible.any(-1, keepdim=True), 0.0)
    pattern = edit("attn.pattern", pattern)
    out[queries.start : queries.stop] = (pattern @ v).transpose(0, 1)


def _mask_rows(attention: Attended, sample: int, rows: torch.Tensor, length: int) -> torch.Tensor | None:
    """What the clean run's mask says of some rows of a sample, boolean or additive; None where all see all."""
    if attention.mask is None:
        return torch.arange(length, device=rows.device) <= rows[:, None] if attention.causal else None
    mask = attention.mask[min(sample, attention.mask.shape[0] - 1), 0, :, :length]
    return mask[rows] if mask.shape[0] > 1 else mask.expand(len(rows), -1)
