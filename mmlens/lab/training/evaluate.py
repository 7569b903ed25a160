"""Measures the lab model on held-out scenes: `python -m mmlens.lab.training.evaluate [PATH]`."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmlens.core.errors import InputError
from mmlens.lab.composing import scenes
from mmlens.lab.training.accuracy import Accuracy, accuracy, captions
from mmlens.lab.training.noun_neurons import NounNeurons, noun_neurons
from mmlens.models.hooked import HookedMultimodal

WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Evaluation:
    """Everything the model card states.

    Attributes:
        accuracy: Shares of right captions and answers.
        neurons: The nouns' neurons.
        load_seconds: Time to load model and processor.
        caption_seconds: Median time of one caption of one picture.
        parameters: Number of parameters.
        threads: CPU threads used.
    """

    accuracy: Accuracy
    neurons: NounNeurons
    load_seconds: float
    caption_seconds: float
    parameters: int
    threads: int

    def table(self) -> str:
        """Give the figures as a Markdown table, each beside its target."""
        right, neurons = self.accuracy, self.neurons
        rows = [
            ("caption: noun and colour of each object", f"{right.objects:.3f}", ">= 0.95"),
            ("caption: size as well", f"{right.sizes:.3f}", ""),
            ("caption: place", f"{right.place:.3f}", ">= 0.99"),
            ("caption: right to the last word", f"{right.exact:.3f}", ""),
        ]
        for kind, share in right.questions.items():
            target = ">= 0.90" if kind == "position" else ">= 0.95"
            rows.append((f"question: {kind} ({right.asked[kind]} asked)", f"{share:.3f}", target))
        rows += [
            ("hazard signs refused, of those to be refused", f"{right.refusals:.3f}", ""),
            (f"noun among the 5 words of its top 20 neurons ({neurons.nouns} nouns)",
             str(neurons.readable), ">= 0.50"),
            ("the same, random neurons of the same layers", str(neurons.readable_random), "<= 0.15"),
            (f"top 20 shared by picture and written twin ({neurons.both} nouns)",
             str(neurons.shared), ">= 0.50"),
            ("the same, with the writing of another noun", str(neurons.shared_other), "<= 0.05"),
            ("top 20 above the first layer", f"{sum(neurons.layers[1:]):.3f}", "most"),
            ("top 20 per layer", " ".join(f"{each:.2f}" for each in neurons.layers), ""),
            ("seconds to load", f"{self.load_seconds:.2f}", "< 3"),
            ("seconds for one caption", f"{self.caption_seconds:.2f}", "< 1"),
        ]  # fmt: skip
        lines = ["| measured | value | target |", "|---|---|---|"]
        return "\n".join(lines + [f"| {name} | {value} | {target} |" for name, value, target in rows])


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
    started = time.perf_counter()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    load_seconds = time.perf_counter() - started
    times = []
    for each in scenes(6, seed=2):
        each.render()  # so that what drawing sets up once is not part of the time
        started = time.perf_counter()
        captions(model, processor, [each], progress=False)
        times.append(time.perf_counter() - started)
    return Evaluation(
        accuracy=accuracy(model, processor, scenes(n_scenes, seed=0), progress=progress),
        neurons=noun_neurons(
            HookedMultimodal.from_hf(model, processor), scenes(n_noun_scenes, seed=1), progress=progress
        ),
        load_seconds=load_seconds,
        caption_seconds=sorted(times)[len(times) // 2],
        parameters=sum(each.numel() for each in model.parameters()),
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
        from mmlens.lab.training.card import write_card

        print(write_card(options.path, result))
    else:
        print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
