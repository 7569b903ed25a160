"""One part of a model, seen as TransformerLens sees a model: its blocks' weights, stacked ones, and a configuration."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import nn
from transformer_lens import FactoredMatrix
from transformer_lens.config import TransformerBridgeConfig

from mmlens.architectures.blocks import blocks_of, fitting, heads_of
from mmlens.architectures.modules import submodule
from mmlens.architectures.weights import AttentionWeights, MlpWeights
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index
from mmlens.core.names import Part
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Block, Config
from mmlens.models.part_config import StackShape, config_without_blocks, part_config


@dataclass(frozen=True)
class BlockWeights:
    """One block: `block.attn.W_Q`, `block.mlp.W_out`, `block.ln1`.

    Attributes:
        module: the real block.
        attn: self-attention weights; None in blocks without self-attention.
        mlp: MLP weights; None for mixtures of experts whose neurons exist in no module.
        kind: how it is declared.
        shared: the weights of a mixture's expert that all rows pass through, if it has one.
    """

    module: nn.Module
    attn: AttentionWeights | None
    mlp: MlpWeights | None
    kind: Block
    shared: MlpWeights | None = None

    @property
    def ln1(self) -> nn.Module | None:
        """The norm in front of attention, if there is one."""
        return submodule(self.module, self.kind.ln1.path, "norm") if self.kind.ln1 else None

    @property
    def ln2(self) -> nn.Module | None:
        """The norm in front of the MLP, if there is one."""
        return submodule(self.module, self.kind.ln2.path, "norm") if self.kind.ln2 else None


class PartView:
    """One part of a model: its blocks and weights, and a configuration in TransformerLens's terms.

    Attributes:
        name: which part.
        cfg: `n_layers`, `d_model`, `n_heads`, `d_head`, `d_mlp`, ... of this part.
        blocks: its blocks.
    """

    def __init__(self, name: Part, cfg: TransformerBridgeConfig, blocks: list[BlockWeights]):
        self.name = name
        self.cfg = cfg
        self.blocks = blocks

    def __repr__(self) -> str:
        c = self.cfg
        return f"PartView({self.name}: {c.n_layers} layers, d_model {c.d_model}, {c.n_heads} heads, d_mlp {c.d_mlp})"

    def _stack(self, branch: Literal["attn", "mlp"], name: str) -> torch.Tensor:
        if not self.blocks:
            raise InputError(f"The part {self.name!r} has no blocks.")
        missing = [layer for layer, block in enumerate(self.blocks) if getattr(block, branch) is None]
        if missing:
            raise InputError(
                f"{name} cannot be stacked for the part {self.name!r}: blocks {missing} have none (other kinds of block); "
                f"read it block by block, .blocks[i].{branch}.{name}."
            )
        weights = [getattr(getattr(block, branch), name) for block in self.blocks]
        shapes = [list(weight.shape) for weight in weights]
        if any(shape != shapes[0] for shape in shapes):
            other = next(layer for layer, shape in enumerate(shapes) if shape != shapes[0])
            raise InputError(
                f"{name} cannot be stacked for the part {self.name!r}: its blocks differ in shape ({shapes[0]} in block 0, "
                f"{shapes[other]} in block {other}); read it block by block, .blocks[i].{branch}.{name}."
            )
        return torch.stack(weights)

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

    @property
    def b_Q(self) -> Float[torch.Tensor, "layer head d_head"]:
        """Query biases (a copy), zero where a family has none, as all biases here."""
        return self._stack("attn", "b_Q")

    @property
    def b_K(self) -> Float[torch.Tensor, "layer head d_head"]:
        """Key biases, one per grouped head (a copy)."""
        return self._stack("attn", "b_K")

    @property
    def b_V(self) -> Float[torch.Tensor, "layer head d_head"]:
        """Value biases, one per grouped head (a copy)."""
        return self._stack("attn", "b_V")

    @property
    def b_O(self) -> Float[torch.Tensor, "layer d_model"]:
        """Output biases of attention (a copy)."""
        return self._stack("attn", "b_O")

    @property
    def b_in(self) -> Float[torch.Tensor, "layer neuron"]:
        """Input biases of the MLPs (a copy)."""
        return self._stack("mlp", "b_in")

    @property
    def b_out(self) -> Float[torch.Tensor, "layer d_model"]:
        """Output biases of the MLPs (a copy)."""
        return self._stack("mlp", "b_out")

    @property
    def OV(self) -> FactoredMatrix:
        """What each head moves, `W_V W_O`, `[layer head d_model d_model]`: from the normed stream it sees to what it writes."""
        return FactoredMatrix(self._every_head(self.W_V), self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """What each head looks for, `W_Q W_K^T`, `[layer head d_model d_model]`; with rotary embeddings, at distance zero."""
        return FactoredMatrix(self.W_Q, self._every_head(self.W_K).transpose(-2, -1))

    def _every_head(self, grouped: torch.Tensor) -> torch.Tensor:
        """Keys' or values' weights, one per head where several heads share them."""
        return grouped.repeat_interleave(self.cfg.n_heads // grouped.shape[1], dim=1)

    @checked
    def accumulated_bias(self, layer: Index, mlp_input: bool = False, include_mlp_biases: bool = True) -> torch.Tensor:
        """Sum of the biases that the blocks before `layer` add to the stream, `[d_model]`.

        Args:
            layer: blocks before this one count.
            mlp_input: count this block's attention too.
            include_mlp_biases: count the MLPs' biases.

        Raises:
            InputError: for a layer beyond the last one's end.
        """
        if layer > len(self.blocks):
            raise InputError(f"layer={layer} must lie in 0..{len(self.blocks)}: there are {len(self.blocks)} blocks.")
        biases = []
        for number, block in enumerate(self.blocks[: layer + 1]):
            if block.attn is not None and (number < layer or mlp_input):
                biases.append(block.attn.b_O)
            if block.mlp is not None and number < layer and include_mlp_biases:
                biases.append(block.mlp.b_out)
        return torch.stack(biases).sum(0) if biases else torch.zeros(self.cfg.d_model, dtype=self.cfg.dtype)


def part_view(
    name: Part, family: Family, model: nn.Module, config: Config, device: str, dtype: torch.dtype
) -> PartView:
    """The view of one part of a model.

    A projector without blocks has `n_layers` 0; of a tower with several stacks, the first is viewed.
    """
    declaration = getattr(family, name)
    stack = declaration.stacks[0] if name == "vision" else declaration.stack
    if stack is None:
        return PartView(name, config_without_blocks(model, declaration.mlp, config, device, dtype), [])
    modules = blocks_of(submodule(model, stack.path, family.name), stack)
    kinds = [fitting(stack.kinds, module) for module in modules]
    heads = [heads_of(stack, kind, module, config) for kind, module in zip(kinds, modules, strict=True)]
    blocks = [_block_weights(*pieces) for pieces in zip(modules, kinds, heads, strict=True)]
    stack_shape = StackShape(
        modules=modules,
        kind=kinds[0],
        heads=heads[0],
        attn=next((block.attn for block in blocks if block.attn is not None), None),
        mlp=next((block.mlp for block in blocks if block.mlp is not None), None),
    )
    return PartView(name, part_config(name, stack, stack_shape, family, model, config, device, dtype), blocks)


def _block_weights(module: nn.Module, kind: Block, heads: int) -> BlockWeights:
    """The weights that one block has: blocks of mixtures or other mixers lack some."""
    return BlockWeights(
        module,
        None if kind.attn is None else AttentionWeights(module, kind.attn, heads),
        None if kind.mlp.down is None else MlpWeights(module, kind.mlp),
        kind,
        None if kind.mlp.shared is None else MlpWeights(module, kind.mlp.shared),
    )
