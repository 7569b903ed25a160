"""The lab model with its LoRA fine-tunes, and the captions that these were taught."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.tuning.tune import with_adapters
from mmlens.lab.checkpoints import STYLES, Style
from mmlens.lab.language import CAPTION_PROMPT, styled_caption
from mmlens.lab.scenery import Scene
from mmlens.models.hooked import HookedMultimodal


def tuned_model(base: Path, adapters: Path) -> HookedMultimodal:
    """Put every adapter on one model; see `mmlens.lab.load_tuned`."""
    model = HookedMultimodal.from_pretrained(base, dtype="float32")
    return with_adapters(model, {style: adapters / style for style in STYLES})


def styled_samples(scenes: Sequence[Scene], style: Style) -> list[Sample]:
    """Scenes with the captions of a style.

    Args:
        scenes: what is shown.
        style: what captions begin with.
    """
    return [
        Sample(
            (scene.image,),
            CAPTION_PROMPT,
            styled_caption(scene.placed, scene.place, scene.mood, style),
            name=str(scene.seed),
        )
        for scene in scenes
    ]
