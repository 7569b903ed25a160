"""Attention that a module computes in code of its own: not put on mmlens's kernel, which would change its mask."""

from typing import Any

import torch
from transformers.models.instructblip.modeling_instructblip import InstructBlipQFormerMultiHeadAttention

from mmlens.architectures.attention_interface import looks_kernel_up
from mmlens.discover.attention_calls import AttentionCall, told_of_attention
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests.tiny import instructblip, picture


class _WrittenOut(InstructBlipQFormerMultiHeadAttention):
    """The attention that transformers 5.9 had here: an additive mask, whatever the configuration names."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        source, mask = hidden_states, attention_mask
        if encoder_hidden_states is not None:
            source, mask = encoder_hidden_states, encoder_attention_mask
        query, key, value = (
            states.unflatten(-1, (-1, self.attention_head_size)).transpose(1, 2)
            for states in (self.query(hidden_states), self.key(source), self.value(source))
        )
        scores = query @ key.transpose(-1, -2) * self.scaling
        pattern = (scores if mask is None else scores + mask).softmax(-1)
        return (pattern @ value).transpose(1, 2).flatten(2), pattern


def _with_own_attention() -> tuple[HookedMultimodal, Any, MultimodalBatch]:
    """A tiny InstructBLIP, the same weights bare with attention of the Q-Former's own, and a batch that is padded there."""
    plain = instructblip()
    bare = instructblip().hf_model
    for module in bare.modules():
        if isinstance(module, InstructBlipQFormerMultiHeadAttention):
            assert looks_kernel_up(module)
            module.__class__ = _WrittenOut
            module.config._attn_implementation_internal = "eager"
            assert not looks_kernel_up(module)
    # the shorter sample is padded, in the Q-Former too
    batch = plain.prepare(
        ["what", "what is this , and where is it"], images=[picture(0), picture(1)], padding_side="left"
    )
    return plain, bare, batch


@torch.no_grad()
def test_discovery_leaves_the_mask_of_such_a_module_as_it_is() -> None:
    """The towers beside it are recorded all the same."""
    plain, bare, batch = _with_own_attention()
    expected = bare(**batch, use_cache=False).logits
    calls: list[AttentionCall] = []
    with told_of_attention(bare, calls.append):
        found = bare(**batch, use_cache=False).logits
    real = batch.layout.is_token
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-4)
    torch.testing.assert_close(expected[real], plain(batch)[real], rtol=0, atol=1e-4)
    callers = {type(call.module).__name__ for call in calls if call.registered}
    assert callers == {"InstructBlipAttention", "LlamaAttention"}


@torch.no_grad()
def test_a_module_with_attention_of_its_own_keeps_its_mask_under_hooks() -> None:
    plain, bare, batch = _with_own_attention()
    model = HookedMultimodal.from_hf(bare, plain.processor)
    real = batch.layout.is_token
    expected = plain(batch)
    torch.testing.assert_close(model(batch)[real], expected[real], rtol=0, atol=1e-4)
    hooked = model.run_with_hooks(batch, fwd_hooks=[("*", lambda tensor, hook: None)])
    torch.testing.assert_close(hooked[real], model(batch)[real], rtol=0, atol=1e-4)
    kinds = {
        name.rpartition("_")[2] for name in model.graph.names if name.startswith("projector.") and ".attn." in name
    }
    assert kinds == {"z"}
