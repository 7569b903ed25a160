"""Corruptions of the text: other words of the same token length, so that positions keep their meaning."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.interventions.corruptions.pixels import refuse_carried
from mmlens.models.hooked import HookedMultimodal


@checked
def replace_words(model: HookedMultimodal, batch: BatchLike, words: Mapping[str, str]) -> MultimodalBatch:
    """The batch with some words replaced by others that are as many tokens: symmetric token replacement.

    Args:
        model: the hooked model.
        batch: made by `prepare`.
        words: old words and new ones; whole words, as they are written in the prompts.

    Returns:
        A batch of the same pictures and layout.

    Raises:
        InputError: if a prompt holds none of the words, a new one is the old one or unknown to the tokenizer, or the new ones
            are of another token length; the message says which.

    Example:
        >>> import mmlens as mm
        >>> asked = model.prepare("what color is the circle", images=scene.image)
        >>> other = mm.corrupt.replace_words(model, asked, {"circle": "square"})
        >>> int((other["input_ids"] != asked["input_ids"]).sum())
        1

    Source: Golovanevsky et al., "What Do VLMs NOTICE?", 2024 (https://arxiv.org/abs/2406.16320): symmetric token replacement.
    """
    refuse_carried(batch)
    if not words:
        raise InputError("replace_words was given no words.")
    if not batch.prompts:
        raise InputError(
            "replace_words needs the prompts, and this batch was made from tensors; use model.prepare(...)."
        )
    equal = [word for word, other in words.items() if word == other]
    if equal:
        raise InputError(f"{', '.join(map(repr, equal))} would be replaced by the same word; name another.")
    _require_known(model, words.values())
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in sorted(words, key=len, reverse=True)))
    prompts = [pattern.sub(lambda match: words[match[0]], prompt) for prompt in batch.prompts]
    unchanged_samples = [
        number for number, (new, old) in enumerate(zip(prompts, batch.prompts, strict=True)) if new == old
    ]
    if unchanged_samples:
        raise InputError(
            f"The prompts of samples {unchanged_samples} hold none of the words {', '.join(map(repr, words))}."
        )
    side: Literal["right"] | None = None if bool(batch.layout.is_token[:, -1].all()) else "right"
    images = [list(sample) for sample in batch.images] if any(batch.images) else None
    before = model.prepare(list(batch.prompts), images=images, padding_side=side)
    if not torch.equal(before["input_ids"], batch["input_ids"]):
        raise InputError(
            "The batch holds tokens that are not in its prompts (it was extended); replace words first, then extend."
        )
    new_batch = model.prepare(prompts, images=images, padding_side=side)
    lengths = [[int(row.sum()) for row in one_batch.layout.is_token] for one_batch in (batch, new_batch)]
    wrong = [number for number, (old, new) in enumerate(zip(*lengths, strict=True)) if old != new]
    if wrong:
        number = wrong[0]
        raise InputError(
            f"Sample {number} has {lengths[0][number]} tokens and would have {lengths[1][number]}; replace "
            f"{', '.join(map(repr, words))} by words of as many tokens each."
        )
    return new_batch


def _require_known(model: HookedMultimodal, words: Iterable[str]) -> None:
    """Refuse words that the tokenizer makes its unknown token of."""
    unknown = model.tokenizer.unk_token_id
    for word in words:
        ids = model.tokenizer.encode(word, add_special_tokens=False)
        if not ids or (unknown is not None and unknown in ids):
            pieces = model.tokenizer.convert_ids_to_tokens(ids)
            raise InputError(
                f"{word!r} is unknown to the tokenizer, which makes {pieces} of it; choose a word that it knows."
            )
