"""Fine-tunes the lab model by LoRA towards other captions of the same scenes: `python -m mmlens.lab.training.finetune --out DIR`.

Three tunes, each an adapter of a few hundred kilobytes: captions that begin with the ground and how it feels
("place"), with the colours ("color"), or with the light ("mood"). Every batch follows from the seed and the step
alone.

Source:
    Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment, Khayatan et al., ICCV 2025,
    https://arxiv.org/abs/2501.03012 (three captioning tunes: place, colour, sentiment).
    LoRA: Low-Rank Adaptation of Large Language Models, Hu et al., 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mmlens.core.errors import InputError
from mmlens.lab.checkpoints import STYLES, WEIGHTS, Style
from mmlens.lab.composing import scene
from mmlens.lab.language import CAPTION_PROMPT, styled_caption
from mmlens.lab.training.data import Packer
from mmlens.lab.training.objectives import language_loss

_TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True)
class Tuning:
    """Everything that decides a tune.

    Attributes:
        style: What its captions begin with.
        rank: Of the adapter.
        steps: Number of steps.
        batch: Scenes per step.
        rate: Peak learning rate, after a short rise; it falls to zero in a straight line.
        scenes: Number of training scenes.
        seed: Decides first weights and batches.
    """

    style: Style
    rank: int = 4
    steps: int = 200
    batch: int = 24
    rate: float = 4e-3
    scenes: int = 1500
    seed: int = 0


def finetune(tuning: Tuning, folder: Path, *, progress: bool = True) -> list[float]:
    """Train one adapter on the shipped lab model and write it.

    Args:
        tuning: What to train.
        folder: Where adapter_config.json, adapter_model.safetensors (float16) and tuning.json go.
        progress: Whether to show a bar.

    Returns:
        The loss of every step, in nats per token.

    Raises:
        InputError: There is no such style.
    """
    if tuning.style not in STYLES:
        raise InputError(f"There is no tune {tuning.style!r}. Pass one of: {', '.join(STYLES)}.")
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    torch.manual_seed(tuning.seed)
    base = LlavaForConditionalGeneration.from_pretrained(WEIGHTS, dtype=torch.float32)
    peft_model: Any = get_peft_model(
        base, LoraConfig(r=tuning.rank, lora_alpha=2 * tuning.rank, target_modules=_TARGETS, bias="none")
    )
    packer = Packer(LlavaProcessor.from_pretrained(WEIGHTS))
    learning = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=tuning.rate, weight_decay=0.0)
    start, losses = time.monotonic(), []
    for step in tqdm(range(tuning.steps), tuning.style, disable=not progress):
        for group in optimizer.param_groups:
            group["lr"] = tuning.rate * min(1.0, (step + 1) / 10) * (1 - step / tuning.steps)
        rng = np.random.default_rng([tuning.seed, step])
        batch_scenes = [scene(int(index), split="train") for index in rng.integers(tuning.scenes, size=tuning.batch)]
        rows = [
            (
                parameter,
                [(CAPTION_PROMPT, styled_caption(parameter.placed, parameter.place, parameter.mood, tuning.style))],
            )
            for parameter in batch_scenes
        ]
        batch = packer.pack(rows, np.stack([np.asarray(parameter.image) for parameter in batch_scenes]))
        loss, _ = language_loss(base, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    _export(peft_model, tuning, losses, time.monotonic() - start, folder)
    return losses


#: What a configuration says beyond peft's defaults: other versions of peft do not know each other's further options.
_CONFIGURED = (
    *("auto_mapping", "base_model_name_or_path", "bias", "inference_mode", "lora_alpha", "lora_dropout"),
    *("peft_type", "peft_version", "r", "target_modules"),
)


def _export(peft_model: Any, tuning: Tuning, losses: list[float], seconds: float, folder: Path) -> None:
    """Write the adapter in float16, without the path of the base model on the machine that trained it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.half()
    peft_model.peft_config["default"].base_model_name_or_path = "mmlens.lab"
    peft_model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "adapter_model.safetensors").chmod(0o644)
    config = folder / "adapter_config.json"
    written = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({key: written[key] for key in _CONFIGURED}, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # peft's template of a card, with nothing in it
    record = {
        "tuning": asdict(tuning),
        "training_seconds": round(seconds),
        "loss": [round(loss, 4) for loss in losses[:: max(1, len(losses) // 20)]],
    }
    (folder / "tuning.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m mmlens.lab.training.finetune", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder per style")
    parser.add_argument("--style", choices=STYLES, action="append", help="one style; repeat for several (all)")
    parser.add_argument("--steps", type=int, default=Tuning.steps, help=f"of training ({Tuning.steps})")
    parser.add_argument("--seed", type=int, default=Tuning.seed, help=f"of weights and batches ({Tuning.seed})")
    options = parser.parse_args(arguments)
    for style in options.style or STYLES:
        finetune(Tuning(style, steps=options.steps, seed=options.seed), options.out / style)


if __name__ == "__main__":
    main()
