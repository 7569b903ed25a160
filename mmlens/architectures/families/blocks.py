"""Block structures that many families share."""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.reading import feature_layers
from mmlens.declarations.family import Encoder, Language, Projector, Vision
from mmlens.declarations.structure import Attention, Block, Config, Mlp, Norm, Stack


def projected(output: str, module: str = "self_attn") -> Attention:
    """Attention with a linear each for queries, keys and values.

    Args:
        output: name of its last linear.
        module: the attention, relative to the block.
    """
    q, k, v = (f"{module}.{name}_proj" for name in "qkv")
    return Attention(kernel=module, branch=module, q=q, k=k, v=v, o=f"{module}.{output}")


#: Llama, Mistral, Qwen2, Vicuna: pre-norm (RMS), gated MLP.
LLAMA_BLOCK = Block(
    attn=projected("o_proj"),
    mlp=Mlp(down="mlp.down_proj", up="mlp.up_proj", gate="mlp.gate_proj", act="mlp.act_fn", branch="mlp"),
    ln1=Norm("input_layernorm"),
    ln2=Norm("post_attention_layernorm"),
)

#: A mixture of experts that hands every row to a shared expert too (DeepSeek, GLM, Mistral 4): its router returns logits.
SHARED_MIXTURE = Mlp(
    branch="mlp",
    router="mlp.gate",
    router_item=0,
    shared=Mlp(
        down="mlp.shared_experts.down_proj",
        up="mlp.shared_experts.up_proj",
        gate="mlp.shared_experts.gate_proj",
        act="mlp.shared_experts.act_fn",
    ),
)


def timm_stage(path: str, number: int, block: tuple[Block, ...]) -> Stack:
    """A stage of one of timm's towers of maps; the rows of the first one are the tower's own.

    Args:
        path: the module that holds its blocks.
        number: of the stage.
        block: what its blocks look like.
    """
    return Stack(
        path,
        block,
        config=lambda c: c.vision_config,
        name=f"stages.{number}.blocks",
        channels_first=True,
        rows=f"stages.{number}" if number else None,
    )


def llama_language(path: str, *, head: str) -> Language:
    """A Llama-like language model.

    Args:
        path: the module that holds its embedding, blocks and final norm.
        head: the unembedding.
    """
    return Language(
        stack=Stack(f"{path}.layers", LLAMA_BLOCK, config=lambda c: c.text_config),
        embed=f"{path}.embed_tokens",
        norm=Norm(f"{path}.norm"),
        head=head,
    )


#: Gemma: as Llama, with norms whose weight is the gain's distance from 1.
GEMMA_BLOCK = replace(
    LLAMA_BLOCK, ln1=Norm("input_layernorm", offset=1.0), ln2=Norm("post_attention_layernorm", offset=1.0)
)

#: Gemma 2 and 3: a norm in front of every branch and one behind it; what is added to the stream is the second's output.
GEMMA_SANDWICH_BLOCK = Block(
    attn=replace(projected("o_proj"), branch="post_attention_layernorm"),
    mlp=replace(LLAMA_BLOCK.mlp, branch="post_feedforward_layernorm"),
    ln1=Norm("input_layernorm", offset=1.0),
    ln2=Norm("pre_feedforward_layernorm", offset=1.0),
)


def gemma_language(path: str, *, head: str) -> Language:
    """A Gemma language model, of any generation up to the third; arguments as for `llama_language`."""
    return replace(
        llama_language(path, head=head),
        stack=Stack(f"{path}.layers", (GEMMA_SANDWICH_BLOCK, GEMMA_BLOCK), config=lambda c: c.text_config),
        norm=Norm(f"{path}.norm", offset=1.0),
    )


#: CLIP and SigLIP: pre-norm (layer norm), two-layer MLP.
CLIP_BLOCK = Block(
    attn=projected("out_proj"),
    mlp=Mlp(down="mlp.fc2", up="mlp.fc1", act="mlp.activation_fn", branch="mlp"),
    ln1=Norm("layer_norm1", centred=True),
    ln2=Norm("layer_norm2", centred=True),
)


def class_rows(config: Config) -> int:
    """Rows before the patches of a CLIP or SigLIP tower: CLIP puts a class row there, SigLIP does not."""
    return int(config.vision_config.model_type.startswith("clip"))


def clip_vision(path: str = "model.vision_tower") -> Vision:
    """A CLIP or SigLIP tower that is read at `vision_feature_layer`.

    Args:
        path: the tower.
    """
    stack = Stack(f"{path}.encoder.layers", CLIP_BLOCK, config=lambda c: c.vision_config)
    return Vision(stack=stack, read=feature_layers)


def two_layer_projector(path: str = "model.multi_modal_projector", *, argument: str = "image_features") -> Projector:
    """LLaVA's projector: two linears with an activation between them.

    Args:
        path: the projector.
        argument: the name by which it receives the vision features.
    """
    mlp = Mlp(down=f"{path}.linear_2", up=f"{path}.linear_1", act=f"{path}.act")
    return Projector(receives=(path, argument), returns=path, mlp=mlp)


#: The vision transformer of the BLIP models: as CLIP, with fused queries, keys and values.
BLIP_BLOCK = replace(
    CLIP_BLOCK, attn=Attention(kernel="self_attn", branch="self_attn", qkv="self_attn.qkv", o="self_attn.projection")
)

#: SAM: windows of a raster, attention in code of its own that adds relative positions.
SAM_BLOCK = Block(
    attn=Attention(kernel=None, branch="attn", qkv="attn.qkv", o="attn.proj"),
    mlp=Mlp(down="mlp.lin2", up="mlp.lin1", act="mlp.act", branch="mlp"),
    ln1=Norm("layer_norm1", centred=True),
    ln2=Norm("layer_norm2", centred=True),
    windows=True,
)

#: A Q-Former block: post-norm, queries and text attend together, queries alone look at the picture.
QFORMER_BLOCK = Block(
    attn=Attention(
        kernel="attention.attention",
        branch="attention.output.dense",
        q="attention.attention.query",
        k="attention.attention.key",
        v="attention.attention.value",
        o="attention.output.dense",
    ),
    middle="attention.output",
    cross=Attention(
        kernel="crossattention.attention",
        branch="crossattention.output.dense",
        q="crossattention.attention.query",
        k="crossattention.attention.key",
        v="crossattention.attention.value",
        o="crossattention.output.dense",
    ),
    cross_middle="crossattention.output",
    mlp=Mlp(
        down="output_query.dense",
        up="intermediate_query.dense",
        act="intermediate_query.intermediate_act_fn",
        branch="output_query.dense",
    ),
    text_mlp=Mlp(
        down="output.dense", up="intermediate.dense", act="intermediate.intermediate_act_fn", branch="output.dense"
    ),
)

#: BART: post-norm; the decoder's blocks look at the encoder between self-attention and MLP.
BART_BLOCK = Block(
    attn=projected("out_proj"),
    middle="self_attn_layer_norm",
    cross=Attention(
        kernel="encoder_attn",
        branch="encoder_attn",
        q="encoder_attn.q_proj",
        k="encoder_attn.k_proj",
        v="encoder_attn.v_proj",
        o="encoder_attn.out_proj",
    ),
    cross_middle="encoder_attn_layer_norm",
    mlp=Mlp(down="fc2", up="fc1", act="activation_fn", branch="fc2"),
)


def bart_language(path: str, *, head: str) -> Language:
    """A BART-like encoder-decoder, whose blocks end with a norm of their own.

    Args:
        path: the module that holds encoder and decoder.
        head: the unembedding.
    """
    encoder = Stack(
        f"{path}.encoder.layers",
        BART_BLOCK,
        config=lambda c: c.text_config,
        heads=lambda t: t.encoder_attention_heads,
        name="encoder.blocks",
    )
    decoder = Stack(
        f"{path}.decoder.layers",
        BART_BLOCK,
        config=lambda c: c.text_config,
        heads=lambda t: t.decoder_attention_heads,
    )
    return Language(
        stack=decoder,
        embed=f"{path}.decoder.embed_tokens",
        norm=None,
        head=head,
        encoder=Encoder(encoder),
    )


def _t5_attention(path: str) -> Attention:
    q, k, v, o = (f"{path}.{name}" for name in "qkvo")
    return Attention(kernel=path, branch=path, q=q, k=k, v=v, o=o)


def _t5_blocks(last: int, cross: Attention | None) -> tuple[Block, ...]:
    """T5's blocks, whose MLP is gated or not.

    Args:
        last: number of the sub-layer that holds the MLP.
        cross: the attention to the encoder, in the decoder.
    """
    dense = f"layer.{last}.DenseReluDense"
    plain = Mlp(down=f"{dense}.wo", up=f"{dense}.wi", act=f"{dense}.act", branch=dense)
    gated = replace(plain, up=f"{dense}.wi_1", gate=f"{dense}.wi_0")
    return tuple(
        Block(
            attn=_t5_attention("layer.0.SelfAttention"),
            middle="layer.0",
            cross=cross,
            cross_middle=None if cross is None else "layer.1",
            mlp=mlp,
            ln1=Norm("layer.0.layer_norm"),
            ln2=Norm(f"layer.{last}.layer_norm"),
        )
        for mlp in (gated, plain)
    )


def t5_language(path: str, *, head: str) -> Language:
    """A T5-like encoder-decoder: pre-norm (RMS), relative position biases.

    Args:
        path: the module that holds encoder and decoder.
        head: the unembedding.
    """
    encoder = Stack(
        f"{path}.encoder.block",
        _t5_blocks(1, None),
        config=lambda c: c.text_config,
        heads=lambda t: t.num_heads,
        name="encoder.blocks",
    )
    decoder = replace(
        encoder,
        path=f"{path}.decoder.block",
        block=_t5_blocks(2, _t5_attention("layer.1.EncDecAttention")),
        name="blocks",
    )
    return Language(
        stack=decoder,
        embed=f"{path}.shared",
        norm=Norm(f"{path}.decoder.final_layer_norm"),
        head=head,
        encoder=Encoder(encoder, norm=Norm(f"{path}.encoder.final_layer_norm")),
    )


def decoder_start(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """What an encoder-decoder's decoder has written at first: its start token; nothing in other language models."""
    text = config.text_config
    if not text.is_encoder_decoder:
        return {}
    samples = len(tensors["input_ids"])
    return {"decoder_input_ids": torch.full((samples, 1), text.decoder_start_token_id)}
