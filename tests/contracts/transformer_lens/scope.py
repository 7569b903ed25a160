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
        diagonal=torch.eye(tokens.shape[1]),
        cells=pd.DataFrame([(0, 5, 1), (1, 6, 1), (2, 7, 0)], columns=["layer", "pos", "head"]),
        pattern_cells=pd.DataFrame(
            [(0, 1, 5, 2), (1, 1, 7, 7), (2, 0, 7, 0)], columns=["layer", "head", "dest", "src"]
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

    def with_picture(text: str | list[str], side: str = "left") -> torch.Tensor:
        own = pair.batches[TEXT]["input_ids"][0]
        start = own[: len(own) - len(TEXT.split())].tolist()  # what stands in front of the text
        ids = [
            start + pair.hooked.tokenizer(each, add_special_tokens=False)["input_ids"]
            for each in ([text] if isinstance(text, str) else text)
        ]
        pads = [[pair.hooked.tokenizer.pad_token_id] * (max(map(len, ids)) - len(row)) for row in ids]
        return torch.tensor([row + pad if side == "right" else pad + row for row, pad in zip(ids, pads, strict=True)])

    def bias(name: str) -> torch.Tensor:
        try:
            return getattr(bridge, name)
        except AttributeError:
            width = {"b_in": bridge.cfg.d_mlp, "b_O": bridge.cfg.d_model, "b_out": bridge.cfg.d_model}
            heads = bridge.cfg.n_heads if name == "b_Q" else bridge.cfg.n_key_value_heads or bridge.cfg.n_heads
            shape = (width[name],) if name in width else (heads, bridge.cfg.d_head)
            return torch.zeros(bridge.cfg.n_layers, *shape)

    def written(count: int) -> str:
        prompt = pair.batches[TEXT]["input_ids"].shape[1]
        return pair.hooked.tokenizer.decode(greedy(count)[0, prompt:], skip_special_tokens=True)

    def attributed(stack: torch.Tensor, token: str, other: str | None = None) -> torch.Tensor:
        ids = [bridge.to_single_token(each) for each in (token, other) if each]
        direction = bridge.W_U[:, ids[0]] - (bridge.W_U[:, ids[1]] if other else 0)
        return pictured.apply_ln_to_stack(stack, pos_slice=-1) @ (gain * direction)

    def prompt_loss(text: str) -> torch.Tensor:
        ids = with_picture(text)
        losses = -bridge(ids)[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        own = pair.batches[TEXT]
        return losses[ids[:, 1:] != own["input_ids"][own.layout.is_image][0]].mean()

    def patched_middles() -> torch.Tensor:
        """The stream between the branches is patched by what attention writes: out = middle - what it is added to."""
        clean, corrupted = own["cache"], own["other_cache"]
        grid = []
        for layer in range(bridge.cfg.n_layers):
            write = clean["resid_mid", layer] - corrupted["resid_pre", layer]
            for pos in range(write.shape[1]):

                def put(out: torch.Tensor, hook: Any, pos: int = pos, write: torch.Tensor = write) -> torch.Tensor:
                    out = out.clone()
                    out[:, pos] = write[:, pos]
                    return out

                logits = bridge.run_with_hooks(
                    picture_tokens(OTHER_TEXT), fwd_hooks=[(f"blocks.{layer}.hook_attn_out", put)]
                )
                grid.append(logits[0, -1, 20] - logits[0, -1, 21])
        return torch.stack(grid).detach().reshape(bridge.cfg.n_layers, -1)

    def patched_patterns(cells: pd.DataFrame | None = None) -> torch.Tensor:
        """Patterns are patched by what heads make of them: z = pattern v, which the bridge can edit everywhere."""
        n_layers, n_heads = bridge.cfg.n_layers, bridge.cfg.n_heads
        every = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        values = []
        for layer, head, *where in every if cells is None else cells.itertuples(index=False):
            pattern, corrupted = (each["pattern", layer][:, head] for each in (own["cache"], own["other_cache"]))
            v = own["other_cache"]["v", layer]
            index = (slice(None), *where)
            mixed = pattern if not where else corrupted.clone()
            mixed[index] = pattern[index]
            z = mixed @ v[:, :, head * v.shape[2] // n_heads]

            def put(activation: torch.Tensor, hook: Any, head: int = head, z: torch.Tensor = z) -> torch.Tensor:
                activation = activation.clone()
                activation[:, :, head] = z
                return activation

            logits = bridge.run_with_hooks(picture_tokens(OTHER_TEXT), fwd_hooks=[(f"blocks.{layer}.attn.hook_z", put)])
            values.append(logits[0, -1, 20] - logits[0, -1, 21])
        stacked = torch.stack(values).detach()
        return stacked.reshape(n_layers, n_heads) if cells is None else stacked

    gain = bridge.ln_final.weight + bridge.cfg.rmsnorm_uses_offset
    own = caches(pair, bridge)
    pictured = own["cache"]
    pictured.cache_dict["hook_embed"] = pictured["resid_pre", 0]  # the embedding with the picture in it
    return {
        **_LIBRARIES,
        **_HOOKS,
        **own,
        "pictured": pictured,
        "direction": torch.linspace(-1, 1, 32),
        "written": written,
        "bias": bias,
        "with_picture": with_picture,
        "gain": gain,
        "attributed": attributed,
        "prompt_loss": prompt_loss,
        "sanity_text": max(
            (text for text in evals.sanity_check.__code__.co_consts if text != evals.sanity_check.__doc__),
            key=lambda text: len(str(text)),
        ),
        "patched_patterns": patched_patterns,
        "patched_middles": patched_middles,
        "told": Told(bridge, with_picture),
        "pattern_cells": scope(pair, bridge)["pattern_cells"],
        "diagonal": torch.eye(picture_tokens(TEXT).shape[1]),
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


class Told:
    """The bridge, to which a text is a prompt about the picture."""

    def __init__(self, bridge: Any, with_picture: Callable[..., torch.Tensor]):
        self.bridge = bridge
        self.with_picture = with_picture

    @property
    def cfg(self) -> Any:
        return self.bridge.cfg

    @property
    def tokenizer(self) -> Any:
        return self.bridge.tokenizer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.bridge(*args, **kwargs)

    def to_tokens(self, text: Any, prepend_bos: bool | None = None, **options: Any) -> torch.Tensor:
        return self.bridge.to_tokens(text, prepend_bos=False) if prepend_bos is False else self.with_picture(text)

    def to_str_tokens(self, text: Any, prepend_bos: bool | None = None) -> Any:
        return self.bridge.to_str_tokens(self.to_tokens(text, prepend_bos)[0])

    def to_string(self, tokens: Any) -> Any:
        return self.bridge.to_string(tokens)

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any:
        return self.bridge.run_with_cache(*args, **kwargs)

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        return self.bridge.run_with_hooks(*args, **kwargs)


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
