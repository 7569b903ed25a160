"""What tells dual encoders from models that write: their scores in the place of logits, and what they cannot do."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.core.kinds import CALL
from mmlens.declarations.family import Family

#: What a dual encoder has in the place of what asks for words.
_INSTEAD = (
    "It scores pictures and texts: model(batch) is [picture text]. mm.patch, mm.knock_out and their like take "
    "mm.metrics.image_text_score(), and mm.find_neurons scores neurons of both towers for it."
)


def run_forward(family: Family, hf_model: Any, keywords: Mapping[str, Any]) -> torch.Tensor:
    """What one forward pass of a Hugging Face model answers: logits `[batch pos vocab]`, or scores `[picture text]`.

    Args:
        family: the model's family.
        hf_model: the model.
        keywords: its keyword tensors and options.
    """
    # what it answers is read by name, so that a tuple in its place would serve nobody
    keywords = {name: value for name, value in keywords.items() if name != "return_dict"}
    if family.score is None:
        return called(hf_model, hf_model.forward, {"use_cache": False, **keywords}).logits
    return getattr(called(hf_model, hf_model.forward, keywords), family.score.field)


def called(function: Callable[..., Any], signature: Callable[..., Any], keywords: Mapping[str, Any]) -> Any:
    """What a function of transformers returns, whose arguments are those of `signature`.

    Raises:
        InputError: if the keywords lack one that it needs: families that read every text with a picture.
    """
    try:
        return function(**keywords)
    except TypeError:
        require_tensors(signature, keywords)
        raise


def require_tensors(signature: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Refuse keywords that lack one that a function needs: those of families that read every text with a picture.

    Raises:
        InputError: if so.
    """
    missing = [
        p.name
        for p in inspect.signature(signature).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in keywords
    ]
    if missing:
        raise InputError(
            f"{signature.__qualname__} needs {', '.join(missing)} with every text, and the batch has none: prepare it with its "
            "picture, model.prepare(text, images=picture)."
        )


def require_writer(family: Family, what: str) -> None:
    """Refuse a dual encoder where a model has to write, or to have a vocabulary that it writes from.

    Raises:
        UnsupportedModelError: if it is one.
    """
    if family.score is not None:
        raise UnsupportedModelError(
            f"{what} needs a model that writes words, and {family.name} is a dual encoder: two towers and a score, no vocabulary "
            f"that logits are of. {_INSTEAD}"
        )


def writes(arguments: Mapping[str, Any], model: Any, name: str) -> Any:
    """The model, if it writes words; the condition of `WritingModel`."""
    require_writer(model.family, str(arguments[CALL]))
    return model
