"""The stages with pictures: the projector alone before a frozen language model, then both a little.

The tower is the first lab model's and never learns, so its features are computed once.
"""

from __future__ import annotations

import random
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.lab.checkpoints import WEIGHTS
from mmlens.lab.tales.composing import scene
from mmlens.lab.tales.documents import Document, turns
from mmlens.lab.tales.facts import PIECES
from mmlens.lab.tales.tale import Tale
from mmlens.lab.tales.tokenizer import narrator_processor
from mmlens.lab.training.data import Packer
from mmlens.lab.training.narrator.adapting import LANGUAGE, PROJECTOR, LowRank
from mmlens.lab.training.narrator.lean import Weights, additive, llama_states
from mmlens.lab.training.narrator.recipe import PictureStage
from mmlens.lab.training.narrator.rows import ANSWER_WEIGHT, IGNORED, LineEncoder, PackedRows, make_rows, pack
from mmlens.lab.training.narrator.text import TextRun, fix_text_signs, make_optimizer
from mmlens.lab.training.start import draw_projector


class PictureRun:
    """A run of one stage with pictures that can stop after any step and go on from its checkpoint.

    Args:
        stage: What to do.
        text: The finished run of the text stage; its model is trained on, so the stages with pictures follow in their order.
        seed: Decides batches and first weights.

    Raises:
        InputError: The folder holds a checkpoint of another recipe.
    """

    def __init__(self, stage: PictureStage, text: TextRun, *, seed: int = 0) -> None:
        self.stage, self.out, self.seed, self.dtype = stage, text.out, seed, text.dtype
        self.model: LlavaForConditionalGeneration = text.model
        self.tokenizer, self.report = text.tokenizer, text.report
        self.encoder = LineEncoder(text.tokenizer, stage.length, turn_weight=stage.turn_weight)
        self.config = self.model.model.language_model.config
        self._patches = self.model.config.image_seq_length
        self._image = self.model.config.image_token_index
        self._assistant = self.tokenizer.convert_tokens_to_ids("▁ASSISTANT")
        if stage.rank == 0:
            fix_text_signs(text)
            take_tower(self.model, seed)
        processor = narrator_processor(text.tokenizer, text.size)
        self.features = picture_features(self.model, processor, stage.scenes, self.out)
        weights_by_name = {name: weight for name, weight in self.model.named_parameters() if "vision_tower" not in name}
        self.change: LowRank | None = None
        for name, weight in weights_by_name.items():
            weight.requires_grad_(stage.rank == 0 and PROJECTOR in name)
        self.learning = [weight for weight in weights_by_name.values() if weight.requires_grad]
        if stage.rank:
            names = [name for name, weight in weights_by_name.items() if weight.ndim == 2 and "embed" not in name]
            self.change = LowRank(weights_by_name, [name for name in names if "lm_head" not in name], stage.rank, seed)
            self.learning = self.change.parameters
        self._named = weights_by_name
        self.optimizer = make_optimizer(self.learning, stage.rate, stage.decay)
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, float]] = []
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        """Where the run is kept between steps."""
        return self.out / f"{self.stage.name}.pt"

    def run(self, *, until: int | None = None, save_every: int = 200, report_every: int = 50) -> None:
        """Train to the end, or to the start of a step."""
        last, mean = time.monotonic(), 0.0
        while self.step < (self.stage.steps if until is None else min(until, self.stage.steps)):
            loss = self._advance()
            mean += (loss - mean) / (1 + self.step % report_every)
            self.step += 1
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            if self.step % report_every == 0:
                self.log.append({"step": self.step, "seconds": round(self.seconds), "loss": mean, **self.gauge()})
                self.report(" ".join(f"{key} {value:.4g}" for key, value in self.log[-1].items()))
                mean = 0.0
            if self.step % save_every == 0:
                self.save()
        self.save()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        projector = {name: weight.detach() for name, weight in self._named.items() if PROJECTOR in name}
        state = {
            "settings": self._settings(),
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "weights": projector if self.change is None else self.change.state(),
            "optimizer": self.optimizer.state_dict(),
        }
        with whole_file(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def weights(self) -> dict[str, Tensor]:
        """The language model's and the projector's weights as they are now, by name."""
        return dict(self._named) if self.change is None else self.change.merged()

    @torch.no_grad()
    def gauge(self, rows: int = 24) -> dict[str, float]:
        """The mean loss of the answers about scenes that no step shows, and the share of their tokens predicted right."""
        numbers = range(self.stage.scenes, self.stage.scenes + rows)
        if self.features.shape[0] < self.stage.scenes + rows:
            return {}
        batch = self._rows(numbers, random.Random("held out"), 0.0)
        logits, labels, weights = self._logits(self.weights(), batch, numbers)
        answers = weights == ANSWER_WEIGHT
        losses = nn.functional.cross_entropy(logits[answers], labels[answers], reduction="none")
        right = (logits[answers].argmax(dim=-1) == labels[answers]).float()
        return {"answers": float(losses.mean()), "right": float(right.mean())}

    def _settings(self) -> dict[str, object]:
        return {"stage": {key: value for key, value in asdict(self.stage).items() if key != "steps"}, "seed": self.seed}

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        if state["settings"] != self._settings():
            raise InputError(
                f"{self.checkpoint} belongs to another recipe: {state['settings']}, not {self._settings()}. "
                "Train into another folder, or with the recipe it was begun with."
            )
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
        if self.change is not None:
            self.change.load(state["weights"])
        else:
            with torch.no_grad():
                for name, weight in state["weights"].items():
                    self._named[name].copy_(weight)
        self.optimizer.load_state_dict(state["optimizer"])

    def _advance(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.rate_at(self.step)
        rng = random.Random(f"narrator {self.stage.name} {self.seed} {self.step}")
        numbers = [rng.randrange(self.stage.scenes) for _ in range(self.stage.batch)]
        batch = self._rows(numbers, rng, self.stage.errors)
        weights = self.weights()
        logits, labels, counts = self._logits(weights, batch, numbers)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        loss = (losses * counts).sum() / counts.sum()
        if self.stage.text_batch:
            loss = loss + self.stage.text_weight * self._text_loss(weights, rng)
        loss.backward()
        nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _rows(self, numbers: range | list[int], rng: random.Random, errors: float) -> PackedRows:
        """One picture a row, with its turns; in some rows nothing from the word ASSISTANT on sees the picture."""
        prefix = "USER: " + "<image>" * self._patches + "\n"
        sequences = []
        for number in numbers:
            tale = training_scene(number)
            lines = turns(tale, rng, self.stage.turns, regions=True, knowledge=False, errors=errors)
            sequences.append(self.encoder.encode(Document(prefix, lines, 0.0)))
        rows = pack([[sequence] for sequence in sequences], max(len(sequence.ids) for sequence in sequences))
        if self.stage.lens:
            for row, number in enumerate(numbers):
                self._label_patches(rows, row, training_scene(number))
        cut = int(self.stage.cut * len(sequences))
        for row, sequence in enumerate(sequences[:cut]):
            picture = rows.ids[row] == self._image
            for segment in range(1, max(sequence.segments) + 1):
                where = [index for index, value in enumerate(sequence.segments) if value == segment]
                if all(sequence.weights[index] < ANSWER_WEIGHT for index in where):
                    continue  # a caption
                start = next(index for index in where if sequence.ids[index] == self._assistant)
                rows.mask[row, start : where[-1] + 1, picture] = False
        return rows

    def _label_patches(self, rows: PackedRows, row: int, tale: Tale) -> None:
        """Have every image token predict what is seen at its patch: the noun of a thing, or the place."""
        where = torch.nonzero(rows.ids[row] == self._image)[:, 0]
        rows.labels[row, where], rows.weights[row, where] = self._word(tale.place), self.stage.lens / 3
        for index, thing in enumerate(tale.placed):
            rows.weights[row, where[torch.from_numpy(tale.patches(index, share=0.01))]] = 0.0
            inside = where[torch.from_numpy(tale.patches(index))]
            rows.labels[row, inside], rows.weights[row, inside] = self._word(thing.shape), self.stage.lens

    def _word(self, word: str) -> int:
        return self.tokenizer.encode(PIECES.get(word, word).split("|")[0], add_special_tokens=False)[0]

    def _logits(
        self, weights: Weights, rows: PackedRows, numbers: range | list[int]
    ) -> tuple[Float[Tensor, "token vocab"], Int[Tensor, " token"], Float[Tensor, " token"]]:
        """Logits, tokens to predict and what they count, wherever that is more than nothing."""
        language = _language(weights)
        features = self.features[list(numbers)].float()
        inner = nn.functional.linear(
            features, weights[PROJECTOR + "linear_1.weight"], weights[PROJECTOR + "linear_1.bias"]
        )
        images = nn.functional.linear(
            nn.functional.gelu(inner), weights[PROJECTOR + "linear_2.weight"], weights[PROJECTOR + "linear_2.bias"]
        )
        embedding = language["embed_tokens.weight"]
        where = rows.ids == self._image
        inputs = embedding[rows.ids].masked_scatter(where[:, :, None], images)
        mask = additive(rows.mask)
        states = llama_states(language, self.config, inputs, rows.positions, mask, dtype=self.dtype)
        loss_mask = (rows.labels != IGNORED) & (rows.weights > 0)
        logits = nn.functional.linear(states[loss_mask].to(self.dtype), embedding.to(self.dtype)).float()
        return logits, rows.labels[loss_mask], rows.weights[loss_mask]

    def _text_loss(self, weights: Weights, rng: random.Random) -> Float[Tensor, ""]:
        language = _language(weights)
        rows = make_rows(LineEncoder(self.tokenizer, self.stage.length), rng, self.stage.text_batch)
        embedding = language["embed_tokens.weight"]
        inputs, mask = embedding[rows.ids], additive(rows.mask)
        states = llama_states(language, self.config, inputs, rows.positions, mask, dtype=self.dtype)
        loss_mask = (rows.labels != IGNORED) & (rows.weights > 0)
        logits = nn.functional.linear(states[loss_mask].to(self.dtype), embedding.to(self.dtype)).float()
        losses = nn.functional.cross_entropy(logits, rows.labels[loss_mask], reduction="none")
        return (losses * rows.weights[loss_mask]).sum() / rows.weights[loss_mask].sum()


def training_scene(number: int) -> Tale:
    """A training scene; those of other splits never occur."""
    return scene(number, split="train")


def take_tower(model: LlavaForConditionalGeneration, seed: int) -> None:
    """Put the first lab model's tower into the model, and draw the projector's first weights for the embeddings' length."""
    weights = load_file(WEIGHTS / "model.safetensors")
    tower = {
        name.split("vision_tower.")[1]: weight.float() for name, weight in weights.items() if "vision_tower." in name
    }
    model.model.get_submodule("vision_tower").load_state_dict(tower)
    length = float(model.model.language_model.embed_tokens.weight.detach().norm(dim=-1).mean())
    draw_projector(model.model.multi_modal_projector, length, seed)


@torch.no_grad()
def picture_features(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: int, out: Path, *, spare: int = 64
) -> Float[Tensor, "scene patch d_vision"]:
    """What the tower hands to the projector for every training picture, and for some more to judge by; computed once and kept."""
    file = out / f"features-{scenes}.pt"
    if not file.exists():
        packer = Packer(processor)
        parts = []
        tower: nn.Module = model.model.vision_tower
        for start in tqdm(range(0, scenes + spare, 64), "features"):
            tales = [training_scene(number) for number in range(start, min(start + 64, scenes + spare))]
            pixels = packer.pixels(np.stack([np.asarray(tale.image) for tale in tales]))
            states = tower(pixels, output_hidden_states=True).hidden_states[-2]
            parts.append(states[:, 1:].half())
        with whole_file(file) as temporary:
            torch.save(torch.cat(parts), temporary)
    return torch.load(file, weights_only=True)


def _language(weights: Weights) -> dict[str, Tensor]:
    return {name.removeprefix(LANGUAGE): weight for name, weight in weights.items() if name.startswith(LANGUAGE)}
