"""The first stage: the language model learns the world's texts, no picture anywhere.

Every batch follows from the seed and the step alone, so a run that was stopped and resumed ends in the same weights.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlamaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.lab.architecture import Size, make_model
from mmlens.lab.tales.tokenizer import train_tokenizer
from mmlens.lab.training.gauge import flip_neurons
from mmlens.lab.training.narrator.lean import Weights, additive, llama_states
from mmlens.lab.training.narrator.recipe import TextStage
from mmlens.lab.training.narrator.rows import ANSWER_WEIGHT, IGNORED, LineEncoder, PackedRows, Sequence, make_rows, pack
from mmlens.lab.training.start import scale_to_width


class TextRun:
    """A run of the text stage that can stop after any step and go on from its checkpoint.

    Args:
        stage: What to do.
        size: The model's size.
        out: Folder of the tokenizer and the checkpoint.
        seed: Decides first weights and batches.
        dtype: What products are computed in.
        report: Gets a line of figures now and then.

    Raises:
        InputError: The folder holds a checkpoint of another recipe.
    """

    def __init__(
        self,
        stage: TextStage,
        size: Size,
        out: Path,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.bfloat16,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.stage, self.size, self.out, self.seed, self.dtype = stage, size, out, seed, dtype
        self.report = report
        self.tokenizer = kept_tokenizer(out)
        self.encoder = LineEncoder(self.tokenizer, stage.length)
        self.model = first_model(size, self.tokenizer, seed)
        self.config = self.model.model.language_model.config
        self.weights = dict(self.model.model.language_model.named_parameters())
        self.weights["norm.weight"].requires_grad_(
            False
        )  # at one: a neuron reads as the same words with it and without it
        self.optimizer = make_optimizer(list(self.weights.values()), stage.rate, stage.decay)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.log: list[dict[str, float]] = []
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        """Where the run is kept between steps."""
        return self.out / "text.pt"

    def run(self, *, until: int | None = None, save_seconds: float = 240.0, report_every: int = 100) -> None:
        """Train to the end, or to the start of a step.

        Args:
            until: The step before which to stop; None trains to the end.
            save_seconds: Seconds between checkpoints.
            report_every: Steps between reports.
        """
        last = last_save = time.monotonic()
        mean = 0.0
        while self.step < (self.stage.steps if until is None else min(until, self.stage.steps)):
            rows = make_rows(self.encoder, self.stream(self.step), self.stage.batch)
            loss = self._advance(rows)
            mean += (loss - mean) / (1 + self.step % report_every)
            self.step += 1
            self.tokens += int((rows.ids > 0).sum())
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            if self.step % report_every == 0:
                figures = {"step": self.step, "tokens": self.tokens, "seconds": round(self.seconds), "loss": mean}
                self.log.append(figures | gauge(self))
                self.report(" ".join(f"{key} {value:.4g}" for key, value in self.log[-1].items()))
                mean = 0.0
            if now - last_save > save_seconds:
                self.save()
                last_save = time.monotonic()
        self.save()

    def stream(self, step: int) -> random.Random:
        """The random numbers of one step's documents."""
        return random.Random(f"narrator text {self.seed} {step}")

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "settings": self._settings(),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "log": self.log,
            "model": self.model.model.language_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with whole_file(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def _settings(self) -> dict[str, object]:
        """What a checkpoint must agree with: all but where the end lies."""
        stage = {key: value for key, value in asdict(self.stage).items() if key not in ("steps", "fall")}
        return {"stage": stage, "size": asdict(self.size), "seed": self.seed}

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        if state["settings"] != self._settings():
            raise InputError(
                f"{self.checkpoint} belongs to another recipe: {state['settings']}, not {self._settings()}. "
                "Train into another folder, or with the recipe it was begun with."
            )
        self.step, self.tokens, self.seconds, self.log = (state[key] for key in ("step", "tokens", "seconds", "log"))
        self.model.model.language_model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _advance(self, rows: PackedRows) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.rate_at(self.step)
        losses, weights = token_losses(self.weights, self.config, rows, self.dtype)
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        nn.utils.clip_grad_norm_([weight for weight in self.weights.values() if weight.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def token_losses(
    weights: Weights, config: LlamaConfig, rows: PackedRows, dtype: torch.dtype
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """The loss of every token to predict, and what it counts."""
    embedding = weights["embed_tokens.weight"]
    states = llama_states(weights, config, embedding[rows.ids], rows.positions, additive(rows.mask), dtype=dtype)
    mask = (rows.labels != IGNORED) & (rows.weights > 0)
    logits = nn.functional.linear(states[mask].to(dtype), embedding.to(dtype)).float()
    return nn.functional.cross_entropy(logits, rows.labels[mask], reduction="none"), rows.weights[mask]


@torch.no_grad()
def gauge(run: TextRun) -> dict[str, float]:
    """Measure on documents and on random tokens that no step has.

    Returns:
        `answers`, the mean loss of what stands in ⟦ ⟧, `median`, that of the middle one, `sure`, the share with more than
        half of the probability; `again`, the loss of random tokens the second time.
    """
    documents = make_rows(run.encoder, random.Random("held out"), 16)
    losses, weights = token_losses(run.weights, run.config, documents, run.dtype)
    answers = losses[weights == ANSWER_WEIGHT]
    rng, begin = random.Random("repeats"), run.tokenizer.bos_token_id
    sequences = []
    for _ in range(8):
        once = [rng.randint(101, len(run.tokenizer) - 1) for _ in range(40)]
        ids = [begin, *once, *once]
        labels = [*ids[1:], IGNORED]
        sequences.append(Sequence(ids, labels, [0.0] * 40 + [1.0] * 40 + [0.0], list(range(81)), [0] * 81))
    repeats = pack([[sequence] for sequence in sequences], 81)
    again, _ = token_losses(run.weights, run.config, repeats, run.dtype)
    return {
        "answers": float(answers.mean()),
        "median": float(answers.median()),
        "sure": float((answers < 0.69).float().mean()),
        "again": float(again.mean()),
    }


@torch.no_grad()
def fix_text_signs(run: TextRun) -> int:
    """Flip the neurons so that each is positive where it is most active (see `mmlens.lab.training.gauge`)."""
    rows = make_rows(run.encoder, random.Random("signs"), 32)
    neurons: list[Tensor] = []
    inputs, mask = run.weights["embed_tokens.weight"][rows.ids], additive(rows.mask)
    llama_states(run.weights, run.config, inputs, rows.positions, mask, neurons=neurons)
    loss_mask = (rows.labels != IGNORED) & (rows.weights > 0)
    active = [activity[loss_mask] for activity in neurons]
    return flip_neurons(run.model, [(activity * activity.abs()).sum(dim=0) for activity in active])


def kept_tokenizer(out: Path) -> PreTrainedTokenizerFast:
    """Load the run's tokenizer, or learn it and keep it."""
    folder = out / "tokenizer"
    if not folder.exists():
        train_tokenizer().save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    for origin in ("is_local", "local_files_only"):  # where it came from, which is not to be saved with a model
        tokenizer.init_kwargs.pop(origin, None)
    return tokenizer


def first_model(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """Make the untrained model, its weights as large as its width asks for."""
    model = make_model(size, seed, len(tokenizer))
    scale_to_width(model, seed)
    return model.train()


def make_optimizer(parameters: list[nn.Parameter], rate: float, decay: float) -> torch.optim.Optimizer:
    """AdamW over the parameters that learn, with decay on matrices alone."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learning if parameter.ndim >= 2], "weight_decay": decay},
        {"params": [parameter for parameter in learning if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)
