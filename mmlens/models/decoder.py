"""The model's own blocks: by name, and those of the language model for code that runs them one by one."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from mmlens.architectures.blocks import blocks_of, fitting, heads_of
from mmlens.architectures.modules import find_module, submodule
from mmlens.architectures.weights import AttentionWeights
from mmlens.core.errors import InputError
from mmlens.declarations.structure import Attention, Block, Stack
from mmlens.models.hooked import HookedMultimodal


class NotAloneError(InputError):
    """The language model's blocks cannot be run by themselves; the message says why."""


@dataclass(frozen=True)
class Decoder:
    """The modules between the merged embeddings and the logits.

    Attributes:
        blocks: in the order of execution.
        kernels: per block, the module that calls the attention function.
        linears: per block, those that make queries, keys and values of the stream; none where that is not declared.
        norm: the final norm; None where blocks end with one.
        head: the unembedding.
    """

    blocks: tuple[nn.Module, ...]
    kernels: tuple[nn.Module, ...]
    linears: tuple[tuple[nn.Module, ...], ...]
    norm: nn.Module | None
    head: nn.Module

    @property
    def configs(self) -> list[Any]:
        """The configurations in which the attention modules look their function up, each once."""
        configs = {id(kernel.config): kernel.config for kernel in self.kernels}
        return list(configs.values())


def decoder_of(model: HookedMultimodal) -> Decoder:
    """The language model of a hooked model.

    Raises:
        NotAloneError: if its blocks hold more than attention over their own sequence and an MLP, so that rows of different
            runs could not be told apart in them.
    """
    base, language, name = model.base, model.family.language, model.family.name
    if model.family.score is not None:
        raise NotAloneError("texts are rows of a tower of their own, which meets the pictures' in the score alone")
    if language.encoder is not None:
        raise NotAloneError("an encoder reads the prompt, and every row of the decoder reads all of it")
    if language.crossing is not None:
        raise NotAloneError("cross-attention blocks of another list stand between the language model's")
    blocks = blocks_of(submodule(base, language.stack.path, name), language.stack)
    kernels, linears = [], []
    for layer, block in enumerate(blocks):
        kind = fitting(language.stack.kinds, block)
        attn, kernel = _require_rows(layer, kind)
        kernels.append(submodule(block, kernel, name))
        paths = [attn.qkv] if attn.qkv else [attn.q, attn.k, attn.v]
        # a gate made beside the query is read by the block itself, for every row; blocks may lack keys of their own
        modules = [] if attn.gated else [find_module(block, path) for path in paths if path]
        is_split = None in paths or None in modules
        linears.append(() if is_split else tuple(module for module in modules if module is not None))
    norm = None if language.norm is None else submodule(base, language.norm.path, name)
    return Decoder(tuple(blocks), tuple(kernels), tuple(linears), norm, submodule(base, language.head, name))


def blocks_by_name(model: HookedMultimodal) -> dict[str, nn.Module]:
    """Every block of every stack, by what its hook points' names begin with, e.g. `vision.blocks.3`."""
    return {name: block for stack, blocks in _stacks(model) for name, block in blocks.items()}


def attention_of(model: HookedMultimodal, name: str) -> AttentionWeights:
    """The weights of an attention branch of any stack.

    Args:
        model: the hooked model.
        name: what its hook points' names begin with, e.g. `vision.blocks.3.attn` or `blocks.1.cross_attn`.

    Raises:
        InputError: if there is no such branch.
    """
    block, _, branch = name.rpartition(".")
    for stack, blocks in _stacks(model):
        if block in blocks:
            kind = fitting(stack.kinds, blocks[block])
            declaration = kind.cross if branch == "cross_attn" else kind.attn
            if declaration is not None:
                return AttentionWeights(blocks[block], declaration, heads_of(stack, kind, blocks[block], model.config))
    raise InputError(f"{name} is no attention branch of {model.family.name}.")


def _stacks(model: HookedMultimodal) -> list[tuple[Stack, dict[str, nn.Module]]]:
    """Every stack with its blocks by name."""
    family, base = model.family, model.base
    language, inner = family.language, family.projector.stack
    stacks: list[tuple[str, Stack]] = [("vision.", stack) for stack in family.vision.stacks]
    stacks += [] if inner is None else [("projector.", inner)]
    stacks += [] if language.encoder is None else [("", language.encoder.stack)]
    stacks += [] if language.crossing is None else [("", language.crossing.stack)]
    stacks.append(("", language.stack))
    result = []
    for prefix, stack in stacks:
        modules = blocks_of(submodule(base, stack.path, family.name), stack)
        result.append((stack, {f"{prefix}{stack.name}.{number}": block for number, block in enumerate(modules)}))
    return result


def projector_module(model: HookedMultimodal) -> nn.Module | None:
    """The module that returns the projected features; None where a method does."""
    returns = model.family.projector.returns
    return submodule(model.base, returns, model.family.name) if isinstance(returns, str) else None


def _require_rows(layer: int, kind: Block) -> tuple[Attention, str]:
    """The attention of a block and the path of its kernel.

    Raises:
        NotAloneError: if rows meet elsewhere in it than in one attention whose keys can be served.
    """
    attn = kind.attn
    if kind.mixer is not None and attn is None:
        raise NotAloneError(
            f"block {layer} mixes rows by a convolution or a recurrence, whose state is no cache of keys"
        )
    if kind.cross is not None:
        raise NotAloneError(f"block {layer} also looks at another sequence")
    if attn is None or attn.kernel is None:
        raise NotAloneError(f"block {layer} computes attention in code of its own")
    if attn.over_channels or attn.joined:
        raise NotAloneError(f"the keys of block {layer} are not its own rows alone")
    if kind.mixer is not None or kind.mixed or kind.windows:
        raise NotAloneError(f"block {layer} mixes rows outside its attention")
    return attn, attn.kernel
