"""What a Hugging Face model's forward passes get in a run beside what was given, so that a sample is read as it is alone.

Some models number positions by where tokens lie in the batch, padding included, or by batch-mates; some take a picture's
token that they wrote themselves for the place of a picture. Both is set right where the model is entered, for one run.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from mmlens.architectures.modules import find_module
from mmlens.core.errors import InputError
from mmlens.declarations.family import Family
from mmlens.inputs.position_ids import counted_positions, is_padded_left
from mmlens.models.claims import current_run
from mmlens.models.protocol import HookedModel
from mmlens.models.run import Run

#: What a hook of torch makes of a forward pass's arguments; None where it leaves them.
_Arguments = tuple[tuple[Any, ...], dict[str, Any]] | None

#: Where configurations name tokens that stand for a picture, a video or a sound, or by which a model finds them.
_PLACES = (
    *(f"{kind}_token_{number}" for kind in ("image", "video", "audio") for number in ("id", "index")),
    *("vision_start_token_id", "audio_start_token_id", "visual_indicator_token_ids"),
)


@contextmanager
def completed_inputs(
    model: HookedModel, keywords: Mapping[str, Any], *, written: int = 0, grows: bool = False, run: Run | None = None
) -> Iterator[None]:
    """Have the forward passes inside the `with` get positions that do not depend on padding, and no places for pictures that
    the prompt does not have.

    Args:
        model: the hooked model.
        keywords: the keyword tensors of the run.
        written: how many tokens at the end the model wrote.
        grows: whether the passes get longer as tokens are written, without a cache.
        run: whose passes; None for all. Branches of a generation have prompts of their own.

    Raises:
        InputError: for padding on the left where the family cannot be right with it.
    """
    base, family = model.base, model.family
    mask, ids = keywords.get("attention_mask"), keywords.get("input_ids")
    is_padded = isinstance(mask, torch.Tensor) and mask.ndim == 2 and is_padded_left(mask)
    if is_padded and family.left_padding is not None:
        raise InputError(
            f"Samples are padded on the left: {family.left_padding} Pad on the right: padding_side='right'."
        )
    with ExitStack() as stack:
        for taker in _position_takers(base, family) if is_padded or family.position_ids is not None else ():
            hook = _in_passes_of(model, run, _with_positions(family, keywords))
            stack.callback(taker.register_forward_pre_hook(hook, with_kwargs=True, prepend=True).remove)
        if (written or grows) and isinstance(ids, torch.Tensor) and "decoder_input_ids" not in keywords:
            stack.enter_context(_written_as_text(model, ids.shape[1] - written, run))
        yield


def _in_passes_of(model: HookedModel, run: Run | None, hook: Callable[..., _Arguments]) -> Callable[..., _Arguments]:
    """A hook that acts in the passes of one run alone; in all for None."""

    def act(*args: Any) -> _Arguments:
        return hook(*args) if run is None or current_run(model) is run else None

    return act


def _position_takers(base: nn.Module, family: Family) -> list[nn.Module]:
    """The modules that take `position_ids`: the model, and a language model whose `generate` or `forward` it calls.

    None where positions are the model's own affair: it makes multimodal ones, which it counts by the mask.
    """
    if family.position_ids is None and any(hasattr(module, "get_rope_index") for module in base.modules()):
        return []
    candidates = [base, *(find_module(base, path) for path in ("language_model", "text_model"))]
    return [module for module in candidates if module is not None and "position_ids" in _keywords(module)]


def _keywords(module: nn.Module) -> set[str]:
    return set(inspect.signature(type(module).forward).parameters)


def _with_positions(family: Family, of_run: Mapping[str, Any]) -> Callable[..., _Arguments]:
    """A hook that puts `position_ids` into a forward pass.

    Args:
        family: the model's.
        of_run: the keyword tensors of the run; generation hands not all of them on to every pass.
    """

    def put(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> _Arguments:
        if family.position_ids is not None:
            tensors = {**of_run, **{name: value for name, value in keywords.items() if value is not None}}
            positions = family.position_ids(module, tensors)
        else:
            mask, position_ids = keywords.get("attention_mask"), keywords.get("position_ids")
            positions = None
            if position_ids is None and isinstance(mask, torch.Tensor) and mask.ndim == 2:
                positions = counted_positions(mask)
        if positions is None:
            return None
        rows = keywords.get("input_ids")
        rows = keywords.get("inputs_embeds") if rows is None else rows
        length = positions.shape[-1] if rows is None else rows.shape[1]
        return args, {**keywords, "position_ids": positions[..., -length:]}

    return put


@contextmanager
def _written_as_text(model: HookedModel, prompt: int, run: Run | None) -> Iterator[None]:
    """Have tokens behind the prompt read as text inside the `with`, those that stand for pictures in a prompt too.

    The model gets another token in their place, which is exchanged where tokens are embedded; kinds of tokens that do not
    grow with what is written say "text" of it.

    Args:
        model: the hooked model.
        prompt: number of positions of the prompt.
        run: whose passes; None for all.
    """
    family, text_config = model.family, getattr(model.config, "text_config", model.config)
    embed = find_module(model.base, family.language.embed) if family.written_places is None else None
    placeholders = _picture_ids(model)
    ids_in_use = {*placeholders.tolist(), getattr(text_config, "pad_token_id", None)}
    plain = next(number for number in range(len(ids_in_use) + 1) if number not in ids_in_use)
    if family.written_places is not None:
        plain = family.written_places(model.config)
    read: list[torch.Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> _Arguments:
        read.clear()
        ids = keywords.get("input_ids")
        if not isinstance(ids, torch.Tensor) or ids.shape[1] <= prompt:
            return None
        arguments_now = {
            name: nn.functional.pad(kinds, (0, ids.shape[1] - kinds.shape[1]))
            for name, kinds in keywords.items()
            if name.endswith("token_type_ids") and isinstance(kinds, torch.Tensor) and kinds.shape[1] == prompt
        }
        is_reserved = torch.isin(ids, placeholders.to(ids.device))
        is_reserved[:, :prompt] = False
        if is_reserved.any():
            read.append(ids)
            arguments_now["input_ids"] = ids.masked_fill(is_reserved, plain)
        return (args, {**keywords, **arguments_now}) if arguments_now else None

    def look_up(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> _Arguments:
        if not read:
            return None
        ids = args[0] if args else next(iter(keywords.values()), None)
        if not isinstance(ids, torch.Tensor) or ids.shape != read[0].shape:
            return None
        real = torch.cat([ids[:, :prompt], read[0][:, prompt:].to(ids)], dim=1)
        return ((real, *args[1:]), keywords) if args else (args, {**keywords, next(iter(keywords)): real})

    with ExitStack() as stack:
        for module, hook in ((model.base, enter), (embed, look_up)):
            if module is not None:
                hook = _in_passes_of(model, run, hook)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True).remove)
        yield


def _picture_ids(model: HookedModel) -> torch.Tensor:
    """Ids of the tokens that a prompt has where a picture, a video or a sound is read, `[token]`."""
    every = torch.arange(model.cfg.d_vocab)[None]
    is_place = model.family.is_image(model.config, {"input_ids": every})[0]
    tokens = [getattr(model.config, name, None) for name in _PLACES]
    ids = [number for value in tokens for number in (value if isinstance(value, list | tuple) else [value])]
    is_place = is_place | torch.isin(every[0], torch.tensor([number for number in ids if isinstance(number, int)]))
    return is_place.nonzero().flatten()
