"""Measures the lab model on held-out scenes: `python -m mmlens.lab.training.evaluate [PATH]`."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmlens.core.errors import InputError
from mmlens.lab.checkpoints import WEIGHTS
from mmlens.lab.composing import scenes
from mmlens.lab.training.accuracy import captions, lab_accuracy
from mmlens.lab.training.card import Evaluation, write_card
from mmlens.lab.training.noun_neurons import noun_neurons
from mmlens.models.hooked import HookedMultimodal


def evaluate(
    path: str | Path = WEIGHTS, *, n_scenes: int = 1000, n_noun_scenes: int = 300, progress: bool = True
) -> Evaluation:
    """Measure a trained lab model, in float32, with plain transformers.

    Args:
        path: Folder of the model.
        n_scenes: Held-out scenes for the accuracy.
        n_noun_scenes: Held-out scenes for the nouns' neurons, different from those.
        progress: Whether to show bars.

    Returns:
        The figures.

    Raises:
        InputError: The folder holds no model.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no model (no config.json). Pass the folder that training wrote.")
    start = time.perf_counter()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    load_seconds = time.perf_counter() - start
    times = []
    for scene_drawn in scenes(6, seed=2):
        scene_drawn.render()  # so that what drawing sets up once is not part of the time
        start = time.perf_counter()
        captions(model, processor, [scene_drawn], progress=False)
        times.append(time.perf_counter() - start)
    return Evaluation(
        accuracy=lab_accuracy(model, processor, scenes(n_scenes, seed=0), progress=progress),
        neurons=noun_neurons(
            HookedMultimodal.from_hf(model, processor), scenes(n_noun_scenes, seed=1), progress=progress
        ),
        load_seconds=load_seconds,
        caption_seconds=sorted(times)[len(times) // 2],
        parameters=sum(scene_drawn.numel() for scene_drawn in model.parameters()),
        threads=torch.get_num_threads(),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m mmlens.lab.training.evaluate", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=WEIGHTS, help="folder of the model")
    parser.add_argument("--scenes", type=int, default=1000, help="held-out scenes for the accuracy (1000)")
    parser.add_argument("--noun-scenes", type=int, default=300, help="scenes for the nouns' neurons (300)")
    parser.add_argument("--card", action="store_true", help="also write the folder's model card")
    options = parser.parse_args(arguments)
    result = evaluate(options.path, n_scenes=options.scenes, n_noun_scenes=options.noun_scenes)
    print(result.table())
    if options.card:
        print(write_card(options.path, result))
    else:
        print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
