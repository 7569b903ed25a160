"""Block structures that many families share."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from mmlens.architectures.families.reading import feature_layers, last_block, text_config, vision_config
from mmlens.declarations.family import Language, Read, Vision
from mmlens.declarations.structure import Attention, Block, Config, Mlp, Norm, Stack


def projected(output: str, module: str = "self_attn", *, branch: str | None = None, linear: str = "") -> Attention:
    """Attention with a linear each for queries, keys and values.

    Args:
        output: name of its last linear.
        module: the attention, relative to the block.
        branch: the module whose output is added to the stream; the attention itself if None.
        linear: what follows the names of the linears, where a module of that name wraps each.
    """
    q, k, v, o = (f"{module}.{name}{linear}" for name in ("q_proj", "k_proj", "v_proj", output))
    return Attention(kernel=module, branch=branch or module, q=q, k=k, v=v, o=o)


def gated_mlp(path: str = "mlp", *, act: str = "act_fn", branch: str | None = None) -> Mlp:
    """An MLP with a gate, its linears named as Llama's.

    Args:
        path: the MLP.
        act: name of its activation.
        branch: the module whose output is added to the stream, if any.
    """
    return Mlp(f"{path}.down_proj", f"{path}.up_proj", f"{path}.{act}", f"{path}.gate_proj", branch=branch)


#: Llama, Mistral, Qwen2, Vicuna: pre-norm (RMS), gated MLP.
LLAMA_BLOCK = Block(
    attn=projected("o_proj"),
    mlp=gated_mlp(branch="mlp"),
    ln1=Norm("input_layernorm"),
    ln2=Norm("post_attention_layernorm"),
)

#: Attention whose queries, keys and values are made of narrow latents (DeepSeek's).
LATENT_ATTENTION = Attention(kernel="self_attn", branch="self_attn", o="self_attn.o_proj", latent=True)

#: A mixture of experts that hands every row to a shared expert too (DeepSeek, GLM, Mistral 4): its router returns logits.
SHARED_MIXTURE = Mlp(branch="mlp", router="mlp.gate", router_item=0, shared=gated_mlp("mlp.shared_experts"))

#: A mixture of experts whose neurons exist in no module.
MIXTURE = Mlp(branch="mlp", router="mlp.gate", router_item=0)


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
        config=vision_config,
        name=f"stages.{number}.blocks",
        channels_first=True,
        rows=f"stages.{number}" if number else None,
    )


_FINAL_NORM = Norm("norm")


def llama_language(
    path: str = "model.language_model",
    block: Block | tuple[Block, ...] = LLAMA_BLOCK,
    *,
    norm: Norm = _FINAL_NORM,
    head: str = "lm_head",
) -> Language:
    """A language model of one stack of blocks, its parts named as Llama's.

    Args:
        path: the module that holds its embedding, blocks and final norm.
        block: what its blocks look like.
        norm: the final norm, relative to that module.
        head: the unembedding.
    """
    return Language(
        stack=Stack(f"{path}.layers", block, config=text_config),
        embed=f"{path}.embed_tokens",
        norm=replace(norm, path=f"{path}.{norm.path}"),
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


#: The language model of Gemma, of any generation up to the third, which reads its prompt both ways.
GEMMA_LANGUAGE = replace(
    llama_language(block=(GEMMA_SANDWICH_BLOCK, GEMMA_BLOCK), norm=Norm("norm", offset=1.0)), looks_ahead=True
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


def vision_tower(
    path: str,
    block: Block | tuple[Block, ...] = CLIP_BLOCK,
    *,
    read: Callable[[Config], Sequence[Read]] = last_block,
    packed: bool = False,
    lone_axis: int | None = None,
) -> Vision:
    """A tower of one stack of blocks.

    Args:
        path: the list of its blocks.
        block: what they look like.
        read: the blocks whose output is handed on, given the model's configuration.
        packed, lone_axis: as for `Stack`.
    """
    return Vision(Stack(path, block, config=vision_config, packed=packed, lone_axis=lone_axis), read)


def clip_vision(path: str = "model.vision_tower") -> Vision:
    """A CLIP or SigLIP tower that is read at `vision_feature_layer`.

    Args:
        path: the tower.
    """
    return vision_tower(f"{path}.encoder.layers", read=feature_layers)


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


def _bert_attention(path: str) -> Attention:
    q, k, v = (f"{path}.attention.{name}" for name in ("query", "key", "value"))
    return Attention(kernel=f"{path}.attention", branch=f"{path}.output.dense", q=q, k=k, v=v, o=f"{path}.output.dense")


#: A Q-Former block: post-norm, queries and text attend together, queries alone look at the picture.
QFORMER_BLOCK = Block(
    attn=_bert_attention("attention"),
    middle="attention.output",
    cross=_bert_attention("crossattention"),
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
