"""The lab model with its LoRA fine-tunes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mmlens.architectures.loading import load_model
from mmlens.lab.checkpoints import STYLES
from mmlens.models.hooked import HookedMultimodal


def tuned_model(base: Path, adapters: Path) -> HookedMultimodal:
    """Put every adapter on one model; see `mmlens.lab.load_tuned`."""
    from peft import PeftModel

    model, processor = load_model(base, dtype="float32", device=None, device_map=None, processor=None, options={})
    first, *others = STYLES
    with warnings.catch_warnings():
        # peft still asks transformers by the old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        peft_model: Any = PeftModel.from_pretrained(model, adapters / first, adapter_name=first)
        for style in others:
            peft_model.load_adapter(adapters / style, adapter_name=style)
    peft_model.base_model.disable_adapter_layers()
    return HookedMultimodal.from_hf(peft_model.eval(), processor)
