"""Trains the lab model: `python -m mmlens.lab.train --out DIR`.

Four phases, like LLaVA with the language model first:

1. tower: the vision tower learns to name noun and colour at every patch;
2. language: the language model learns to speak about written scenes, without pictures;
3. align: only the projector learns, to put pictures where the language model expects words;
4. joint: everything learns from pictures, every fourth batch being written; the tower is held for the first
   part of it.

Every batch follows from the seed, the phase and the step alone, so a run that was interrupted and resumed
ends in the same weights as one that was not.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from math import cos, pi
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.lab.architecture import LAB, Size, make_model, make_processor
from mmlens.lab.composing import scene
from mmlens.lab.data import Gallery, Packed, Packer, choose, gallery
from mmlens.lab.gauge import fix_signs
from mmlens.lab.objectives import PatchHeads, language_loss, tower_loss
from mmlens.lab.scenery import Scene

Phase = Literal["tower", "language", "align", "joint"]
PHASES: tuple[Phase, ...] = ("tower", "language", "align", "joint")


@dataclass(frozen=True)
class Round:
    """One part of the joint phase, with a learning rate that starts again.

    Attributes:
        steps: Number of steps.
        horizon: Steps after which the cosine would have reached its end; more than `steps` breaks off early.
        rate: Peak learning rate.
        questions: Questions packed behind each picture, besides the caption.
        answer_weight: How many caption words an answer counts as in the loss; None counts tokens alike.
    """

    steps: int
    horizon: int
    rate: float
    questions: int = 4
    answer_weight: float | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights.

    Attributes:
        size: The model's size.
        tower_steps: Steps of the tower phase.
        language_steps: Steps of the language phase.
        align_steps: Steps of the align phase.
        rounds: The parts of the joint phase.
        tower_held: First steps of the joint phase in which the tower does not learn.
        written_every: In the joint phase, every how many batches one is written.
        scenes: Number of training scenes drawn.
        batch: Rows per step.
        tower_batch: Pictures per step of the tower phase.
        questions: Questions packed behind each picture in the language and align phases.
        tower_rate: Peak learning rate of the tower phase; in every phase a cosine takes it to a twentieth.
        rate: Peak learning rate of the language and align phases.
        decay: Weight decay on matrices.
        sparsity: See `objectives.language_loss`.
        seed: Decides first weights and batches.
    """

    size: Size = LAB
    tower_steps: int = 3500
    language_steps: int = 250
    align_steps: int = 80
    rounds: tuple[Round, ...] = (
        # Captions have most of the tokens: the first round leaves questions behind, so it is cut short.
        Round(steps=600, horizon=900, rate=1e-3),
        Round(steps=1000, horizon=1000, rate=1e-3, questions=6, answer_weight=5.0),
    )
    tower_held: int = 200
    written_every: int = 4
    scenes: int = 40_000
    batch: int = 48
    tower_batch: int = 64
    questions: int = 4
    tower_rate: float = 2e-3
    rate: float = 1e-3
    decay: float = 0.1
    sparsity: float = 0.0
    seed: int = 0

    def steps(self, phase: Phase) -> int:
        """Number of steps of a phase."""
        return {
            "tower": self.tower_steps,
            "language": self.language_steps,
            "align": self.align_steps,
            "joint": sum(each.steps for each in self.rounds),
        }[phase]

    def round_at(self, step: int) -> tuple[Round, int]:
        """The round that a step of the joint phase belongs to, and the step's number within it."""
        for each in self.rounds[:-1]:
            if step < each.steps:
                return each, step
            step -= each.steps
        return self.rounds[-1], step


class Trainer:
    """A training run that can stop after any step and go on from its last checkpoint.

    Args:
        recipe: What to do.
        out: Folder of the checkpoint, the drawn scenes and, at the end, the model.
        progress: Whether to show bars.
        autocast: Whether to compute in bfloat16 where that is safe.
        workers: Processes that draw scenes.
    """

    def __init__(
        self, recipe: Recipe, out: Path, *, progress: bool = True, autocast: bool = True, workers: int = 2
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.recipe, self.out, self.progress, self._autocast = recipe, out, progress, autocast
        self.model: LlavaForConditionalGeneration = make_model(recipe.size, recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.heads = PatchHeads(recipe.size.d_vision)
        self.processor = make_processor(recipe.size)
        # The last norm's gain stays at one: a neuron then reads as the same words with it and without it.
        self.model.model.language_model.norm.weight.requires_grad_(False)
        self.packer = Packer(self.processor)
        self.gallery: Gallery = gallery(
            recipe.scenes, recipe.size.patch, out, workers=workers, progress=progress
        )
        self.phase: Phase = PHASES[0]
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, float | int | str]] = []
        self._optimizer: torch.optim.Optimizer | None = None
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        """Where the run is kept between steps."""
        return self.out / "checkpoint.pt"

    def run(self, *, until: tuple[Phase, int] | None = None, save_every: int = 100) -> None:
        """Train to the end, or to a given step.

        Args:
            until: (phase, step) before which to stop; None trains to the end.
            save_every: Steps between checkpoints.
        """
        started = time.monotonic() - self.seconds
        for phase in PHASES[PHASES.index(self.phase) :]:
            if phase != self.phase:
                self.phase, self.step, self._optimizer = phase, 0, None
            total = self.recipe.steps(phase)
            bar = tqdm(
                range(self.step, total), phase, initial=self.step, total=total, disable=not self.progress
            )
            for step in bar:
                if until == (phase, step):
                    bar.close()
                    self.save()
                    return
                loss, right = self._advance(phase, step)
                self.step, self.seconds = step + 1, time.monotonic() - started
                if step % 20 == 0:
                    bar.set_postfix(loss=f"{loss:.3f}", right=f"{right:.3f}")
                    entry = {"phase": phase, "step": step, "loss": loss, "right": right, "s": self.seconds}
                    self.log.append(entry)
                if self.step % save_every == 0:
                    self.save()
        self.save()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "recipe": asdict(self.recipe),
            "phase": self.phase,
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
            folder: Where config.json, model.safetensors and the processor's files go.
        """
        model = deepcopy(self.model)
        # One written batch and one of pictures.
        fix_signs(model, [self._packed("joint", step) for step in (-1, -2)])
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
        if state["recipe"] != asdict(self.recipe):
            changed = [k for k, v in asdict(self.recipe).items() if state["recipe"].get(k) != v]
            raise InputError(
                f"{self.checkpoint} belongs to another recipe (different: {', '.join(changed)}). "
                "Train into another folder, or with the recipe it was begun with."
            )
        self.phase, self.step = state["phase"], state["step"]
        self.seconds, self.log = state["seconds"], state["log"]
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        if state["optimizer"] is not None:
            self._learning(self.phase, self.step)
            self._optimizer = self._make_optimizer(self.phase)
            self._optimizer.load_state_dict(state["optimizer"])

    def _advance(self, phase: Phase, step: int) -> tuple[float, float]:
        self._learning(phase, step)
        if self._optimizer is None:
            self._optimizer = self._make_optimizer(phase)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(phase, step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._autocast):
            loss, right = self._loss(phase, step)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(right)

    def _loss(self, phase: Phase, step: int) -> tuple[Tensor, Tensor]:
        if phase == "tower":
            picked = self._rng(phase, step).integers(len(self.gallery), size=self.recipe.tower_batch)
            labels = (self.gallery.patch_nouns, self.gallery.patch_colors, self.gallery.places)
            tensors = [torch.from_numpy(each[picked].astype(np.int64)) for each in labels]
            return tower_loss(
                self.model, self.heads, self.packer.pixels(self.gallery.pictures[picked]), *tensors
            )
        return language_loss(self.model, self._packed(phase, step), self.recipe.sparsity)

    def _packed(self, phase: Phase, step: int) -> Packed:
        every = self.recipe.written_every
        written = phase == "language" or (phase == "joint" and step % every == every - 1)
        rng = self._rng(phase, step)
        picked = rng.integers(len(self.gallery), size=self.recipe.batch)
        drawn = [_training_scene(int(index)) for index in picked]
        questions, answer_weight = self.recipe.questions, None
        if phase == "joint":
            part, _ = self.recipe.round_at(max(step, 0))
            questions, answer_weight = part.questions, part.answer_weight
        rows = [(each, choose(each, questions, rng)) for each in drawn]
        return self.packer.pack(rows, None if written else self.gallery.pictures[picked], answer_weight)

    def _rng(self, phase: Phase, step: int) -> np.random.Generator:
        # Negative steps give batches that no step of training uses.
        return np.random.default_rng([self.recipe.seed, PHASES.index(phase), step % 2**32])

    def _learning(self, phase: Phase, step: int) -> None:
        """Switch on the gradients of exactly the parts that learn at this step."""
        inner = self.model.model
        learns = {
            "tower": (inner.vision_tower, self.heads),
            "language": (inner.language_model,),
            "align": (inner.multi_modal_projector,),
            "joint": (inner.language_model, inner.multi_modal_projector)
            + ((inner.vision_tower,) if step >= self.recipe.tower_held else ()),
        }[phase]
        for part in (inner.vision_tower, inner.multi_modal_projector, inner.language_model, self.heads):
            part.requires_grad_(any(part is each for each in learns))
        inner.language_model.norm.weight.requires_grad_(False)

    def _parameters(self) -> Iterable[nn.Parameter]:
        return [*self.model.parameters(), *self.heads.parameters()]

    def _make_optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        parameters = [each for each in self._parameters() if phase == "joint" or each.requires_grad]
        matrices = [each for each in parameters if each.ndim >= 2]
        vectors = [each for each in parameters if each.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": self.recipe.decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.rate, betas=(0.9, 0.98), fused=True)

    def _rate(self, phase: Phase, step: int) -> float:
        recipe = self.recipe
        peak, total = recipe.rate, recipe.steps(phase)
        if phase == "tower":
            peak = recipe.tower_rate
        elif phase == "joint":
            part, step = recipe.round_at(step)
            peak, total = part.rate, part.horizon
        warm = min(1.0, (step + 1) / min(50, total))
        return peak * warm * (0.05 + 0.95 * 0.5 * (1 + cos(pi * step / total)))


@cache
def _training_scene(seed: int) -> Scene:
    return scene(seed, split="train")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m mmlens.lab.train", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; run again to resume")
    for field in fields(Recipe):
        if isinstance(field.default, int | float):
            flag, default = f"--{field.name.replace('_', '-')}", field.default
            parser.add_argument(flag, type=type(default), default=default, help=f"see Recipe ({default})")
    last = Recipe().rounds[-1].steps
    parser.add_argument("--steps", type=int, default=last, help=f"steps of the last joint round ({last})")
    options = vars(parser.parse_args(arguments))
    out, steps = options.pop("out"), options.pop("steps")
    *first, final = Recipe().rounds
    rounds = (*first, replace(final, steps=steps, horizon=steps))
    trainer = Trainer(Recipe(rounds=rounds, **options), out)
    trainer.run()
    trainer.export(out / "model")
    print(f"trained in {trainer.seconds / 60:.1f} min; the model is in {out / 'model'}")


if __name__ == "__main__":
    main()
