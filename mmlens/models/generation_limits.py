"""Options of Hugging Face's `generate`, and what it would generate wrong: refused before a run, with what to do instead."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin

from mmlens.core.errors import InputError
from mmlens.inputs.batch_changes import continuing
from mmlens.models.protocol import HookedModel
from mmlens.models.run import Run


def generator_of(base: nn.Module) -> Any:
    """The module that writes tokens: the model itself, or the language model in it where `generate` hands on to that."""
    generators = (
        m for m in base.modules() if isinstance(m, GenerationMixin) and type(m).generate is GenerationMixin.generate
    )
    return next(generators, base)


def generation_option(model: HookedModel, options: Mapping[str, Any], name: str) -> Any:
    """An option of Hugging Face's `generate` as it will hold: given, of a configuration that was given, or of the model's own."""
    configs = (options.get("generation_config"), getattr(generator_of(model.base), "generation_config", None))
    values = (options.get(name), *(getattr(config, name, None) for config in configs))
    return next((value for value in values if value is not None), None)


def refuse_right_padding(model: HookedModel, is_token: torch.Tensor) -> None:
    """Check that every sample's last position holds a token; an encoder-decoder model writes elsewhere.

    Args:
        model: the hooked model.
        is_token: `[batch pos]`, true where there is one.

    Raises:
        InputError: if some are padded on the right.
    """
    if model.graph["hook_logits"].sequence != "language":
        return
    samples = (~is_token[:, -1].bool()).nonzero().flatten().tolist()
    if samples:
        raise InputError(
            f"Samples {samples} are padded on the right, so their next token would follow padding; {continuing(model.family)}"
        )


def refuse_chunked_prompt(model: HookedModel, chunk: Any) -> None:
    """Refuse to have a prompt read in chunks where its positions cannot be read one chunk after the other.

    Args:
        model: the hooked model.
        chunk: the option `prefill_chunk_size` of transformers; None if the prompt is read at once.

    Raises:
        InputError: says why.
    """
    language = model.family.language
    if chunk is None:
        return
    if language.encoder is not None:
        why = "an encoder reads the prompt, all of it at once"
    elif language.looks_ahead:
        why = "positions of the prompt attend to later ones, which an earlier chunk does not have"
    elif (
        generator_of(model.base) is not model.base
        or language.crossing is not None
        or not language.merges
        or model.family.position_ids is not None
    ):
        why = "transformers cannot cut what comes with this model's prompt"
    else:
        return
    raise InputError(f"prefill_chunk_size={chunk} cannot be right for {model.family.name}: {why}. Leave it out.")


def refuse_guidance(model: HookedModel, run: Run, *, is_assisted: bool) -> None:
    """Refuse guidance where the unconditional passes of transformers cannot be right.

    Raises:
        InputError: if so.
    """
    beams = generation_option(model, run.options, "num_beams") or 1
    why = "guidance_scale= (classifier-free guidance) cannot be right here: "
    if beams > 1:
        raise InputError(
            f"{why}num_beams={beams} moves sequences between beams, and transformers leaves the keys and values of the "
            "unconditional passes where they were. Use num_beams=1, or contrast='pai', which follows the beams."
        )
    if is_assisted:
        raise InputError(
            f"{why}of the candidates that assisted generation rejects, transformers leaves the unconditional keys and values "
            "in place. Leave out prompt_lookup_num_tokens=, assistant_model= and assistant_early_exit=."
        )
    if model.family.language.encoder is not None:
        raise InputError(
            f"{why}{type(model.base).__name__} reads the prompt in an encoder, and transformers gives the unconditional "
            "passes none. Use contrast='pai'."
        )


def refuse_assistance(model: HookedModel, run: Run) -> None:
    """Refuse assisted generation where transformers loses the first candidates, or cannot leave a model early.

    Raises:
        InputError: if so.
    """
    name = type(model.base).__name__
    generator = generator_of(model.base)
    if generator is not model.base:
        raise InputError(
            f"{name} hands its language model embeddings, and transformers' assisted generation leaves the first candidates "
            "out of them, so that it writes other tokens than greedy generation does. Leave out prompt_lookup_num_tokens=, "
            "assistant_model= and assistant_early_exit=."
        )
    if run.batch.size > 1:
        raise InputError(
            f"Assisted generation takes one sample at a time (transformers' limit), found {run.batch.size}; run them "
            "one by one, or leave out prompt_lookup_num_tokens=, assistant_model= and assistant_early_exit=."
        )
    inner = getattr(generator, str(generator.base_model_prefix), None)
    depth = getattr(getattr(inner, "config", None), "num_hidden_layers", None)
    if generation_option(model, run.options, "assistant_early_exit") is not None and depth is None:
        raise InputError(
            f"assistant_early_exit= shortens a model by the number of layers in its configuration, and that of {name} has it "
            "in its text_config, where transformers does not look. Use prompt_lookup_num_tokens= or an assistant_model=."
        )
