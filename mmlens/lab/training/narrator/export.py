"""Writes the narrator the way Hugging Face does: the frozen stage as the checkpoint, the tuned one as an adapter beside it."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

from mmlens.lab.tales.tokenizer import narrator_processor
from mmlens.lab.training.narrator.pictures import PictureRun
from mmlens.lab.training.narrator.text import TextRun


def export(folder: Path, text: TextRun, projector: PictureRun, joint: PictureRun | None = None) -> None:
    """Write the model in float16, its processor, the adapter and a record of the training.

    Args:
        folder: Where config.json, model.safetensors, the processor's files and training.json go, and the adapter into "tuned".
        text: The finished run of the text stage.
        projector: The finished run of the projector.
        joint: The finished run after it, if there is one.
    """
    model = deepcopy(projector.model)
    model.half().save_pretrained(folder)
    # Written for the owner's eyes only, which would make an installed package unreadable for others.
    (folder / "model.safetensors").chmod(0o644)
    narrator_processor(text.tokenizer, text.size).save_pretrained(folder)
    record: dict[str, object] = {
        "seed": text.seed,
        "size": asdict(text.size),
        "text": {
            "stage": asdict(text.stage),
            "tokens": text.tokens,
            "seconds": round(text.seconds),
            "log": text.log,
        },
    }
    for run in (projector, joint):
        if run is not None:
            record[run.stage.name] = {"stage": asdict(run.stage), "seconds": round(run.seconds), "log": run.log}
    (folder / "training.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    if joint is not None and joint.change is not None:
        joint.change.save(folder / "tuned")
