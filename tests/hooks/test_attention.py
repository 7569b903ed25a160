"""The editable attention kernel against a slow float64 reference written from the formula."""

from typing import Any

import pytest
import torch
from torch import nn

from mmlens.hooks.attention import InAttention, Tower, hooked_attention


class Caller(nn.Module):
    """Stands for a module that calls the kernel."""

    is_causal = True


def own(*args: Any, **kwargs: Any) -> Any:
    """A kernel that must not be called."""
    raise RuntimeError("the tower's own kernel was called")


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    allowed: torch.Tensor | None,
    *,
    scaling: float | None = None,
    bias: Any = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q k^T / sqrt(d) + bias) v, one row after the other; a row that may attend to nothing is zero."""
    batch, heads, n_query, d = query.shape
    groups = heads // key.shape[1]
    pattern = torch.zeros(batch, heads, n_query, key.shape[2], dtype=torch.float64)
    out = torch.zeros(batch, n_query, heads, value.shape[-1], dtype=torch.float64)
    bias = torch.as_tensor(bias, dtype=torch.float64).expand(pattern.shape)
    for b in range(batch):
        for h in range(heads):
            k, v = key[b, h // groups].double(), value[b, h // groups].double()
            for i in range(n_query):
                mask = (
                    torch.ones(len(k), dtype=torch.bool) if allowed is None else allowed.expand(pattern.shape)[b, h, i]
                )
                if not mask.any():
                    continue
                scores = k @ query[b, h, i].double() * (d**-0.5 if scaling is None else scaling) + bias[b, h, i]
                weights = torch.exp(scores - scores[mask].max()) * mask
                pattern[b, h, i] = weights / weights.sum()
                out[b, i, h] = pattern[b, h, i] @ v
    return out, pattern


def tensors(n_query: int = 5, n_key: int = 5, kv_heads: int = 4, batch: int = 2) -> tuple[torch.Tensor, ...]:
    make = torch.Generator().manual_seed(0)
    shapes = [(batch, 4, n_query, 6), (batch, kv_heads, n_key, 6), (batch, kv_heads, n_key, 6)]
    return tuple(torch.randn(shape, generator=make) for shape in shapes)


def run(module: Caller, kind: Any, fn: Any, inputs: Any, mask: Any, **options: Any) -> Any:
    """The kernel with one hook."""
    attachment = InAttention(module, kind, Tower(lambda on: None))
    attachment.attach(fn)
    try:
        return hooked_attention(own, module, *inputs, mask, **options)
    finally:
        attachment.detach(fn)


def same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
PADDED = CAUSAL & torch.tensor([[False, False, True, True, True], [True] * 5])[:, None, None, :]
WINDOW = CAUSAL & ~CAUSAL.tril(-3)
ADDED = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["all heads", "grouped", "one"])
@pytest.mark.parametrize(
    ("mask", "options", "allowed", "bias"),
    [
        (None, {}, CAUSAL, 0.0),
        (None, {"is_causal": False}, None, 0.0),
        (None, {"is_causal": False, "scaling": 0.3}, None, 0.0),
        (PADDED, {}, PADDED, 0.0),
        (WINDOW, {}, WINDOW, 0.0),
        (torch.zeros(PADDED.shape).masked_fill(~PADDED, torch.finfo(torch.float32).min), {}, PADDED, 0.0),
        (torch.zeros(PADDED.shape).masked_fill(~PADDED, -torch.inf), {}, PADDED, 0.0),
        (ADDED, {}, None, ADDED),
        (PADDED, {"position_bias": ADDED}, PADDED, ADDED),
        (
            None,
            {"cu_seq_lens_q": torch.tensor([0, 2, 5])},
            torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).bool()[None, None],
            0.0,
        ),
    ],
    ids=["causal", "full", "scaled", "padded", "window", "additive", "infinite", "bias", "position bias", "packed"],
)
def test_against_the_reference(mask: Any, options: dict[str, Any], allowed: Any, bias: Any, kv_heads: int) -> None:
    inputs = tensors(kv_heads=kv_heads)
    expected, expected_pattern = reference(*inputs, allowed, scaling=options.get("scaling"), bias=bias)
    found, pattern = run(Caller(), "pattern", same, inputs, mask, **options)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(pattern.double(), expected_pattern, atol=1e-6, rtol=1e-5)


def test_a_step_with_a_kv_cache_sees_all_keys() -> None:
    query, key, value = tensors(n_query=1, n_key=5)
    expected, _ = reference(query, key, value, None)
    found, _ = run(Caller(), "attn_scores", same, (query, key, value), None)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    query, key, value = tensors(n_query=2, n_key=5)
    expected, _ = reference(query, key, value, CAUSAL[:, :, 3:])
    found, _ = run(Caller(), "attn_scores", same, (query, key, value), None)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_pattern_is_worked_out_in_float32_at_least(dtype: torch.dtype) -> None:
    """Float64 stays float64; sums of long rows in half precision do not lose what each key adds."""
    make = torch.Generator().manual_seed(2)
    inputs = tuple(torch.randn(1, 4, 3, 6, generator=make, dtype=torch.float64).to(dtype) for _ in range(3))
    softmaxes: list[torch.dtype] = []
    plain = torch.softmax

    def watched(scores: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        softmaxes.append(scores.dtype if dtype is None else dtype)
        return plain(scores, dim, dtype)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "softmax", watched)
        _, pattern = run(Caller(), "pattern", same, inputs, None, is_causal=False)
    assert pattern.dtype == dtype
    assert softmaxes == [torch.promote_types(torch.float32, dtype)]
    scores = inputs[0].double() @ inputs[1].double().transpose(-1, -2) / 6**0.5
    torch.testing.assert_close(
        pattern.double(), plain(scores, -1), atol=1e-12 if dtype == torch.float64 else 8e-3, rtol=0
    )


@pytest.mark.parametrize("additive", [False, True])
def test_a_mask_of_more_keys_than_there_are_holds_for_the_first(additive: bool) -> None:
    """A static cache brings masks as long as it may become; what stands behind the keys means nothing."""
    inputs = tensors()
    behind = torch.cat([PADDED, torch.ones(2, 1, 5, 3, dtype=torch.bool)], dim=-1)
    mask = torch.zeros(behind.shape).masked_fill(~behind, torch.finfo(torch.float32).min) if additive else behind
    expected_out, expected = reference(*inputs, PADDED)
    out, pattern = run(Caller(), "pattern", same, inputs, mask)
    torch.testing.assert_close(pattern.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.double(), expected_out, atol=1e-6, rtol=1e-5)


def test_edits_are_carried_on() -> None:
    query, key, value = tensors(kv_heads=2)
    allowed = CAUSAL
    cases = {
        "q": (lambda t: t * 2, reference(query * 2, key, value, allowed)[0]),
        "k": (lambda t: t * 2, reference(query, key * 2, value, allowed)[0]),
        "v": (lambda t: t + 1, reference(query, key, value + 1, allowed)[0]),
        "attn_scores": (lambda t: t * 3, reference(query * 3, key, value, allowed)[0]),
        "pattern": (lambda t: t * 0.5, reference(query, key, value, allowed)[0] * 0.5),
        "z": (lambda t: t - 1, reference(query, key, value, allowed)[0] - 1),
    }

    def fused(module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(
            1, 2
        ), None

    for kind, (fn, expected) in cases.items():
        module = Caller()
        attachment = InAttention(module, kind, Tower(lambda on: None))  # type: ignore[arg-type]
        attachment.attach(fn)
        found, _ = hooked_attention(fused, module, query, key, value, None)
        attachment.detach(fn)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5, msg=kind)
        assert torch.equal(
            hooked_attention(fused, module, query, key, value, None)[0], fused(module, query, key, value, None)[0]
        )


def test_hooks_see_positions_before_heads_and_no_batch_axis_in_packed_towers() -> None:
    query, key, value = tensors(batch=1, kv_heads=2)
    for packed in (False, True):
        shapes: dict[str, tuple[int, ...]] = {}
        module = Caller()
        attachments = []
        for kind in ("q", "k", "v", "attn_scores", "pattern", "z"):

            def note(t: torch.Tensor, kind: str = kind, shapes: Any = shapes) -> torch.Tensor:
                shapes[kind] = tuple(t.shape)
                return t

            attachments.append((InAttention(module, kind, Tower(lambda on: None)), note))  # type: ignore[arg-type]
            attachments[-1][0].attach(note)
        hooked_attention(own, module, query, key, value, None, is_packed=packed)
        for attachment, note in attachments:
            attachment.detach(note)
        batch = () if packed else (1,)
        assert shapes == {
            "q": (*batch, 5, 4, 6),
            "k": (*batch, 5, 2, 6),
            "v": (*batch, 5, 2, 6),
            "attn_scores": (*batch, 4, 5, 5),
            "pattern": (*batch, 4, 5, 5),
            "z": (*batch, 5, 4, 6),
        }


def test_the_switch_is_on_while_anyone_needs_it() -> None:
    states: list[bool] = []
    tower = Tower(states.append)
    tower.acquire()
    tower.acquire()
    tower.release()
    assert states == [True]
    tower.release()
    assert states == [True, False]


def test_soft_caps() -> None:
    query, key, value = tensors()
    capped: list[torch.Tensor] = []
    run(
        Caller(),
        "attn_scores",
        lambda t: capped.append(t) or t,
        (query, key, value),
        None,
        is_causal=False,
        softcap=2.0,
    )
    expected = 2 * torch.tanh(query.double() @ key.double().transpose(-1, -2) / 6**0.5 / 2)
    torch.testing.assert_close(capped[0].double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("additive", [False, True])
def test_queries_that_may_look_at_chosen_keys_alone(additive: bool) -> None:
    inputs = tensors()
    chosen = torch.tensor([[0, 1], [0, 1], [2, 1], [3, 0], [2, 4]]).expand(2, 5, 2)
    pairs = torch.zeros(2, 5, 5, dtype=torch.bool).scatter(-1, chosen, True)[:, None]
    mask = torch.zeros(1, 1, 5, 5).masked_fill(~CAUSAL, torch.finfo(torch.float32).min) if additive else CAUSAL
    out, pattern = run(Caller(), "pattern", same, inputs, mask, indices=chosen)
    expected_out, expected = reference(*inputs, CAUSAL & pairs)
    torch.testing.assert_close(pattern.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.double(), expected_out, atol=1e-6, rtol=1e-5)
    masks: list[torch.Tensor] = []
    hooked_attention(lambda *args, **options: masks.append(args[4]), Caller(), *inputs, None, indices=chosen)
    assert torch.equal(masks[0], CAUSAL & pairs)
