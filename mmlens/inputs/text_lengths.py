"""How long the texts of a dual encoder may be, and are to be."""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Int

from mmlens.core.errors import InputError
from mmlens.declarations.family import Score
from mmlens.declarations.structure import Config


def require_length(score: Score, config: Config, ids: Int[torch.Tensor, "text pos"], texts: Sequence[str] = ()) -> None:
    """Refuse texts that the text tower has no positions for, and remark those that it was not trained to read so short.

    Args:
        score: the family's score.
        config: the model's configuration.
        ids: token ids, padding among them.
        texts: the texts, where they are known.

    Raises:
        InputError: if they are longer than the tower; says which is the longest, where that is known.
    """
    length, longest, least = ids.shape[1], score.longest(config), score.text_options(config).get("max_length")
    if length > longest:
        first = (
            f", first of all {max(texts, key=len)!r:.80}"
            if texts
            else " (the processor cuts them with truncation=True)"
        )
        raise InputError(
            f"The texts take {length} tokens, and the text tower has {longest} positions (max_position_embeddings); shorten them"
            f"{first}."
        )
    if least is not None and length < least:
        warnings.warn(
            f"The texts take {length} tokens, and the model was trained on texts padded to {least}: it reads padding too, and "
            "makes their embedding of the last row. Scores differ from those of its own processor with padding='max_length', "
            f"max_length={least}. Pad them so, or let model.prepare(texts, images=...) do it.",
            stacklevel=5,
        )
