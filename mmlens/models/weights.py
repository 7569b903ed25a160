"""Weights under TransformerLens's names: views of the real parameters, per block and stacked per part."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import nn
from transformer_lens.config import TransformerLensConfig

from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.core.names import Part
from mmlens.models.blocks import blocks_of, fitting
from mmlens.models.collect import in_features, out_features, submodule
from mmlens.models.structure import Attention, Block, Mlp, Norm


def readable(linear: nn.Module, what: str) -> torch.Tensor:
    """A linear's weight `[out in]` as it acts, if it can be read as numbers; under a LoRA adapter, the sum of both.

    Raises:
        UnsupportedModelError: for quantised or offloaded weights.
    """
    weight = linear.weight
    plain = isinstance(weight, torch.Tensor) and weight.is_floating_point() and type(weight.data) is torch.Tensor
    if not plain:
        kind = getattr(weight, "dtype", type(weight).__name__)
        raise UnsupportedModelError(
            f"{what} is quantised ({kind}) and cannot be read; load the model in a floating dtype."
        )
    if weight.is_meta:  # type: ignore[union-attr]
        raise UnsupportedModelError(
            f"{what} is offloaded, so its numbers are not in memory between forwards; load the model without offloading to "
            "read its weights."
        )
    return _adapted(linear, weight)  # type: ignore[arg-type]


def _adapted(linear: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A weight with what peft's active adapters add to it."""
    delta: Any = getattr(linear, "get_delta_weight", None)
    if delta is None or linear.merged or linear.disable_adapters:
        return weight
    adapters = [name for name in linear.active_adapters if name in linear.lora_A]  # type: ignore[union-attr, operator]
    for name in adapters:
        weight = weight + delta(name)
    return weight


@dataclass(frozen=True)
class AttentionWeights:
    """The weights of one attention branch; `head` counts grouped key and value heads for `W_K` and `W_V`.

    Attributes:
        module: the block.
        declared: where the linears are.
        heads: number of query heads.
    """

    module: nn.Module
    declared: Attention
    heads: int

    def _linear(self, path: str | None) -> nn.Module:
        if path is None:
            raise InputError(
                f"{type(self.module).__name__} has no one linear for these weights (Attention.q, k, v or qkv is not declared)."
            )
        return submodule(self.module, path, "attention")

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return in_features(self._linear(self.declared.o)) // self.heads

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        if self.declared.k is None and self.declared.qkv is None:
            return self.heads
        if self.declared.k is not None:
            return out_features(self._linear(self.declared.k)) // self.d_head
        return (out_features(self._linear(str(self.declared.qkv))) // self.d_head - self.heads) // 2

    def _part(self, which: int, own: str | None, bias: bool) -> torch.Tensor | None:
        """The weight `[out in]` (or bias `[out]`) of queries (0), keys (1) or values (2)."""
        linear = self._linear(own or self.declared.qkv)
        tensor = linear.bias if bias else readable(linear, own or str(self.declared.qkv))
        if tensor is None or own is not None:
            return tensor  # type: ignore[return-value]
        queries = self.heads * self.d_head
        grouped = (len(tensor) - queries) // 2  # type: ignore[arg-type]
        return tensor.split([queries, grouped, grouped])[which]  # type: ignore[operator, union-attr]

    def _by_head(self, which: int, tensor: torch.Tensor) -> torch.Tensor:
        """One entry per head along the first axis; of queries that come with a gate each, the queries."""
        heads = tensor.unflatten(0, (-1, self.d_head))
        return heads[::2] if which == 0 and self.declared.gated else heads

    def _weight(self, which: int, own: str | None) -> Float[torch.Tensor, "head d_model d_head"]:
        weight = self._part(which, own, bias=False)
        return self._by_head(which, weight).transpose(1, 2)  # type: ignore[arg-type]

    def _bias(self, which: int, own: str | None) -> Float[torch.Tensor, "head d_head"]:
        bias = self._part(which, own, bias=True)
        if bias is None:
            weight = self._weight(which, own)
            return weight.new_zeros(weight.shape[0], weight.shape[2])
        return self._by_head(which, bias)

    @property
    def W_Q(self) -> Float[torch.Tensor, "head d_model d_head"]:
        """Query weights."""
        return self._weight(0, self.declared.q)

    @property
    def W_K(self) -> Float[torch.Tensor, "head d_model d_head"]:
        """Key weights."""
        return self._weight(1, self.declared.k)

    @property
    def W_V(self) -> Float[torch.Tensor, "head d_model d_head"]:
        """Value weights."""
        return self._weight(2, self.declared.v)

    @property
    def W_O(self) -> Float[torch.Tensor, "head d_head d_model"]:
        """Output weights."""
        weight = readable(self._linear(self.declared.o), self.declared.o)
        return weight.T.unflatten(0, (self.heads, self.d_head))

    @property
    def b_Q(self) -> Float[torch.Tensor, "head d_head"]:
        """Query biases, zero if the family has none."""
        return self._bias(0, self.declared.q)

    @property
    def b_K(self) -> Float[torch.Tensor, "head d_head"]:
        """Key biases, zero if the family has none."""
        return self._bias(1, self.declared.k)

    @property
    def b_V(self) -> Float[torch.Tensor, "head d_head"]:
        """Value biases, zero if the family has none."""
        return self._bias(2, self.declared.v)

    @property
    def b_O(self) -> Float[torch.Tensor, "d_model"]:
        """Output bias, zero if the family has none."""
        return _bias(self._linear(self.declared.o))


@dataclass(frozen=True)
class MlpWeights:
    """The weights of one MLP.

    Attributes:
        module: the block, or the model for a projector's MLP.
        declared: where the linears are.
    """

    module: nn.Module
    declared: Mlp

    def _linear(self, path: str) -> nn.Module:
        return submodule(self.module, path, "mlp")

    def _into(self, which: int, own: str | None) -> Float[torch.Tensor, "d_model neuron"]:
        """The weights of the gate (0) or of the linear path in (1), which may be one linear."""
        path = own or str(self.declared.gate_up)
        weight = readable(self._linear(path), path)
        return (weight if own else weight.chunk(2)[self._half(which)]).T

    def _half(self, which: int) -> int:
        """Which half of a fused linear is the gate (0) or the linear path in (1)."""
        return 1 - which if self.declared.up_first else which

    @property
    def d_mlp(self) -> int:
        """Number of hidden neurons."""
        return in_features(self._linear(str(self.declared.down)))

    @property
    def W_in(self) -> Float[torch.Tensor, "d_model neuron"]:
        """Weights of the linear path in."""
        return self._into(1, self.declared.up)

    @property
    def W_gate(self) -> Float[torch.Tensor, "d_model neuron"]:
        """Weights of the gate.

        Raises:
            InputError: if the MLP has no gate.
        """
        if self.declared.gate is None and self.declared.gate_up is None:
            raise InputError("This MLP has no gate; its input weights are W_in.")
        return self._into(0, self.declared.gate)

    @property
    def W_out(self) -> Float[torch.Tensor, "neuron d_model"]:
        """Output weights: row i is what neuron i writes per unit of `mlp.hook_post`."""
        return readable(self._linear(str(self.declared.down)), str(self.declared.down)).T

    @property
    def b_in(self) -> Float[torch.Tensor, "neuron"]:
        """Input bias, zero if the family has none."""
        if self.declared.up is None:
            return _bias(self._linear(str(self.declared.gate_up))).chunk(2)[self._half(1)]
        return _bias(self._linear(self.declared.up))

    @property
    def b_out(self) -> Float[torch.Tensor, "d_model"]:
        """Output bias, zero if the family has none."""
        return _bias(self._linear(str(self.declared.down)))


def _bias(linear: nn.Module) -> torch.Tensor:
    bias = linear.bias
    if bias is None:
        return linear.weight.new_zeros(linear.out_features)  # type: ignore[operator, union-attr]
    return bias  # type: ignore[return-value]


@dataclass(frozen=True)
class BlockWeights:
    """One block: `block.attn.W_Q`, `block.mlp.W_out`, `block.ln1`.

    Attributes:
        module: the real block.
        attn: self-attention weights; None in blocks without self-attention.
        mlp: MLP weights; None for mixtures of experts whose neurons exist in no module.
        norms: the norms in front of the branches.
        shared: the weights of a mixture's expert that all rows pass through, if it has one.
    """

    module: nn.Module
    attn: AttentionWeights | None
    mlp: MlpWeights | None
    norms: tuple[Norm | None, Norm | None] = (None, None)
    shared: MlpWeights | None = None

    @property
    def ln1(self) -> nn.Module | None:
        """The norm in front of attention, if there is one."""
        return submodule(self.module, self.norms[0].path, "norm") if self.norms[0] else None

    @property
    def ln2(self) -> nn.Module | None:
        """The norm in front of the MLP, if there is one."""
        return submodule(self.module, self.norms[1].path, "norm") if self.norms[1] else None


class PartView:
    """One part of a model: its blocks and weights, and a configuration in TransformerLens's terms.

    Attributes:
        name: which part.
        cfg: `n_layers`, `d_model`, `n_heads`, `d_head`, `d_mlp`, ... of this part.
        blocks: its blocks.
    """

    def __init__(self, name: Part, cfg: TransformerLensConfig, blocks: list[BlockWeights]):
        self.name = name
        self.cfg = cfg
        self.blocks = blocks

    def __repr__(self) -> str:
        c = self.cfg
        return f"PartView({self.name}: {c.n_layers} layers, d_model {c.d_model}, {c.n_heads} heads, d_mlp {c.d_mlp})"

    def _stack(self, branch: Literal["attn", "mlp"], name: str) -> torch.Tensor:
        if not self.blocks:
            raise InputError(f"The part {self.name!r} has no blocks.")
        lacking = [layer for layer, block in enumerate(self.blocks) if getattr(block, branch) is None]
        if lacking:
            raise InputError(
                f"{name} cannot be stacked for the part {self.name!r}: blocks {lacking} have none (other kinds of block); "
                f"read it block by block, .blocks[i].{branch}.{name}."
            )
        return torch.stack([getattr(getattr(block, branch), name) for block in self.blocks])

    @property
    def W_in(self) -> Float[torch.Tensor, "layer d_model neuron"]:
        """Input weights of the MLPs (stacked: a copy; `blocks[i].mlp.W_in` is a view)."""
        return self._stack("mlp", "W_in")

    @property
    def W_gate(self) -> Float[torch.Tensor, "layer d_model neuron"]:
        """Gate weights of the MLPs (a copy)."""
        return self._stack("mlp", "W_gate")

    @property
    def W_out(self) -> Float[torch.Tensor, "layer neuron d_model"]:
        """Output weights of the MLPs (a copy)."""
        return self._stack("mlp", "W_out")

    @property
    def W_Q(self) -> Float[torch.Tensor, "layer head d_model d_head"]:
        """Query weights (a copy)."""
        return self._stack("attn", "W_Q")

    @property
    def W_K(self) -> Float[torch.Tensor, "layer head d_model d_head"]:
        """Key weights, one per grouped head (a copy)."""
        return self._stack("attn", "W_K")

    @property
    def W_V(self) -> Float[torch.Tensor, "layer head d_model d_head"]:
        """Value weights, one per grouped head (a copy)."""
        return self._stack("attn", "W_V")

    @property
    def W_O(self) -> Float[torch.Tensor, "layer head d_head d_model"]:
        """Output weights of attention (a copy)."""
        return self._stack("attn", "W_O")

    def accumulated_bias(self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> torch.Tensor:
        """Sum of the biases that the blocks before `layer` add to the stream, `[d_model]`.

        Args:
            layer: blocks before this one count.
            mlp_input: count this block's attention too.
            include_mlp_biases: count the MLPs' biases.
        """
        biases = []
        for number, block in enumerate(self.blocks[: layer + 1]):
            if block.attn is not None and (number < layer or mlp_input):
                biases.append(block.attn.b_O)
            if block.mlp is not None and number < layer and include_mlp_biases:
                biases.append(block.mlp.b_out)
        return torch.stack(biases).sum(0) if biases else torch.zeros(self.cfg.d_model, dtype=self.cfg.dtype)


def part_view(name: Part, family: Any, model: nn.Module, config: Any, device: str, dtype: torch.dtype) -> PartView:
    """The view of one part of a model.

    A projector without blocks has `n_layers` 0; of a tower with several stacks, the first is viewed.
    """
    declared = getattr(family, name)
    stack = declared.stacks[0] if name == "vision" else declared.stack
    language = name == "language"
    if stack is None:
        d_mlp, d_model = (0, int(config.get_text_config().hidden_size))
        if declared.mlp is not None:
            d_mlp, d_model = MlpWeights(model, declared.mlp).W_out.shape
        cfg = TransformerLensConfig(
            d_model=d_model, d_head=d_model, n_layers=0, n_ctx=0, n_heads=1, d_mlp=d_mlp, device=device, dtype=dtype
        )
        return PartView(name, cfg, [])
    own = stack.config(config)
    heads = stack.heads(own)
    modules = blocks_of(submodule(model, stack.path, family.name), stack)  # type: ignore[arg-type]
    blocks = [_block_weights(module, fitting(stack.kinds, module), heads) for module in modules]
    shape = fitting(stack.kinds, modules[0])
    attn = next((block.attn for block in blocks if block.attn is not None), None)
    mlp = next((block.mlp for block in blocks if block.mlp is not None), None)
    d_model = out_features(submodule(modules[0], shape.width_path, family.name))
    norm = declared.norm if language else shape.ln1
    root = model if language else modules[0]
    centred = norm is None or norm.is_centred(submodule(root, norm.path, family.name))
    cfg = TransformerLensConfig(
        d_model=d_model,
        d_head=attn.d_head if attn else d_model,
        n_layers=len(modules),
        n_ctx=int(getattr(own, "max_position_embeddings", 0) or 0),
        n_heads=heads,
        n_key_value_heads=attn.kv_heads if attn else heads,
        d_mlp=mlp.d_mlp if mlp else 0,
        d_vocab=int(own.vocab_size) if language else -1,
        act_fn=str(getattr(own, "hidden_act", "")),
        gated_mlp=shape.mlp.gate is not None or shape.mlp.gate_up is not None,
        normalization_type="LN" if centred else "RMS",
        uses_rms_norm=not centred,
        eps=float(getattr(own, "rms_norm_eps", getattr(own, "layer_norm_eps", 1e-5))),
        device=device,
        dtype=dtype,
    )
    return PartView(name, cfg, blocks)


def _heads(block: nn.Module, attn: Attention, heads: int) -> int:
    """Number of heads of a block, given how many the stack has."""
    return heads if attn.heads is None else attn.heads(block)


def _block_weights(module: nn.Module, kind: Block, heads: int) -> BlockWeights:
    """The weights that one block has: blocks of mixtures or other mixers lack some."""
    return BlockWeights(
        module,
        None if kind.attn is None else AttentionWeights(module, kind.attn, _heads(module, kind.attn, heads)),
        None if kind.mlp.down is None else MlpWeights(module, kind.mlp),
        (kind.ln1, kind.ln2),
        None if kind.mlp.shared is None else MlpWeights(module, kind.mlp.shared),
    )
