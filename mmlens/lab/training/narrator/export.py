"""Writes the narrator the way Hugging Face does: the frozen stage as the checkpoint, the tuned one as an adapter beside it."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

from mmlens.lab.tales.tokenizer import narrator_processor
from mmlens.lab.training.narrator.pictures import PictureRun
from mmlens.lab.training.narrator.text import TextRun

CHANGES = {"joint": "tuned", "lens": "lens"}
"""The folders of the changes, by the names of their stages."""


def export(folder: Path, text: TextRun, projector: PictureRun, *changes: PictureRun) -> None:
    """Write the model in float16, its processor, the adapters and a record of the training.

    Args:
        folder: Where config.json, model.safetensors, the processor's files and training.json go, the adapters below it.
        text: The finished run of the text stage.
        projector: The finished run of the projector.
        changes: The finished runs after it.
    """
    model = deepcopy(projector.model)
    model.half().save_pretrained(folder)
    # Written for the owner's eyes only, which would make an installed package unreadable for others.
    (folder / "model.safetensors").chmod(0o644)
    narrator_processor(text.tokenizer, text.size).save_pretrained(folder)
    record: dict[str, object] = {
        "seed": text.seed,
        "size": asdict(text.size),
        "text": {"stage": asdict(text.stage), "tokens": text.tokens, "seconds": round(text.seconds), "log": text.log},
    }
    for run in (projector, *changes):
        record[run.stage.name] = {"stage": asdict(run.stage), "seconds": round(run.seconds), "log": run.log}
    (folder / "training.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    for run in changes:
        if run.change is not None:
            run.change.save(folder / CHANGES[run.stage.name])
