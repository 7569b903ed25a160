"""The names that the code of a call may use, on either side."""

import contextlib
import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import einops
import numpy as np
import pandas as pd
import torch
from transformer_lens import ActivationCache, FactoredMatrix, SVDInterpreter, evals, patching, utilities
from transformer_lens.head_detector import detect_head
from transformer_lens.tools.analysis.attribution_patching import (
    EdgeAttributionConfig,
    attribution_patch,
    cache_activation_and_gradient,
    faithfulness,
)
from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution
from transformer_lens.tools.analysis.interchange import (
    SubspaceInterchange,
    collect_activations,
    fit_das,
    intervened_logits,
    random_basis,
)
from transformer_lens.tools.analysis.logit_lens import logit_lens
from transformer_lens.tools.analysis.projection_kernel import attention_head_subspace_affinity

from tests.contracts.transformer_lens.subjects import LONG_TEXT, OTHER_TEXT, TEXT, Pair
from tests.tiny import picture


def scope(pair: Pair, model: Any) -> dict[str, Any]:
    """The names for one side of a pair, `model` among them.

    Args:
        pair: the two sides.
        model: one of them: the bound model or the bridge.
    """
    tokens, other_tokens = (pair.batches[text]["input_ids"] for text in (TEXT, OTHER_TEXT))
    names = {**_LIBRARIES, **_HOOKS}
    names.update(
        model=model,
        tokens=tokens,
        other_tokens=other_tokens,
        text=TEXT,
        other_text=OTHER_TEXT,
        long_text=LONG_TEXT,
        image=picture(0),
        mask=torch.ones_like(tokens),
        metric=lambda logits: logits[0, -1, 20] - logits[0, -1, 21],
        batch_metric=lambda logits: logits[:, -1, 20] - logits[:, -1, 21],
        direction=torch.linspace(-1, 1, 32),
        diagonal=torch.eye(len(model.to_tokens(TEXT)[0])),
        cells=pd.DataFrame([(0, 5, 1), (1, 6, 1), (2, 7, 0)], columns=["layer", "pos", "head"]),
        pattern_cells=pd.DataFrame([(0, 1, 5, 2), (1, 1, 7, 7), (2, 0, 7, 0)], columns=["layer", "head", "dest", "src"]),
            [(0, 1, 5, 2), (1, 2, 7, 7), (2, 3, 8, 0)], columns=["layer", "head", "dest_pos", "src_pos"]
        ),
        ioi=[
            {
                "prompt": tokens[0],
                "IO": torch.tensor([20]),
                "S": torch.tensor([21]),
            }
        ],
    )
    return names


def caches(pair: Pair, model: Any) -> dict[str, Any]:
    """What runs of the two prompts keep by default on one side."""
    found = {}
    for name, text in (("cache", TEXT), ("other_cache", OTHER_TEXT)):
        key = (pair.name, model is pair.bridge, text)
        if key not in _CACHES:
            _CACHES[key] = model.run_with_cache(pair.batches[text]["input_ids"])[1]
        found[name] = copy.copy(_CACHES[key])  # some calls change a cache in place
        found[name].cache_dict = dict(_CACHES[key].cache_dict)
    return found


_CACHES: dict[tuple[str, bool, str], Any] = {}


def truths(pair: Pair) -> dict[str, Any]:
    """Names for what is right, in terms of the bare model and of the bridge with the picture."""
    bridge, bare = pair.bridge, pair.bare

    def picture_tokens(text: str) -> torch.Tensor:
        return pair.batches[text]["input_ids"]

    def last_loss(logits: torch.Tensor, text: str) -> torch.Tensor:
        """The mean loss of the tokens of text: those that are no place of a picture."""
        batch = pair.batches[text]
        losses = -logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        return losses[~batch.layout.is_image[:, 1:]].mean()

    def text_loss(text: str) -> torch.Tensor:
        return last_loss(bare(**pair.batches[text].inputs).logits, text)

    def grad_of_text_loss(name: str) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        logits = bridge.run_with_hooks(picture_tokens(TEXT), bwd_hooks=[(name, keep(seen))], reset_hooks_end=False)
        last_loss(logits, TEXT).backward()
        bridge.reset_hooks()
        return seen[0]

    def greedy(count: int) -> torch.Tensor:
        inputs = pair.batches[TEXT].inputs
        return bare.generate(**inputs, max_new_tokens=count, do_sample=False)

    return {
        **_LIBRARIES,
        **_HOOKS,
        "bridge": bridge,
        "bare": bare,
        "text": TEXT,
        "other_text": OTHER_TEXT,
        "long_text": LONG_TEXT,
        "tokens": picture_tokens(TEXT),
        "picture_tokens": picture_tokens,
        "last_loss": last_loss,
        "text_loss": text_loss,
        "grad_of_text_loss": grad_of_text_loss,
        "greedy": greedy,
    }


def zero_head(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    """Zero in the place of the second head."""
    activation[:, :, 1] = 0
    return activation


def zero_one(activation: torch.Tensor, hook: Any, head: int) -> torch.Tensor:
    """Zero in the place of one head."""
    activation = activation.clone()
    activation[:, :, head] = 0
    return activation


def double(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    """Twice the activation."""
    return activation * 2


def keep(values: list[torch.Tensor]) -> Callable[..., None]:
    """A hook that appends what it sees."""

    def hook_function(activation: torch.Tensor, hook: Any) -> None:
        values.append(activation.detach().clone())

    return hook_function


def store(values: dict[str, torch.Tensor]) -> Callable[..., None]:
    """A hook that keeps what it sees under the point's name."""

    def hook_function(activation: torch.Tensor, hook: Any) -> None:
        values[hook.name] = activation.detach().clone()

    return hook_function


def printed(function: Callable[[], None]) -> str:
    """What a function prints."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        function()
    return text.getvalue()


def cv_tokens(tokens: list[str], attention: torch.Tensor) -> tuple[list[str], torch.Tensor]:
    """What circuitsvis draws of a pattern: as many strings as rows."""
    assert len(tokens) == attention.shape[-1]
    return tokens, attention


_LIBRARIES: dict[str, Any] = {
    "torch": torch,
    "np": np,
    "einops": einops,
    "partial": partial,
    "utils": utilities,
    "patching": patching,
    "evals": evals,
    "ActivationCache": ActivationCache,
    "FactoredMatrix": FactoredMatrix,
    "SVDInterpreter": SVDInterpreter,
    "detect_head": detect_head,
    "EdgeAttributionConfig": EdgeAttributionConfig,
    "attribution_patch": attribution_patch,
    "cache_activation_and_gradient": cache_activation_and_gradient,
    "faithfulness": faithfulness,
    "direct_logit_attribution": direct_logit_attribution,
    "logit_lens": logit_lens,
    "SubspaceInterchange": SubspaceInterchange,
    "collect_activations": collect_activations,
    "fit_das": fit_das,
    "intervened_logits": intervened_logits,
    "random_basis": random_basis,
    "attention_head_subspace_affinity": attention_head_subspace_affinity,
}
_HOOKS: dict[str, Any] = {
    "zero_head": zero_head,
    "zero_one": zero_one,
    "double": double,
    "keep": keep,
    "store": store,
    "printed": printed,
    "cv_tokens": cv_tokens,
}
