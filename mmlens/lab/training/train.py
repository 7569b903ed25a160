"""Trains the lab model: `python -m mmlens.lab.training.train --out DIR`.

The stages are those of `recipe.STAGES`. Every batch follows from the seed, the stage and the step alone, so a
run that was interrupted and resumed ends in the same weights as one that was not.
"""

from __future__ import annotations

import argparse
import json
import time
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.lab.architecture import make_model, make_processor
from mmlens.lab.composing import scene
from mmlens.lab.scenery import Scene
from mmlens.lab.training.data import PackedBatch, Packer, choose_questions
from mmlens.lab.training.gallery import training_gallery
from mmlens.lab.training.gauge import fix_signs
from mmlens.lab.training.objectives import PatchHeads, language_loss, tower_loss
from mmlens.lab.training.recipe import Recipe, Stage
from mmlens.lab.training.start import scale_to_width


class Trainer:
    """A training run that can stop after any step and go on from its last checkpoint.

    Args:
        recipe: What to do.
        out: Folder of the checkpoint and the drawn scenes; made if it is missing.
        progress: Whether to show bars.
        autocast: Whether to compute in bfloat16 where that is safe.
        workers: Processes that draw scenes.

    Raises:
        InputError: The folder holds the checkpoint of another recipe.
    """

    def __init__(
        self, recipe: Recipe, out: Path, *, progress: bool = True, autocast: bool = True, workers: int = 2
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.recipe, self.out, self._progress, self._autocast = recipe, out, progress, autocast
        self.model: LlavaForConditionalGeneration = make_model(recipe.size, recipe.seed)
        scale_to_width(self.model, recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.heads = PatchHeads(recipe.size.d_vision)
        self.processor = make_processor(recipe.size)
        self._packer = Packer(self.processor)
        self._gallery = training_gallery(recipe.scenes, recipe.size.patch, out, workers=workers, progress=progress)
        self.stage, self.step, self.seconds = 0, 0, 0.0
        self.log: list[dict[str, float | int | str]] = []
        self._optimizer: torch.optim.Optimizer | None = None
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        """Where the run is kept between steps."""
        return self.out / "checkpoint.pt"

    def run(self, *, until: tuple[int, int] | None = None, save_every: int = 100) -> None:
        """Train to the end, or to a given step.

        Args:
            until: (stage, step), counted from 0, before which to stop; None trains to the end.
            save_every: Steps between checkpoints.
        """
        start = time.monotonic() - self.seconds
        while self.stage < len(self.recipe.stages):
            stage = self.recipe.stages[self.stage]
            bar = tqdm(initial=self.step, total=stage.steps, desc=stage.name, disable=not self._progress)
            with bar:
                while self.step < stage.steps:
                    if until == (self.stage, self.step):
                        self.save()
                        return
                    loss, right = self._advance(stage)
                    if self.step % 20 == 0:
                        bar.set_postfix(loss=f"{loss:.3f}", right=f"{right:.3f}")
                        self.log.append({"stage": stage.name, "step": self.step, "loss": loss, "right": right})
                    self.step, self.seconds = self.step + 1, time.monotonic() - start
                    bar.update()
                    if self.step % save_every == 0:
                        self.save()
            self.stage, self.step, self._optimizer = self.stage + 1, 0, None
            self.save()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "recipe": asdict(self.recipe),
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
        }
        with whole_file(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def export(self, folder: Path) -> None:
        """Write the model in float16 and its processor the way Hugging Face does.

        The signs of the MLP neurons are fixed first (see `gauge`), which leaves the function as it is.

        Args:
            folder: Where config.json, model.safetensors, the processor's files and training.json go.
        """
        model = deepcopy(self.model)
        batch = replace(self.recipe.stages[-1], name="signs", written_every=2)
        # One batch of pictures and one written one, from a stage and steps that no training has.
        fix_signs(model, [self._words(batch, len(self.recipe.stages), step) for step in (0, 1)])
        model.half().save_pretrained(folder)
        # Written for the owner's eyes only, which would make an installed package unreadable for others.
        (folder / "model.safetensors").chmod(0o644)
        self.processor.save_pretrained(folder)
        record = {
            "recipe": asdict(self.recipe),
            "training_seconds": round(self.seconds),
            "vocabulary": len(self.processor.tokenizer),
            "log": self.log,
        }
        (folder / "training.json").write_text(json.dumps(record) + "\n", encoding="utf-8")

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        settings = asdict(self.recipe)
        if state["recipe"] != settings:
            differences = [key for key, value in settings.items() if state["recipe"].get(key) != value]
            raise InputError(
                f"{self.checkpoint} belongs to another recipe (different: {', '.join(differences)}). "
                "Train into another folder, or with the recipe it was begun with."
            )
        self.stage, self.step = state["stage"], state["step"]
        self.seconds, self.log = state["seconds"], state["log"]
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        if state["optimizer"] is not None:
            self._optimizer = self._make_optimizer(self.recipe.stages[self.stage])
            self._optimizer.load_state_dict(state["optimizer"])

    def _advance(self, stage: Stage) -> tuple[float, float]:
        if self._optimizer is None:
            self._optimizer = self._make_optimizer(stage)
        for group in self._optimizer.param_groups:
            group["lr"] = stage.rate_at(self.step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._autocast):
            if stage.objective == "patches":
                loss, right = self._patches(stage)
            else:
                batch = self._words(stage, self.stage, self.step)
                loss, right = language_loss(self.model, batch, self.recipe.sparsity)
        loss.backward()
        nn.utils.clip_grad_norm_(self._learning(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(right)

    def _patches(self, stage: Stage) -> tuple[Tensor, Tensor]:
        indices = self._rng(self.stage, self.step).integers(len(self._gallery), size=stage.batch)
        pixels = self._packer.pixels(self._gallery.pictures[indices])
        return tower_loss(self.model, self.heads, pixels, self._gallery.labels(indices))

    def _words(self, stage: Stage, number: int, step: int) -> PackedBatch:
        rng = self._rng(number, step)
        indices = rng.integers(len(self._gallery), size=stage.batch)
        batch_scenes = [_training_scene(int(index)) for index in indices]
        rows = [(item, choose_questions(item, stage.questions, rng, lookups=stage.lookups)) for item in batch_scenes]
        pictures = None if stage.is_written(step) else self._gallery.pictures[indices]
        return self._packer.pack(rows, pictures, stage.answer_weight, stage.plain)

    def _rng(self, number: int, step: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, number, step])

    def _learning(self) -> list[nn.Parameter]:
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        return [parameter for parameter in parameters if parameter.requires_grad]

    def _make_optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        """Switch on the gradients of exactly the parts that learn, and make an optimizer for them."""
        inner = self.model.model
        for name in ("vision_tower", "multi_modal_projector", "language_model"):
            inner.get_submodule(name).requires_grad_(name in stage.learns)
        self.heads.requires_grad_(stage.objective == "patches")
        # The last norm's gain stays at one: a neuron then reads as the same words with it and without it.
        inner.language_model.norm.weight.requires_grad_(False)
        matrices = [parameter for parameter in self._learning() if parameter.ndim >= 2]
        vectors = [parameter for parameter in self._learning() if parameter.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": self.recipe.decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=stage.rate, betas=(0.9, 0.98), fused=True)


@cache
def _training_scene(seed: int) -> Scene:
    return scene(seed, split="train")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command; by default those of the process.
    """
    recipe = Recipe()
    last = recipe.stages[-1]
    parser = argparse.ArgumentParser(prog="python -m mmlens.lab.training.train", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; run again to resume")
    parser.add_argument("--steps", type=int, default=last.steps, help=f"of the last stage ({last.steps})")
    parser.add_argument("--scenes", type=int, default=recipe.scenes, help=f"to train on ({recipe.scenes})")
    parser.add_argument("--seed", type=int, default=recipe.seed, help=f"of weights and batches ({recipe.seed})")
    options = parser.parse_args(arguments)
    stages = (*recipe.stages[:-1], replace(last, steps=options.steps))
    trainer = Trainer(replace(recipe, stages=stages, scenes=options.scenes, seed=options.seed), options.out)
    trainer.run()
    trainer.export(options.out / "model")
    print(f"trained in {trainer.seconds / 60:.1f} min; the model is in {options.out / 'model'}")


if __name__ == "__main__":
    main()
