"""Language models of an encoder and a decoder that many families share: BART's and T5's."""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import projected
from mmlens.architectures.families.reading import text_config
from mmlens.declarations.family import Encoder, Language
from mmlens.declarations.structure import Attention, Block, Config, Mlp, Norm, Stack

#: BART: post-norm; the decoder's blocks look at the encoder between self-attention and MLP.
BART_BLOCK = Block(
    attn=projected("out_proj"),
    middle="self_attn_layer_norm",
    cross=projected("out_proj", "encoder_attn"),
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
        config=text_config,
        heads=lambda t: t.encoder_attention_heads,
        name="encoder.blocks",
    )
    decoder = replace(encoder, path=f"{path}.decoder.layers", heads=lambda t: t.decoder_attention_heads, name="blocks")
    return Language(stack=decoder, embed=f"{path}.decoder.embed_tokens", norm=None, head=head, encoder=Encoder(encoder))


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
        config=text_config,
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
