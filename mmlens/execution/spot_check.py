"""Checks of a clean run on itself: what a way would serve and compute again is what was recorded.

None of them costs more than a small part of a forward pass: a few rows of every block, one block of all rows, or the vision
encoder without the language model.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mmlens.execution.cell_runs import CellRuns
from mmlens.execution.equivalence_check import Evidence, RecomputedRows, front_trials, weakest_evidence
from mmlens.execution.recording import Entered, Recorder, Recording
from mmlens.execution.whole import hooks_for
from mmlens.models.claims import claimed
from mmlens.models.decoder import Decoder, NotAloneError

#: Where in a sample rows are computed again, as shares of its length.
_SPOTS = (0.0, 0.2, 0.5, 0.8, 0.95, 1.0)


@torch.no_grad()
def rows_alike(runs: CellRuns, clean: torch.Tensor) -> Evidence:
    """Some rows of every block, computed as packed rows are, against what the block returned; the same of the logits.

    Args:
        runs: with a recording of the language model.
        clean: logits of the clean run at the last positions, `[batch vocab]`.
    """
    _, recording = _recorded(runs)
    layout = runs.batch.layout
    packed = runs.packed(list(layout.last[:, None]))
    rows = []
    for is_token in layout.is_token.cpu():
        tokens = is_token.nonzero().flatten()
        rows.append(tokens[[round(spot * (len(tokens) - 1)) for spot in _SPOTS]].unique())
    ends = recording.returned[torch.arange(runs.batch.size), layout.last.to(recording.returned.device)]
    logits = RecomputedRows(packed.logits(ends).to(clean.device), clean)
    return weakest_evidence([*packed.again(rows), logits])


@torch.no_grad()
def blocks_alike(runs: CellRuns, clean: torch.Tensor) -> Evidence:
    """Logits of a run in which all blocks but the language model's last return what they did, against those of the clean run.

    Args:
        runs: of the batch.
        clean: as for `rows_alike`.
    """
    frozen = runs.frozen
    last_block = [name for name in frozen.returned if name.startswith("blocks.")][-1:]
    with claimed(runs.model, "A sweep"), frozen.freezing([name for name in frozen.returned if name not in last_block]):
        logits = runs.model(runs.batch)
    return weakest_evidence([RecomputedRows(_ends(runs, logits), clean)])


@torch.no_grad()
def language_apart(runs: CellRuns, clean: torch.Tensor) -> Evidence:
    """What the language model receives with noise in the vision encoder, while its blocks return what they did.

    The merged embeddings alone may be others, and the same with and without frozen blocks in front of the noise.

    Args:
        runs, clean: as for `rows_alike`.
    """
    decoder, recording = _recorded(runs)
    frozen = runs.frozen
    trials = front_trials(runs.model, runs.batch, lambda name: not frozen.reach.past_embeddings(name))
    if not trials:
        return weakest_evidence([])
    embeddings = frozen.embeddings(trials[0])
    names = [name for name, module in frozen.modules.items() if module in decoder.blocks]
    recorder = Recorder(decoder)
    with runs.model.hooks(hooks_for(runs.model, runs.batch, trials[0])), frozen.freezing(names), recorder.running():
        logits = runs.model(runs.batch)
    first = recorder.entered[0].stream
    pairs = [RecomputedRows(embeddings, first, recording.entered[0].stream), RecomputedRows(_ends(runs, logits), clean)]
    pairs += [
        RecomputedRows(now.stream, then.stream)
        for now, then in zip(recorder.entered[1:], recording.entered[1:], strict=True)
    ]
    if not all(map(_called_alike, recorder.entered, recording.entered)):
        raise NotAloneError(
            "what is in the picture reaches blocks of the language model by other ways than its embeddings"
        )
    return weakest_evidence(pairs)


def _recorded(runs: CellRuns) -> tuple[Decoder, Recording]:
    """The language model and its recording.

    Raises:
        NotAloneError: if there is none.
    """
    if runs.decoder is None or runs.recording is None:
        raise NotAloneError(runs.alone)
    return runs.decoder, runs.recording


def _ends(runs: CellRuns, logits: torch.Tensor) -> torch.Tensor:
    """Logits `[batch vocab]` at the last position of each sample, or of what a decoder writes."""
    if runs.model.graph["hook_logits"].sequence == "decoder":
        return logits[:, -1]
    return logits[torch.arange(len(logits)), runs.batch.layout.last.to(logits.device)]


def _called_alike(now: Entered, then: Entered) -> bool:
    """Whether a block was called with the same tensors besides the stream."""
    first, second = list(_tensors(now.kwargs)), list(_tensors(then.kwargs))
    return len(first) == len(second) and all(map(torch.equal, first, second))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in the arguments of a call."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
