"""Which ways give what whole forward passes give, on this model and batch.

A model of known structure is tried on a short text once, by whole passes and by the way, and from then on checked on the batch
at hand for what it alone brings along: a few rows of every block, computed anew, must come out as they did in the clean run.
Where the structure is not known, and wherever a check fails, whole passes of the batch itself decide.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import nn

from mmlens.execution.cell_runs import CellRuns, Kind
from mmlens.execution.cells import Cell
from mmlens.execution.equivalence_check import Evidence, evidence, front_trials, language_trials
from mmlens.execution.known_structure import known_structure, short_text
from mmlens.execution.spot_check import blocks_alike, language_apart, rows_alike
from mmlens.models.decoder import NotAloneError

#: Ways that held on a model, by the structure that it had.
_PROVEN: "WeakKeyDictionary[nn.Module, set[Hashable]]" = WeakKeyDictionary()


@dataclass
class Verdicts:
    """What is known of the ways of one batch.

    Attributes:
        runs: runs of cells by each way.
        refused: why a way is closed.
        tried: what was found when a way was tried; for frozen blocks, of cells in the language model alone and of others.
    """

    runs: CellRuns
    refused: dict[Kind, str] = field(default_factory=dict)
    tried: dict[tuple[Kind, bool], Evidence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.runs.alone:
            self.refused["packed"] = self.runs.alone

    def knows(self, kind: Kind) -> bool:
        """Whether a way was tried on this batch."""
        return any(other == kind for other, _ in self.tried)

    def holds(self, kind: Kind, clean: torch.Tensor, *, in_front: bool = False) -> bool:
        """Whether a way gives what whole passes give; tried once.

        Args:
            kind: the way.
            clean: logits of the clean run at the last positions, `[batch vocab]`.
            in_front: whether it has to for changes in front of the language model.
        """
        if kind in self.refused:
            return False
        key = (kind, in_front and kind == "frozen")
        if key not in self.tried:
            try:
                self.tried[key] = verdict = self._evidence(*key, clean)
            except NotAloneError as error:
                self.refused[kind] = str(error)
                return False
            if not verdict.holds:
                self.refused[kind] = f"a trial {verdict}"
        return kind not in self.refused

    def _evidence(self, kind: Kind, in_front: bool, clean: torch.Tensor) -> Evidence:
        """The shortest evidence that decides."""
        structure = None if self.runs.batch.apart else known_structure(self.runs.model)
        if structure is None:
            return self.trial(kind, clean, in_front=in_front)
        proven = _PROVEN.setdefault(self.runs.model.base, set())
        key = (kind, in_front, structure)
        if key not in proven:
            if not self._proof_on_a_text(kind, in_front):
                trial = self.trial(kind, clean, in_front=in_front)
                proven |= {key} if trial.holds else set()
                return trial
            proven.add(key)
        check = self._check(kind, clean)
        return check if check.holds else self.trial(kind, clean, in_front=in_front)

    def _proof_on_a_text(self, kind: Kind, in_front: bool) -> bool:
        """Whether a way holds on a short text; what a change of the picture does is checked on the batch."""
        if kind == "front":
            return True
        text = None if in_front else short_text(self.runs.model, self.runs.batch)
        if text is None:
            return False
        try:
            runs, logits = CellRuns.of(self.runs.model, text)
        except (TypeError, ValueError):  # it takes no text without a picture
            return False
        if kind == "packed" and runs.recording is None:
            return False
        decodes = self.runs.model.graph["hook_logits"].sequence == "decoder"
        last = -1 if decodes else runs.batch.layout.last.to(logits.device)
        return Verdicts(runs).trial(kind, logits[:, last].reshape(1, -1), in_front=False).holds

    def _check(self, kind: Kind, clean: torch.Tensor) -> Evidence:
        """What a proven way may still get wrong on this batch."""
        if kind == "packed":
            return rows_alike(self.runs, clean)
        return language_apart(self.runs, clean) if kind == "front" else blocks_alike(self.runs, clean)

    def trial(self, kind: Kind, clean: torch.Tensor, *, in_front: bool) -> Evidence:
        """Noise in the batch itself, by a way and by whole passes; arguments as for `holds`."""
        model, batch = self.runs.model, self.runs.batch
        decodes = model.graph["hook_logits"].sequence != "language"
        last = 1 if decodes else list(batch.layout.last[:, None])

        def by(way: Kind, cells: Sequence[Cell]) -> torch.Tensor:
            return torch.stack([logits[0] for logits in self.runs.run(way, cells, last, clean[:, None])])

        if kind == "front":
            reach = self.runs.frozen.reach
            trials = front_trials(model, batch, lambda name: not reach.past_embeddings(name))
        else:
            trials = front_trials(model, batch) if in_front else [*language_trials(model, batch)]
        return evidence(trials, lambda cells: by(kind, cells), lambda cells: by("whole", cells), clean)
