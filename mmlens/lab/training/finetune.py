"""Fine-tunes the lab model by LoRA towards other captions of the same scenes: `python -m mmlens.lab.training.finetune --out DIR`.

Three tunes, each an adapter of a few hundred kilobytes: captions that begin with the ground and how it feels ("place"), with the
colours ("color"), or with the light ("mood"). They are made by `mm.finetune`.

Source:
    Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment, Khayatan et al., ICCV 2025,
    https://arxiv.org/abs/2501.03012 (three captioning tunes: place, colour, sentiment).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from mmlens.analysis.tuning.finetune import finetune as train
from mmlens.analysis.tuning.tune import Tune
from mmlens.core.errors import InputError
from mmlens.lab.checkpoints import STYLES, WEIGHTS, Style
from mmlens.lab.composing import scenes
from mmlens.lab.tuned import styled_samples
from mmlens.models.hooked import HookedMultimodal

_STEPS, _SCENES = 200, 1500
#: What a configuration says beyond peft's defaults: other versions of peft do not know each other's further options.
_CONFIGURED = (
    *("auto_mapping", "base_model_name_or_path", "bias", "inference_mode", "lora_alpha", "lora_dropout"),
    *("peft_type", "peft_version", "r", "target_modules"),
)


def finetune(
    style: Style, folder: Path, *, steps: int = _STEPS, n_scenes: int = _SCENES, seed: int = 0, progress: bool = True
) -> Tune:
    """Train one adapter on the shipped lab model, and write it in float16.

    Args:
        style: What its captions begin with.
        folder: Where it goes.
        steps: Of training.
        n_scenes: Number of training scenes.
        seed: Decides first weights and batches.
        progress: Whether to show a bar.

    Raises:
        InputError: There is no such style.
    """
    if style not in STYLES:
        raise InputError(f"There is no tune {style!r}. Pass one of: {', '.join(STYLES)}.")
    samples = styled_samples(scenes(n_scenes, split="train"), style)
    model = HookedMultimodal.from_pretrained(WEIGHTS, dtype="float32")
    tune = train(
        model, samples, into=folder, rank=4, steps=steps, batch_size=24, rate=4e-3, seed=seed, progress=progress
    )
    _shrink(folder)
    return tune


def _shrink(folder: Path) -> None:
    """Halve the weights, and take out the path of the base model on the machine that trained it."""
    weights = folder / "adapter_model.safetensors"
    save_file({name: value.half() for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    weights.chmod(0o644)
    config = folder / "adapter_config.json"
    content = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": "mmlens.lab"}
    config.write_text(json.dumps({key: content[key] for key in _CONFIGURED}, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m mmlens.lab.training.finetune", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder per style")
    parser.add_argument("--style", choices=STYLES, action="append", help="one style; repeat for several (all)")
    parser.add_argument("--steps", type=int, default=_STEPS, help=f"of training ({_STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    options = parser.parse_args(arguments)
    for style in options.style or STYLES:
        finetune(style, options.out / style, steps=options.steps, seed=options.seed)


if __name__ == "__main__":
    main()
