"""Block structures that many families share."""

from mmlens.models.family import Attention, Block, Mlp, Norm

#: Llama, Mistral, Qwen2, Vicuna: pre-norm (RMS), gated MLP.
LLAMA_BLOCK = Block(
    attn=Attention(
        kernel="self_attn",
        branch="self_attn",
        q="self_attn.q_proj",
        k="self_attn.k_proj",
        v="self_attn.v_proj",
        o="self_attn.o_proj",
    ),
    mlp=Mlp(down="mlp.down_proj", up="mlp.up_proj", gate="mlp.gate_proj", act="mlp.act_fn", branch="mlp"),
    ln1=Norm("input_layernorm"),
    ln2=Norm("post_attention_layernorm"),
)

#: CLIP and SigLIP: pre-norm (layer norm), two-layer MLP.
CLIP_BLOCK = Block(
    attn=Attention(
        kernel="self_attn",
        branch="self_attn",
        q="self_attn.q_proj",
        k="self_attn.k_proj",
        v="self_attn.v_proj",
        o="self_attn.out_proj",
    ),
    mlp=Mlp(down="mlp.fc2", up="mlp.fc1", act="mlp.activation_fn", branch="mlp"),
    ln1=Norm("layer_norm1", centred=True),
    ln2=Norm("layer_norm2", centred=True),
)

#: The vision transformer of the BLIP models: as CLIP, with fused queries, keys and values.
BLIP_BLOCK = Block(
    attn=Attention(kernel="self_attn", branch="self_attn", qkv="self_attn.qkv", o="self_attn.projection"),
    mlp=Mlp(down="mlp.fc2", up="mlp.fc1", act="mlp.activation_fn", branch="mlp"),
    ln1=Norm("layer_norm1", centred=True),
    ln2=Norm("layer_norm2", centred=True),
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
