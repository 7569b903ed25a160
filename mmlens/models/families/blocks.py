"""Block structures that many families share."""

from dataclasses import replace

from mmlens.models.family import Attention, Block, Language, Mlp, Norm, Stack


def _projected(output: str) -> Attention:
    """Attention with a linear each for queries, keys and values, whose last linear has the given name."""
    q, k, v = (f"self_attn.{name}_proj" for name in "qkv")
    return Attention(kernel="self_attn", branch="self_attn", q=q, k=k, v=v, o=f"self_attn.{output}")


#: Llama, Mistral, Qwen2, Vicuna: pre-norm (RMS), gated MLP.
LLAMA_BLOCK = Block(
    attn=_projected("o_proj"),
    mlp=Mlp(down="mlp.down_proj", up="mlp.up_proj", gate="mlp.gate_proj", act="mlp.act_fn", branch="mlp"),
    ln1=Norm("input_layernorm"),
    ln2=Norm("post_attention_layernorm"),
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


#: CLIP and SigLIP: pre-norm (layer norm), two-layer MLP.
CLIP_BLOCK = Block(
    attn=_projected("out_proj"),
    mlp=Mlp(down="mlp.fc2", up="mlp.fc1", act="mlp.activation_fn", branch="mlp"),
    ln1=Norm("layer_norm1", centred=True),
    ln2=Norm("layer_norm2", centred=True),
)

#: The vision transformer of the BLIP models: as CLIP, with fused queries, keys and values.
BLIP_BLOCK = replace(
    CLIP_BLOCK, attn=Attention(kernel="self_attn", branch="self_attn", qkv="self_attn.qkv", o="self_attn.projection")
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
