"""The checkpoints that come with the lab: the trained models' folders, and those of changes to them."""

from pathlib import Path
from typing import Literal

#: Which of the lab's trained models.
LabName = Literal["captioner", "narrator"]
#: The narrator as text left its language model, tuned a little with pictures, or so that patches read as words.
LabStage = Literal["frozen", "tuned", "lens"]

WEIGHTS = Path(__file__).parent / "weights"
#: With the changes that make the other stages of it in folders of their names, as peft reads them.
NARRATOR = Path(__file__).parent / "narrator"
#: One folder per style.
ADAPTERS = Path(__file__).parent / "adapters"

#: What the captions of a fine-tune begin with.
Style = Literal["place", "color", "mood"]
STYLES: tuple[Style, ...] = ("place", "color", "mood")

#: One folder per dictionary, in SAELens's format; transcoders one a layer.
DICTIONARIES = Path(__file__).parent / "features"
#: The captioner's sparse dictionaries: autoencoders of the language model's stream behind its fourth block, of what the projector
#: reads and of what it writes; transcoders of every MLP of the language model, and of the tower as far as it is read.
DictionaryName = Literal["language", "vision", "projector", "transcoders", "vision_transcoders"]
