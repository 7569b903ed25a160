"""`finetune`: LoRA on a hooked model's language model, towards the texts of a dataset."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from mmlens.analysis.samples.chunks import DataChunk
from mmlens.analysis.samples.sample import Dataset, Sample, as_samples
from mmlens.analysis.tuning.tune import RECORD, Tune, require_bare
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.files import made_folder
from mmlens.core.kinds import Count, PathLike, Positive, Seed, Text
from mmlens.core.progress import progress_over
from mmlens.models.claims import claimed
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.identity import run_identity
from mmlens.models.predicting import last_rows

#: The file in which an unfinished fine-tune is kept.
_UNFINISHED = "unfinished.ck"
_IGNORED = -100


@dataclass(frozen=True)
class Tuning:
    """What decides a fine-tune, beside model and data; see `finetune`."""

    rank: int
    strength: float
    steps: int
    batch_size: int
    rate: float
    warm_up: int
    seed: int

    def rate_at(self, step: int) -> float:
        """The learning rate of a step: it rises over the first steps, and falls to zero in a straight line."""
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (1 - step / self.steps)


@checked
def finetune(
    model: WritingModel,
    dataset: Dataset,
    *,
    into: PathLike,
    rank: Count = 8,
    strength: Positive | None = None,
    steps: Count = 200,
    batch_size: Count = 8,
    rate: Positive = 2e-4,
    warm_up: Count = 10,
    prompt: Text | None = None,
    seed: Seed = 0,
    save_every: Count = 20,
    progress: bool = True,
) -> Tune:
    """Train a LoRA adapter on a model's language model, towards the answers or captions of samples.

        loss = - mean over tokens of log p(text | picture, prompt)       text: a sample's answer, else its caption; then the end

    The adapter has rows in all linear layers of the language model's blocks. Every batch follows from the seed and the step
    alone. The model itself is left as it was, to the bit; `mm.tuning.with_adapters(model, {"name": tune})` opens the folder,
    as do `HookedMultimodal.from_pretrained(folder)` and peft. A stopped run is gone on with by the same call and ends in the
    same bits; a finished one is not run again.

    Args:
        model: the hooked model, without adapters.
        dataset: samples that have an `answer` or a `caption`; drawn at random, a batch in memory at a time.
        into: folder of the adapter; made if it is not there.
        rank: of the adapter.
        strength: `lora_alpha`: what the adapter adds is multiplied by `strength / rank`; `2 * rank` by default.
        steps: how many.
        batch_size: samples of a step.
        rate: the learning rate of AdamW at its peak.
        warm_up: steps over which it rises; from there it falls to zero in a straight line.
        prompt: asked where a sample brings none.
        seed: of the first weights and the batches.
        save_every: steps between two saves of an unfinished run.
        progress: show a progress bar.

    Returns:
        The fine-tune: its folder, and the loss of every step.

    Raises:
        InputError: for a model that holds adapters, samples without a text, or a folder with a fine-tune of another model, of
            other data or settings.

    Example:
        >>> import mmlens as mm, tempfile
        >>> said = [mm.Sample((scene.image,), caption="on sand a man")]
        >>> tune = mm.finetune(mm.lab.load(), said, into=tempfile.mkdtemp(), steps=3, batch_size=1, rate=0.02, progress=False)
        >>> tune.losses[0] > tune.losses[-1]
        True

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021 (https://arxiv.org/abs/2106.09685). The sets
    place, colour and sentiment: Khayatan et al., ICCV 2025 (https://arxiv.org/abs/2501.03012).
    """
    require_bare(model)
    samples = _Samples(model, dataset, prompt)
    tuning = Tuning(rank, float(strength or 2 * rank), steps, batch_size, float(rate), warm_up, seed)
    folder = made_folder(into)
    identity = run_identity(model, samples=samples.identity, settings=tuning)
    if (folder / RECORD).exists():
        return _finished(folder, identity)
    file = Checkpoint(folder / _UNFINISHED, "fine-tune", lambda exact: identity)
    with claimed(model, "finetune", changes_weights=True), _adapted(model, tuning) as peft_model:
        trainer = _Trainer(model, peft_model, samples, tuning, file)
        for step in progress_over(range(steps), "finetune", initial=trainer.step, total=steps, disable=not progress):
            if step >= trainer.step:
                trainer.advance()
                if trainer.step % save_every == 0:
                    trainer.save()
        _export(peft_model, folder)
    tune = Tune(folder, tuple(trainer.losses), vars(tuning), identity)
    tune.record()
    (folder / _UNFINISHED).unlink(missing_ok=True)
    return tune


def _finished(folder: Path, identity: dict[str, str]) -> Tune:
    """The fine-tune that a folder holds, if it is this one."""
    tune = Tune.load(folder)
    different = [name for name in identity if tune.identity.get(name) != identity[name]]
    if different:
        raise InputError(f"{folder} holds another fine-tune: it differs in {', '.join(different)}. Use another folder.")
    return tune


class _Samples:
    """Samples with the tokens that they are to be answered with."""

    def __init__(self, model: HookedMultimodal, dataset: Dataset, prompt: str | None):
        self.model, self.prompt = model, prompt
        self._items: Sequence[Any] = dataset if isinstance(dataset, Sequence) else list(dataset)
        if not self._items:
            raise InputError("The dataset is empty: there is nothing to learn.")
        self._texts = [
            self._text(number, sample) for number, sample in enumerate(as_samples(self._items, prompt=prompt))
        ]
        stops = model.stop_tokens
        end = getattr(model.tokenizer, "eos_token_id", None)
        self._end = [end] if end in stops else sorted(stops)[:1]

    def _text(self, number: int, sample: Sample) -> tuple[str, str, str]:
        answer = sample.answer[0] if isinstance(sample.answer, tuple) and sample.answer else sample.answer
        text = str(answer or sample.caption or "").strip()
        if not text:
            raise InputError(
                f"Sample {number} ({sample.name or sample.prompt!r}) has neither an answer nor a caption to learn."
            )
        pictures = [str(picture) if isinstance(picture, str | Path) else sample.key for picture in sample.images]
        return sample.prompt, text, " ".join(pictures)

    @property
    def identity(self) -> str:
        """A hash of prompts, texts, and the pictures' paths or pixels."""
        return hashlib.sha256(repr(self._texts).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, rows: Sequence[int]) -> tuple[DataChunk, Int[torch.Tensor, "batch step"]]:
        """Samples, and the tokens behind their prompts, filled up with `_IGNORED`."""
        chunk = DataChunk(self.model, 0, list(as_samples([self._items[row] for row in rows], prompt=self.prompt)))
        encode = self.model.tokenizer.encode
        tokens = [torch.tensor(encode(self._texts[row][1], add_special_tokens=False) + self._end) for row in rows]
        return chunk, nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=_IGNORED)


class _Trainer:
    """The steps of a fine-tune, from where a file left it."""

    def __init__(
        self, model: HookedMultimodal, adapted: PeftModel, samples: _Samples, tuning: Tuning, file: Checkpoint
    ):
        self.model, self.samples, self.tuning, self.file = model, samples, tuning, file
        self.learnt = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
        self.optimizer = torch.optim.AdamW(self.learnt.values(), lr=tuning.rate, weight_decay=0.0)
        self.losses: list[float] = file.parts.setdefault("losses", [])
        if self.losses:
            self._restore()

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.losses)

    def advance(self) -> None:
        """Do one step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.tuning.rate_at(self.step)
        draw = np.random.default_rng([self.tuning.seed, self.step])
        chunk, tokens = self.samples.batch(draw.integers(len(self.samples), size=self.tuning.batch_size).tolist())
        with torch.enable_grad():
            loss = self._loss(chunk, tokens)
            loss.backward()
        nn.utils.clip_grad_norm_(self.learnt.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(float(loss.detach()))

    def _loss(self, chunk: DataChunk, tokens: Int[torch.Tensor, "batch step"]) -> Float[torch.Tensor, ""]:
        count = tokens.shape[1]
        filler = tokens.where(tokens != _IGNORED, tokens[:, :1])  # behind a text's end, where nothing counts
        batch = self.model.extend(chunk.batch, filler[:, :-1]) if count > 1 else chunk.batch
        logits = last_rows(self.model, self.model(batch), batch, count)
        logits = logits.reshape(-1, logits.shape[-1])
        target = tokens.flatten().to(logits.device)
        counts: Bool[torch.Tensor, row] = target != _IGNORED
        return nn.functional.cross_entropy(logits[counts].float(), target[counts])

    def save(self) -> None:
        """Keep weights and the optimiser's moments."""
        self.file.tensors = {name: weight.detach().cpu() for name, weight in self.learnt.items()}
        for name, weight in self.learnt.items():
            for moment, value in self.optimizer.state[weight].items():
                self.file.tensors[f"{name} {moment}"] = value.detach().cpu()
        self.file.save(now=True)

    @torch.no_grad()
    def _restore(self) -> None:
        for name, weight in self.learnt.items():
            weight.copy_(self.file.tensors[name])
            moments = {key: self.file.tensors[f"{name} {key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[weight] = {
                key: value.clone() if key == "step" else value.to(weight) for key, value in moments.items()
            }


@contextmanager
def _adapted(model: HookedMultimodal, tuning: Tuning) -> Iterator[PeftModel]:
    """A fresh adapter in the model's language model, inside the `with`; afterwards the model is as it was."""
    base = model.base
    learning = [weight.requires_grad for weight in base.parameters()]
    weights = list(base.parameters())
    mode = base.training
    config = LoraConfig(
        r=tuning.rank, lora_alpha=cast(int, tuning.strength), target_modules=_targets(model), bias="none"
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft still asks transformers by the old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(tuning.seed)
        peft_model = cast(PeftModel, get_peft_model(cast(Any, base), config))
    peft_model.eval()  # no dropout: a step is decided by its batch
    try:
        yield peft_model
    finally:
        cast(Any, peft_model.base_model).unload()
        base.train(mode)
        for weight, flag in zip(weights, learning, strict=True):
            weight.requires_grad_(flag)
        model.follow()


def _targets(model: HookedMultimodal) -> list[str]:
    """Names of the linear layers in the language model's blocks."""
    stack = model.family.language.stack.path
    names = [name for name, module in model.base.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in names if name.startswith(f"{stack}.")]


def _export(adapted: PeftModel, folder: Path) -> None:
    """Write the adapter as peft reads it."""
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's template of a card, with nothing in it
