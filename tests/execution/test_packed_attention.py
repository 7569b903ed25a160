"""Attention of packed cells against plain attention of one cell at a time, in float64."""

from typing import Any

import pytest
import torch

from mmlens.execution.packed_attention import attend, attend_by_steps
from mmlens.execution.query_groups import query_groups, spans_of
from mmlens.execution.recording import Attended

SAMPLES, HEADS, D = 2, 4, 6
#: Rows that each cell changes: of several samples, of different length, near and far from each other.
SMALL = [(0, [3, 4]), (0, [5]), (1, [2, 3, 4, 5]), (0, [20, 22]), (1, [0])]
#: So many that torch's fused kernel is used.
LARGE = [(0, list(range(4, 80))), (0, list(range(5, 80))), (1, list(range(80)))]


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(kind: str, length: int) -> torch.Tensor | None:
    """Who sees whom, of both samples; padding in front of the second."""
    visible = torch.ones(length, length, dtype=torch.bool).tril().expand(SAMPLES, 1, -1, -1).clone()
    visible[1, :, 1:, 0] = False
    if kind == "of keys":
        return visible[:, :, -1:]
    if kind == "of all samples":
        return visible[:1]
    return (
        None
        if kind == "none"
        else visible
        if kind == "boolean"
        else torch.zeros(visible.shape).masked_fill(~visible, -9e9)
    )


def expected(
    attention: Attended, sample: int, rows: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, pattern and output `[row head d_head]` of one cell, head by head."""
    keys, values = attention.key[sample].clone(), attention.value[sample].clone()
    keys[:, rows], values[:, rows] = key, value
    many = query.shape[0] // key.shape[0]
    scale = attention.options.get("scaling") or D**-0.5
    cap = attention.options.get("softcap")
    scores = torch.stack([query[head] @ keys[head // many].T * scale for head in range(len(query))])
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    visible = torch.ones(len(rows), keys.shape[1], dtype=torch.bool)
    if attention.mask is not None:
        own = attention.mask[min(sample, len(attention.mask) - 1), 0]
        own = own if own.dtype == torch.bool else own > -1e9
        visible = own[rows] if len(own) > 1 else own.expand(len(rows), -1)
    elif attention.causal:
        visible = torch.arange(keys.shape[1]) <= rows[:, None]
    scores = scores.masked_fill(~visible, -float("inf"))
    pattern = scores.softmax(-1)
    return scores, pattern, torch.stack([pattern[h] @ values[h // many] for h in range(len(query))], 1)


CASES = [
    pytest.param(
        kv, causal, mask, options, cells, id=f"{kv} key heads, {causal=}, mask {mask}, {options}, {len(cells)}"
    )
    for kv, causal, mask, options, cells in (
        (4, True, "none", {}, SMALL),
        (2, True, "none", {"scaling": 0.3}, SMALL),
        (1, True, "boolean", {"softcap": 1.5}, SMALL),
        (2, True, "additive", {"scaling": 0.3, "softcap": 2.0}, SMALL),
        (2, False, "none", {}, SMALL),
        (2, False, "of keys", {"scaling": 0.3}, SMALL),
        (2, True, "of all samples", {}, SMALL),
        (1, True, "none", {}, SMALL[:1]),
        (4, True, "none", {}, LARGE),
        (2, True, "boolean", {"scaling": 0.3}, LARGE),
        (2, True, "none", {"softcap": 1.5}, LARGE),
        (2, False, "none", {}, LARGE),
    )
]


def made(
    kv: int, causal: bool, mask: str, options: dict[str, Any], cells: list[Any]
) -> tuple[Attended, Any, list[Any]]:
    """The clean run's attention; the cells' spans; queries, keys and values of their rows."""
    length = 24 if cells is not LARGE else 80
    clean = [randn(SAMPLES, heads, length, D, seed=i) for i, heads in enumerate((HEADS, kv, kv))]
    attention = Attended(*clean, mask_of(mask, length), causal, options)
    spans = spans_of([sample for sample, _ in cells], [torch.tensor(rows) for _, rows in cells])
    packed = [randn(heads, spans[-1].stop, D, seed=10 + i) for i, heads in enumerate((HEADS, kv, kv))]
    return attention, spans, packed


@pytest.mark.parametrize(("kv", "causal", "mask", "options", "cells"), CASES)
def test_groups_of_cells_attend_as_each_alone(
    kv: int, causal: bool, mask: str, options: dict[str, Any], cells: list[Any]
) -> None:
    attention, spans, (query, key, value) = made(kv, causal, mask, options, cells)
    before = [tensor.clone() for tensor in (attention.key, attention.value)]
    out = torch.full((query.shape[1], HEADS, D), float("nan"), dtype=torch.float64)
    groups = query_groups(spans, spans, attention.key.shape[2], causal, torch.device("cpu"))
    for group in groups:
        attend(group, attention, query, key, value, out)
    for span in spans:
        rows = slice(span.start, span.stop)
        *_, plain = expected(attention, span.sample, span.rows, query[:, rows], key[:, rows], value[:, rows])
        torch.testing.assert_close(out[rows], plain, atol=1e-9, rtol=1e-9)
    assert all(torch.equal(one, other) for one, other in zip(before, (attention.key, attention.value), strict=True))
    assert sum(group.count for group in groups) == len(spans) > len(groups) or len(spans) == 1


@pytest.mark.parametrize(("kv", "causal", "mask", "options", "cells"), CASES)
def test_attention_by_steps_shows_scores_and_pattern_and_takes_what_is_given(
    kv: int, causal: bool, mask: str, options: dict[str, Any], cells: list[Any]
) -> None:
    attention, spans, (query, key, value) = made(kv, causal, mask, options, cells)
    out = torch.full((query.shape[1], HEADS, D), float("nan"), dtype=torch.float64)
    for span in spans:
        rows = slice(span.start, span.stop)
        scores, pattern, plain = expected(
            attention, span.sample, span.rows, query[:, rows], key[:, rows], value[:, rows]
        )
        seen = scores.isfinite()
        shown: dict[str, torch.Tensor] = {}

        def look(kind: str, tensor: torch.Tensor, shown: dict[str, torch.Tensor] = shown) -> torch.Tensor:
            shown[kind] = tensor.clone()
            return tensor

        attend_by_steps(span, span, attention, query, key, value, out, look)
        torch.testing.assert_close(shown["attn.attn_scores"][seen], scores[seen], atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(shown["attn.pattern"], pattern, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(out[rows], plain, atol=1e-9, rtol=1e-9)
        attend_by_steps(
            span, span, attention, query, key, value, out, lambda kind, x: 2 * x if kind == "attn.pattern" else x
        )
        torch.testing.assert_close(out[rows], 2 * plain, atol=1e-9, rtol=1e-9)
        flat = expected(attention, span.sample, span.rows, 0 * query[:, rows], key[:, rows], value[:, rows])[2]
        attend_by_steps(span, span, attention, query, key, value, out, level)
        torch.testing.assert_close(out[rows], flat, atol=1e-9, rtol=1e-9)


def level(kind: str, tensor: torch.Tensor) -> torch.Tensor:
    """All keys that are seen at all get one score."""
    return tensor.where(tensor < -1e9, 0.0) if kind == "attn.attn_scores" else tensor


@pytest.mark.parametrize(("count", "fused"), [(63, False), (64, True), (70, True)])
def test_many_rows_of_a_cell_are_worth_the_fused_kernel(count: int, fused: bool) -> None:
    """It reads all keys; fewer read those from their first row on where they are."""
    spans = spans_of([0, 0], [torch.arange(10, 10 + count), torch.arange(9, 9 + count)])
    (group,) = query_groups(spans, spans, 90, True, torch.device("cpu"))
    assert (group.fused, group.first) == (fused, 0 if fused else 9)
    assert (group.slots, group.last, group.window) == (count, 10 + count, 10 + count - group.first)


@pytest.mark.parametrize(
    ("cells", "length", "together"),
    [
        # windows that begin at most 16 rows apart, seen from the first of them
        ([(0, 0, 1), (0, 16, 1), (0, 17, 1), (0, 33, 1)], 64, [[0, 1], [2, 3]]),
        # or 15 in 100 of what is left
        ([(0, 0, 1), (0, 30, 1), (0, 31, 1)], 200, [[0, 1], [2]]),
        ([(0, 0, 1), (1, 0, 1), (0, 1, 1)], 64, [[0, 2], [1]]),
        # with 15 in 100 and 16 rows fewer than the first, but no less
        ([(0, 0, 40), (0, 1, 18), (0, 2, 17)], 64, [[0, 1], [2]]),
    ],
)
def test_cells_are_put_together_by_sample_window_and_size(
    cells: list[tuple[int, int, int]], length: int, together: list[list[int]]
) -> None:
    rows = [torch.arange(first, first + count) for _, first, count in cells]
    spans = spans_of([sample for sample, _, _ in cells], rows)
    groups = query_groups(spans, spans, length, True, torch.device("cpu"))
    owner = torch.repeat_interleave(torch.arange(len(cells)), torch.tensor([len(r) for r in rows]))
    assert [owner[group.taken].unique().tolist() for group in groups] == together


def test_keys_behind_all_queries_are_in_no_window() -> None:
    queries, keys = spans_of([0], [torch.tensor([3])]), spans_of([0], [torch.tensor([5, 6])])
    (group,) = query_groups(queries, keys, 9, True, torch.device("cpu"))
    assert (group.first, group.last, group.window) == (5, 4, 0)
    (both,) = query_groups(queries, keys, 9, False, torch.device("cpu"))
    assert (both.first, both.last, both.window) == (5, 9, 4)
