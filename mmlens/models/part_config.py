"""The shape of a part in TransformerLens's terms: the configuration that its tools read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformer_lens.config import TransformerBridgeConfig

from mmlens.architectures.adapter_layers import base_layer
from mmlens.architectures.modules import find_module, out_features, submodule
from mmlens.architectures.weights import AttentionWeights, MlpWeights
from mmlens.core.names import Part
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Block, Config, Mlp, Stack

#: What TransformerLens writes where a soft cap is off.
_NO_CAP = -1.0


@dataclass(frozen=True)
class StackShape:
    """What is told of a stack of blocks.

    Attributes:
        modules: the blocks.
        kind: how the first of them is declared.
        heads: number of heads in the first of them.
        attn: attention weights of the first block that has any.
        mlp: MLP weights of the first block that has any.
    """

    modules: Sequence[nn.Module]
    kind: Block
    heads: int
    attn: AttentionWeights | None
    mlp: MlpWeights | None


def config_without_blocks(
    model: nn.Module, mlp: Mlp | None, config: Config, device: str, dtype: torch.dtype
) -> TransformerBridgeConfig:
    """The configuration of a projector that has no blocks."""
    d_mlp, d_model = (0, int(config.get_text_config().hidden_size))
    if mlp is not None:
        d_mlp, d_model = MlpWeights(model, mlp).W_out.shape
    return TransformerBridgeConfig(
        d_model=d_model, d_head=d_model, n_layers=0, n_ctx=0, n_heads=1, d_mlp=d_mlp, device=device, dtype=dtype
    )


def part_config(
    name: Part,
    stack: Stack,
    shape: StackShape,
    family: Family,
    model: nn.Module,
    config: Config,
    device: str,
    dtype: torch.dtype,
) -> TransformerBridgeConfig:
    """The configuration of a part with blocks, read from its modules wherever they tell."""
    part_settings, kind, first = stack.config(config), shape.kind, shape.modules[0]
    language = name == "language"
    declaration = family.language.norm if language else kind.ln1
    norm = (
        None
        if declaration is None
        else base_layer(submodule(model if language else first, declaration.path, family.name))
    )
    is_centred = declaration is None or norm is None or declaration.is_centred(norm)
    vocab = int(part_settings.vocab_size) if language else -1
    return TransformerBridgeConfig(
        model_name=str(getattr(config, "name_or_path", "") or getattr(config, "model_type", family.name)),
        architecture=type(model).__name__,
        d_model=out_features(submodule(first, kind.width_path, family.name)),
        d_head=shape.attn.d_head if shape.attn else out_features(submodule(first, kind.width_path, family.name)),
        n_layers=len(shape.modules),
        n_ctx=int(getattr(part_settings, "max_position_embeddings", 0) or 0),
        n_heads=shape.heads,
        n_key_value_heads=shape.attn.kv_heads if shape.attn else shape.heads,
        d_mlp=shape.mlp.d_mlp if shape.mlp else 0,
        d_vocab=vocab,
        d_vocab_out=vocab,
        act_fn=str(
            getattr(part_settings, "hidden_act", None) or getattr(part_settings, "hidden_activation", None) or ""
        ),
        gated_mlp=kind.mlp.gate is not None or kind.mlp.gate_up is not None,
        normalization_type="LN" if is_centred else "RMS",
        uses_rms_norm=not is_centred,
        final_rms=language and not is_centred,
        rmsnorm_uses_offset=declaration is not None and declaration.offset == 1,
        eps=_eps_of(norm, part_settings),
        positional_embedding_type=_positions_of(part_settings, stack, model, first),
        rotary_base=_rotary_base(part_settings),
        parallel_attn_mlp=kind.parallel,
        attention_dir="causal" if language else "bidirectional",
        attn_scores_soft_cap=float(getattr(part_settings, "attn_logit_softcapping", None) or _NO_CAP),
        output_logits_soft_cap=float(getattr(part_settings, "final_logit_softcapping", None) or _NO_CAP)
        if language
        else _NO_CAP,
        tie_word_embeddings=bool(getattr(config, "tie_word_embeddings", False)) if language else False,
        is_multimodal=language and family.score is None,
        device=device,
        dtype=dtype,
    )


def _eps_of(norm: nn.Module | None, settings: Config) -> float:
    """What a norm adds to the variance: as the module says, else as the configuration does."""
    for holder, names in ((norm, ("variance_epsilon", "eps")), (settings, ("rms_norm_eps", "layer_norm_eps"))):
        for key in names:
            value: Any = getattr(holder, key, None)
            if isinstance(value, float):
                return value
    return 1e-5


def _rotary_base(settings: Config) -> float:
    """The base of rotary frequencies; TransformerLens's default where there are none, or several."""
    parameters: Any = getattr(settings, "rope_parameters", None) or {}
    base = parameters.get("rope_theta", None) or getattr(settings, "rope_theta", None)
    return float(base) if isinstance(base, int | float) else 10000


def _positions_of(settings: Config, stack: Stack, model: nn.Module, block: nn.Module) -> str:
    """How a part knows positions, in TransformerLens's words: by its modules, else by its configuration."""
    names = [type(module).__name__ for module in _around(model, stack.path, block)]
    if any("Rotary" in name or "Rope" in name for name in names):
        return "rotary"
    if getattr(settings, "rope_parameters", None) or getattr(settings, "rope_theta", None):
        return "rotary"
    if getattr(settings, "relative_attention_num_buckets", None):
        return "relative_positional_bias"
    return "alibi" if getattr(settings, "alibi", False) else "standard"


def _around(model: nn.Module, path: str, block: nn.Module) -> Iterator[nn.Module]:
    """The modules of a block, and those beside the list of blocks and beside what holds it."""
    yield from block.modules()
    for _ in range(2):
        path = path.rpartition(".")[0]
        holder = find_module(model, path) if path else None
        if holder is not None:
            yield from holder.children()
