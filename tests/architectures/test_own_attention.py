"""Attention that a module computes in code of its own: not put on mmlens's kernel, which would change its mask."""

from typing import Any

import torch
from transformers.models.instructblip.modeling_instructblip import InstructBlipQFormerMultiHeadAttention

from mmlens.architectures.attention_interface import looks_kernel_up
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


@torch.no_grad()
def test_a_module_with_attention_of_its_own_keeps_its_mask_under_hooks() -> None:
    plain = instructblip()
    bare = instructblip().hf_model
    for module in bare.modules():
        if isinstance(module, InstructBlipQFormerMultiHeadAttention):
            assert looks_kernel_up(module)
            module.__class__ = _WrittenOut
            module.config._attn_implementation_internal = "eager"
            assert not looks_kernel_up(module)
    model = HookedMultimodal.from_hf(bare, plain.processor)
    # the shorter sample is padded, in the Q-Former too
    batch = plain.prepare(
        ["what", "what is this , and where is it"], images=[picture(0), picture(1)], padding_side="left"
    )
    real = batch.layout.is_token
    expected = plain(batch)
    torch.testing.assert_close(model(batch)[real], expected[real], rtol=0, atol=1e-4)
    hooked = model.run_with_hooks(batch, fwd_hooks=[("*", lambda tensor, hook: None)])
    torch.testing.assert_close(hooked[real], model(batch)[real], rtol=0, atol=1e-4)
    kinds = {
        name.rpartition("_")[2] for name in model.graph.names if name.startswith("projector.") and ".attn." in name
    }
    assert kinds == {"z"}
