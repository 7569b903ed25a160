"""A batch without its pictures: their tokens cut out of the prompt, everything else as it was."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.batch import MultimodalBatch, make_batch
from mmlens.inputs.plain_text import picture_tokens


def without_pictures(family: Family, config: Config, batch: MultimodalBatch, template: str = "") -> MultimodalBatch:
    """The batch with the tokens of its pictures, and those around them, cut out; padded where the family wants it.

    Args:
        family: of the model.
        config: its configuration.
        batch: the batch.
        template: the chat template, whose tokens stay.

    Raises:
        InputError: if there is no picture, or text that stands in other places than among the prompt's tokens.
    """
    if not batch.layout.is_image.any():
        raise InputError("The batch has no picture that could be left out: its prompts have no image token.")
    if "decoder_input_ids" in batch.inputs and batch["decoder_input_ids"].shape[1] > 1:
        raise InputError(
            "The decoder has written already, so that pictures cannot be left out; prepare the batch anew."
        )
    ids = batch["input_ids"]
    cut = batch.layout.is_image.clone()
    if batch.tokenizer is not None:
        marks = batch.tokenizer.convert_tokens_to_ids(list(picture_tokens(batch.tokenizer, config)))
        cut |= torch.isin(ids, torch.tensor(marks, dtype=ids.dtype, device=ids.device)).cpu()
        around = _around(batch.tokenizer, template)
        cut = torch.stack([_whole(row.tolist(), is_cut, around) for row, is_cut in zip(ids, cut, strict=True)])
    if batch.written:
        cut[:, -batch.written :] = False  # what was written is text, whatever it is
    stays = (batch.layout.is_token & ~cut).to(ids.device)
    length = int(stays.sum(1).max())
    if not length or not stays.any(1).all():
        raise InputError("A prompt would be empty without its picture; ask something.")
    if family.left_padding is None:
        order = stays.long().argsort(dim=1, stable=True)[:, -length:]  # what is cut goes where padding stands
    else:
        order = (~stays).long().argsort(dim=1, stable=True)[:, :length]
    mask = stays.gather(1, order)
    pad = _pad(batch.tokenizer, config)
    inputs = {"input_ids": ids.gather(1, order).masked_fill(~mask, pad), "attention_mask": mask.to(torch.long)}
    if (
        "token_type_ids" in batch.inputs
    ):  # says of some models' tokens that all see each other, with or without a picture
        inputs["token_type_ids"] = batch["token_type_ids"].gather(1, order)
    result = make_batch(family, config, inputs)
    return replace(result, tokenizer=batch.tokenizer, written=batch.written)


def _around(tokenizer: Any, template: str) -> Callable[[int], bool | None]:
    """Says of a token whether processors put it around pictures and their tiles; None for blanks, which may lie between.

    These are the tokens that were added to a vocabulary, without the ends of texts and what a chat's turns are made of.
    """
    vocabulary = {number: token.content for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    ends = set(getattr(tokenizer, "all_special_ids", ())) & {
        getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
    }
    special = {number for number, content in vocabulary.items() if content not in template} - ends

    def kind(number: int) -> bool | None:
        if number in special:
            return True
        return None if number not in vocabulary and not tokenizer.decode([number]).strip() else False

    return kind


def _whole(ids: list[int], is_picture: torch.Tensor, around: Callable[[int], bool | None]) -> torch.Tensor:
    """Picture tokens with what lies between those of one picture, any marks in front of it, and the one behind it."""
    cut = is_picture.clone()
    places = is_picture.nonzero().flatten().tolist()
    for first, second in pairwise(places):
        if all(around(number) in (True, None) for number in ids[first + 1 : second]):
            cut[first:second] = True
    for place in places:
        if place and not cut[place - 1]:
            start = place
            while start and around(ids[start - 1]):
                start -= 1
            cut[start:place] = True
        if place + 1 < len(ids) and not cut[place + 1] and around(ids[place + 1]):
            cut[place + 1] = True
    return cut


def _pad(tokenizer: Any, config: Config) -> int:
    """The id of padding; it is masked, so any will do where none is named."""
    candidates = (getattr(tokenizer, "pad_token_id", None), getattr(config, "pad_token_id", None))
    return next((number for number in candidates if isinstance(number, int) and number >= 0), 0)
