"""TransformerLens 4: its bridge around a copy of the model, eager attention included, as it builds it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from benchmarks.contender import Answers, Contender
from benchmarks.models import Subject

#: The bridge switches the model to eager attention, which rounds otherwise than the fused kernel.
_ROUNDING = 1e-4
NAME = f"TransformerLens {version('transformer-lens')}"


class Bridged:
    """`TransformerBridge`."""

    def __init__(self, subject: Subject):
        self._subject = subject
        self._more = {name: tensor for name, tensor in subject.inputs.items() if name != "input_ids"}
        self._tokens = subject.inputs["input_ids"]

    @cached_property
    def bridge(self) -> Any:
        """The bridge, made when first used."""
        model = self._subject.copy()
        return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)

    def forward(self) -> Contender:
        """Run without hooks."""
        bridge = self.bridge
        return Contender(NAME, lambda: bridge(self._tokens, **self._more), _logits_only, _ROUNDING)

    def cache(self, names: Sequence[str], *, last: bool = False) -> Contender:
        """Run with a names filter; the projector's neurons have no point."""
        bridge = self.bridge
        theirs = {name: _their_name(name) for name in names if name != "projector.mlp.hook_post"}
        lacks = frozenset(names) - frozenset(theirs)
        asked = list(theirs.values())
        cut = [-1] if last else None
        return Contender(
            NAME,
            lambda: bridge.run_with_cache(self._tokens, names_filter=asked, pos_slice=cut, **self._more),
            lambda result: _answers(result, theirs),
            _ROUNDING,
            lacks=lacks,
        )

    def everything(self) -> Contender:
        """Run with its default cache."""
        bridge = self.bridge
        return Contender(
            NAME,
            lambda: bridge.run_with_cache(self._tokens, **self._more),
            _logits_only,
            _ROUNDING,
            note=f"{len(bridge.run_with_cache(self._tokens, **self._more)[1])} points",
        )


def _their_name(name: str) -> str:
    """The bridge's name of a point."""
    if not name.startswith("vision."):
        return name
    theirs = name.replace("vision.blocks.", "vision_encoder.encoder_layers.")
    # the tower has no resid_mid; the second norm's input is the same tensor
    return theirs.replace("hook_resid_mid", "ln2.hook_in")


def _logits_only(result: torch.Tensor | tuple[torch.Tensor, Any]) -> Answers:
    return {"logits": result[0] if isinstance(result, tuple) else result}


def _answers(result: tuple[torch.Tensor, Any], theirs: Mapping[str, str]) -> Answers:
    logits, cache = result
    return {"logits": logits, **{ours: cache[name] for ours, name in theirs.items()}}
