"""Keywords of a forward pass: those that the Hugging Face model does not know it would swallow in silence."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import TransformersKwargs

from mmlens.core.errors import InputError
from mmlens.core.names import nearest

#: Words that people bring along, mostly from TransformerLens, and what says the same here.
_SAID_HERE = {
    "names_filter": "run_with_cache(batch, names=...) chooses points: names, globs or a predicate",
    "pos_slice": "run_with_cache(batch, positions=...) chooses positions",
    "remove_batch_dim": "cache.remove_batch_dim() takes the axis away",
    "stop_at_layer": "a pass runs to its end; run_with_cache(batch, names=...) keeps no more than is named",
    "start_at_layer": "a pass runs from its beginning; mm.patch computes only what a patch can change",
    "return_type": "a run returns logits, and mm.metrics makes numbers of them",
    "prepend_bos": "model.prepare(text, images=...) puts the special tokens in",
    "fwd_hooks": "model.run_with_hooks(batch, fwd_hooks=...) takes them, or `with model.hooks(fwd_hooks=...)`",
    "bwd_hooks": "`with model.hooks(bwd_hooks=...)` around the pass and backward()",
    "incl_bwd": "`with model.hooks(bwd_hooks=...)` around the pass and backward()",
    "reset_hooks_end": "hooks of a run and of a `with` are gone afterwards",
    "clear_contexts": "hooks of a run and of a `with` are gone afterwards",
    **dict.fromkeys(
        ("do_sample", "temperature", "top_k", "top_p", "num_beams", "num_return_sequences", "generation_config"),
        "model.generate(batch, ...) takes it, where trace_generation is greedy; model.extend(batch, tokens) puts what was "
        "generated behind the prompt, for run_with_cache",
    ),
    **dict.fromkeys(
        ("contrast", "guidance_scale", "negative_prompt_ids", "prompt_lookup_num_tokens", "assistant_model"),
        "a forward pass writes nothing; model.generate(batch, ...) takes it (trace_generation takes contrast= and "
        "guidance_scale=), and model.run_with_cache(model.extend(batch, tokens)) has the states of what was written",
    ),
    **dict.fromkeys(
        ("image", "images", "text", "prompt", "videos"),
        "model.prepare(text, images=...) makes a batch of them, and a run takes the batch",
    ),
}


def require_options(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Refuse keywords that neither a model's forward pass knows nor that of a model inside of it; tensors are left to it.

    Args:
        model: the Hugging Face model itself, without adapters around it.
        options: keywords of a run method.

    Raises:
        InputError: if some are unknown; says what to use in their place.
    """
    names = [name for name, value in options.items() if not isinstance(value, torch.Tensor)]
    accepted_names = _known(model) if names else None
    unknown = [] if accepted_names is None else [name for name in names if name not in accepted_names]
    if accepted_names is None or not unknown:
        return
    notes = [f" {name}: {_SAID_HERE[name]}." for name in unknown if name in _SAID_HERE]
    others = [name for name in unknown if name not in _SAID_HERE]
    close = sorted({candidate for name in others for candidate in nearest(name, accepted_names, count=1)})
    raise InputError(
        f"The forward pass of {type(model).__name__} knows no {', '.join(f'{name}=' for name in unknown)} and would leave "
        f"{'it' if len(unknown) == 1 else 'them'} out without a word."
        + "".join(dict.fromkeys(notes))
        + (f" Nearest: {', '.join(close)}." if close else "")
    )


def _known(model: nn.Module) -> set[str] | None:
    """Keywords that a model or a model inside of it names, or all of transformers share; None where anything is taken."""
    names = {*TransformersKwargs.__annotations__, "return_dict"}
    for module in [model, *(submodule for submodule in model.modules() if isinstance(submodule, PreTrainedModel))]:
        parameters = inspect.signature(type(module).forward).parameters
        keywords = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if module is model and keywords == ["self"]:
            return None  # nobody knows what it does with them
        names.update(keywords)
    return names - {"self"}
