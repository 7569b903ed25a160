"""From the runs of a model to its towers and its logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmlens.architectures.blocks import fitting
from mmlens.core.errors import UnsupportedModelError
from mmlens.declarations.family import Language
from mmlens.declarations.structure import Block, Config, Stack
from mmlens.discover.branches import is_norm
from mmlens.discover.inner import block_of, norm_of
from mmlens.discover.pieces import NotFound
from mmlens.discover.runs import ExampleRuns, Seen
from mmlens.discover.trace import Call, is_linear, same


@dataclass(frozen=True)
class Fixed:
    """A value that a declaration works out of the configuration, and discovery has seen.

    Attributes:
        value: what it is.
        written: how it is written in a declaration.
    """

    value: Any
    written: str

    def __call__(self, config: Config) -> Any:
        """The value."""
        return self.value

    def __str__(self) -> str:
        return f"lambda config: {self.written}"


def stack_of(runs: ExampleRuns, stack: Seen, name: str) -> Stack:
    """A stack's declaration.

    Raises:
        NotFound: if a block of it is not two branches on a stream, or blocks cannot be told apart.
    """
    kinds: dict[tuple[Any, ...], tuple[Block, int]] = {}
    signatures = [(type(c.module), tuple(sorted(n for n, _ in c.module.named_modules()))) for c in stack.blocks]
    for call, signature in zip(stack.blocks, signatures, strict=True):
        if signature not in kinds:
            kinds[signature] = block_of(runs.model, runs.own, call)
    heads = {heads for block, heads in kinds.values() if block.attn is not None} or {1}
    if len(heads) > 1:
        raise NotFound(f"the blocks of {stack.path} differ in their number of heads: {sorted(heads)}")
    blocks = list(dict.fromkeys(block for block, _ in kinds.values()))
    blocks.sort(key=lambda block: -len(repr(block)))
    for call, signature in zip(stack.blocks, signatures, strict=True):
        try:
            fits = fitting(tuple(blocks), call.module) == kinds[signature][0]
        except UnsupportedModelError as error:
            raise NotFound(str(error)) from error
        if not fits:
            raise NotFound(f"the kinds of blocks in {stack.path} cannot be told apart by their modules")
    inside = [m for m in stack.last.module.modules() if hasattr(getattr(m, "config", None), "to_dict")]
    owner = next(iter(inside), runs.model)
    axes = stack.last.output.ndim
    return Stack(
        stack.path,
        blocks[0] if len(blocks) == 1 else tuple(blocks),
        config=Fixed(getattr(owner, "config", None), f"{_config_path(runs.model, owner)}"),
        heads=Fixed(next(iter(heads)), str(next(iter(heads)))),
        packed=axes == 2 or _is_in_pieces(runs, stack),
        nested=axes == 4,
        name=name,
    )


def _is_in_pieces(runs: ExampleRuns, blocks: Seen) -> bool:
    """Whether a block attends picture by picture on one sequence: its kernel is called several times."""
    inside = {id(module) for module in blocks.last.module.modules()}
    return sum(note.registered and id(note.module) in inside for note in runs.own.attention) > 1


def _config_path(model: nn.Module, owner: nn.Module) -> str:
    """How the configuration of a tower is reached from the model's."""
    root, config = getattr(model, "config", None), getattr(owner, "config", None)
    name = next((key for key, value in vars(root).items() if value is config), None) if root is not None else None
    return "config" if name is None else f"config.{name}"


def path_of(model: nn.Module, module: nn.Module | None) -> str | None:
    """The path of a module, or None."""
    return next((path for path, other in model.named_modules() if other is module), None)


def language_of(runs: ExampleRuns) -> tuple[Language, Seen]:
    """The language model: the stack that runs last before the logits, and what stands around it.

    Raises:
        NotFound: if the head, the embedding or such a stack is missing, or the stack ends in a norm of unknown kind.
    """
    head = _head(runs)
    before = [stack for stack in runs.stacks if stack.last.exit < head.enter]
    if not before:
        raise NotFound(f"no stack of blocks runs before the unembedding {head.path}")
    last_stack = before[-1]
    last_stack.role = "the language model"
    if runs.own.count(last_stack.blocks[0].module) != 1:
        raise NotFound(f"the blocks of {last_stack.path} run several times in one forward")
    norm = None
    for call in sorted(runs.own.calls, key=lambda call: call.enter):
        if not last_stack.last.exit < call.enter < head.enter or not any(True for _ in call.module.parameters()):
            continue
        inputs = next(iter(call.received.values()), None)
        if is_norm(call.module) and same(inputs, last_stack.last.returned):
            norm = norm_of(call, call.path)
            if norm is None:
                raise NotFound(f"{call.path} ({type(call.module).__name__}) is neither a layer norm nor an RMS norm")
            break
    # nobody said that positions look back only
    return Language(
        stack_of(runs, last_stack, "blocks"), _embedding(runs), norm, head.path, looks_ahead=True
    ), last_stack


def _head(runs: ExampleRuns) -> Call:
    """The call of the unembedding."""
    head: Any = getattr(runs.model, "get_output_embeddings", lambda: None)()
    path = path_of(runs.model, head) if head is not None else None
    if path and runs.own.of(path):
        return runs.own.of(path)[-1]
    logits = getattr(runs.own.result, "logits", None)
    for call in reversed(runs.own.calls):
        if is_linear(call.module) and same(call.returned, logits):
            return call
    raise NotFound("no linear returns the logits (result.logits)")


def _embedding(runs: ExampleRuns) -> str:
    getter: Any = getattr(runs.model, "get_input_embeddings", lambda: None)
    try:
        path = path_of(runs.model, getter())
    except NotImplementedError:
        path = None
    if path and runs.own.of(path):
        return path
    ids = runs.inputs["input_ids"]
    for call in runs.own.calls:
        inputs = next(iter(call.received.values()), None)
        if (
            isinstance(call.module, nn.Embedding)
            and inputs is not None
            and inputs.shape == ids.shape
            and torch.equal(inputs, ids)
        ):
            return call.path
    raise NotFound("no embedding receives input_ids")


def vision_of(runs: ExampleRuns, language: Seen) -> list[Seen]:
    """The stacks of the vision encoder: they see the pixels from their first block on, and no text.

    Raises:
        NotFound: if there is none, or another stack than the language model reads text.
    """
    stacks: list[Seen] = []
    for stack in runs.stacks:
        if stack is language or stack.last.exit > language.blocks[0].enter:
            continue
        if runs.sees_text(stack.last):
            stack.role = "reads the text"
            raise NotFound(f"{stack.path} reads the text too, besides the language model {language.path} (an encoder?)")
        if runs.sees_pixels("in", stack.blocks[0]):
            stack.role = "the vision encoder"
            stacks.append(stack)
        elif runs.sees_pixels("out", stack.last):
            stack.role = "learned queries that look at the picture"
        else:
            stack.role = "sees neither pixels nor text"
    if not stacks:
        raise NotFound("no stack of blocks sees the pixels before the language model does")
    return stacks


@dataclass(frozen=True)
class IsToken:
    """Which positions hold a picture: those of the given tokens."""

    tokens: tuple[int, ...]

    def __call__(self, config: Config, tensors: Mapping[str, Any]) -> torch.Tensor:
        """True at the tokens' positions, `[batch pos]`."""
        ids = tensors["input_ids"]
        return torch.isin(ids, torch.tensor(self.tokens, device=ids.device))


@dataclass(frozen=True)
class IsMarked:
    """Which positions hold a picture: those that a tensor marks."""

    name: str

    def __call__(self, config: Config, tensors: Mapping[str, Any]) -> torch.Tensor:
        """True at the marked positions, `[batch pos]`; nowhere if the tensor did not come."""
        mask = tensors.get(self.name)
        return torch.zeros_like(tensors["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def image_positions(runs: ExampleRuns, language: Seen) -> tuple[IsToken | IsMarked, torch.Tensor]:
    """Which positions stand for pictures, and how the stream at these positions changes with the pixels.

    Raises:
        NotFound: if the stream is unmoved by the pixels, or its positions are not those of the token ids.
    """
    first, ids = language.blocks[0], runs.inputs["input_ids"]
    stream = first.stream
    twin = runs.twin(runs.pixels, first)
    twin_stream = None if twin is None else twin.stream
    if stream is None or twin_stream is None or stream.shape[:-1] != ids.shape:
        shape = None if stream is None else list(stream.shape)
        raise NotFound(
            f"the language model's stream is {shape}, but input_ids is {list(ids.shape)}: its rows are not the tokens"
        )
    change = twin_stream.float() - stream.float()
    is_changed = (change != 0).any(-1)
    if not is_changed.any():
        raise NotFound("the pixels do not reach the language model's first block (only cross-attention may read them)")
    rows = change[is_changed]
    for name, tensor in runs.inputs.items():
        if isinstance(tensor, torch.Tensor) and tensor.shape == ids.shape and torch.equal(tensor.bool(), is_changed):
            return IsMarked(name), rows
    tokens: Sequence[int] = ids[is_changed].unique().tolist()
    is_image = torch.isin(ids, torch.tensor(tokens).to(ids))
    # some of a picture's tokens may stand for line breaks, which no pixel moves
    if len(tokens) > 1 or 2 * int(is_changed.sum()) < int(is_image.sum()):
        raise NotFound(f"tokens {tokens} stand for pictures at some positions and not at others")
    return IsToken(tuple(tokens)), rows
