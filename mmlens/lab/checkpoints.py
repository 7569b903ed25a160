"""The checkpoints that come with the lab: the trained model's folder, and those of its LoRA fine-tunes."""

from pathlib import Path
from typing import Literal

WEIGHTS = Path(__file__).parent / "weights"
#: One folder per style.
ADAPTERS = Path(__file__).parent / "adapters"

#: What the captions of a fine-tune begin with.
Style = Literal["place", "color", "mood"]
STYLES: tuple[Style, ...] = ("place", "color", "mood")
