"""How good a sparse dictionary is on a model's own states: image and text rows apart, and what the model loses by it.

    explained variance = 1 - E|y - y'|^2 / (E|y|^2 - |E y|^2)        sums in float64, over rows and not a mean of their ratios
    L0 = codes that are not 0, a row
    CE recovered = (CE_zero - CE_replaced) / (CE_zero - CE)          of the batch's own text

y is what stands at the point, y' what the dictionary gives back. Replaced and zero stand at every row of the point.

Source: the measures of SAELens's evals.py (https://github.com/decoderesearch/SAELens).
*Departs:* rows of pictures and of text are counted apart, and padding not at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.row_quality import RowQuality, RowSums
from mmlens.analysis.samples.chunks import chunks_of
from mmlens.analysis.samples.sample import Data
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Text
from mmlens.core.rules import as_rule
from mmlens.core.saved import Saved
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.picture_tensors import require_running
from mmlens.inputs.row_reader import RowReader
from mmlens.models.bound.loss import losses_of, target_mask
from mmlens.models.hooked import HookedMultimodal, WritingModel

_CODES, _RECONS, _ERROR, _OUTPUT = (f".hook_sae_{kind}" for kind in ("acts_post", "recons", "error", "output"))


@checked_result
@dataclass(frozen=True)
class DictionaryCard(Saved):
    """How good a dictionary is.

    Attributes:
        at: its point.
        kinds: by kind of row, `"image"` (in a tower all rows, a class row too) and `"text"`; those that there are.
        ce: cross-entropy of the text, in nats a token, of the model.
        ce_replaced: with what the dictionary gives back in the place of the states.
        ce_zero: with zeros there.
        firing: the share of all rows in which each feature is not 0.
        n_samples: samples that were run.
    """

    at: str
    kinds: Mapping[str, RowQuality]
    ce: float
    ce_replaced: float
    ce_zero: float
    firing: Float[torch.Tensor, "feature"] = field(repr=False)
    n_samples: int

    @property
    def ce_recovered(self) -> float:
        """The share of what zeros cost that is not lost; NaN where zeros cost nothing."""
        gap = self.ce_zero - self.ce
        return (self.ce_zero - self.ce_replaced) / gap if gap else float("nan")

    @property
    def dead(self) -> float:
        """The share of features that are 0 in every row."""
        return float((self.firing == 0).float().mean())

    def __repr__(self) -> str:
        kinds = "; ".join(
            f"{kind} rows {q.rows}: explained variance {q.explained_variance:.3f}, L0 {q.l0:.1f}"
            for kind, q in self.kinds.items()
        )
        return (
            f"DictionaryCard({self.at}; {kinds}; CE {self.ce:.3f}, replaced {self.ce_replaced:.3f}, zero {self.ce_zero:.3f}, "
            f"recovered {self.ce_recovered:.3f}; dead {self.dead:.1%} of {len(self.firing)}; {self.n_samples} samples)"
        )


@checked
@torch.no_grad()
def sae_card(
    model: WritingModel,
    sae: SparseDictionary,
    data: Data,
    *,
    last: Count | None = None,
    prompt: Text | None = None,
    batch_size: Count = 8,
) -> DictionaryCard:
    """Measure a dictionary on a model: what it gives back on image and text rows, and what the model loses by it.

    Three passes a batch. The cross-entropy is that of the batch's own text behind its first token, so batches that hold answers
    (`model.extend(batch, tokens)`) say most, and `last=` leaves what was asked out.

    Args:
        model: the hooked model.
        sae: the dictionary; it is attached here.
        data: a batch, or a dataset of pictures, which is read batch by batch.
        last: how many tokens at the end of each sample the cross-entropy is of; None for all of its text.
        prompt, batch_size: of a dataset: what samples without a prompt are asked; samples at a time.

    Raises:
        InputError: if the dictionary does not fit the model, or there is no sample.
    """
    sums: dict[str, RowSums] = {kind: RowSums(len(sae), sae.d_out) for kind in ("image", "text")}
    losses, targets, count = torch.zeros(3, dtype=torch.float64), 0, 0
    with model.attach(sae):
        at = list(model.dictionaries)[-1]
        for chunk in chunks_of(model, data, prompt, batch_size):
            batch = chunk.batch
            require_running(batch, model.graph[at].part, at)
            logits, cache = model.run_with_cache(batch, names=[at + kind for kind in (_CODES, _RECONS, _ERROR)])
            for kind, rule in _kinds(model.graph[at].sequence, batch).items():
                reader = RowReader(as_rule(rule), batch, [model.graph[at + _CODES]], required=False)
                sums[kind].add(*(reader.flat(model.graph[at + k], cache[at + k]) for k in (_CODES, _RECONS, _ERROR)))
            last_rows = slice(None if last is None else -last, None)
            runs = (logits, _with_zeros(model, batch, at + _ERROR), _with_zeros(model, batch, at + _OUTPUT))
            losses += torch.stack(
                [losses_of(run, batch, per_token=True)[:, last_rows].double().sum().cpu() for run in runs]
            )
            targets, count = targets + int(target_mask(batch)[:, last_rows].sum()), count + batch.size
    if not count:
        raise InputError("The dataset is empty: there is no sample to measure a dictionary on.")
    ce, ce_replaced, zero = (losses / targets).tolist()
    rows = sum(total.rows for total in sums.values())
    counts = torch.stack([total.fired for total in sums.values()]).sum(0)
    kinds = {kind: total.quality for kind, total in sums.items() if total.rows}
    return DictionaryCard(at, kinds, ce, ce_replaced, zero, (counts / max(rows, 1)).float(), count)


def _kinds(sequence: str, batch: MultimodalBatch) -> dict[str, str]:
    """The rules of the kinds of rows that a sequence has: a tower's are all of pictures, what a decoder writes is text."""
    if sequence != "language":
        return {"text" if sequence == "decoder" else "image": "all"}
    return {"image": "image", "text": "text"} if batch.layout.is_image.any() else {"text": "text"}


def _with_zeros(model: HookedMultimodal, batch: MultimodalBatch, point: str) -> torch.Tensor:
    """Logits with zeros at a point."""
    return model.run_with_hooks(batch, fwd_hooks=[(point, lambda activation, hook: torch.zeros_like(activation))])
