"""The checkpoints that come with the lab: the trained models' folders, and those of changes to them."""

from pathlib import Path
from typing import Literal

#: Which of the lab's trained models.
LabName = Literal["captioner", "narrator"]
#: How far the narrator is trained: its language model as text left it, or tuned a little with pictures.
LabStage = Literal["frozen", "tuned"]

WEIGHTS = Path(__file__).parent / "weights"
NARRATOR = Path(__file__).parent / "narrator"
#: The narrator's tuned stage, as peft reads it.
NARRATOR_TUNED = NARRATOR / "tuned"
#: One folder per style.
ADAPTERS = Path(__file__).parent / "adapters"

#: What the captions of a fine-tune begin with.
Style = Literal["place", "color", "mood"]
STYLES: tuple[Style, ...] = ("place", "color", "mood")
