"""An example to discover a model with, made by its processor before anything is known of its family."""

import inspect
from typing import Any

import torch
from torch import nn

from mmlens.core.errors import MMLensError, UnsupportedModelError
from mmlens.declarations.family import Family
from mmlens.inputs.prepare import prepare_batch


def placeholder_of(model: nn.Module, processor: Any | None) -> str | None:
    """The text that stands for a picture in a prompt, or None if neither processor nor configuration says."""
    token = getattr(processor, "image_token", None)
    number = getattr(getattr(model, "config", None), "image_token_id", None)
    if token is None and number is not None and processor is not None:
        token = processor.tokenizer.convert_ids_to_tokens(number)
    return None if token is None else f"{getattr(token, 'content', token)}\n"


def example_for(model: nn.Module, processor: Any) -> dict[str, torch.Tensor]:
    """Keyword tensors of a noise picture and a short question.

    Raises:
        UnsupportedModelError: if the processor makes none.
    """
    name, config = type(model).__name__, model.config
    advice = (
        "pass one: HookedMultimodal.from_hf(model, processor, example=tensors), with tensors that the model runs on."
    )
    placeholder = placeholder_of(model, processor)
    if placeholder is None:
        raise UnsupportedModelError(
            f"No family covers {name}, and its processor has no image_token, so no example can be made to discover its parts "
            f"with; {advice}"
        )
    unknown: Any = None
    family = Family(
        name=name,
        classes=(name,),
        vision=unknown,
        projector=unknown,
        language=unknown,
        places=lambda *arguments: [],
        placeholder=placeholder,
        token_kinds=True,
    )
    pixels = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    try:
        batch = prepare_batch(family, config, processor, "describe the image", pixels)
    except (MMLensError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise UnsupportedModelError(
            f"No family covers {name}, and its processor made no example to discover its parts with ({type(error).__name__}: "
            f"{error}); {advice}"
        ) from error
    device = next(model.parameters()).device
    parameters = inspect.signature(model.forward).parameters
    return {k: v.to(device) for k, v in batch.inputs.items() if k != "token_type_ids" or k in parameters}
