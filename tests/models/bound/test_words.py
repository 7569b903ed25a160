"""Tokens and weights of a bound model: texts are prompts about the picture; what does not exist says so."""

import pytest
import torch

from mmlens.core.errors import InputError
from tests.conftest import Subject
from tests.families.qwen_like import qwen3_5
from tests.tiny import picture


def test_a_text_is_a_prompt_about_the_picture(subject: Subject) -> None:
    model = subject.model
    bound = model.bind(model.prepare("what is the circle", images=picture(0)))
    expected = model.prepare("red circle", images=picture(0))["input_ids"]
    assert torch.equal(bound.to_tokens("red circle"), expected)
    assert len(bound.to_str_tokens("red circle")) == expected.shape[1]
    assert bound.to_str_tokens("red circle", prepend_bos=False) == ["red", "circle"]
    assert bound.get_token_position("circle", "red circle") == expected.shape[1] - 1
    assert torch.equal(bound.to_tokens(), bound.batch["input_ids"])


def test_texts_and_samples_go_together(llava: Subject) -> None:
    model = llava.model
    two = model.bind(model.prepare(["the red circle", "the blue"], images=[[picture(0)], [picture(1)]]))
    assert len(two.to_tokens(["the red", "a"])) == 2
    with pytest.raises(InputError, match=r"bound to 2 samples, each with pictures of its own, found 1 texts"):
        two.to_tokens("the red")
    tensors = model.bind(model.batch(dict(two.batch)))
    assert tensors.to_tokens("the red", prepend_bos=False).shape == (1, 2)
    with pytest.raises(InputError, match="made of tensors, so the pictures are not at hand"):
        tensors.to_tokens(["the red", "a"])


def test_what_does_not_exist_is_named(llava: Subject) -> None:
    bound = llava.model.bind(llava.model.prepare("the red circle", images=picture(0)))
    with pytest.raises(InputError, match=r"The token 'sand' \(id \d+\) is not in the prompt, which ends in .*'circle'"):
        bound.get_token_position("sand", "the red circle")
    with pytest.raises(InputError, match=r"int_token=1000 is no id: the vocabulary has ids 0\.\.31"):
        bound.to_single_str_token(1000)
    with pytest.raises(InputError, match=r"layer_idx=9 must lie in 0\.\.2"):
        bound.block_hooks(9)
    with pytest.raises(InputError, match="No block has 'mamba'; blocks have attn, ln1, ln2, mlp"):
        bound.stack_params_for("mamba", "mamba.W")
    with pytest.raises(AttributeError, match=r"blocks\.0\.attn\.hook_zz does not exist here\. Nearest: hook_z"):
        bound.blocks[0].attn.hook_zz  # noqa: B018
    with pytest.raises(AttributeError, match="weights are never folded here"):
        bound.enable_compatibility_mode()


@pytest.mark.parametrize("sparse", [False, True])
def test_blocks_without_attention_or_with_experts_are_left_out(sparse: bool) -> None:
    model = qwen3_5(sparse)
    bound = model.bind(model.prepare("the circle", images=picture(0)))
    layers = [layer for layer, block in enumerate(model.blocks) if block.attn is not None]
    assert layers == [1]
    assert bound.composition_layer_indices() == layers
    assert bound.attn_head_labels == [f"L1H{head}" for head in range(model.cfg.n_heads)]
    names = dict(bound.tl_named_parameters())
    assert [name for name in names if name.endswith("attn.W_Q")] == ["blocks.1.attn.W_Q"]
    assert any("mlp.W_in" in name for name in names) != sparse, "neurons of experts are in no one matrix"
    dense = model.blocks[1].attn
    assert dense is not None
    torch.testing.assert_close(names["blocks.1.attn.W_O"], dense.W_O)
