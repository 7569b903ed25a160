"""The command line of the narrator's training."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from mmlens.lab.training.narrator.recipe import NARRATOR, TextStage
from mmlens.lab.training.narrator.text import TextRun


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command; by default those of the process.
    """
    stage = TextStage()
    parser = argparse.ArgumentParser(prog="python -m mmlens.lab.training.narrator", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; run again to resume")
    parser.add_argument("--stage", choices=("text",), default="text", help="how far to train")
    parser.add_argument("--steps", type=int, default=stage.steps, help=f"of the text stage ({stage.steps})")
    parser.add_argument(
        "--fall", type=int, default=stage.fall, help=f"the last of them, with a falling rate ({stage.fall})"
    )
    parser.add_argument(
        "--rate", type=float, default=stage.rate, help=f"learning rate of the text stage ({stage.rate})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    text = replace(stage, steps=options.steps, fall=options.fall, rate=options.rate)
    run = TextRun(text, NARRATOR, options.out, seed=options.seed)
    run.run()
    print(f"text: {run.step} steps, {run.tokens / 1e6:.1f}M tokens, {run.seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
