"""The command line of the narrator's training."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from mmlens.lab.training.narrator.export import export
from mmlens.lab.training.narrator.pictures import PictureRun
from mmlens.lab.training.narrator.recipe import (
    JOINT_STAGE,
    LENS_STAGE,
    NARRATOR,
    PROJECTOR_STAGE,
    TextStage,
    closed_gates,
)
from mmlens.lab.training.narrator.text import TextRun, gauge

STAGES = ("text", "projector", "joint", "lens")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command; by default those of the process.
    """
    stage = TextStage()
    parser = argparse.ArgumentParser(prog="python -m mmlens.lab.training.narrator", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; run again to resume")
    parser.add_argument("--stage", choices=STAGES, default=STAGES[-1], help=f"how far to train ({STAGES[-1]})")
    parser.add_argument("--steps", type=int, default=stage.steps, help=f"of the text stage ({stage.steps})")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    text = TextRun(replace(stage, steps=options.steps), NARRATOR, options.out, seed=options.seed, report=_print)
    text.run()
    print(f"text: {text.step} steps, {text.tokens / 1e6:.1f}M tokens, {text.seconds / 60:.1f} minutes")
    runs: list[PictureRun] = []
    closed = closed_gates("text", gauge(text))
    for number, picture_stage in enumerate((PROJECTOR_STAGE, JOINT_STAGE, LENS_STAGE), start=1):
        if closed:
            parser.exit(1, f"stopped after {STAGES[number - 1]}: {'; '.join(closed)}\n")
        if STAGES.index(options.stage) < number:
            break
        run = PictureRun(picture_stage, text, seed=options.seed)
        run.run()
        print(f"{picture_stage.name}: {run.step} steps, {run.seconds / 60:.1f} minutes")
        runs.append(run)
        closed = closed_gates(picture_stage.name, run.gauge())
    if runs:
        export(options.out / "model", text, *runs)
        print(f"the model is in {options.out / 'model'}")


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
