"""What a family declares about its blocks: where things are inside of one, in module paths. Nothing here runs a model.

Paths are relative to the block (inside stacks) or to the Hugging Face model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from mmlens.core.contract import checked
from mmlens.core.kinds import Text

#: What a branch's output is multiplied by before it is added to the stream, given the block: a number or a tensor.
Scale: TypeAlias = Callable[[nn.Module], "torch.Tensor | float"]
#: A Hugging Face configuration. Its attributes differ by family, so families read them and nobody else does.
Config: TypeAlias = Any


@checked
@dataclass(frozen=True)
class Attention:
    """An attention branch of a block; paths are relative to the block.

    Attributes:
        kernel: the module that calls transformers' registered attention function; None where attention is computed in
            code of its own, which lets nobody in: of the attention points there is then `hook_z` alone.
        branch: the module whose output is added to the stream (after a post-norm, if the family has one).
        o: the last linear, whose weight is `W_O`.
        q, k, v: the three linears, or
        qkv: the fused one, laid out `[q; k; v]` along its output.
        scale: what the branch's output is multiplied by before it is added (a gate, a layer scale), given the block.
        gated: `q` gives every head's query and, after it, a gate; what a head hands to `o` is `hook_z` times the
            gate's sigmoid.
        over_channels: queries and keys are the channels of a head, compared over all positions; `z` is read back by the
            position.
        joined: keys and values are made of two sequences: of the rows that cross-attention looks at and, behind them, of
            its own (perceivers); in self-attention of its own and, behind them, of those that cross-attention would look
            at.
        latent: keys and values are made of one narrow row per position, by no linears of their own; what heads compare has
            another width than what they read.
        heads: number of heads, given the block, where the stack's blocks differ in it.
    """

    kernel: str | None
    branch: str
    o: str
    q: str | None = None
    k: str | None = None
    v: str | None = None
    qkv: str | None = None
    scale: Scale | None = None
    gated: bool = False
    over_channels: bool = False
    joined: bool = False
    latent: bool = False
    heads: Callable[[nn.Module], int] | None = None


@checked
@dataclass(frozen=True)
class Mlp:
    """An MLP; paths are relative to the block (or to the model, for a projector's).

    Attributes:
        down: the last linear; its input is `mlp.hook_post`, its weight `W_out`. None for mixtures of experts whose
            hidden neurons exist in no module; such a model has no `mlp.hook_post` there.
        up: the first linear (`W_in`).
        act: the activation module; its input is `mlp.hook_pre`, its output `mlp.hook_act`.
        gate: the gate's linear (`W_gate`) in gated MLPs, whose activation is applied to the gate.
        gate_up: the fused linear of both, laid out `[gate; up]` along its output, or
        up_first: `[up; gate]`.
        branch: the module whose output is added to the stream; None where the MLP is not a branch of a block.
        router: the module that returns a mixture's router logits.
        router_item: where the router makes the choice of experts itself and returns its logits beside it: which item of
            what it returns they are.
        shared: an expert of a mixture that all rows pass through; its points are `mlp.shared.`.
        scale: as for `Attention`.
        flat: it runs on the rows of all samples in one sequence, and so does the norm in front of it; hooks see them
            sample by sample.
    """

    down: str | None = None
    up: str | None = None
    act: str | None = None
    gate: str | None = None
    gate_up: str | None = None
    up_first: bool = False
    branch: str | None = None
    router: str | None = None
    router_item: int | None = None
    shared: "Mlp | None" = None
    scale: Scale | None = None
    flat: bool = False


@checked
@dataclass(frozen=True)
class Norm:
    """A norm in front of a branch.

    Attributes:
        path: the module, relative to the block.
        centred: True for layer norm, False for RMS norm; given the norm, where checkpoints differ in it.
        offset: what is added to its weight to give the gain: 1 in Gemma's norms, whose weight is the gain's distance from 1.
    """

    path: Text
    centred: bool | Callable[[nn.Module], bool] = False
    offset: float = 0.0

    def is_centred(self, module: nn.Module) -> bool:
        """Whether a norm of this kind is a layer norm."""
        return self.centred if isinstance(self.centred, bool) else self.centred(module)


@checked
@dataclass(frozen=True)
class Block:
    """The inner structure of a block.

    Attributes:
        mlp: the MLP branch; an empty one where the block has none.
        attn: the self-attention branch; None in blocks that have none (cross-attention layers).
        mixer: the module of another sequence mixer (linear attention, convolution), whose output is added in the
            place of attention's.
        ln1, ln2: the norms in front of the branches; None in post-norm blocks.
        cross: a cross-attention branch between the two.
        middle: the module that returns the stream after self-attention, where the block has one (post-norm blocks); or
            after a first branch that is declared by nothing else (a mixer that adds its input by itself).
        cross_middle: the same after cross-attention.
        text_mlp: a second MLP for the text rows of a Q-Former.
        laurel: a module whose output is added beside attention's: a learned skip path (LAuReL).
        lookup: a third branch, behind the MLP, where an embedding that every token has for this block passes through a gate
            that reads the stream.
        parallel: both branches read the block's input, so that there is no stream between them.
        mixed: something else (a convolution) changes the stream in front of each branch, so that there is no stream
            between them that a branch could be moved for.
        begins: it makes the stream of its stage from one of other rows or another width, which is added to nothing: it has no
            `hook_resid_pre`, and no branch but the MLP.
        windows: the first branch may see windows of a raster, which the block's `window_partition` cuts and its
            `window_unpartition` puts together; hooks see the raster.
        when: whether a block is of this kind, given the block, where its modules alone do not tell.
    """

    mlp: Mlp = Mlp()
    attn: Attention | None = None
    mixer: str | None = None
    ln1: Norm | None = None
    ln2: Norm | None = None
    cross: Attention | None = None
    middle: str | None = None
    cross_middle: str | None = None
    text_mlp: Mlp | None = None
    laurel: str | None = None
    lookup: Mlp | None = None
    parallel: bool = False
    mixed: bool = False
    begins: bool = False
    windows: bool = False
    when: Callable[[nn.Module], bool] | None = None

    @property
    def width_path(self) -> str:
        """A linear whose output has the width of the stream."""
        branch, shared_expert = self.attn or self.cross, self.mlp.shared
        return self.mlp.down or (branch.o if branch else "") or (shared_expert and shared_expert.down) or ""


@checked
@dataclass(frozen=True)
class Stack:
    """A stack of blocks and its shape.

    Attributes:
        path: the `nn.ModuleList` of blocks.
        block: what each block looks like; several where blocks differ, the first that fits being used.
        config: the configuration of this tower, given the model's.
        heads: number of attention heads, given the tower's configuration.
        packed: the rows of all images lie in one sequence, without a batch axis.
        name: how its blocks are called after the part's prefix: `blocks`, `global_blocks`, `stages.0.blocks`.
        within: where each entry of the list holds several blocks, their names there in the order of execution.
        maps: the stream is a map, `batch d_vision row column`, which blocks flatten for their branches.
        nested: the stream is a raster, `batch row column d_vision`, in all modules; hooks see one axis of rows.
        channels_first: the stream is a map, `batch d_vision row column`, in all modules but attention's; hooks see its rows,
            one axis in raster order.
        active: blocks hand on several streams, `stream batch pos d_model`, of which their branches read and write the one of this
            number, given the tower's configuration; hooks see that one, and in the graph it stands for all.
        lone_axis: an axis of length one that modules hold beside those that hooks see: the batch axis of a packed tower.
        apart: a tower of its own beside the one before it, which reads the pixels.
        rows: what its rows are called where they are others than those of the tower's first stack; they have no places
            then.
    """

    path: Text
    block: Block | tuple[Block, ...]
    config: Callable[[Config], Config]
    heads: Callable[[Config], int] = lambda config: config.num_attention_heads
    packed: bool = False
    name: str = "blocks"
    within: tuple[str, ...] = ()
    maps: bool = False
    nested: bool = False
    channels_first: bool = False
    active: Callable[[Config], int] | None = None
    lone_axis: int | None = None
    apart: bool = False
    rows: str | None = None

    @property
    def kinds(self) -> tuple[Block, ...]:
        """The kinds of blocks, in the order in which they are tried."""
        return self.block if isinstance(self.block, tuple) else (self.block,)
