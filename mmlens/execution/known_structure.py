"""The structure of models that are made of known modules alone, and short texts on which they can be tried.

How blocks work is a matter of their code. Where all of it is transformers' and torch's, and the family is a declared one, a way
that gives what whole passes give on a few tokens does so on many: the code is the same, and what a real run brings along (masks,
rotary tables, positions) is recorded of it. Whatever else may act (a class or function of the user's, quantised weights,
adapters, hooks of other libraries) is no known structure.
"""

from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import nn

from mmlens.architectures.loading import find_family
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

#: Packages whose modules are known, and parts of them whose modules stand in for others.
_KNOWN, _STAND_INS = ("torch.nn.", "transformers.", "timm."), ("transformers.integrations.", "transformers.quantizers.")
_ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
#: Tokens of a short text.
_TOKENS = 12


def known_structure(model: HookedMultimodal) -> Hashable | None:
    """What tells one known structure from another: the modules, dtypes, kernels and family; None where it is not known.

    Args:
        model: the hooked model.
    """
    base = model.base
    is_plain = model.hf_model is base and not getattr(base, "is_quantized", False)
    if not is_plain or model.discovered or find_family(base) != model.family:
        return None
    kinds: list[str] = []
    kernels: dict[str, None] = {}
    dtypes: dict[torch.dtype, None] = {}
    for module in base.modules():
        if not _is_known(module):
            return None
        kinds.append(type(module).__qualname__)
        dtypes |= dict.fromkeys(weight.dtype for weight in module._parameters.values() if weight is not None)
        kernel = getattr(getattr(module, "config", None), "_attn_implementation", None) or "eager"
        if kernel not in _ATTENTION:
            return None
        kernels[kernel] = None
    return model.family.name, tuple(kinds), tuple(kernels), tuple(dtypes), base.training


def _is_known(module: nn.Module) -> bool:
    """Whether a module does what its class says, and the class is a known one."""
    weights = [weight for weight in module._parameters.values() if weight is not None]
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    code = [type(module), type(module).forward, *hooks]
    return (
        all(_is_of_known_package(part) for part in code)
        and "forward" not in vars(module)
        and all(type(weight) is nn.Parameter and type(weight.data) is torch.Tensor for weight in weights)
    )


def _is_of_known_package(code: Any) -> bool:
    home = f"{getattr(code, '__module__', None)}."
    return home.startswith(_KNOWN) and not home.startswith(_STAND_INS)


def short_text(model: HookedMultimodal, batch: MultimodalBatch) -> MultimodalBatch | None:
    """A few of a batch's own words, without a picture; None where there are none.

    Args:
        model: the hooked model.
        batch: the batch.
    """
    if "input_ids" not in batch.inputs:  # embeddings
        return None
    ids = batch["input_ids"][0]
    if batch.layout.is_token.shape[1] == len(ids):
        ids = ids[batch.layout.text[0].to(ids.device)]
    special = torch.tensor([*_special_tokens(model.config)], device=ids.device)
    words = ids[~torch.isin(ids, special)] if len(special) else ids
    if not len(words):
        return None
    tokens = words.repeat(-(-_TOKENS // len(words)))[None, -_TOKENS:]
    return model.batch({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})


def _special_tokens(config: Any) -> Iterator[int]:
    """The tokens that a configuration, or a part of it, has a name for."""
    for name, value in vars(config).items():
        if name.endswith(("token_id", "token_index", "token_ids")):
            yield from (
                token for token in (value if isinstance(value, list | tuple) else [value]) if type(token) is int
            )
        elif name.endswith("_config") and hasattr(value, "__dict__"):
            yield from _special_tokens(value)
