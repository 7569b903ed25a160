"""What a model family declares: where things are, in module paths. Nothing here runs a model.

A declaration is data: paths of `nn.Module`s relative to the Hugging Face model (for stacks) or to a block (inside
stacks). `models/build.py` turns it into hook points; adding a family is adding one file to `models/families/`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from mmlens.core.errors import InputError

#: What a branch's output is multiplied by before it is added to the stream, given the block: a number or a tensor.
Scale: TypeAlias = Callable[[nn.Module], "torch.Tensor | float"]
#: A Hugging Face configuration. Its attributes differ by family, so families read them and nobody else does.
Config: TypeAlias = Any


@dataclass(frozen=True)
class Attention:
    """An attention branch of a block; paths are relative to the block.

    Attributes:
        kernel: the module that calls transformers' registered attention function; None where attention is computed in
            code of its own, which lets nobody in: of the six attention points there is then `hook_z` alone.
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


@dataclass(frozen=True)
class Norm:
    """A norm in front of a branch.

    Attributes:
        path: the module, relative to the block.
        centred: True for layer norm, False for RMS norm; given the norm, where checkpoints differ in it.
        offset: what is added to its weight to give the gain: 1 in Gemma's norms, whose weight is the gain's distance from 1.
    """

    path: str
    centred: bool | Callable[[nn.Module], bool] = False
    offset: float = 0.0

    def is_centred(self, module: nn.Module) -> bool:
        """Whether a norm of this kind is a layer norm."""
        return self.centred if isinstance(self.centred, bool) else self.centred(module)


@dataclass(frozen=True)
class Block:
    """The inner structure of a block.

    Attributes:
        mlp: the MLP branch.
        attn: the self-attention branch; None in blocks that have none (cross-attention layers).
        mixer: the module of another sequence mixer (linear attention, convolution), whose output is added in the
            place of attention's.
        ln1, ln2: the norms in front of the branches; None in post-norm blocks.
        cross: a cross-attention branch between the two.
        middle: the module that returns the stream after self-attention, where the block has one (post-norm blocks).
        cross_middle: the same after cross-attention.
        text_mlp: a second MLP for the text rows of a Q-Former.
        lookup: a third branch, behind the MLP, where an embedding that every token has for this block passes through a gate
            that reads the stream.
        parallel: both branches read the block's input, so that there is no stream between them.
        mixed: something else (a convolution) changes the stream in front of each branch, so that there is no stream
            between them that a branch could be moved for.
        windows: the first branch may see windows of a raster, which the block's `window_partition` cuts and its
            `window_unpartition` puts together; hooks see the raster.
        when: whether a block is of this kind, given the block, where its modules alone do not tell.
    """

    mlp: Mlp
    attn: Attention | None = None
    mixer: str | None = None
    ln1: Norm | None = None
    ln2: Norm | None = None
    cross: Attention | None = None
    middle: str | None = None
    cross_middle: str | None = None
    text_mlp: Mlp | None = None
    lookup: Mlp | None = None
    parallel: bool = False
    mixed: bool = False
    windows: bool = False
    when: Callable[[nn.Module], bool] | None = None

    @property
    def width_path(self) -> str:
        """A linear whose output has the width of the stream."""
        branch, shared = self.attn or self.cross, self.mlp.shared
        return self.mlp.down or (branch.o if branch else "") or (shared and shared.down) or ""


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
        lone_axis: an axis of length one that modules hold beside those that hooks see: the batch axis of a packed tower.
        apart: a tower of its own beside the one before it, which reads the pixels.
        rows: what its rows are called where they are others than those of the tower's first stack; they have no places
            then.
    """

    path: str
    block: Block | tuple[Block, ...]
    config: Callable[[Config], Config]
    heads: Callable[[Config], int] = lambda config: config.num_attention_heads
    packed: bool = False
    name: str = "blocks"
    within: tuple[str, ...] = ()
    maps: bool = False
    nested: bool = False
    lone_axis: int | None = None
    apart: bool = False
    rows: str | None = None

    @property
    def kinds(self) -> tuple[Block, ...]:
        """The kinds of blocks, in the order in which they are tried."""
        return self.block if isinstance(self.block, tuple) else (self.block,)


#: A block that is read: its number in the last stack, or the name of its stack and its number there.
Read: TypeAlias = int | tuple[str, int]


@dataclass(frozen=True)
class Vision:
    """The vision encoder.

    Attributes:
        stack: its blocks; several stacks, in the order of execution, in two-stage and hierarchical towers.
        read: the blocks whose output is handed to the projector, given the model's configuration.
        beside: those whose output the projector gets as a second argument, which has no point of its own.
    """

    stack: Stack | tuple[Stack, ...]
    read: Callable[[Config], Sequence[Read]]
    beside: Callable[[Config], Sequence[Read]] = lambda config: ()

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks, in the order of execution."""
        return self.stack if isinstance(self.stack, tuple) else (self.stack,)


@dataclass(frozen=True)
class DeepStack:
    """Mergers that read earlier vision blocks, whose features are added to the stream between language blocks.

    Attributes:
        path: the `nn.ModuleList` of mergers.
        mlp: the hidden layer of each, relative to the merger.
        argument: name of the argument by which a merger receives the vision features.
        read: the vision block that each reads, given the model's configuration.
        into: the language block whose input each is added to.
        side_by_side: how many of the tower's rows are laid side by side in each row that a merger receives, given the
            model's configuration.
    """

    path: str
    mlp: Mlp
    argument: str
    read: Callable[[Config], Sequence[int]]
    into: Callable[[Config], Sequence[int]]
    side_by_side: Callable[[Config], int] = lambda config: 1


@dataclass(frozen=True)
class Method:
    """A method whose result holds the features, where no module returns them all at once.

    Attributes:
        path: the module that has it.
        name: the method.
        field: the attribute of its result that holds the features: a tensor, or one per picture.
    """

    path: str
    name: str
    field: str


@dataclass(frozen=True)
class Pooling:
    """Attention of a projector that stands in no block: there is no stream that its output is added to.

    Attributes:
        attention: where its linears are, in paths relative to the model.
        heads: number of heads, given the model's configuration.
        windows: every row that it returns is pooled from a window of patches of its own, so that the batch axis of its
            points runs over windows; else learned queries look at all patches.
    """

    attention: Attention
    heads: Callable[[Config], int]
    windows: bool = False


@dataclass(frozen=True)
class Projector:
    """What stands between the vision encoder and the language model.

    Attributes:
        receives: the module that receives the vision features, and the name of that argument; or the module of the tower
            that returns them, and None.
        returns: the module (or method) that returns the features in the language model's width.
        mlp: its hidden layer, if it has one.
        mlp_first: the hidden layer stands in front of what queries look at, not behind it.
        mlp_rows: what the rows of the hidden layer are called, where they are put into another order before they are
            returned; they have no places then.
        stack: the blocks of a Q-Former or perceiver.
        pooling: attention in no block, which pools patches or lets learned queries look at them.
        mixer: a module that does the same without hook points inside.
        queries: the rows it returns are learned queries, not patches.
        width: how wide the rows are that it returns, given the model's configuration; as the language model's stream, if
            None.
        receives_rows: whether the rows it receives are those that it returns (`"projector"`), or the tower's own
            (`"vision"`), which it merges or which queries look at.
        side_by_side: how many of the tower's rows are laid side by side in each row that it receives, given the model's
            configuration.
        received_width: how wide the rows are that it receives, given the model's configuration; as what is read, if None.
        packed: the rows of all pictures lie in one sequence, without a batch axis; as in the tower, if None.
        laid_out: a module whose output has the layout that `returns` loses, where that one gets the rows of all pictures in
            one sequence; its point shows them picture by picture.
        nested: its modules hold rows in several axes (pictures, tiles and patches of a sample, or the rows and columns of a
            raster); hooks see one.
        lone_axis: as for `Stack`.
        deepstack: further mergers, whose features enter the language model above its first block.
    """

    receives: tuple[str, str | None]
    returns: str | Method
    mlp: Mlp | None = None
    mlp_first: bool = False
    mlp_rows: str | None = None
    stack: Stack | None = None
    pooling: Pooling | None = None
    mixer: str | None = None
    queries: bool = False
    width: Callable[[Config], int] | None = None
    receives_rows: Literal["vision", "projector"] = "projector"
    side_by_side: Callable[[Config], int] = lambda config: 1
    received_width: Callable[[Config], int] | None = None
    packed: bool | None = None
    laid_out: str | None = None
    nested: bool = False
    lone_axis: int | None = None
    deepstack: DeepStack | None = None


@dataclass(frozen=True)
class Encoder:
    """The encoder of an encoder-decoder language model, which reads the prompt and the picture.

    Attributes:
        stack: its blocks, named `encoder.blocks`.
        norm: the final norm, whose output the decoder looks at; None where that is what the last block returns.
    """

    stack: Stack
    norm: Norm | None = None


@dataclass(frozen=True)
class Crossing:
    """Blocks of a list of their own that stand between the language model's and look at the picture.

    Attributes:
        stack: the blocks.
        every: one of them stands in front of the first of so many blocks of the language model, given its configuration.
    """

    stack: Stack
    every: Callable[[Config], int]


@dataclass(frozen=True)
class Language:
    """The language model.

    Attributes:
        stack: its blocks; the decoder's, if it has an encoder.
        embed: the token embedding.
        norm: the final norm; None where the blocks themselves end with one.
        head: the unembedding, whose output are the logits.
        merges: the projector's features take the place of image tokens in the embeddings; False where only
            cross-attention blocks read them.
        encoder: the encoder, whose output the blocks' cross-attention reads.
        crossing: further blocks that stand between its own and look at the projector's features.
        more_tokens: how many logits come from a second table, given the configuration; `W_U` and `W_E` do not hold them.
    """

    stack: Stack
    embed: str
    norm: Norm | None
    head: str
    merges: bool = True
    encoder: Encoder | None = None
    crossing: Crossing | None = None
    more_tokens: Callable[[Config], int] = lambda config: 0


@dataclass(frozen=True)
class Family:
    """One model family: its parts, its places, and how it wants its pictures announced in text.

    Attributes:
        name: short name, e.g. `"llava"`.
        classes: the Hugging Face classes it covers.
        vision, projector, language: the three parts.
        places: given `(config, tensors, sizes, image processor)`, where the rows of each picture are; see
            `mmlens.models.layout.Places`.
        is_image: which positions of the prompt hold a picture, given `(config, tensors)`; by default those of the image
            token.
        writes_placeholders: the processor puts the image tokens into the text by itself.
        placeholder: the text that stands for one picture in a prompt without a chat template.
        nested_pictures: the processor takes the pictures sample by sample, rather than all in one list.
        pads_right: the processor marks the pictures' positions as if padding were on the right; it is called so, and the
            padding is moved afterwards.
        expand: number of image tokens per picture, or the text or the tokens that stand for each, given `(config, image
            tensors)`; used where a processor has to be composed from an image processor and a tokenizer.
        image_options: options with which the image processor is called, given the configuration; for the image processors
            that learn of the model's shape only from the Hugging Face processor.
        renamed: what the model calls a tensor that its processor calls otherwise, by the processor's name.
        for_counting: what the image processor returns for `expand` alone, and the model does not take.
        extra_inputs: further tensors that the model needs, made from `(config, tensors)`.
        other_languages: further kinds of language model that checkpoints of these classes come with; the first whose
            blocks a model has is used.
        other_towers: declarations for further kinds of vision encoder that checkpoints of these classes come with; the
            first whose vision blocks a model has is used in place of this one.
        token_kinds: the model takes the processor's `token_type_ids` as they are.
        discovered: nobody declared it; it was worked out from the model's modules.
    """

    name: str
    classes: tuple[str, ...]
    vision: Vision
    projector: Projector
    language: Language
    places: Callable[..., Any]
    is_image: Callable[[Config, Mapping[str, Any]], torch.Tensor] = lambda config, tensors: (
        tensors["input_ids"] == config.image_token_id
    )
    writes_placeholders: bool = False
    placeholder: str = "<image>\n"
    nested_pictures: bool = False
    pads_right: bool = False
    expand: Callable[[Config, dict[str, Any]], list[int] | list[str] | list[list[int]]] | None = None
    image_options: Callable[[Config], dict[str, Any]] = lambda config: {}
    renamed: Mapping[str, str] = field(default_factory=dict)
    for_counting: tuple[str, ...] = ()
    extra_inputs: Callable[[Config, dict[str, Any]], dict[str, Any]] | None = None
    other_languages: tuple[Language, ...] = ()
    other_towers: tuple["Family", ...] = ()
    token_kinds: bool = False
    discovered: bool = False


@dataclass
class _Registry:
    families: dict[str, Family] = field(default_factory=dict)


_REGISTRY = _Registry()


def register_family(family: Family) -> Family:
    """Make a family known, so that `from_hf` and `from_pretrained` find it by class name.

    Args:
        family: the declaration; a later one wins over an earlier one for the same class.

    Returns:
        The same declaration.
    """
    for name in family.classes:
        _REGISTRY.families[name] = family
    return family


def families() -> dict[str, Family]:
    """All known families by Hugging Face class name."""
    return dict(_REGISTRY.families)


def layer_index(index: int, depth: int, what: str) -> int:
    """A block number from a Hugging Face `hidden_states` index, where 0 is the embedding and k the output of block k-1.

    Args:
        index: possibly negative index into the `depth + 1` hidden states.
        depth: number of blocks.
        what: the setting's name, for the message.

    Raises:
        InputError: if the index is out of range or names the embedding itself.
    """
    state = index + depth + 1 if index < 0 else index
    if not 1 <= state <= depth:
        raise InputError(
            f"{what}={index} is not the output of a block: with {depth} blocks it must be in 1..{depth} or -{depth}..-1."
        )
    return state - 1
