"""nnsight 0.8: saves inside a trace, around a copy of the model."""

from collections.abc import Sequence
from typing import Any

import nnsight

from benchmarks.contender import Answers, Contender
from benchmarks.models import Subject

NAME = f"nnsight {nnsight.__version__}"


class Traced:
    """`NNsight` around the module; values are asked for in the order in which the model makes them, as it requires."""

    def __init__(self, subject: Subject):
        self.model = nnsight.NNsight(subject.copy())
        self.inputs = subject.inputs

    def forward(self) -> Contender:
        """Trace that saves only the logits."""
        return Contender(NAME, self._logits, lambda logits: {"logits": logits})

    def cache(self, names: Sequence[str], *, last: bool = False) -> Contender:
        """Trace that saves these points."""
        return Contender(NAME, lambda: self._kept(frozenset(names), last), _answers)

    def everything(self) -> Contender:
        """Trace with a cache of every module's input and output."""
        return Contender(NAME, self._all, lambda result: {"logits": result[0]}, note="input and output of every module")

    def _logits(self) -> Any:
        with self.model.trace(**self.inputs, use_cache=False):
            logits = self.model.output.logits.save()
        return logits  # noqa: RET504 - a trace cannot be returned from

    def _kept(self, names: frozenset[str], last: bool) -> Any:
        cut = (slice(None), slice(-1, None)) if last else ...
        model = self.model
        with model.trace(**self.inputs, use_cache=False):
            kept: dict[str, Any] = {}.save()
            if any(name.startswith("vision.") for name in names):
                for i, layer in enumerate(model.model.vision_tower.encoder.layers):
                    before = layer.input
                    kept[f"vision.blocks.{i}.hook_resid_pre"] = before[cut]
                    kept[f"vision.blocks.{i}.hook_resid_mid"] = (before + layer.self_attn.output[0])[cut]
                    kept[f"vision.blocks.{i}.mlp.hook_post"] = layer.mlp.fc2.input[cut]
                    kept[f"vision.blocks.{i}.hook_resid_post"] = layer.output[cut]
                kept["projector.mlp.hook_post"] = model.model.multi_modal_projector.linear_2.input[cut]
            for i, layer in enumerate(model.model.language_model.layers):
                before = layer.input
                kept[f"blocks.{i}.hook_resid_pre"] = before[cut]
                kept[f"blocks.{i}.hook_resid_mid"] = (before + layer.self_attn.output[0])[cut]
                kept[f"blocks.{i}.mlp.hook_post"] = layer.mlp.down_proj.input[cut]
                kept[f"blocks.{i}.hook_resid_post"] = layer.output[cut]
            logits = model.output.logits.save()
        return logits, kept

    def _all(self) -> Any:
        with self.model.trace(**self.inputs, use_cache=False) as tracer:
            cache = tracer.cache(include_inputs=True).save()
            logits = self.model.output.logits.save()
        return logits, cache


def _answers(result: Any) -> Answers:
    logits, kept = result
    return {"logits": logits, **kept}
