"""Discovery: from a vision-language model of a class that no family covers, and one example, to a verified family.

The bare model runs on the example and on the example with other pixels. What modules received and returned, and how that
moved with the pixels, says which lists of modules are the towers, what their blocks add to their streams, which linears
make queries, keys, values and neurons, and which module hands the picture to the language model. Names of modules are never
looked at. The family that comes out is built and verified point by point; only then is it trusted.

What a block adds to its stream is told by sums that agree bit by bit, so that half precision is no hindrance. While it runs,
discovery holds what all modules received and returned, twice: give large models a short example.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mmlens.architectures.modules import evaluated
from mmlens.core.errors import UnsupportedModelError
from mmlens.core.names import PARTS
from mmlens.declarations.family import Family, Vision
from mmlens.declarations.structure import Block, Mlp, Stack
from mmlens.discover.connector import connector_of
from mmlens.discover.deepstack import deepstack_of
from mmlens.discover.example import example_for, placeholder_of
from mmlens.discover.outcome import Try
from mmlens.discover.painting import IsImage, painted_places, placeless
from mmlens.discover.pieces import NotFound
from mmlens.discover.report import declaration, described, found_in
from mmlens.discover.runs import ExampleRuns, Seen
from mmlens.discover.search import Fixed, image_positions, language_of, stack_of, vision_of
from mmlens.inputs.patch_geometry import Places

__all__ = ["described", "discover", "example_for"]

_PLACELESS = (
    "this model was discovered, and painting did not tell which pixels its rows stand for ({why}); declare a family with a "
    "places function"
)


def _places(runs: ExampleRuns, language: Seen, is_image: IsImage) -> Callable[..., list[Places]]:
    """Where rows of pictures are, if painting tells."""
    try:
        return painted_places(runs, language, is_image)
    except (NotFound, RuntimeError, IndexError) as missing:
        why = _PLACELESS.format(why=missing)
        return lambda config, tensors, sizes, processor: placeless(tensors, sizes, why)


@torch.no_grad()
def discover(model: nn.Module, example: Mapping[str, Any], processor: Any | None = None, *, trial: Try) -> Family:
    """Work out the family of a model that none covers, and verify it.

    Args:
        model: the bare model.
        example: keyword tensors of one batch with a picture and text.
        processor: its processor, if there is one; says which text stands for a picture.
        trial: tries a family on the model; `mmlens.models.trial.Trial` wraps and verifies it.

    Returns:
        The family, every point of which fired once and moved the logits exactly where it is not declared dead.

    Raises:
        UnsupportedModelError: says what was found, what was missing, and the lines of a declaration to write.
    """
    with evaluated(model):
        return _discovered(model, example, processor, trial)


def _discovered(model: nn.Module, example: Mapping[str, Any], processor: Any | None, trial: Try) -> Family:
    """The family of a model in evaluation mode; see `discover`."""
    class_name = type(model).__name__
    runs: ExampleRuns | None = None
    parts: dict[str, Any] = dict.fromkeys(PARTS)
    try:
        runs = _runs(model, example)
        parts["language"], language = language_of(runs)
        stacks = vision_of(runs, language)
        names = ["blocks"] if len(stacks) == 1 else [f"stages.{n}.blocks" for n in range(len(stacks))]
        declarations = [stack_of(runs, stack_run, name) for stack_run, name in zip(stacks, names, strict=True)]
        is_image, rows = image_positions(runs, language)
        projector, reads = connector_of(runs, stacks, language, rows)
        parts["projector"] = replace(projector, deepstack=deepstack_of(runs, stacks[-1], language))
        stack = declarations[0] if len(declarations) == 1 else tuple(declarations)
        parts["vision"] = Vision(stack, read=Fixed(reads, str(reads)))
        family = Family(
            name=f"discovered:{class_name}",
            classes=(class_name,),
            places=_places(runs, language, is_image),
            is_image=is_image,
            placeholder=placeholder_of(model, processor) or "<image>\n",
            token_kinds="token_type_ids" in example,
            discovered=True,
            **parts,
        )
        return _verified(family, trial)
    except (NotFound, RuntimeError, IndexError, StopIteration) as missing:
        # a structure that nobody thought of may not even let itself be compared; the user needs the lines all the same
        raise UnsupportedModelError(
            f"No family covers {class_name}, and it could not be discovered: {missing}.\nFound:\n{found_in(runs)}\n"
            f"Declare it, with what was found filled in:\n{declaration(class_name, **parts)}"
        ) from (None if isinstance(missing, NotFound) else missing)


def _runs(model: nn.Module, example: Mapping[str, Any]) -> ExampleRuns:
    try:
        return ExampleRuns.of(model, example)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        raise NotFound(f"it does not run on the example ({type(error).__name__}: {error})") from error


def _verified(family: Family, trial: Try) -> Family:
    """The family without the points that fail, where a declaration can leave them out or place them elsewhere.

    Raises:
        NotFound: if others fail.
    """
    for _ in range(6):
        outcome = trial(family)
        if outcome.ok:
            return family
        smaller = None if outcome.failed is None else _without(family, outcome.failed)
        if smaller is None or smaller == family:
            raise NotFound(outcome.message)
        family = smaller
    raise NotFound("verify failed again and again")


#: What to leave out of a block when a point of it fails, by the end of the point's name.
_LEFT_OUT: dict[str, Callable[[Block], Block]] = {
    "mlp.hook_pre": lambda block: replace(block, mlp=replace(block.mlp, act=None)),
    "mlp.hook_act": lambda block: replace(block, mlp=replace(block.mlp, act=None)),
    "mlp.hook_post": lambda block: replace(block, mlp=Mlp(branch=block.mlp.branch, scale=block.mlp.scale)),
    "mlp.hook_router": lambda block: replace(block, mlp=replace(block.mlp, router=None, router_item=None)),
    "ln1.hook_scale": lambda block: replace(block, ln1=None),
    "ln2.hook_scale": lambda block: replace(block, ln2=None),
}


def _without(family: Family, names: list[str]) -> Family | None:
    """The family without the points that fail; None if one of them cannot be left out."""
    for name in names:
        smaller = _without_one(family, name)
        if smaller is None:
            return None
        family = smaller
    return family


def _without_one(family: Family, name: str) -> Family | None:
    if name.startswith("projector.mlp."):
        return replace(family, projector=replace(family.projector, mlp=None))
    if name == "projector.hook_in":
        # the tower's last norm may be there and lead nowhere: then its last block's output is what is handed on
        last = f"{family.vision.stacks[-1].path}.{family.vision.read(None)[-1]}"
        receives = family.projector.receives
        projector = replace(family.projector, receives=(last, None))
        return None if receives[1] is not None or receives[0] == last else replace(family, projector=projector)
    suffix = ".".join(name.split(".")[-2:])
    attention = ".attn.hook_" in name
    if suffix not in _LEFT_OUT and not attention:
        return None

    def change(stack: Stack) -> Stack:
        kinds = tuple(
            dict.fromkeys(_without_attention(k, suffix) if attention else _LEFT_OUT[suffix](k) for k in stack.kinds)
        )
        return replace(stack, block=kinds[0] if len(kinds) == 1 else kinds)

    if name.startswith("vision."):
        stacks = tuple(change(s) if name.startswith(f"vision.{s.name}.") else s for s in family.vision.stacks)
        return replace(family, vision=replace(family.vision, stack=stacks[0] if len(stacks) == 1 else stacks))
    return replace(family, language=replace(family.language, stack=change(family.language.stack)))


def _without_attention(block: Block, suffix: str) -> Block:
    """The block with the heads' output alone, or with attention as a mixer where that fails too."""
    attn = block.attn
    if attn is None:
        return block
    if attn.kernel is not None:
        return replace(block, attn=replace(attn, kernel=None))
    if suffix == "attn.hook_z" and attn.scale is None:
        return replace(block, attn=None, mixer=attn.branch)
    return block
