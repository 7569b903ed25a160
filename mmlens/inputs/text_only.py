"""A batch without its pictures: their tokens cut out of the prompt, everything else as it was."""

from dataclasses import replace
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.batch import MultimodalBatch, make_batch
from mmlens.inputs.plain_text import picture_tokens


def without_pictures(family: Family, config: Config, batch: MultimodalBatch) -> MultimodalBatch:
    """The batch with the tokens of its pictures, and those around them, cut out; padded where the family wants it.

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
    kept = (batch.layout.is_token & ~batch.layout.is_image).to(ids.device)
    if batch.tokenizer is not None:
        marks = batch.tokenizer.convert_tokens_to_ids(list(picture_tokens(batch.tokenizer, config)))
        kept &= ~torch.isin(ids, torch.tensor(marks, dtype=ids.dtype, device=ids.device))
    length = int(kept.sum(1).max())
    if not length or not kept.any(1).all():
        raise InputError("A prompt would be empty without its picture; ask something.")
    if family.left_padding is None:
        order = kept.long().argsort(dim=1, stable=True)[
            :, -length:
        ]  # what is cut goes to the front, where padding stands
    else:
        order = (~kept).long().argsort(dim=1, stable=True)[:, :length]
    mask = kept.gather(1, order)
    pad = _pad(batch.tokenizer, config)
    inputs = {"input_ids": ids.gather(1, order).masked_fill(~mask, pad), "attention_mask": mask.to(torch.long)}
    made = make_batch(family, config, inputs)
    return replace(made, tokenizer=batch.tokenizer)


def _pad(tokenizer: Any, config: Config) -> int:
    """The id of padding; it is masked, so any will do where none is named."""
    candidates = (getattr(tokenizer, "pad_token_id", None), getattr(config, "pad_token_id", None))
    return next((number for number in candidates if isinstance(number, int) and number >= 0), 0)
